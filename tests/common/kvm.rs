//! What a test calls that cannot do without KVM.

/// # Panics
/// If no guest can run on KVM here.
pub(crate) fn need_kvm() {
    let kvm = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm");
    kvm.expect("/dev/kvm");
}
