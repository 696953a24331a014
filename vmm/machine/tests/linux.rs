//! Kernels entered by Linux's 64-bit boot protocol: what they find in memory and registers, and every way
//! in which one is refused.

mod common;

use common::{
    BZIMAGE_ENTRY, BZIMAGE_SETUP_BYTES, BzImage, Elf, HALT, config, machine, module, run,
};
use heirloom_machine::image::Kind;
use heirloom_machine::{
    BootError, Config, GuestAddress, GuestVirtual, ImageError, KernelImage, Machine, Stop,
};
use vm_memory::Bytes;

const MIB: u64 = 1 << 20;
/// `mov eax, esi; mov dx, 0xd00; out dx, eax`, in 64-bit code.
const RING_WITH_RSI: &[u8] = &[0x89, 0xf0, 0x66, 0xba, 0x00, 0x0d, 0xef];

/// The boot parameters, read by their offsets (Linux's zero-page.rst), not by the loader's types.
struct ZeroPage(Vec<u8>);

impl ZeroPage {
    fn number(&self, at: usize, bytes: usize) -> u64 {
        self.0[at..at + bytes]
            .iter()
            .rev()
            .fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// A 64-bit value in two halves.
    fn halves(&self, low: usize, high: usize) -> u64 {
        self.number(high, 4) << 32 | self.number(low, 4)
    }

    /// Start, bytes and type of each entry of the memory map.
    fn map(&self) -> Vec<(u64, u64, u64)> {
        (0..usize::try_from(self.number(0x1e8, 1)).unwrap())
            .map(|index| 0x2d0 + index * 20)
            .map(|at| {
                (
                    self.number(at, 8),
                    self.number(at + 8, 8),
                    self.number(at + 16, 4),
                )
            })
            .collect()
    }
}

/// Boots a guest that rings with RSI; returns the machine and what RSI points at.
fn boot(config: Config) -> (Machine, ZeroPage) {
    let mut machine = machine(config);
    let Stop::Doorbell { value } = run(&mut machine) else {
        panic!("the guest did not ring");
    };
    let mut page = vec![0; 4096];
    machine
        .memory()
        .read_slice(&mut page, GuestAddress(value.into()))
        .unwrap();
    (machine, ZeroPage(page))
}

fn text(machine: &Machine, at: u64) -> String {
    let bytes = (at..).map(|at| machine.memory().read_obj::<u8>(GuestAddress(at)).unwrap());
    String::from_utf8(bytes.take_while(|byte| *byte != 0).collect()).unwrap()
}

fn both_kinds() -> [KernelImage; 2] {
    [
        BzImage::new(RING_WITH_RSI).image(),
        Elf::without_note(RING_WITH_RSI).image(),
    ]
}

fn boot_error(config: Config) -> BootError {
    match Machine::new(config) {
        Ok(_) => panic!("this must not boot"),
        Err(error) => error,
    }
}

fn assert_says(error: &dyn std::error::Error, words: &[&str]) {
    let message = error.to_string();
    for word in words {
        assert!(message.contains(word), "no `{word}` in: {message}");
    }
}

#[test]
fn on_kvm_a_kernel_is_entered_in_64_bit_mode_with_interrupts_off_and_memory_mapped_as_it_is() {
    for kernel in both_kinds() {
        let entry = kernel.entry();
        let (machine, _) = boot(Config {
            kernel,
            ..config(HALT)
        });
        let registers = machine.registers().unwrap();
        assert_eq!(registers.cs, 0x10);
        assert_eq!(registers.cpl, 0);
        assert_eq!(registers.rflags & 1 << 9, 0);
        assert_eq!(registers.efer & (1 << 10), 1 << 10, "in long mode");
        assert_eq!(registers.rip, entry.0 + RING_WITH_RSI.len() as u64);
        for address in [0x7000, 0x2_0000, entry.0, 64 * MIB - 1, (4 << 30) - 4096] {
            assert_eq!(
                machine.translate(GuestVirtual(address)).unwrap(),
                Some(GuestAddress(address))
            );
        }
        assert_eq!(machine.translate(GuestVirtual(4 << 30)).unwrap(), None);
    }
}

#[test]
fn on_kvm_the_memory_map_is_the_ram_without_a_pcs_holes() {
    for kernel in both_kinds() {
        let (_, page) = boot(Config {
            kernel,
            memory: "6G".parse().unwrap(),
            ..config(HALT)
        });
        let gib = 1024 * MIB;
        assert_eq!(
            page.map(),
            [
                (0, 0xa_0000, 1),
                (MIB, 3 * gib - MIB, 1),
                (4 * gib, 3 * gib, 1)
            ]
        );
    }
}

#[test]
fn on_kvm_a_bzimages_own_header_reaches_the_kernel_and_nothing_of_the_code_behind_it() {
    let (machine, page) = boot(Config {
        kernel: BzImage::new(RING_WITH_RSI).image(),
        ..config(HALT)
    });
    let file = BzImage::new(RING_WITH_RSI).bytes();
    for (field, range) in [
        ("setup_sects to boot_flag", 0x1f1..0x200),
        ("magic and version", 0x202..0x208),
        ("loadflags to code32_start", 0x211..0x218),
        ("limits to the header's end", 0x22c..0x268),
    ] {
        assert_eq!(page.0[range.clone()], file[range], "{field}");
    }
    assert_eq!(page.0[0x210], 0xff, "a loader without a number");
    assert_eq!(page.0[0x26c..0x290], [0; 0x24]);
    // Loaded at its preferred address, from behind the setup code on.
    let mut loaded = vec![0; file.len() - BZIMAGE_SETUP_BYTES];
    machine
        .memory()
        .read_slice(&mut loaded, GuestAddress(16 * MIB))
        .unwrap();
    assert_eq!(loaded, file[BZIMAGE_SETUP_BYTES..]);
    assert_eq!(
        machine.kernel().entry(),
        GuestAddress(16 * MIB + BZIMAGE_ENTRY as u64)
    );
}

#[test]
fn on_kvm_an_elf_without_a_header_is_told_of_the_protocol_by_which_it_is_entered() {
    let (machine, page) = boot(Config {
        kernel: Elf::without_note(RING_WITH_RSI).image(),
        ..config(HALT)
    });
    assert_eq!(*machine.kernel().kind(), Kind::Vmlinux);
    assert_eq!(page.number(0x1fe, 2), 0xaa55);
    assert_eq!(page.0[0x202..0x206], *b"HdrS");
    assert_eq!(page.number(0x206, 2), 0x020c);
    assert_eq!(page.0[0x211] & 1, 1);
}

#[test]
fn on_kvm_the_command_line_is_where_the_boot_parameters_say() {
    for kernel in both_kinds() {
        let (machine, page) = boot(Config {
            kernel,
            command_line: "console=ttyS0 -- init 8".into(),
            ..config(HALT)
        });
        let told = text(&machine, page.halves(0x228, 0x0c8));
        assert!(told.ends_with("console=ttyS0 -- init 8"), "{told}");
    }
}

#[test]
fn on_kvm_features_that_this_kvm_cannot_run_are_named_as_linux_names_them() {
    let (machine, page) = boot(Config {
        kernel: BzImage::new(RING_WITH_RSI).image(),
        ..config(HALT)
    });
    let told = text(&machine, page.halves(0x228, 0x0c8));
    let unemulated = heirloom_machine::Host::open()
        .unwrap()
        .module()
        .map_or(&[][..], heirloom_machine::kvm::KvmModule::unemulated);
    for name in unemulated {
        assert!(told.starts_with("clearcpuid="), "{told}");
        assert!(
            told.trim_end().split([',', '=']).any(|word| word == *name),
            "{told}"
        );
    }
}

#[test]
fn on_kvm_the_initial_ram_disk_lies_page_aligned_as_high_as_it_can() {
    for kernel in both_kinds() {
        let (machine, page) = boot(Config {
            kernel,
            modules: vec![module("initrd", vec![7; 5000])],
            ..config(HALT)
        });
        let (start, bytes) = (page.halves(0x218, 0x0c0), page.halves(0x21c, 0x0c4));
        assert_eq!((start, bytes), (64 * MIB - 8192, 5000));
        let mut found = vec![0; 5001];
        machine
            .memory()
            .read_slice(&mut found, GuestAddress(start))
            .unwrap();
        assert_eq!((found[0], found[4999], found[5000]), (7, 7, 0));
    }
    let (_, page) = boot(Config {
        kernel: BzImage {
            initrd_last: 0x1fff_ffff,
            ..BzImage::new(RING_WITH_RSI)
        }
        .image(),
        memory: "1G".parse().unwrap(),
        modules: vec![module("initrd", [7])],
        ..config(HALT)
    });
    assert_eq!(page.halves(0x218, 0x0c0), 512 * MIB - 4096);
}

#[test]
fn on_kvm_without_an_initial_ram_disk_none_is_named() {
    for kernel in both_kinds() {
        let (_, page) = boot(Config {
            kernel,
            ..config(HALT)
        });
        assert_eq!(page.halves(0x218, 0x0c0), 0);
        assert_eq!(page.halves(0x21c, 0x0c4), 0);
    }
}

#[test]
fn on_kvm_an_initial_ram_disk_that_does_not_fit_is_named_with_the_room_there_is() {
    for kernel in both_kinds() {
        let error = boot_error(Config {
            kernel,
            modules: vec![module("huge.cpio", vec![1; 63 << 20])],
            ..config(HALT)
        });
        assert!(matches!(error, BootError::InitrdTooBig { .. }), "{error}");
        assert_says(&error, &["huge.cpio", "more memory"]);
    }
}

#[test]
fn on_kvm_more_than_one_file_is_refused_where_the_protocol_has_room_for_one() {
    for kernel in both_kinds() {
        let error = boot_error(Config {
            kernel,
            modules: vec![module("a", [1]), module("b", [1])],
            ..config(HALT)
        });
        assert!(
            matches!(error, BootError::ModulesUnknown { count: 2, .. }),
            "{error}"
        );
        assert_says(&error, &["one initial RAM disk", "PVH"]);
    }
}

#[test]
fn on_kvm_a_command_line_longer_than_the_kernel_reads_is_refused_and_its_limit_named() {
    let error = boot_error(Config {
        kernel: BzImage {
            command_line_size: 255,
            ..BzImage::new(HALT)
        }
        .image(),
        command_line: "x".repeat(256),
        ..config(HALT)
    });
    assert!(matches!(error, BootError::CommandLine { .. }), "{error}");
    assert_says(&error, &["256 bytes"]);
    let error = boot_error(Config {
        kernel: Elf::without_note(HALT).image(),
        command_line: "x".repeat(2048),
        ..config(HALT)
    });
    assert_says(&error, &["2 KiB"]);
}

#[test]
fn on_kvm_a_bzimage_that_cannot_unpack_itself_in_this_memory_is_refused() {
    for (preferred_address, init_size) in [(16 * MIB, 49 << 20), (65 * MIB, 1 << 20), (0, 1 << 20)]
    {
        let error = boot_error(Config {
            kernel: BzImage {
                preferred_address,
                init_size,
                ..BzImage::new(HALT)
            }
            .image(),
            ..config(HALT)
        });
        assert!(matches!(error, BootError::NoRoomToUnpack { .. }), "{error}");
        assert_says(&error, &["test bzImage", "0x4000000", "more memory"]);
    }
}

fn image_error(bytes: Vec<u8>) -> ImageError {
    KernelImage::from_bytes("vmlinuz", bytes).expect_err("this is no kernel")
}

#[test]
fn kernels_that_have_no_64_bit_entry_are_told_apart() {
    let good = BzImage::new(HALT);
    let narrow = image_error(
        BzImage {
            extended_load_flags: 0,
            ..good.clone()
        }
        .bytes(),
    );
    assert!(
        matches!(narrow, ImageError::ThirtyTwoBit { .. }),
        "{narrow}"
    );
    assert_says(&narrow, &["vmlinuz", "32-bit", "x86-64"]);
    let old = image_error(
        BzImage {
            version: 0x0204,
            ..good.clone()
        }
        .bytes(),
    );
    assert!(matches!(old, ImageError::OldProtocol { .. }), "{old}");
    assert_says(&old, &["2.04", "Linux 3.8"]);
    let low = image_error(
        BzImage {
            load_flags: 0,
            ..good
        }
        .bytes(),
    );
    assert!(matches!(low, ImageError::LoadsLow { .. }), "{low}");
}

#[test]
fn a_bzimage_cut_at_any_byte_is_an_error_and_never_a_panic() {
    let whole = BzImage::new(HALT).bytes();
    for length in 0..whole.len() {
        let error = image_error(whole[..length].to_vec());
        let expected = if length < 0x206 {
            matches!(error, ImageError::NoKernel { .. })
        } else {
            matches!(error, ImageError::Truncated { .. })
        };
        assert!(expected, "cut at {length}: {error}");
    }
}

#[test]
fn a_bzimage_with_any_byte_changed_boots_or_is_an_error_and_never_a_panic() {
    let whole = BzImage::new(HALT).bytes();
    let mut refused = 0;
    for at in 0x1f1..0x270 {
        for value in [0, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            let booted = KernelImage::from_bytes("changed", bytes)
                .map_err(BootError::from)
                .and_then(|kernel| {
                    Machine::new(Config {
                        kernel,
                        ..config(HALT)
                    })
                });
            refused += usize::from(booted.is_err());
        }
    }
    assert!(refused > 20, "only {refused} were refused");
}
