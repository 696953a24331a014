//! `heirloom boot` with a distribution's kernel: each way in which Linux is entered, as far as every KVM
//! runs it.

mod common;
#[path = "common/vmlinux.rs"]
mod vmlinux;

use std::fs;
use std::path::PathBuf;

use common::linux::artifacts;
use common::{Run, heirloom};
use serde_json::Value;
use tempfile::TempDir;

/// A file in a directory that must live as long as it is used.
fn file(name: &str, bytes: &[u8]) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    fs::write(&path, bytes).unwrap();
    (directory, path)
}

fn assert_says(run: &Run, words: &[&str]) {
    for word in words {
        assert!(
            run.stdout.contains(word),
            "no `{word}` in: {}\n{}",
            run.stdout,
            run.stderr
        );
    }
}

#[test]
fn on_kvm_debians_bzimage_comes_up_by_its_setup_header_and_reads_its_command_line() {
    let run = heirloom(&[
        "boot",
        artifacts::kernel().to_str().unwrap(),
        "--cmdline",
        "console=ttyS0 earlyprintk=serial,ttyS0 nokaslr",
        "--until",
        "KASLR disabled: 'nokaslr' on cmdline.",
        "--timeout",
        "1200",
    ]);
    assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.stderr);
    // The kernel's own first tables; those that the boot protocol asks the loader for are on no CPU any more.
    assert_says(
        &run,
        &[
            "the guest printed the text after",
            "1 root: 1 identity map",
            "NOTHING TO JUDGE: no root has a kernel half.",
        ],
    );
}

#[test]
fn on_kvm_debians_kernel_unpacked_boots_by_pvh_and_its_first_tables_are_found() {
    let (_directory, path) = file("vmlinux", &vmlinux::of_bzimage(&artifacts::kernel()));
    let run = heirloom(&[
        "boot",
        path.to_str().unwrap(),
        "--memory",
        "256M",
        "--until",
        "Linux version",
        "--timeout",
        "1200",
        "--json",
    ]);
    assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.stderr);
    assert!(run.stderr.contains("Linux version "), "{}", run.stderr);
    let report = serde_json::from_str::<Value>(&run.stdout).unwrap();
    // Linux makes its text read-only much later, which the rules say.
    assert!(run.stdout.contains("\"linux-early-boot\""), "{report}");
    assert_eq!(report["roots"]["roots"][0]["cpus"], Value::Array(vec![]));
    let on_cpu = report["roots"]["roots"].as_array().unwrap().iter();
    let on_cpu: Vec<_> = on_cpu
        .filter(|root| root["cpus"] == serde_json::json!([0]))
        .collect();
    assert_eq!(on_cpu.len(), 1, "{report}");
    assert_eq!(on_cpu[0]["kind"], "kernel", "{report}");
}

#[test]
fn on_kvm_debians_kernel_without_its_pvh_note_boots_by_linuxs_protocol_and_finds_its_ram_disk() {
    let mut kernel = vmlinux::of_bzimage(&artifacts::kernel());
    vmlinux::without_pvh_note(&mut kernel);
    let (_directory, path) = file("vmlinux", &kernel);
    let (_directory, initrd) = file("initrd", &[0; 5000]);
    let run = heirloom(&[
        "boot",
        path.to_str().unwrap(),
        "--initrd",
        initrd.to_str().unwrap(),
        "--memory",
        "256M",
        "--until",
        // The last two pages.
        "RAMDISK: [mem 0x0fffe000-0x0fffffff]",
        "--timeout",
        "1200",
    ]);
    assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.stderr);
    assert_says(
        &run,
        &[
            "write-xor-execute       holds ",
            " × linux-early-boot",
            "BIOS-e820: [mem 0x0000000000000000-0x000000000009ffff] usable",
            "BIOS-e820: [mem 0x0000000000100000-0x000000000fffffff] usable",
            "console=ttyS0 earlyprintk=serial,ttyS0 panic=-1",
        ],
    );
}
