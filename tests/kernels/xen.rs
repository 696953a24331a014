//! Xen: its own boot, and a paravirtualized Linux on it.

use crate::booted::{Moment, boot};
use crate::breaks::{NO_PAIR_AND_NO_SELF_MAP, NO_USER_ROOT, assert_caught};
use crate::common::linux::{artifacts, initramfs};
use crate::common::others::xen;

/// What QEMU 7.2 emulates of the newest CPUs is not enough for Xen's guests.
const CPU: &str = "max,la57=off,smap=off,smep=off";

#[test]
fn a_xen_that_has_just_begun_has_one_root_and_protects_nothing_yet() {
    let kernel = xen().display().to_string();
    let options = [
        "-machine",
        "q35",
        "-cpu",
        CPU,
        "-m",
        "512M",
        "-kernel",
        &kernel,
        "-append",
        "console=com1 com1=115200,8n1 noreboot",
    ];
    let machine = boot(&options, &[], "dom0 kernel not specified");
    let moment = Moment::now(&machine);
    assert_eq!(moment.profile(), "xen");
    assert_eq!(moment.kinds().values().collect::<Vec<_>>(), [&"kernel"]);
    assert_eq!(moment.rules("broken"), Vec::<&str>::new());
    assert!(moment.let_pass().contains(&"xen-early-boot"));
    assert_eq!(moment.check.code, 0);
}

#[test]
fn the_roots_of_xen_and_of_a_paravirtualized_linux_are_named_and_nothing_is_broken() {
    let kernel = xen().display().to_string();
    let initrd = initramfs::small(include_bytes!("init.sh"));
    let linux = std::fs::read(artifacts::kernel()).unwrap();
    let options = [
        "-machine",
        "q35",
        "-cpu",
        CPU,
        "-m",
        "1G",
        "-kernel",
        &kernel,
        "-append",
        "console=com1 com1=115200,8n1 noreboot dom0_mem=256M",
        "-initrd",
        "FOLDER/vmlinuz console=hvc0 earlyprintk=xen,,keep quiet,FOLDER/initrd",
    ];
    let files: [(&str, &[u8]); 2] = [("vmlinuz", &linux), ("initrd", &initrd)];
    let machine = boot(&options, &files, "== ready with 5 processes ==");
    let moment = Moment::now(&machine);
    assert_eq!(moment.profile(), "xen");
    assert_eq!(moment.rules("broken"), Vec::<&str>::new());
    assert_eq!(moment.check.code, 0);
    assert_eq!(moment.count("kernel", "in the kernel image"), 1);
    // Each process has a root for its kernel and one for ring 3.
    let users = moment.count("process", "whose kernel runs on");
    assert_eq!((users, moment.count("process", "")), (5, 10));
    assert_eq!(
        moment.count("foreign", "") + moment.count("not-understood", ""),
        0
    );
    let areas = moment.areas();
    for name in [
        "machine-to-physical table",
        "per domain",
        "Xen's image",
        "page-frame table",
        "direct map",
        "guest kernel",
        "self-map",
    ] {
        assert!(
            areas.iter().any(|(area, _)| *area == name),
            "{name}: {areas:?}"
        );
    }
    for name in [
        "xen-pv-pair",
        "xen-pv-page-table",
        "xen-guest-table",
        "private-area",
    ] {
        assert!(
            moment.let_pass().contains(&name),
            "{name}: {:?}",
            moment.let_pass()
        );
    }
    let alias = (
        "no-writable-text-alias",
        "Xen may write to its code by its direct map",
    );
    let users = ("user-root-minimal", NO_USER_ROOT);
    let [nx, mirrored, _] = NO_PAIR_AND_NO_SELF_MAP;
    assert_caught(&machine, &[alias, users, nx, mirrored]);
}
