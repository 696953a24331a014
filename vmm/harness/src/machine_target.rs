//! A paused machine of ours, as a target of the inspector.

use heirloom_inspect::paging::mode::PhysBits;
use heirloom_inspect::{CpuState, Cr3, PhysAddr, PhysRange, Target, VirtAddr};
use heirloom_machine::{Registers, RunError, VirtualMachine};

/// The guest as it stands. Its memory is shared with the machine, so the guest must not run on while the
/// target is looked at; it may be dropped.
///
/// # Errors
/// The machine does not return the registers.
pub fn target(machine: &dyn VirtualMachine, name: &str) -> Result<Target, RunError> {
    Ok(Target {
        name: name.to_owned(),
        // A handle on the same memory: the mapping lives as long as one of them.
        memory: Box::new(machine.memory().clone()),
        ram: ram(machine),
        cpus: machine.cpus()?.iter().map(cpu_state).collect(),
        phys_bits: PhysBits::new(machine.max_phys_addr().into()),
        gigabyte_pages: Some(machine.gigabyte_pages()),
        depth: None,
        encryption: heirloom_inspect::Entry::ABSENT,
        roots: Vec::new(),
        is_recorded: false,
        notes: Vec::new(),
    })
}

/// What the guest was told is RAM, in ascending order.
pub fn ram(machine: &dyn VirtualMachine) -> Vec<PhysRange> {
    machine
        .ram()
        .iter()
        .map(|range| PhysRange {
            start: PhysAddr::new(range.start.0),
            bytes: range.bytes,
        })
        .collect()
}

/// A CPU's registers, as the inspector knows them.
pub fn cpu_state(registers: &Registers) -> CpuState {
    CpuState {
        cr0: registers.cr0,
        cr2: VirtAddr::new(registers.cr2),
        cr3: Cr3::new(registers.cr3),
        cr4: registers.cr4,
        efer: registers.efer,
        cpl: registers.cpl,
        rip: VirtAddr::new(registers.rip),
        rsp: VirtAddr::new(registers.rsp),
        rbp: VirtAddr::new(registers.rbp),
        rflags: registers.rflags,
        ..CpuState::default()
    }
}
