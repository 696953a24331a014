//! Every way in which a machine is refused says what was tried, on what, and what to do.

mod common;

use std::fs;
use std::path::Path;

use common::{CODE_OFFSET, Elf, HALT, NOTE_OFFSET, config, machine, module};
use heirloom_machine::image::Kind;
use heirloom_machine::{
    BootError, Config, Host, ImageError, KernelImage, KvmError, Machine, MemoryError,
};

fn image_error(bytes: Vec<u8>) -> ImageError {
    KernelImage::from_bytes("kernel.elf", bytes).expect_err("this is no kernel")
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
fn on_kvm_this_host_has_a_kvm_that_can_do_all_that_is_needed() {
    let host = Host::open().unwrap_or_else(|error| panic!("{error}"));
    host.require_capabilities()
        .unwrap_or_else(|error| panic!("{error}"));
    assert!(host.limits().memory_slots >= 2);
    assert!(host.limits().max_vcpus >= 1);
}

#[test]
fn without_a_device_the_remedies_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let error = Host::open_at(&directory.path().join("kvm")).unwrap_err();
    assert!(matches!(error, KvmError::Missing { .. }), "{error}");
    assert_says(&error, &["modprobe", "nested", "--device /dev/kvm"]);
}

#[test]
fn another_device_in_kvms_place_is_told_from_kvm() {
    let error = Host::open_at(Path::new("/dev/null")).unwrap_err();
    assert!(matches!(error, KvmError::NotKvm { .. }), "{error}");
    assert_says(&error, &["/dev/null", "/dev/kvm"]);
}

#[test]
fn a_missing_kernel_file_is_named() {
    let error = KernelImage::read(Path::new("/no/such/kernel")).unwrap_err();
    assert!(matches!(error, ImageError::Missing { .. }), "{error}");
    assert_says(&error, &["/no/such/kernel"]);
}

#[test]
fn a_directory_or_a_device_is_no_kernel_file_and_is_never_read() {
    for path in ["/tmp", "/dev/zero"] {
        let error = KernelImage::read(Path::new(path)).unwrap_err();
        assert!(matches!(error, ImageError::NotAFile { .. }), "{error}");
    }
}

#[test]
fn on_kvm_a_kernel_file_on_disk_boots() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kernel");
    fs::write(&path, Elf::new(HALT).bytes()).unwrap();
    machine(Config {
        kernel: KernelImage::read(&path).unwrap(),
        ..config(HALT)
    });
}

#[test]
fn what_is_neither_elf_nor_bzimage_is_said_to_be_no_kernel() {
    for bytes in [
        vec![],
        b"\x7fEL".to_vec(),
        b"#!/bin/sh\n".to_vec(),
        vec![0; 4096],
    ] {
        let error = image_error(bytes);
        assert!(matches!(error, ImageError::NoKernel { .. }), "{error}");
        assert_says(&error, &["kernel.elf", "vmlinux", "bzImage"]);
    }
}

#[test]
fn an_elf_of_another_machine_is_refused() {
    let mut narrow = Elf::new(HALT).bytes();
    narrow[4] = 1;
    let mut big_endian = Elf::new(HALT).bytes();
    big_endian[5] = 2;
    let mut object_file = Elf::new(HALT).bytes();
    object_file[16] = 1;
    let arm = Elf {
        machine: 183,
        ..Elf::new(HALT)
    }
    .bytes();
    for bytes in [narrow, big_endian, object_file, arm] {
        let error = image_error(bytes);
        assert!(matches!(error, ImageError::WrongMachine { .. }), "{error}");
        assert_says(&error, &["x86-64"]);
    }
}

#[test]
fn a_kernel_cut_at_any_byte_is_an_error_and_never_a_panic() {
    let whole = Elf::new(HALT).bytes();
    for length in 0..whole.len() {
        let error = image_error(whole[..length].to_vec());
        let expected = if length < 4 {
            matches!(error, ImageError::NoKernel { .. })
        } else {
            matches!(error, ImageError::Truncated { .. })
        };
        assert!(expected, "cut at {length}: {error}");
    }
    let error = image_error(whole[..whole.len() - 1].to_vec());
    assert_says(
        &error,
        &["kernel.elf", "segment 0", "build or copy it again"],
    );
}

#[test]
fn a_kernel_with_any_byte_changed_boots_or_is_an_error_and_never_a_panic() {
    let whole = Elf::new(HALT).bytes();
    let mut refused = 0;
    for at in 0..CODE_OFFSET {
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
    assert!(refused > 100, "only {refused} were refused");
}

#[test]
fn a_kernel_without_a_pvh_note_is_told_which_to_add_where_one_is_needed() {
    let mut other_owner = Elf {
        note_type: 18,
        ..Elf::without_note(HALT)
    }
    .bytes();
    other_owner[NOTE_OFFSET + 12] = b'Y';
    for bytes in [Elf::without_note(HALT).bytes(), other_owner] {
        let image = KernelImage::from_bytes("kernel.elf", bytes).unwrap();
        assert_eq!(*image.kind(), Kind::Vmlinux);
        let error = image.require_pvh().unwrap_err();
        assert!(matches!(error, ImageError::NoPvhNote { .. }), "{error}");
        assert_says(&error, &["kernel.elf", "type 18", "CONFIG_PVH"]);
    }
    assert!(Elf::new(HALT).image().require_pvh().is_ok());
}

#[test]
fn an_entry_outside_the_kernel_is_refused() {
    for entry in [0, 0x0f_ffff, 0x10_0000 + u32::try_from(HALT.len()).unwrap()] {
        let error = image_error(
            Elf {
                entry,
                ..Elf::new(HALT)
            }
            .bytes(),
        );
        assert!(
            matches!(error, ImageError::EntryOutside { .. }),
            "{entry:#x}: {error}"
        );
    }
}

#[test]
fn on_kvm_a_segment_outside_guest_memory_is_named_with_the_memory_there_is() {
    for load_address in [
        0,
        0x6000,
        0xa_0000,
        (64 << 20) - 1,
        64 << 20,
        u64::from(u32::MAX - 8),
    ] {
        let kernel = Elf {
            load_address,
            entry: u32::try_from(load_address).unwrap(),
            ..Elf::new(HALT)
        };
        let error = boot_error(Config {
            kernel: kernel.image(),
            ..config(HALT)
        });
        assert!(matches!(error, BootError::SegmentOutside { .. }), "{error}");
        assert_says(&error, &["64 MiB", &format!("{load_address:#x}")]);
    }
    let too_long = Elf {
        memory_bytes: 64 << 20,
        ..Elf::new(HALT)
    };
    let error = boot_error(Config {
        kernel: too_long.image(),
        ..config(HALT)
    });
    assert!(matches!(error, BootError::SegmentOutside { .. }), "{error}");
}

#[test]
fn a_segment_that_wraps_around_is_damage() {
    let error = image_error(
        Elf {
            memory_bytes: u64::MAX,
            ..Elf::new(HALT)
        }
        .bytes(),
    );
    assert!(matches!(error, ImageError::Damaged { .. }), "{error}");
    let error = image_error(
        Elf {
            memory_bytes: 1,
            ..Elf::new(HALT)
        }
        .bytes(),
    );
    assert!(matches!(error, ImageError::Damaged { .. }), "{error}");
}

#[test]
fn on_kvm_modules_that_do_not_fit_are_named_with_the_memory_they_need() {
    let error = boot_error(Config {
        modules: vec![module("small", [1]), module("huge", vec![1; 64 << 20])],
        ..config(HALT)
    });
    assert!(matches!(error, BootError::ModulesTooBig { .. }), "{error}");
    assert_says(&error, &["huge", "more memory"]);
}

#[test]
fn on_kvm_too_many_modules_are_an_error_and_not_an_overwritten_kernel() {
    let modules = vec![module("name", []); 100_000];
    let error = boot_error(Config {
        modules,
        ..config(HALT)
    });
    assert!(
        matches!(error, BootError::NoRoomForStartInfo { count: 100_000 }),
        "{error}"
    );
    let modules = vec![module(&"n".repeat(640 << 10), [])];
    let error = boot_error(Config {
        modules,
        ..config(HALT)
    });
    assert!(
        matches!(error, BootError::NoRoomForStartInfo { count: 1 }),
        "{error}"
    );
}

#[test]
fn on_kvm_a_module_needs_a_name() {
    for name in ["", "a\0b"] {
        let error = boot_error(Config {
            modules: vec![module(name, [1])],
            ..config(HALT)
        });
        assert!(matches!(error, BootError::ModuleName { .. }), "{error}");
    }
}

#[test]
fn on_kvm_a_command_line_that_no_kernel_can_read_is_refused() {
    for command_line in ["a\0b".to_string(), "grün".to_string(), "x".repeat(64 << 10)] {
        let error = boot_error(Config {
            command_line,
            ..config(HALT)
        });
        assert!(matches!(error, BootError::CommandLine { .. }), "{error}");
        assert_says(&error, &["printable ASCII", "64 KiB"]);
    }
}

#[test]
fn on_kvm_more_memory_than_the_cpu_can_address_is_refused() {
    let error = boot_error(Config {
        memory: "100000T".parse().unwrap(),
        ..config(HALT)
    });
    assert!(
        matches!(error, BootError::Memory(MemoryError::TooMuch { .. })),
        "{error}"
    );
}
