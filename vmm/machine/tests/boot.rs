//! What the guest finds in memory when it is entered, read by the host; the module-less minimum, and
//! the largest layout.

mod common;

use common::{Console, Elf, LOAD_ADDRESS, RING_WITH_EBX, config, machine, module, run};
use heirloom_machine::cpuid::{Feature, Standing};
use heirloom_machine::{Config, GuestAddress, GuestMemoryMmap, GuestVirtual, Stop, Symbols};
use vm_memory::{Bytes, GuestMemoryBackend};

const GIB: u64 = 1 << 30;

/// `hvm_start_info` version 1, read by its offsets (Xen's start_info.h), not by the loader's types.
struct StartInfo {
    magic: u32,
    version: u32,
    modules: u32,
    module_list: u64,
    command_line: u64,
    map: u64,
    map_entries: u32,
}

fn word(memory: &GuestMemoryMmap, at: u64) -> u32 {
    memory.read_obj(GuestAddress(at)).unwrap()
}

fn long(memory: &GuestMemoryMmap, at: u64) -> u64 {
    memory.read_obj(GuestAddress(at)).unwrap()
}

fn text(memory: &GuestMemoryMmap, at: u64) -> String {
    let bytes = (at..).map(|at| memory.read_obj::<u8>(GuestAddress(at)).unwrap());
    String::from_utf8(bytes.take_while(|byte| *byte != 0).collect()).unwrap()
}

impl StartInfo {
    fn read(memory: &GuestMemoryMmap, at: u64) -> StartInfo {
        StartInfo {
            magic: word(memory, at),
            version: word(memory, at + 4),
            modules: word(memory, at + 12),
            module_list: long(memory, at + 16),
            command_line: long(memory, at + 24),
            map: long(memory, at + 40),
            map_entries: word(memory, at + 48),
        }
    }

    /// Start, bytes and type of each entry.
    fn map(&self, memory: &GuestMemoryMmap) -> Vec<(u64, u64, u32)> {
        (0..u64::from(self.map_entries))
            .map(|index| self.map + index * 24)
            .map(|at| {
                (
                    long(memory, at),
                    long(memory, at + 8),
                    word(memory, at + 16),
                )
            })
            .collect()
    }

    /// Name, address and bytes of each module.
    fn modules(&self, memory: &GuestMemoryMmap) -> Vec<(String, u64, u64)> {
        (0..u64::from(self.modules))
            .map(|index| self.module_list + index * 32)
            .map(|at| {
                let name = text(memory, long(memory, at + 16));
                (name, long(memory, at), long(memory, at + 8))
            })
            .collect()
    }
}

/// Boots a guest that rings with EBX; returns the machine and the start info that EBX points at.
fn boot(config: Config) -> (heirloom_machine::Machine, StartInfo) {
    let mut machine = machine(config);
    let Stop::Doorbell { value } = run(&mut machine) else {
        panic!("the guest did not ring");
    };
    let info = StartInfo::read(machine.memory(), value.into());
    (machine, info)
}

#[test]
fn on_kvm_ebx_points_at_start_info_and_its_command_line() {
    let (machine, info) = boot(Config {
        command_line: "propagation=none probe -- init 8".into(),
        ..config(RING_WITH_EBX)
    });
    assert_eq!((info.magic, info.version), (0x336e_c578, 1));
    let told = text(machine.memory(), info.command_line);
    assert!(told.ends_with("propagation=none probe -- init 8"), "{told}");
    assert_eq!((info.modules, info.module_list), (0, 0));
}

#[test]
fn on_kvm_an_empty_command_line_is_an_empty_text_and_no_null_pointer() {
    let (machine, info) = boot(config(RING_WITH_EBX));
    assert_ne!(info.command_line, 0);
    let told = text(machine.memory(), info.command_line);
    assert!(told.is_empty() || told.starts_with("clearcpuid="), "{told}");
}

#[test]
fn on_kvm_features_that_cpuid_shows_but_kvm_cannot_run_are_named_to_the_kernel_and_no_others() {
    let (machine, info) = boot(Config {
        command_line: "rest".into(),
        ..config(RING_WITH_EBX)
    });
    let overstated: Vec<&str> = Feature::ALL
        .into_iter()
        .filter(|feature| machine.standing(*feature) == Standing::Overstated)
        .map(|feature| feature.name)
        .collect();
    let expected = if overstated.is_empty() {
        "rest".into()
    } else {
        format!("clearcpuid={} rest", overstated.join(","))
    };
    assert_eq!(text(machine.memory(), info.command_line), expected);
}

#[test]
fn on_kvm_the_cpuid_instruction_shows_the_guest_what_the_machine_says_it_does() {
    // mov eax, 7; xor ecx, ecx; cpuid; mov eax, ebx; ring
    let code = [
        0xb8, 7, 0, 0, 0, 0x31, 0xc9, 0x0f, 0xa2, 0x89, 0xd8, 0x66, 0xba, 0x00, 0x0d, 0xef,
    ];
    let mut machine = machine(config(&code));
    let Stop::Doorbell { value } = run(&mut machine) else {
        panic!("the guest did not ring");
    };
    for (name, bit) in [("smep", 7), ("smap", 20), ("invpcid", 10)] {
        let feature = Feature::ALL
            .into_iter()
            .find(|feature| feature.name == name)
            .unwrap();
        let shown = machine.standing(feature) != Standing::Absent;
        assert_eq!(shown, value >> bit & 1 == 1, "{name} in {value:#x}");
    }
}

#[test]
fn on_kvm_the_memory_map_is_all_ram_without_the_pc_hole() {
    let (machine, info) = boot(config(RING_WITH_EBX));
    let expected = [(0, 0xa_0000, 1), (0x10_0000, 63 << 20, 1)];
    assert_eq!(info.map(machine.memory()), expected);
    let told: Vec<_> = machine
        .ram()
        .iter()
        .map(|range| (range.start.0, range.bytes, 1))
        .collect();
    assert_eq!(told, expected);
}

#[test]
fn on_kvm_memory_beyond_three_gibibytes_goes_on_at_four_and_the_guest_can_use_it() {
    let (machine, info) = boot(Config {
        memory: "6G".parse().unwrap(),
        ..config(RING_WITH_EBX)
    });
    assert_eq!(
        info.map(machine.memory()),
        [
            (0, 0xa_0000, 1),
            (0x10_0000, 3 * GIB - 0x10_0000, 1),
            (4 * GIB, 3 * GIB, 1),
        ]
    );
    let memory = machine.memory();
    assert_eq!(long(memory, 7 * GIB - 8), 0);
    for outside in [3 * GIB, 4 * GIB - 1, 7 * GIB] {
        assert!(
            !memory.address_in_range(GuestAddress(outside)),
            "{outside:#x}"
        );
    }
}

#[test]
fn on_kvm_the_guest_itself_reads_and_writes_below_the_hole_and_finds_nothing_in_it() {
    // mov dword [0xbffffffc], 5; mov eax, [0xbffffffc]; add eax, [0xc0000000]; ring
    let code = [
        0xc7, 0x05, 0xfc, 0xff, 0xff, 0xbf, 5, 0, 0, 0, 0xa1, 0xfc, 0xff, 0xff, 0xbf, 0x03, 0x05,
        0, 0, 0, 0xc0, 0x66, 0xba, 0x00, 0x0d, 0xef,
    ];
    let mut machine = machine(Config {
        memory: "3G".parse().unwrap(),
        ..config(&code)
    });
    // 5 plus all ones.
    assert_eq!(run(&mut machine), Stop::Doorbell { value: 4 });
    assert_eq!(word(machine.memory(), 0xbfff_fffc), 5);
}

#[test]
fn on_kvm_modules_lie_page_aligned_behind_the_kernel_each_with_its_name() {
    let kernel = Elf {
        memory_bytes: 0x2001,
        ..Elf::new(RING_WITH_EBX)
    };
    let (machine, info) = boot(Config {
        kernel: kernel.image(),
        modules: vec![
            module("init", *b"first"),
            module("empty", []),
            module("a name with blanks", vec![7; 4097]),
            module("last", *b"last"),
        ],
        ..config(RING_WITH_EBX)
    });
    let memory = machine.memory();
    let modules = info.modules(memory);
    assert_eq!(
        modules,
        [
            ("init".into(), LOAD_ADDRESS + 0x3000, 5),
            ("empty".into(), LOAD_ADDRESS + 0x4000, 0),
            ("a name with blanks".into(), LOAD_ADDRESS + 0x4000, 4097),
            ("last".into(), LOAD_ADDRESS + 0x6000, 4),
        ]
    );
    let mut bytes = [0; 5];
    memory
        .read_slice(&mut bytes, GuestAddress(modules[0].1))
        .unwrap();
    assert_eq!(&bytes, b"first");
    assert_eq!(
        memory
            .read_obj::<u8>(GuestAddress(modules[2].1 + 4096))
            .unwrap(),
        7
    );
    assert_eq!(
        memory
            .read_obj::<u8>(GuestAddress(modules[2].1 + 4097))
            .unwrap(),
        0
    );
}

#[test]
fn on_kvm_the_kernel_is_loaded_where_its_headers_say_and_its_bss_is_zero() {
    let kernel = Elf {
        load_address: 0x20_0000,
        entry: 0x20_0000,
        memory_bytes: 0x1000,
        ..Elf::new(RING_WITH_EBX)
    };
    let (machine, _) = boot(Config {
        kernel: kernel.image(),
        ..config(RING_WITH_EBX)
    });
    let mut bytes = [0xff; 16];
    machine
        .memory()
        .read_slice(&mut bytes, GuestAddress(0x20_0000))
        .unwrap();
    assert_eq!(&bytes[..RING_WITH_EBX.len()], RING_WITH_EBX);
    assert_eq!(bytes[RING_WITH_EBX.len()..], [0; 16 - 7]);

    let [segment] = machine.kernel().segments() else {
        panic!("{:?}", machine.kernel().segments());
    };
    assert_eq!(segment.physical_address, GuestAddress(0x20_0000));
    assert_eq!(segment.virtual_address, GuestVirtual(0xffff_ffff_8020_0000));
    assert_eq!((segment.file_bytes, segment.memory_bytes), (7, 0x1000));
    assert_eq!(
        (segment.readable, segment.writable, segment.executable),
        (true, false, true)
    );
    assert_eq!(machine.kernel().entry(), GuestAddress(0x20_0000));
}

#[test]
fn on_kvm_a_note_eight_bytes_wide_gives_the_same_entry() {
    let mut file = Elf::new(RING_WITH_EBX).bytes();
    // A second note segment is not needed: the description grows by four zero bytes, taken from the
    // front of the code, which moves behind by as much.
    file.splice(common::CODE_OFFSET..common::CODE_OFFSET, [0; 4]);
    let grow = |file: &mut Vec<u8>, at: usize, by: u8| file[at] += by;
    grow(&mut file, 64 + 8, 4); // PT_LOAD's offset
    grow(&mut file, 64 + 56 + 32, 4); // PT_NOTE's bytes
    grow(&mut file, common::NOTE_OFFSET + 4, 4); // descsz
    let kernel = heirloom_machine::KernelImage::from_bytes("wide", file).unwrap();
    let console = Console::default();
    let (_, info) = boot(Config {
        kernel,
        console: Box::new(console.clone()),
        ..config(RING_WITH_EBX)
    });
    assert_eq!(info.version, 1);
    assert_eq!(console.text(), "");
}

#[test]
fn a_kernel_without_symbols_gives_no_names_and_no_error() {
    let file = Elf::new(RING_WITH_EBX).bytes();
    let symbols = Symbols::new(&file).unwrap();
    assert!(symbols.is_empty());
    assert_eq!(symbols.locate(GuestVirtual(0xffff_ffff_8010_0000)), None);
    assert!(Symbols::new(b"no ELF").is_err());
}

#[test]
fn a_program_with_symbols_gives_function_offset_and_line() {
    // This test's own executable: an ELF with a symbol table and DWARF.
    let file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let symbols = Symbols::new(&file).unwrap();
    let address = {
        use object::{Object, ObjectSymbol};
        let parsed = object::File::parse(&*file).unwrap();
        parsed
            .symbols()
            .find(|symbol| symbol.name() == Ok("heirloom_symbol_probe"))
            .unwrap()
            .address()
    };
    assert_eq!(heirloom_symbol_probe(1), 2);
    let location = symbols.locate(GuestVirtual(address + 1)).unwrap();
    assert_eq!(location.function, Some(("heirloom_symbol_probe".into(), 1)));
    let (file, line) = location.source.clone().unwrap();
    assert!(file.ends_with("boot.rs"), "{file}");
    assert!(line > 0);
    assert!(
        location.to_string().contains("heirloom_symbol_probe+0x1 ("),
        "{location}"
    );
    assert!(
        location
            .inlined
            .iter()
            .any(|inner| inner.function.contains("black_box")),
        "{location}"
    );
}

#[inline(never)]
#[expect(unsafe_code, reason = "a name that the symbol table keeps as it is")]
// SAFETY: no other symbol of this program has the name.
#[unsafe(no_mangle)]
extern "C" fn heirloom_symbol_probe(number: u64) -> u64 {
    std::hint::black_box(number) + 1
}
