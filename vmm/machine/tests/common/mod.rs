//! Tiny guests: kernels written byte by byte around machine code, and a console that keeps what they
//! print.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::{self, Write};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use heirloom_machine::{Config, KernelImage, Machine, MemorySize, Module, Stop};

/// Where the guests are loaded and entered.
pub(crate) const LOAD_ADDRESS: u64 = 0x10_0000;
/// The doorbell's port in these tests.
pub(crate) const DOORBELL: u16 = 0x0d00;
/// Far more than any of these guests needs, so that a broken one fails instead of hanging.
pub(crate) const AMPLE: Duration = Duration::from_secs(180);

const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
/// File offsets of the note and the code.
pub(crate) const NOTE_OFFSET: usize = HEADER_BYTES + 2 * PROGRAM_HEADER_BYTES;
const NOTE_BYTES: usize = 20;
pub(crate) const CODE_OFFSET: usize = NOTE_OFFSET + NOTE_BYTES;

/// What differs between the test kernels.
#[derive(Clone)]
pub(crate) struct Elf {
    pub code: Vec<u8>,
    pub load_address: u64,
    pub memory_bytes: u64,
    pub note_type: u32,
    /// The PVH entry.
    pub entry: u32,
    /// `e_entry`, for kernels without a PVH note.
    pub header_entry: u64,
    pub machine: u16,
}

impl Elf {
    pub(crate) fn new(code: &[u8]) -> Elf {
        Elf {
            code: code.to_vec(),
            load_address: LOAD_ADDRESS,
            memory_bytes: code.len() as u64,
            note_type: 18,
            entry: u32::try_from(LOAD_ADDRESS).unwrap(),
            header_entry: 0,
            machine: 62,
        }
    }

    /// 64-bit code, entered by Linux's boot protocol.
    pub(crate) fn without_note(code: &[u8]) -> Elf {
        Elf {
            note_type: 17,
            header_entry: LOAD_ADDRESS,
            ..Elf::new(code)
        }
    }

    /// The file.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut file = Vec::new();
        // e_ident: magic, 64-bit, little-endian, version 1.
        file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        // e_type EXEC, e_machine, e_version, e_entry, e_phoff, e_shoff, e_flags.
        put16(&mut file, &[2, self.machine]);
        put32(&mut file, &[1]);
        put64(&mut file, &[self.header_entry, HEADER_BYTES as u64, 0]);
        put32(&mut file, &[0]);
        // e_ehsize, e_phentsize, e_phnum, e_shentsize, e_shnum, e_shstrndx.
        put16(&mut file, &[64, 56, 2, 64, 0, 0]);
        // PT_LOAD, R+X: offset, vaddr, paddr, filesz, memsz, align.
        put32(&mut file, &[1, 5]);
        put64(
            &mut file,
            &[
                CODE_OFFSET as u64,
                0xffff_ffff_8000_0000_u64.wrapping_add(self.load_address & 0x7fff_ffff),
                self.load_address,
                self.code.len() as u64,
                self.memory_bytes,
                1,
            ],
        );
        // PT_NOTE, R.
        put32(&mut file, &[4, 4]);
        put64(
            &mut file,
            &[
                NOTE_OFFSET as u64,
                0,
                0,
                NOTE_BYTES as u64,
                NOTE_BYTES as u64,
                4,
            ],
        );
        // namesz, descsz, type, name, desc.
        put32(&mut file, &[4, 4, self.note_type]);
        file.extend(b"Xen\0");
        put32(&mut file, &[self.entry]);
        file.extend(&self.code);
        file
    }

    pub(crate) fn image(&self) -> KernelImage {
        KernelImage::from_bytes("test kernel", self.bytes())
            .expect("the test's own kernel is sound")
    }
}

fn put16(file: &mut Vec<u8>, words: &[u16]) {
    file.extend(words.iter().flat_map(|word| word.to_le_bytes()));
}

fn put32(file: &mut Vec<u8>, words: &[u32]) {
    file.extend(words.iter().flat_map(|word| word.to_le_bytes()));
}

fn put64(file: &mut Vec<u8>, words: &[u64]) {
    file.extend(words.iter().flat_map(|word| word.to_le_bytes()));
}

/// A bzImage around 64-bit code: setup code of one sector that is never run, then the part that a loader
/// enters (Linux's Documentation/arch/x86/boot.rst).
#[derive(Clone)]
pub(crate) struct BzImage {
    pub code: Vec<u8>,
    pub version: u16,
    pub load_flags: u8,
    pub extended_load_flags: u16,
    pub preferred_address: u64,
    pub init_size: u32,
    pub command_line_size: u32,
    pub initrd_last: u32,
}

/// Bytes before the part that is loaded.
pub(crate) const BZIMAGE_SETUP_BYTES: usize = 1024;
/// The 64-bit entry, from there.
pub(crate) const BZIMAGE_ENTRY: usize = 0x200;

impl BzImage {
    pub(crate) fn new(code: &[u8]) -> BzImage {
        BzImage {
            code: code.to_vec(),
            version: 0x020f,
            load_flags: 1,
            extended_load_flags: 1,
            preferred_address: 16 << 20,
            init_size: 1 << 20,
            command_line_size: 2047,
            initrd_last: 0x7fff_ffff,
        }
    }

    /// The file.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut kernel = vec![0; BZIMAGE_ENTRY];
        kernel.extend(&self.code);
        kernel.resize(kernel.len().next_multiple_of(16), 0);
        let mut file = vec![0; BZIMAGE_SETUP_BYTES];
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(0x1f1, &[1]); // setup_sects
        put(
            0x1f4,
            &u32::try_from(kernel.len() / 16).unwrap().to_le_bytes(),
        ); // syssize
        put(0x1fe, &[0x55, 0xaa, 0xeb, 0x66]); // boot_flag; jump to 0x268, the header's end
        put(0x202, b"HdrS");
        put(0x206, &self.version.to_le_bytes());
        put(0x211, &[self.load_flags]);
        put(0x214, &0x10_0000_u32.to_le_bytes()); // code32_start
        put(0x22c, &self.initrd_last.to_le_bytes());
        put(0x230, &0x20_0000_u32.to_le_bytes()); // kernel_alignment
        put(0x234, &[1, 21]); // relocatable_kernel, min_alignment
        put(0x236, &self.extended_load_flags.to_le_bytes());
        put(0x238, &self.command_line_size.to_le_bytes());
        put(0x258, &self.preferred_address.to_le_bytes());
        put(0x260, &self.init_size.to_le_bytes());
        // Code behind the header, which is no part of it.
        put(0x268, &[0xcc; 0x20]);
        file.extend(kernel);
        file
    }

    pub(crate) fn image(&self) -> KernelImage {
        KernelImage::from_bytes("test bzImage", self.bytes())
            .expect("the test's own kernel is sound")
    }
}

/// A console that the test can read.
#[derive(Clone, Default)]
pub(crate) struct Console(Arc<Mutex<Vec<u8>>>);

impl Console {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A configuration that runs `code` in 64 MiB, nothing else.
pub(crate) fn config(code: &[u8]) -> Config {
    Config {
        memory: MemorySize::MINIMUM,
        kernel: Elf::new(code).image(),
        command_line: String::new(),
        modules: Vec::new(),
        console: Box::new(io::sink()),
        cpus: heirloom_machine::Cpus::default(),
        doorbell: Some(DOORBELL),
    }
}

pub(crate) fn module(name: &str, bytes: impl Into<Vec<u8>>) -> Module {
    Module {
        name: name.into(),
        bytes: bytes.into().into(),
    }
}

/// The machine, or the reason why this host makes none: without /dev/kvm these tests fail, they are
/// never skipped.
pub(crate) fn machine(config: Config) -> Machine {
    Machine::new(config).unwrap_or_else(|error| panic!("no machine: {error}"))
}

/// Runs to the next stop with an ample limit.
pub(crate) fn run(machine: &mut Machine) -> Stop {
    machine
        .run(Instant::now() + AMPLE)
        .expect("KVM runs the guest")
}

/// What `test` gives; it fails where that takes longer than [`AMPLE`], rather than hang.
pub(crate) fn that_ends<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || {
        let given = test();
        let _ = sender.send(());
        given
    });
    // A test that panics has sent nothing, and has ended.
    let sent = receiver.recv_timeout(AMPLE);
    let is_over = sent != Err(mpsc::RecvTimeoutError::Timeout);
    assert!(is_over, "no end after {AMPLE:?}");
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The CPU time of this thread, a guest that it runs included: unlike the clock's, it does not go on while
/// others have the CPU.
pub(crate) fn cpu_time() -> Duration {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let nanoseconds = schedstat.split(' ').next().unwrap();
    Duration::from_nanos(nanoseconds.parse().unwrap())
}

/// Code that rings the doorbell with the start info's address (EBX), and goes on behind.
pub(crate) const RING_WITH_EBX: &[u8] = &[
    0x89, 0xd8, // mov eax, ebx
    0x66, 0xba, 0x00, 0x0d, // mov dx, 0xd00
    0xef, // out dx, eax
];

/// `cli; jmp .`
pub(crate) const SPIN: &[u8] = &[0xfa, 0xeb, 0xfe];
/// `cli; hlt; jmp -1`
pub(crate) const HALT: &[u8] = &[0xfa, 0xf4, 0xeb, 0xfd];

/// Code pieces in a row.
pub(crate) fn code(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}
