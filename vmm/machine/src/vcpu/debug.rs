//! What a debugger does with a CPU: all of its registers, hardware breakpoints and single steps.

use kvm_bindings::{
    KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP,
    KVM_MP_STATE_UNINITIALIZED, kvm_fpu, kvm_guest_debug, kvm_regs, kvm_sregs,
};

use super::Vcpu;
use crate::kvm::{KvmError, call};
use crate::registers::Registers;

/// Breakpoints that a CPU has registers for: DR0 to DR3 (Intel SDM vol. 3B, 18.2).
pub(crate) const BREAKPOINTS: usize = 4;

/// All registers that a debugger shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct State {
    pub general: kvm_regs,
    pub special: kvm_sregs,
    pub float: kvm_fpu,
}

impl State {
    /// Those that say where the CPU is.
    pub(crate) fn registers(&self) -> Registers {
        Registers::new(&self.general, &self.special)
    }
}

impl Vcpu {
    /// What the registers hold. Only while the CPU stands still, as for all below.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub(crate) fn state(&self) -> Result<State, KvmError> {
        let fd = &self.fd;
        let read = call("read the vCPU's registers (KVM_GET_REGS, KVM_GET_SREGS, KVM_GET_FPU)");
        Ok(State {
            general: fd.get_regs().map_err(&read)?,
            special: fd.get_sregs().map_err(&read)?,
            float: fd.get_fpu().map_err(&read)?,
        })
    }

    /// Writes those that differ between `old`, which they hold, and `new`.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub(crate) fn set_state(&self, old: &State, new: &State) -> Result<(), KvmError> {
        let fd = &self.fd;
        let write = call("write the vCPU's registers (KVM_SET_REGS, KVM_SET_SREGS, KVM_SET_FPU)");
        if old.special != new.special {
            fd.set_sregs(&new.special).map_err(&write)?;
        }
        if old.general != new.general {
            fd.set_regs(&new.general).map_err(&write)?;
        }
        if old.float != new.float {
            fd.set_fpu(&new.float).map_err(&write)?;
        }
        Ok(())
    }

    /// From now on stops before instructions at `breakpoints`, and with `step` after the next one.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub(crate) fn debug(
        &self,
        breakpoints: &[Option<u64>; BREAKPOINTS],
        step: bool,
    ) -> Result<(), KvmError> {
        let mut debug = kvm_guest_debug::default();
        for (number, address) in breakpoints.iter().enumerate() {
            if let Some(address) = address {
                debug.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
                debug.arch.debugreg[number] = *address;
                // DR7.Gn; R/W and LEN stay 0, which is an instruction.
                debug.arch.debugreg[7] |= 2 << (2 * number);
            }
        }
        if step {
            debug.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
        }
        self.fd
            .set_guest_debug(&debug)
            .map_err(call("debug the vCPU (KVM_SET_GUEST_DEBUG)"))
    }

    /// Whether the CPU waits for another one to start it.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub(crate) fn waits_to_be_started(&self) -> Result<bool, KvmError> {
        let state = self.fd.get_mp_state();
        let state = state.map_err(call("read the vCPU's state (KVM_GET_MP_STATE)"))?;
        Ok(state.mp_state == KVM_MP_STATE_UNINITIALIZED)
    }
}
