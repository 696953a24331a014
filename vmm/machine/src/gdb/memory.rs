//! Guest memory by the virtual addresses of one CPU, as its own tables say.

use heirloom_paging::{
    CpuState, Cr3, Entry, Mode, ModeError, Pfn, PhysBits, Unreadable, VirtAddr, translate,
};
use vm_memory::{Bytes, GuestAddress};

use crate::PAGE_SIZE;
use crate::machine::Machine;
use crate::registers::Registers;

/// Bytes of an entry.
const ENTRY: u64 = 8;

/// Why there is nothing, in words that go on behind the address.
pub(super) type Unmapped = String;

/// Reads up to `length` bytes: as many as are there one behind the other.
pub(super) fn read(
    machine: &Machine,
    cpu: &Registers,
    mut at: u64,
    length: usize,
) -> Result<Vec<u8>, Unmapped> {
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let piece = piece(at, length - bytes.len());
        let mut part = vec![0; piece];
        let read = physical(machine, cpu, at).and_then(|from| {
            let read = machine.memory().read_slice(&mut part, from);
            read.map_err(|_| outside(from))
        });
        match read {
            Ok(()) => bytes.append(&mut part),
            Err(why) if bytes.is_empty() => return Err(why),
            Err(_) => break,
        }
        at = at.wrapping_add(u64::try_from(piece).unwrap_or(u64::MAX));
    }
    Ok(bytes)
}

/// Writes all of them, or none.
pub(super) fn write(
    machine: &Machine,
    cpu: &Registers,
    mut at: u64,
    bytes: &[u8],
) -> Result<(), Unmapped> {
    let mut pieces = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (part, behind) = rest.split_at(piece(at, rest.len()));
        let to = physical(machine, cpu, at)?;
        // Whether all is there is found out before anything is changed.
        let there = machine.memory().read_slice(&mut vec![0; part.len()], to);
        there.map_err(|_| outside(to))?;
        pieces.push((part, to));
        at = at.wrapping_add(u64::try_from(part.len()).unwrap_or(u64::MAX));
        rest = behind;
    }
    for (part, to) in pieces {
        let written = machine.memory().write_slice(part, to);
        written.map_err(|_| outside(to))?;
    }
    Ok(())
}

/// How many of `length` bytes are in one page with the first.
fn piece(at: u64, length: usize) -> usize {
    let in_page = usize::try_from(PAGE_SIZE - at % PAGE_SIZE).unwrap_or(0);
    length.min(in_page)
}

fn outside(address: GuestAddress) -> Unmapped {
    format!("leads to {:#x}, where the guest has no memory", address.0)
}

/// Where a byte is.
fn physical(machine: &Machine, cpu: &Registers, at: u64) -> Result<GuestAddress, Unmapped> {
    let state = CpuState {
        cr0: cpu.cr0,
        cr4: cpu.cr4,
        efer: cpu.efer,
        ..CpuState::default()
    };
    let bits = PhysBits::new(machine.max_phys_addr().into()).unwrap_or(PhysBits::MAX);
    let mode = match Mode::of_cpu(&state, bits, machine.gigabyte_pages()) {
        Ok(mode) => mode,
        Err(ModeError::PagingOff { .. }) => return Ok(GuestAddress(at)),
        Err(error) => return Err(error.to_string()),
    };
    let memory = machine.memory();
    let walk = translate(
        &mode,
        Cr3::new(cpu.cr3).root(),
        VirtAddr::new(at),
        |table: Pfn, _, index: u16| {
            let place = GuestAddress(table.base().get() + u64::from(index) * ENTRY);
            let read = memory.read_obj::<u64>(place);
            read.map(Entry::new).map_err(|_| Unreadable::OutsideMemory)
        },
    );
    match walk.result {
        Ok(translation) => Ok(GuestAddress(translation.pa.get())),
        Err(fault) => Err(fault.display(mode.depth).to_string()),
    }
}
