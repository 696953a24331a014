//! Linux as UEFI boots it, where what it calls firmware on is known as that, and with PREEMPT_RT.

use std::path::Path;

use crate::booted::{Moment, boot};
use crate::common::linux::{artifacts, initramfs};
use crate::common::others::realtime_linux;
use crate::firmware::uefi;

fn moment_of(options: &[&str]) -> Moment {
    moment_with(&artifacts::kernel(), options)
}

fn moment_with(kernel: &Path, options: &[&str]) -> Moment {
    let initrd = initramfs::small(include_bytes!("init.sh"));
    let kernel = kernel.display().to_string();
    let mut all = vec![
        "-machine", "q35", "-cpu", "max", "-m", "512M", "-kernel", &kernel,
    ];
    all.extend([
        "-initrd",
        "FOLDER/initrd",
        "-append",
        "console=ttyS0 quiet pti=off no_timer_check",
    ]);
    all.extend(options);
    let ready = "== ready with 5 processes ==";
    Moment::now(&boot(&all, &[("initrd", &initrd)], ready))
}

fn assert_is_sound(moment: &Moment) {
    assert_eq!(moment.profile(), "linux");
    let evidence = &moment.roots.report["target"]["profile"]["evidence"];
    assert!(
        evidence.as_str().unwrap().contains("Linux version "),
        "{evidence}"
    );
    assert_eq!(moment.rules("broken"), Vec::<&str>::new());
    assert_eq!(moment.check.code, 0);
    assert_eq!(moment.count("kernel", ""), 1);
    assert_eq!(moment.count("process", ""), 5);
}

#[test]
fn linux_by_uefi_has_a_root_for_firmware() {
    let uefi = uefi();
    let uefi: Vec<&str> = uefi.iter().map(String::as_str).collect();
    let moment = moment_of(&uefi);
    assert_is_sound(&moment);
    assert_eq!(moment.count("trampoline", "efi_mm"), 1);
    assert_eq!(moment.count("trampoline", ""), 2);
}

#[test]
fn linux_without_uefi_has_none() {
    let moment = moment_of(&[]);
    assert_is_sound(&moment);
    assert_eq!(moment.count("trampoline", "efi_mm"), 0);
    assert_eq!(moment.count("trampoline", ""), 1);
}

#[test]
fn a_realtime_linux_on_two_cpus_is_sound() {
    let moment = moment_with(&realtime_linux(), &["-smp", "2"]);
    assert_is_sound(&moment);
    assert_eq!(moment.count("trampoline", ""), 1);
}
