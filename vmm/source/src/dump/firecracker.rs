//! A snapshot of Firecracker's: a file with the state of the machine, and one with its memory, from which the hole
//! below 4 GiB was left out.
//!
//! How the state is written differs from version to version; in all of them the CPUs' registers are as KVM has
//! them.

use super::{Contents, DumpError, kvm};
use crate::input::Input;
use crate::memory::Source;

/// Where the RAM below 4 GiB ended up to version 1.9, and may since.
const HOLE: u64 = 0xd000_0000;
/// Firecracker itself takes no longer one.
const LONGEST: u64 = 10 << 20;

/// Opens the snapshot in these two files.
///
/// # Errors
/// [`DumpError`].
pub(crate) fn open(name: &str, state: &Input, memory: Input) -> Result<Contents, DumpError> {
    let length = state.length();
    let bytes = usize::try_from(length)
        .ok()
        .filter(|_| length <= LONGEST)
        .and_then(|length| state.bytes(0, length))
        .ok_or_else(|| DumpError::Damaged {
            name: name.into(),
            kind: "snapshot of Firecracker's",
            what: format!("its state has {length} bytes"),
        })?;
    let cpus = kvm::find(&bytes);
    let mut notes = vec!["by its content this is a snapshot of Firecracker's".to_string()];
    if cpus.is_empty() {
        notes.push("no registers of a CPU in long mode are found in its state".into());
    }
    let read = |offset: u64| memory.bytes(offset, 4096);
    let layout = super::with_hole(&read, memory.length(), cpus.first(), HOLE, &mut notes);
    Ok(Contents {
        layout,
        sources: vec![Source::input(memory)],
        cpus,
        roots: Vec::new(),
        left_out: Vec::new(),
        is_pc: false,
        notes,
    })
}
