//! Linux as UEFI boots it, where what it calls firmware on is known as that, and with PREEMPT_RT.

use std::path::Path;

use crate::booted::{Moment, boot};
use crate::breaks::{NO_PAIR_AND_NO_SELF_MAP, NO_USER_ROOT, Unbreakable, assert_caught};
use crate::common::heirloom;
use crate::common::linux::{artifacts, initramfs};
use crate::common::machine::Machine;
use crate::common::others::realtime_linux;
use crate::firmware::uefi;

fn booted(kernel: &Path, options: &[&str]) -> Machine {
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
    boot(&all, &[("initrd", &initrd)], ready)
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

/// What cannot be broken where each process has one root.
fn of_one_root() -> Vec<Unbreakable> {
    let users = ("user-root-minimal", NO_USER_ROOT);
    [&[users][..], &NO_PAIR_AND_NO_SELF_MAP].concat()
}

#[test]
fn linux_by_uefi_has_a_root_for_firmware() {
    let uefi = uefi();
    let uefi: Vec<&str> = uefi.iter().map(String::as_str).collect();
    let machine = booted(&artifacts::kernel(), &uefi);
    let moment = Moment::now(&machine);
    assert_is_sound(&moment);
    assert_eq!(moment.count("trampoline", "efi_mm"), 1);
    assert_eq!(moment.count("trampoline", ""), 2);
    assert_caught(&machine, &of_one_root());
}

#[test]
fn linux_that_isolates_itself_and_runs_without_uefi_has_none() {
    let words = "console=ttyS0 quiet pti=on no_timer_check";
    let machine = booted(&artifacts::kernel(), &["-append", words]);
    let moment = Moment::now(&machine);
    assert_is_sound(&moment);
    // Of the kernel's own root and of one that has no process, too.
    assert_eq!(moment.count("user-root", ""), 7);
    assert_caught(&machine, &[("self-map-supervisor", "no self-map")]);
    assert_eq!(moment.count("trampoline", "efi_mm"), 0);
    assert_eq!(moment.count("trampoline", ""), 1);
}

#[test]
fn a_realtime_linux_on_two_cpus_is_sound() {
    let machine = booted(&realtime_linux(), &["-smp", "2"]);
    let moment = Moment::now(&machine);
    assert_is_sound(&moment);
    assert_eq!(moment.count("trampoline", ""), 1);
    assert_caught(&machine, &of_one_root());
}

#[test]
fn two_boots_of_a_linux_map_the_same_wherever_kaslr_put_it() {
    let machines = [(); 2].map(|()| booted(&artifacts::kernel(), &[]));
    let cores = machines.each_ref().map(|machine| {
        let mut qmp = machine.qmp();
        qmp.stop();
        let core = machine.at("core");
        qmp.dump(&core, false);
        core.display().to_string()
    });
    let run = heirloom(&[
        "diff",
        &cores[0],
        &cores[1],
        "--boots",
        "--exit-code",
        "--json",
    ]);
    let report: serde_json::Value = serde_json::from_str(&run.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", run.stdout, run.stderr));
    let boots = &report["boots"];
    // What Linux has set aside behind its image and did not need is free memory, which a module's code may be in, or not:
    // that it is read-only is true of one boot and not of another.
    let is_spare = |name: &serde_json::Value| {
        let name = name.as_str().unwrap_or_default();
        name.starts_with("__brk_") || name == "_end"
    };
    let offsets = boots["offsets"].as_array().unwrap();
    for offset in offsets {
        let symbol = offset["symbol"].as_str().unwrap_or_default();
        assert!(symbol.starts_with("__brk_"), "{boots:#}");
    }
    let names = &boots["names"];
    assert!(names["both"].as_u64().unwrap() > 10_000);
    assert_eq!(names["moved"], 0);
    for list in ["gone", "new"] {
        assert_eq!(names[list].as_array().unwrap().len(), 0, "{list}");
    }
    for name in names["rights"].as_array().unwrap() {
        assert!(is_spare(&name[0]), "{name}");
    }
    assert_eq!(run.code, Some(i32::from(!offsets.is_empty())));
}
