//! What the stub does with a machine whose CPUs stand still.

use crate::kvm::KvmError;
use crate::machine::Machine;
use crate::vcpu::Vcpu;
use crate::vcpu::debug::{BREAKPOINTS, State};

impl Machine {
    pub(super) fn cpu_count(&self) -> usize {
        1 + self.other_cpus.vcpus().count()
    }

    pub(super) fn state(&self, cpu: usize) -> Result<State, KvmError> {
        self.ask(cpu, Vcpu::state)
    }

    pub(super) fn set_state(&self, cpu: usize, old: &State, new: &State) -> Result<(), KvmError> {
        self.ask(cpu, |vcpu| vcpu.set_state(old, new))
    }

    pub(super) fn waits_to_be_started(&self, cpu: usize) -> Result<bool, KvmError> {
        self.ask(cpu, Vcpu::waits_to_be_started)
    }

    /// From now on all CPUs stop at `breakpoints`, and those that step after one instruction.
    pub(super) fn debug(
        &self,
        breakpoints: &[Option<u64>; BREAKPOINTS],
        stepping: &[usize],
    ) -> Result<(), KvmError> {
        for cpu in 0..self.cpu_count() {
            self.ask(cpu, |vcpu| vcpu.debug(breakpoints, stepping.contains(&cpu)))?;
        }
        Ok(())
    }

    /// Has KVM finish what the CPUs have left it for, such as reading a port: only then do their registers say where
    /// they are, and can be changed.
    pub(super) fn settle(&mut self) {
        self.other_cpus.let_none_enter();
        let mut refusals = 0;
        // They do not enter the guest, and what they have to say is not lost: it is said when they run.
        let _ = self.bus.step(&mut self.vcpu, &mut refusals);
        for mut vcpu in self.other_cpus.vcpus() {
            let _ = self.bus.step(&mut vcpu, &mut refusals);
        }
        self.other_cpus.let_enter(0);
    }
}
