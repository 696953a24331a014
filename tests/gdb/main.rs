//! `heirloom run --gdb`: a real gdb, and clients that are none.

#[path = "../../vmm/machine/tests/common/mod.rs"]
mod common;

mod client;
mod held;
mod hostile;
mod session;

use client::heirloom;

#[test]
fn on_kvm_where_gdb_cannot_be_listened_for_is_said_before_anything_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("none/gdb");
    for (words, told) in [
        (&["--gdb", "0.0.0.0:1234"][..], "this host alone"),
        (
            &["--gdb", nowhere.to_str().unwrap()],
            "could not listen for gdb",
        ),
        (
            &["--gdb", ":0", "--machine", "qemu"],
            "--gdb is for guests on KVM",
        ),
    ] {
        let output = heirloom().arg("run").args(words).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(told), "{said}");
    }
}
