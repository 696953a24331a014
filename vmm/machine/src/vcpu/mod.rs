//! One virtual CPU: what it looks like to the guest, its state at entry, its registers.
#![expect(
    unsafe_code,
    reason = "the details of an internal error lie in a C union that KVM shares, as does the flag to leave"
)]

pub(crate) mod debug;
mod entry;

use std::sync::atomic::{AtomicU8, Ordering};

use kvm_bindings::{
    KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES,
    KVM_MAX_CPUID_ENTRIES, KVM_MP_STATE_HALTED, KVM_MP_STATE_UNINITIALIZED,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use vm_memory::GuestAddress;

use crate::address::GuestVirtual;
use crate::boot::Entry;
use crate::cpuid::Cpuid;
use crate::kvm::{KvmError, call};
use crate::registers::Registers;
use crate::vm::Vm;

/// RFLAGS.IF.
const INTERRUPTS_ON: u64 = 1 << 9;

/// A virtual CPU.
#[derive(Debug)]
pub struct Vcpu {
    fd: VcpuFd,
}

/// Makes a CPU leave the guest, or not enter it, from another thread.
#[derive(Debug)]
pub(crate) struct Kick {
    /// KVM's flag in the page that it shares.
    immediate_exit: *mut u8,
}

// SAFETY: the pointer is used for atomic stores alone, and it stays valid as `Vcpu::kick` says.
unsafe impl Send for Kick {}

// SAFETY: as for `Send`.
unsafe impl Sync for Kick {}

impl Kick {
    fn flag(&self) -> &AtomicU8 {
        // SAFETY: the byte is in the mapping of a vCPU that lives; KVM and this program access it at any time.
        unsafe { AtomicU8::from_ptr(self.immediate_exit) }
    }

    /// Does it.
    pub(crate) fn leave(&self) {
        self.flag().store(1, Ordering::SeqCst);
    }

    /// Lets it enter again.
    pub(crate) fn stay(&self) {
        self.flag().store(0, Ordering::SeqCst);
    }
}

/// What KVM could not do for the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InternalError {
    pub suberror: u32,
    /// At most 15 bytes of the instruction; empty where KVM does not say.
    pub instruction: Vec<u8>,
}

impl Vcpu {
    /// Makes CPU `id` of `vm`, which is to have `count`.
    ///
    /// # Errors
    /// [`KvmError`] names the call that KVM refused.
    pub fn new(vm: &Vm, id: u8, count: u8, cpuid: &Cpuid) -> Result<Vcpu, KvmError> {
        let fd = vm
            .fd()
            .create_vcpu(id.into())
            .map_err(call("make a vCPU (KVM_CREATE_VCPU)"))?;
        fd.set_cpuid2(&cpuid.for_vcpu(id, count))
            .map_err(call("set the vCPU's features (KVM_SET_CPUID2)"))?;
        Ok(Vcpu { fd })
    }

    /// What CPUID shows the guest. Not what [`Vcpu::new`] was given: KVM adds what follows from the
    /// vCPU's state, and kvm_pvm the host's own features.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn cpuid(&self) -> Result<Cpuid, KvmError> {
        self.fd
            .get_cpuid2(KVM_MAX_CPUID_ENTRIES)
            .map(Cpuid::of_vcpu)
            .map_err(call("read the vCPU's features (KVM_GET_CPUID2)"))
    }

    /// Puts the CPU into the state in which `entry` has a kernel entered, and what firmware leaves.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn enter(&self, entry: &Entry) -> Result<(), KvmError> {
        entry::set_model_specific_registers(&self.fd)?;
        let mut special = self
            .fd
            .get_sregs()
            .map_err(call("read the vCPU's control registers (KVM_GET_SREGS)"))?;
        let general = entry::set_registers(&mut special, entry);
        self.fd
            .set_sregs(&special)
            .map_err(call("set the vCPU's control registers (KVM_SET_SREGS)"))?;
        self.fd
            .set_regs(&general)
            .map_err(call("set the vCPU's registers (KVM_SET_REGS)"))
    }

    /// Leaves the CPU waiting for another one to start it, with what firmware leaves.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn wait_to_be_started(&self) -> Result<(), KvmError> {
        entry::set_model_specific_registers(&self.fd)
    }

    /// What makes it leave the guest. The CPU must outlive it.
    pub(crate) fn kick(&mut self) -> Kick {
        Kick {
            immediate_exit: &raw mut self.fd.get_kvm_run().immediate_exit,
        }
    }

    /// Where the CPU is. Only while it stands still.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn registers(&self) -> Result<Registers, KvmError> {
        let general = self
            .fd
            .get_regs()
            .map_err(call("read the vCPU's registers (KVM_GET_REGS)"))?;
        let special = self
            .fd
            .get_sregs()
            .map_err(call("read the vCPU's control registers (KVM_GET_SREGS)"))?;
        Ok(Registers::new(&general, &special))
    }

    /// What KVM itself makes of `address` in the CPU's present address space; `None` if it is unmapped.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn translate(&self, address: GuestVirtual) -> Result<Option<GuestAddress>, KvmError> {
        let translation = self
            .fd
            .translate_gva(address.0)
            .map_err(call("translate an address (KVM_TRANSLATE)"))?;
        Ok((translation.valid != 0).then_some(GuestAddress(translation.physical_address)))
    }

    /// Whether the CPU halted with interrupts off, so that nothing here will wake it.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn halted_for_good(&self) -> Result<bool, KvmError> {
        let state = self
            .fd
            .get_mp_state()
            .map_err(call("read the vCPU's state (KVM_GET_MP_STATE)"))?;
        // Another CPU could start it: that one counts.
        if state.mp_state == KVM_MP_STATE_UNINITIALIZED {
            return Ok(true);
        }
        Ok(state.mp_state == KVM_MP_STATE_HALTED && self.registers()?.rflags & INTERRUPTS_ON == 0)
    }

    /// Runs the CPU until it needs the host, or a signal arrives (EINTR).
    pub(crate) fn run(&mut self) -> Result<VcpuExit<'_>, kvm_ioctls::Error> {
        self.fd.run()
    }

    /// What KVM says about the internal error that [`Vcpu::run`] just returned.
    pub(crate) fn internal_error(&mut self) -> InternalError {
        let exit = &self.fd.get_kvm_run().__bindgen_anon_1;
        // SAFETY: the exit reason is KVM_EXIT_INTERNAL_ERROR, which fills `internal`; it is plain data.
        let internal = unsafe { exit.internal };
        let mut instruction = Vec::new();
        // Two words: the flags, then size and bytes of the instruction's first part.
        if internal.suberror == KVM_INTERNAL_ERROR_EMULATION && internal.ndata >= 3 {
            // SAFETY: for this suberror KVM lays `internal` out as `emulation_failure`; plain data.
            let (failure, bytes) = unsafe {
                let failure = exit.emulation_failure;
                (failure, failure.__bindgen_anon_1.__bindgen_anon_1)
            };
            if failure.flags & u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0 {
                let size = usize::from(bytes.insn_size).min(bytes.insn_bytes.len());
                instruction.extend_from_slice(&bytes.insn_bytes[..size]);
            }
        }
        InternalError {
            suberror: internal.suberror,
            instruction,
        }
    }
}
