//! The state in which a CPU enters a kernel.

use kvm_bindings::{Msrs, kvm_dtable, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;

use crate::boot::{Entry, long_mode};
use crate::kvm::{KvmError, call};

/// CR0.PE, protected mode; CR0.ET is always set on real CPUs (Intel SDM vol. 3A, 2.5).
const CR0_PROTECTED: u64 = 1 << 0 | 1 << 4;
/// CR0.PG.
const CR0_PAGING: u64 = 1 << 31;
/// CR4.PAE, without which there is no long mode.
const CR4_PAE: u64 = 1 << 5;
/// EFER.LME and, as paging is on, EFER.LMA.
const EFER_LONG_MODE: u64 = 1 << 8 | 1 << 10;
/// The bit of RFLAGS that is always set.
const RFLAGS_AT_ENTRY: u64 = 1 << 1;

/// `IA32_MTRR_DEF_TYPE` as firmware leaves it: MTRRs on, all memory write-back. Linux does without PAT
/// where it finds them off (Intel SDM vol. 3A, 12.11.2.1).
const MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ON_WRITE_BACK: u64 = 1 << 11 | 6;

/// Types of Intel SDM vol. 3A, tables 3-1 and 3-2, all accessed: execute/read, read/write, busy TSS.
const CODE: u8 = 0xb;
const DATA: u8 = 0x3;
const BUSY_TASK: u8 = 0xb;

/// Sets the model-specific registers that kernels expect firmware to have set.
pub(super) fn set_model_specific_registers(vcpu: &VcpuFd) -> Result<(), KvmError> {
    let entries = [kvm_msr_entry {
        index: MTRR_DEF_TYPE,
        data: MTRR_ON_WRITE_BACK,
        ..Default::default()
    }];
    let registers = Msrs::from_entries(&entries).map_err(|error| KvmError::Call {
        what: "list the vCPU's model-specific registers",
        source: std::io::Error::other(format!("{error:?}")),
    })?;
    // KVM tells how many it set. A CPU without MTRRs has nothing to switch on.
    vcpu.set_msrs(&registers).map(|_| ()).map_err(call(
        "set the vCPU's model-specific registers (KVM_SET_MSRS)",
    ))
}

/// Changes control and segment registers as `entry` has them, and returns the others.
pub(super) fn set_registers(special: &mut kvm_sregs, entry: &Entry) -> kvm_regs {
    special.ldt = kvm_segment {
        unusable: 1,
        ..Default::default()
    };
    special.idt = kvm_dtable::default();
    let general = kvm_regs {
        rflags: RFLAGS_AT_ENTRY,
        ..Default::default()
    };
    match *entry {
        Entry::Protected { at, magic, info } => {
            set_segments(special, flat_segment(0x08, CODE), 0x10, 0x18);
            // PVH and Multiboot leave the tables undefined: the kernel loads its own before it needs them.
            special.gdt = kvm_dtable::default();
            special.cr0 = CR0_PROTECTED;
            special.cr3 = 0;
            special.cr4 = 0;
            special.efer = 0;
            kvm_regs {
                rip: at.0,
                rax: magic.into(),
                rbx: info.0,
                ..general
            }
        }
        Entry::Long { at, boot_params } => {
            let code = kvm_segment {
                l: 1,
                db: 0,
                ..flat_segment(long_mode::CODE_SELECTOR, CODE)
            };
            set_segments(
                special,
                code,
                long_mode::DATA_SELECTOR,
                long_mode::TASK_SELECTOR,
            );
            special.gdt = kvm_dtable {
                base: long_mode::DESCRIPTORS.0,
                limit: long_mode::DESCRIPTORS_LIMIT,
                ..Default::default()
            };
            special.cr0 = CR0_PROTECTED | CR0_PAGING;
            special.cr3 = long_mode::ROOT.0;
            special.cr4 = CR4_PAE;
            special.efer = EFER_LONG_MODE;
            kvm_regs {
                rip: at.0,
                rsi: boot_params.0,
                ..general
            }
        }
    }
}

fn set_segments(special: &mut kvm_sregs, code: kvm_segment, data: u16, task: u16) {
    special.cs = code;
    let data = flat_segment(data, DATA);
    (special.ds, special.es, special.fs, special.gs, special.ss) = (data, data, data, data, data);
    special.tr = kvm_segment {
        s: 0,
        g: 0,
        db: 0,
        limit: 0x67,
        ..flat_segment(task, BUSY_TASK)
    };
}

/// A present 32-bit ring-0 segment of the whole 4 GiB.
fn flat_segment(selector: u16, type_: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: 1,
        s: 1,
        l: 0,
        g: 1,
        ..Default::default()
    }
}
