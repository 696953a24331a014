//! Kernels with a Multiboot header: how each form is loaded, what it finds in registers and memory, and every
//! way in which one is refused.

mod common;

use common::{HALT, LOAD_ADDRESS, config, machine, module, run};
use heirloom_machine::image::{Kind, MultibootVersion};
use heirloom_machine::{Config, GuestAddress, ImageError, KernelImage, Machine, Stop};
use vm_memory::Bytes;

/// `mov dx, 0xd00; out dx, eax; mov eax, ebx; out dx, eax`, in 32-bit code.
const RING_WITH_EAX_AND_EBX: &[u8] = &[0x66, 0xba, 0x00, 0x0d, 0xef, 0x89, 0xd8, 0xef];
const HIGH: u64 = 0xffff_ffff_8000_0000;

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn code() -> Vec<u8> {
    [RING_WITH_EAX_AND_EBX, HALT].concat()
}

/// A header without addresses.
fn header(version: MultibootVersion) -> Vec<u8> {
    match version {
        MultibootVersion::One => words(&[0x1bad_b002, 3, 0u32.wrapping_sub(0x1bad_b002 + 3)]),
        MultibootVersion::Two => {
            let head = [0xe852_50d6, 0, 24];
            let sum = head.iter().fold(0u32, |sum, word| sum.wrapping_add(*word));
            words(&[head[0], head[1], head[2], 0u32.wrapping_sub(sum), 0, 8])
        }
    }
}

/// Bytes before the code in the loaded segment: the header, padded.
const CODE_AT: u32 = 32;

fn content(version: MultibootVersion) -> Vec<u8> {
    let mut content = header(version);
    content.resize(CODE_AT as usize, 0x90);
    content.extend(code());
    content
}

/// An ELF of 32 bits; its content begins 0x60 bytes into the file.
fn elf_32(content: &[u8], load: u32) -> Vec<u8> {
    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend([2, 0, 3, 0]);
    file.extend(words(&[1, load + CODE_AT, 52, 0, 0]));
    file.extend([52, 0, 32, 0, 1, 0, 40, 0, 0, 0, 0, 0]);
    let bytes = u32::try_from(content.len()).unwrap();
    file.extend(words(&[1, 0x60, load, load, bytes, bytes + 0x1000, 7, 1]));
    file.resize(0x60, 0);
    file.extend(content);
    file
}

/// An ELF of 64 bits, linked high, whose entry is a virtual address.
fn elf_64(content: &[u8]) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let longs = |file: &mut Vec<u8>, longs: &[u64]| {
        file.extend(longs.iter().flat_map(|long| long.to_le_bytes()));
    };
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    longs(
        &mut file,
        &[HIGH + LOAD_ADDRESS + u64::from(CODE_AT), 64, 0],
    );
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
    file.extend(words(&[1, 7]));
    let bytes = content.len() as u64;
    longs(
        &mut file,
        &[0x80, HIGH + LOAD_ADDRESS, LOAD_ADDRESS, bytes, bytes, 1],
    );
    file.resize(0x80, 0);
    file.extend(content);
    file
}

/// A file that is no ELF: 64 bytes of something else, then what its header has loaded.
fn flat(version: MultibootVersion) -> Vec<u8> {
    let load = u32::try_from(LOAD_ADDRESS).unwrap();
    // Header, load, end of what is loaded (all of it), end of zeros (none), entry.
    let place = |entry: u32| [load, load, 0, 0, entry];
    let mut file = vec![0xee; 64];
    match version {
        MultibootVersion::One => {
            let flags = 1 << 16;
            file.extend(words(&[
                0x1bad_b002,
                flags,
                0u32.wrapping_sub(0x1bad_b002 + flags),
            ]));
            file.extend(words(&place(load + 32)));
        }
        MultibootVersion::Two => {
            let [header, load, load_end, zero_end, entry] = place(load + 64);
            let head = [0xe852_50d6, 0, 64];
            let sum = head.iter().fold(0u32, |sum, word| sum.wrapping_add(*word));
            file.extend(words(&[head[0], head[1], head[2], 0u32.wrapping_sub(sum)]));
            file.extend(words(&[2, 24, header, load, load_end, zero_end]));
            file.extend(words(&[3, 12, entry, 0]));
            file.extend(words(&[0, 8]));
        }
    }
    file.extend(code());
    file
}

fn image(bytes: Vec<u8>) -> KernelImage {
    KernelImage::from_bytes("test kernel", bytes).expect("the test's own kernel is sound")
}

/// Boots it with a command line and two modules; EAX, and the machine with EBX.
fn boot(kernel: KernelImage) -> (u32, Machine, u64) {
    let mut machine = machine(Config {
        kernel,
        command_line: "root=ram quiet".into(),
        modules: vec![module("first one", b"abc"), module("second", vec![7; 5000])],
        ..config(HALT)
    });
    let mut ring = || match run(&mut machine) {
        Stop::Doorbell { value } => value,
        stop => panic!("the guest did not ring: {stop:?}"),
    };
    let (magic, info) = (ring(), ring());
    (magic, machine, info.into())
}

fn word(machine: &Machine, at: u64) -> u32 {
    machine.memory().read_obj(GuestAddress(at)).unwrap()
}

fn text(machine: &Machine, at: u64) -> String {
    let bytes = (at..).map(|at| machine.memory().read_obj::<u8>(GuestAddress(at)).unwrap());
    String::from_utf8(bytes.take_while(|byte| *byte != 0).collect()).unwrap()
}

fn bytes(machine: &Machine, start: u32, end: u32) -> Vec<u8> {
    let mut bytes = vec![0; (end - start) as usize];
    machine
        .memory()
        .read_slice(&mut bytes, GuestAddress(start.into()))
        .unwrap();
    bytes
}

/// Start, bytes and type of RAM, as every map must have it.
fn ram(machine: &Machine) -> Vec<(u64, u64, u32)> {
    let ranges = machine.ram();
    ranges
        .iter()
        .map(|range| (range.start.0, range.bytes, 1))
        .collect()
}

#[test]
fn on_kvm_a_multiboot_kernel_finds_memory_command_line_modules_and_map() {
    for file in [
        elf_32(&content(MultibootVersion::One), 0x10_0000),
        elf_64(&content(MultibootVersion::One)),
        flat(MultibootVersion::One),
    ] {
        let kernel = image(file);
        assert_eq!(*kernel.kind(), Kind::Multiboot(MultibootVersion::One));
        assert!(!kernel.is_linux());
        let (magic, machine, info) = boot(kernel);
        assert_eq!(magic, 0x2bad_b002);
        let field = |at: u64| word(&machine, info + at);
        assert_eq!(field(0) & 0b1_0100_1101, 0b100_1101);
        assert_eq!(field(4), 640);
        let ram = ram(&machine);
        assert_eq!(u64::from(field(8)) << 10, ram[1].1);
        // `clearcpuid=` may stand in front.
        let line = text(&machine, field(16).into());
        assert!(line.ends_with("root=ram quiet"), "{line}");
        assert_eq!(field(20), 2);
        let list = u64::from(field(24));
        let part = |at: u64| word(&machine, list + at);
        assert_eq!(bytes(&machine, part(0), part(4)), b"abc");
        assert_eq!(text(&machine, part(8).into()), "first one");
        assert_eq!(bytes(&machine, part(16), part(20)), vec![7; 5000]);
        assert_eq!(part(16) % 4096, 0, "modules are page aligned");
        let (length, start) = (u64::from(field(44)), u64::from(field(48)));
        let mut map = Vec::new();
        let mut at = start;
        while at < start + length {
            let long =
                |at: u64| u64::from(word(&machine, at + 4)) << 32 | u64::from(word(&machine, at));
            map.push((long(at + 4), long(at + 12), word(&machine, at + 20)));
            at += 4 + u64::from(word(&machine, at));
        }
        assert_eq!(map, ram);
        assert_eq!(text(&machine, field(64).into()), "heirloom");
    }
}

#[test]
fn on_kvm_a_multiboot2_kernel_finds_the_same_in_tags() {
    for file in [
        elf_32(&content(MultibootVersion::Two), 0x10_0000),
        elf_64(&content(MultibootVersion::Two)),
        flat(MultibootVersion::Two),
    ] {
        let kernel = image(file);
        assert_eq!(*kernel.kind(), Kind::Multiboot(MultibootVersion::Two));
        let (magic, machine, info) = boot(kernel);
        assert_eq!(magic, 0x36d7_6289);
        let end = info + u64::from(word(&machine, info));
        let mut at = info + 8;
        let (mut names, mut modules, mut map, mut seen) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        while at < end {
            assert_eq!(at % 8, 0);
            let (kind, size) = (word(&machine, at), word(&machine, at + 4));
            seen.push(kind);
            match kind {
                1 | 2 => names.push(text(&machine, at + 8)),
                3 => {
                    let content = bytes(&machine, word(&machine, at + 8), word(&machine, at + 12));
                    modules.push((text(&machine, at + 16), content));
                }
                4 => assert_eq!(word(&machine, at + 8), 640),
                6 => {
                    assert_eq!(word(&machine, at + 8), 24);
                    for entry in (at + 16..at + u64::from(size)).step_by(24) {
                        let long = |at: u64| {
                            u64::from(word(&machine, at + 4)) << 32 | u64::from(word(&machine, at))
                        };
                        map.push((long(entry), long(entry + 8), word(&machine, entry + 16)));
                    }
                }
                0 => assert_eq!(size, 8),
                other => panic!("tag {other}"),
            }
            at += u64::from(size).next_multiple_of(8);
        }
        assert_eq!(seen.last(), Some(&0));
        assert!(names[0].ends_with("root=ram quiet"), "{names:?}");
        assert_eq!(names[1..], ["heirloom"]);
        assert_eq!(modules[0], ("first one".to_owned(), b"abc".to_vec()));
        assert_eq!(modules[1], ("second".to_owned(), vec![7; 5000]));
        assert_eq!(map, ram(&machine));
    }
}

#[test]
fn a_header_that_asks_for_what_is_unknown_or_contradicts_itself_is_refused() {
    let refused = |bytes: Vec<u8>| KernelImage::from_bytes("k", bytes).unwrap_err();
    // A 32-bit ELF without a header, with one whose sum is wrong, and with one too far behind.
    let load = 0x10_0000;
    let mut wrong_sum = content(MultibootVersion::One);
    wrong_sum[8] ^= 1;
    let far = [vec![0; 32768], content(MultibootVersion::One)].concat();
    for content in [vec![0x90; 64], wrong_sum, far] {
        let error = refused(elf_32(&content, load));
        assert!(matches!(error, ImageError::WrongMachine { .. }), "{error}");
    }
    // A flag that must be understood.
    let flags = 1 << 7;
    let demanding = words(&[0x1bad_b002, flags, 0u32.wrapping_sub(0x1bad_b002 + flags)]);
    let error = refused(elf_32(&[demanding, vec![0; 64]].concat(), load));
    assert!(error.to_string().contains("0x80"), "{error}");
    // No ELF, and no addresses.
    let error = refused(content(MultibootVersion::One));
    assert!(matches!(error, ImageError::Damaged { .. }), "{error}");
    // Addresses that contradict each other: each is changed alone.
    let fields = 64 + 12..64 + 32;
    for at in fields.step_by(4) {
        for value in [0u32, 1, 0x7fff_ffff, u32::MAX] {
            let mut file = flat(MultibootVersion::One);
            file[at..at + 4].copy_from_slice(&value.to_le_bytes());
            // Some are sound; none panics.
            drop(KernelImage::from_bytes("k", file));
        }
    }
    let mut entry_outside = flat(MultibootVersion::One);
    entry_outside[64 + 28..64 + 32].copy_from_slice(&0x20_0000u32.to_le_bytes());
    let error = refused(entry_outside);
    assert!(matches!(error, ImageError::EntryOutside { .. }), "{error}");
    let file = flat(MultibootVersion::Two);
    for end in 0..file.len() {
        drop(KernelImage::from_bytes("k", file[..end].to_vec()));
    }
}
