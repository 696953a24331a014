//! A vCPU that stands still, from what QEMU's monitor prints of it.

use heirloom_qmp::registers::CpuRegisters;

use crate::registers::Registers;

/// RFLAGS.IF.
const INTERRUPTS_ON: u64 = 1 << 9;

/// A vCPU that stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CpuStanding {
    pub(super) registers: Registers,
    /// It waits for an interrupt.
    pub(super) halted: bool,
}

impl CpuStanding {
    /// It halted with interrupts off.
    pub(super) fn is_halted_for_good(&self) -> bool {
        self.halted && self.registers.rflags & INTERRUPTS_ON == 0
    }
}

impl From<&CpuRegisters> for CpuStanding {
    fn from(cpu: &CpuRegisters) -> CpuStanding {
        CpuStanding {
            registers: Registers {
                rip: cpu.rip,
                rsp: cpu.rsp,
                rbp: cpu.rbp,
                rflags: cpu.rflags,
                cr0: cpu.cr0,
                cr2: cpu.cr2,
                cr3: cpu.cr3,
                cr4: cpu.cr4,
                efer: cpu.efer,
                cs: cpu.cs,
                cpl: cpu.cpl,
            },
            halted: cpu.halted,
        }
    }
}
