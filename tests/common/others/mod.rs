//! Kernels that are not Linux, and firmware, from a distribution's packages: `make other-kernels` gets them.

use std::path::{Path, PathBuf};

fn required(name: &str) -> PathBuf {
    // The folder that cargo builds in, whatever it is called.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let path = folder.join("other-kernels").join(name);
    assert!(
        path.is_file(),
        "this test needs {}: `make other-kernels` gets it",
        path.display()
    );
    path
}

/// The hypervisor, as a multiboot loader takes it.
pub(crate) fn xen() -> PathBuf {
    required("xen")
}

/// UEFI firmware, and its variables.
pub(crate) fn ovmf() -> [PathBuf; 2] {
    ["OVMF_CODE.fd", "OVMF_VARS.fd"].map(required)
}

/// A memory test that boots like Linux.
pub(crate) fn memtest() -> PathBuf {
    required("memtest")
}

/// A boot loader that runs in long mode.
pub(crate) fn u_boot() -> PathBuf {
    required("u-boot.rom")
}

/// Linux with PREEMPT_RT.
pub(crate) fn realtime_linux() -> PathBuf {
    required("vmlinuz-rt")
}
