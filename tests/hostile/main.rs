//! Hostile guests and broken hosts, each with the bound that the command keeps: in CPU time, memory, questions
//! to a monitor and bytes on the disk. Clocks only keep a test from hanging.

#[path = "../common/mod.rs"]
mod common;
#[path = "../../vmm/source/tests/support/elf.rs"]
#[allow(dead_code, reason = "these tests use a part of it")]
mod elf;
#[path = "../../vmm/source/tests/support/fake.rs"]
#[allow(dead_code, reason = "these tests use a part of it")]
mod fake;
#[path = "../common/tiny.rs"]
mod tiny;

mod cores;
mod escapes;
mod guests;
mod kills;
mod limits;
mod outputs;
mod qmp;
mod running;
mod sandbox;
mod signals;
mod specification;

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

/// A file in a folder of its own, which goes with it.
fn file(name: &str, bytes: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    (folder, path)
}
