//! What runs without a kernel: UEFI's shell, a boot loader, and a memory test.

use crate::booted::{Moment, boot};
use crate::breaks::{NO_PAIR_AND_NO_SELF_MAP, NO_USER_ROOT, Unbreakable, assert_caught};
use crate::common::others::{memtest, ovmf, u_boot};

/// Options of QEMU for a machine with UEFI.
pub(crate) fn uefi() -> [String; 4] {
    let [code, variables] = ovmf();
    let drive = |more: &str, file: &std::path::Path| {
        format!("if=pflash,format=raw,{more},file={}", file.display())
    };
    [
        "-drive".into(),
        drive("readonly=on", &code),
        "-drive".into(),
        drive("snapshot=on", &variables),
    ]
}

/// All that is judged of memory that is mapped to its own address: no kernel half is said to be sound.
fn assert_is_an_identity_map(moment: &Moment) {
    assert_eq!(moment.profile(), "generic");
    assert_eq!(moment.kinds().values().collect::<Vec<_>>(), [&"identity"]);
    assert_eq!(moment.roots.code, 0);
    assert_eq!(moment.rules("broken"), Vec::<&str>::new());
    assert!(moment.rules("holds").contains(&"reserved-bits-clear"));
    assert!(moment.rules("not-tried").contains(&"write-xor-execute"));
    assert_eq!(moment.check.report["has_kernel_half"], false);
    assert_eq!(moment.check.code, 2);
    let [(area, first)] = moment.areas()[..] else {
        panic!("{:?}", moment.areas())
    };
    assert_eq!((area, first), ("identity map", "0x0"));
}

const NO_SECOND: &str = "no second kernel half to compare with";
const NO_KERNEL_HALF: &str = "no page of a kernel half";
const NO_PROCESS: &str = "no process, and no other half";
const NO_USER_PAGE: &str = "no page that ring 3 can access";
const NO_TABLE_BUT_THE_ROOT: &str = "all tables but the root are full";

/// What cannot be broken where memory is mapped to its own address, and nothing else.
const OF_IDENTITY_MAPS: [Unbreakable; 15] = [
    ("kernel-mappings-equal", NO_SECOND),
    ("kernel-tables-shared", NO_SECOND),
    ("user-tables-private", "no table of a process's user half"),
    ("halves-separate", NO_PROCESS),
    ("write-xor-execute", NO_KERNEL_HALF),
    ("no-writable-text-alias", NO_KERNEL_HALF),
    ("kernel-not-user", NO_KERNEL_HALF),
    ("tables-not-user-mapped", NO_USER_PAGE),
    ("user-root-minimal", NO_USER_ROOT),
    NO_PAIR_AND_NO_SELF_MAP[0],
    NO_PAIR_AND_NO_SELF_MAP[1],
    ("kernel-tables-once", "no table that an entry points to"),
    ("direct-map-exact", "no direct map"),
    ("user-pages-in-ram", NO_USER_PAGE),
    ("user-write-xor-execute", NO_USER_PAGE),
];

/// The same where an entry can be added to the root alone: one that leads to the root would be recursive paging.
fn of_full_tables() -> Vec<Unbreakable> {
    let (before, behind) = OF_IDENTITY_MAPS.split_at(11);
    let full = ["no-loop", "one-level-per-table"].map(|rule| (rule, NO_TABLE_BUT_THE_ROOT));
    [before, &full, behind].concat()
}

#[test]
fn a_uefi_shell_runs_on_an_identity_map() {
    let uefi = uefi();
    let mut options: Vec<&str> = uefi.iter().map(String::as_str).collect();
    options.extend(["-machine", "q35", "-m", "256M", "-vga", "std"]);
    let machine = boot(&options, &[], "Shell> ");
    assert_is_an_identity_map(&Moment::now(&machine));
    assert_caught(&machine, &of_full_tables());
}

#[test]
fn a_memory_test_runs_on_an_identity_map() {
    let kernel = memtest().display().to_string();
    let mut options = vec!["-m", "256M", "-vga", "std", "-kernel", &kernel];
    options.extend(["-append", "console=ttyS0 no_timer_check"]);
    let machine = boot(&options, &[], "Memtest86+ v");
    assert_is_an_identity_map(&Moment::now(&machine));
    assert_caught(&machine, &OF_IDENTITY_MAPS);
}

#[test]
fn a_boot_loader_runs_on_an_identity_map() {
    let rom = u_boot().display().to_string();
    let options = ["-m", "256M", "-vga", "std", "-bios", &rom];
    let machine = boot(&options, &[], "Hit any key to stop autoboot");
    assert_is_an_identity_map(&Moment::now(&machine));
    assert_caught(&machine, &OF_IDENTITY_MAPS);
}
