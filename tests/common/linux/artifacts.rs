//! What a Linux guest is made of: the kernel and busybox, which `make linux-guest` gets, and the workload program, which
//! rustc builds.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder that `make linux-guest` fills.
fn folder() -> PathBuf {
    // The folder that cargo builds in, whatever it is called.
    Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .unwrap()
        .join("linux-guest")
}

fn required(name: &str) -> PathBuf {
    let path = folder().join(name);
    assert!(
        path.is_file(),
        "this test boots Linux and needs {}: `make linux-guest` gets it",
        path.display()
    );
    path
}

/// A distribution's kernel, as it is booted.
pub(crate) fn kernel() -> PathBuf {
    required("vmlinuz")
}

/// A static busybox.
pub(crate) fn busybox() -> Vec<u8> {
    std::fs::read(required("busybox")).unwrap()
}

/// The program of `workload.rs`, built.
pub(crate) fn workload() -> Vec<u8> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/common/linux/workload.rs");
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("workload");
    let output = Command::new("rustc")
        .args(["--edition", "2024", "--target", "x86_64-unknown-none"])
        .args(["-C", "relocation-model=static", "-C", "panic=abort", "-O"])
        .args(["-D", "warnings", "-o"])
        .args([&program, &source])
        .output()
        .expect("rustc, by which cargo built this test, can be run");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    std::fs::read(program).unwrap()
}
