//! What runs without a kernel: UEFI's shell, a boot loader, and a memory test.

use crate::booted::{Moment, boot};
use crate::breaks::assert_caught;
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

/// The rules that can be broken there.
const OF_IDENTITY_MAPS: [&str; 3] = ["tables-in-ram", "no-loop", "reserved-bits-clear"];
/// The same where all tables but the root are full.
const OF_FULL_TABLES: [&str; 2] = ["tables-in-ram", "reserved-bits-clear"];

#[test]
fn a_uefi_shell_runs_on_an_identity_map() {
    let uefi = uefi();
    let mut options: Vec<&str> = uefi.iter().map(String::as_str).collect();
    options.extend(["-machine", "q35", "-m", "256M", "-vga", "std"]);
    let machine = boot(&options, &[], "Shell> ");
    assert_is_an_identity_map(&Moment::now(&machine));
    assert_caught(&machine, &OF_FULL_TABLES);
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
