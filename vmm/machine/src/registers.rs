//! The registers that say where a CPU is and how it translates addresses.

use kvm_bindings::{kvm_regs, kvm_sregs};

/// A vCPU's registers while it stands still; raw contents, as the CPU holds them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// The next instruction.
    pub rip: u64,
    /// The stack.
    pub rsp: u64,
    /// The frame, where code keeps one.
    pub rbp: u64,
    /// The flags.
    pub rflags: u64,
    /// Paging on or off, and whether ring 0 heeds read-only pages.
    pub cr0: u64,
    /// The address of the last page fault.
    pub cr2: u64,
    /// The root table's guest-physical address, with PCID or cache bits in its low 12 bits.
    pub cr3: u64,
    /// Which paging features are on.
    pub cr4: u64,
    /// The IA32_EFER register.
    pub efer: u64,
    /// Code segment selector.
    pub cs: u16,
    /// Current privilege level, 0 to 3: the DPL of SS (Intel SDM vol. 3A, 5.5).
    pub cpl: u8,
}

impl Registers {
    pub(crate) fn new(general: &kvm_regs, special: &kvm_sregs) -> Registers {
        Registers {
            rip: general.rip,
            rsp: general.rsp,
            rbp: general.rbp,
            rflags: general.rflags,
            cr0: special.cr0,
            cr2: special.cr2,
            cr3: special.cr3,
            cr4: special.cr4,
            efer: special.efer,
            cs: special.cs.selector,
            cpl: special.ss.dpl,
        }
    }
}
