//! Passes the linker script to the linker.

fn main() {
    let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| ".".into());
    println!("cargo:rustc-link-arg-bins=-T{folder}/linker.ld");
    println!("cargo:rerun-if-changed=linker.ld");
}
