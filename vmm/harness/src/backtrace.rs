//! Where the guest kernel was: its call chain by frame pointers, with names from its own ELF.
//!
//! The guest's stack is hostile: the walk only reads what translates, only goes up, and ends.

use std::fmt::Write;

use heirloom_machine::{GuestVirtual, Symbols, VirtualMachine};
use vm_memory::Bytes;

/// Callers that are listed at most.
const DEPTH_LIMIT: usize = 32;

/// Where a call chain starts.
#[derive(Clone, Copy)]
pub struct Frame {
    /// The instruction pointer.
    pub rip: u64,
    /// The frame pointer.
    pub rbp: u64,
}

/// The call chain, one line per function, each starting with a line break; as text, because it ends an
/// error message. Nothing for a kernel without names: it may keep no frame pointers either, and a chain of
/// addresses without names is of no use.
pub fn text(machine: &dyn VirtualMachine, frame: Frame) -> String {
    let mut text = String::new();
    let symbols = Symbols::new(machine.kernel().bytes());
    let Some(symbols) = symbols.ok().filter(|symbols| !symbols.is_empty()) else {
        return text;
    };
    for (depth, address) in callers(machine, frame).into_iter().enumerate() {
        // A return address is behind its call, which may be a function's last instruction.
        let inside = GuestVirtual(if depth == 0 {
            address.0
        } else {
            address.0.wrapping_sub(1)
        });
        let name = symbols
            .locate(inside)
            .map_or_else(|| "?".into(), |location| location.to_string());
        let _ = write!(text, "\n  {address} {name}");
    }
    text
}

fn callers(machine: &dyn VirtualMachine, frame: Frame) -> Vec<GuestVirtual> {
    let mut callers = vec![GuestVirtual(frame.rip)];
    let mut pointer = frame.rbp;
    while callers.len() < DEPTH_LIMIT
        && let Some(caller_frame) = read(machine, pointer)
        && let Some(address) = read(machine, pointer.wrapping_add(8))
        && address != 0
    {
        callers.push(GuestVirtual(address));
        // Stacks grow down, so a caller's frame is always higher.
        if caller_frame <= pointer {
            break;
        }
        pointer = caller_frame;
    }
    callers
}

/// The word at an 8-byte aligned address of the CPU's present address space.
fn read(machine: &dyn VirtualMachine, address: u64) -> Option<u64> {
    if !address.is_multiple_of(8) {
        return None;
    }
    let physical = machine.translate(GuestVirtual(address)).ok()??;
    machine.memory().read_obj(physical).ok()
}
