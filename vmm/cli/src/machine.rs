//! Which virtual machine a command uses: our own on KVM, or QEMU.

use std::path::PathBuf;
use std::str::FromStr;

use clap::ValueEnum;
use heirloom_abi::bugs::Bug;
use heirloom_harness::bugs;
use heirloom_machine::kvm::DEVICE;
use heirloom_machine::qemu::{Accelerator, PROGRAM};
use heirloom_machine::{CpuCount, Cpus, Host, KvmError, Platform, Qemu};

use crate::exit::{Exit, Failure};
use crate::sandbox::Sandbox;

/// Options of every command that makes machines.
#[derive(clap::Args)]
#[group(skip)]
pub(crate) struct Options {
    /// KVM's device, where it is not in its usual place.
    #[arg(long, value_name = "PATH", default_value = DEVICE)]
    pub(crate) device: PathBuf,
    /// Who runs the guest's CPU: `kvm`, or QEMU, which needs no KVM: `qemu`, or `qemu:PROGRAM` for one that
    /// is not in PATH.
    #[arg(long, value_name = "MACHINE", default_value = "kvm")]
    machine: Choice,
    /// With QEMU: whether it emulates the CPU (`tcg`) or uses KVM.
    #[arg(long, value_name = "NAME", value_enum, default_value_t = Accel::Tcg)]
    accel: Accel,
}

/// Options of commands whose guest may have several CPUs.
#[derive(clap::Args)]
#[group(skip)]
pub(crate) struct CpuOptions {
    /// CPUs of the guest: 1 to 8; 1 unless given, or as many as a deliberate bug takes.
    #[arg(long, value_name = "N")]
    cpus: Option<CpuCount>,
    /// Lets the system move the guest's CPUs between the host's. Else each stays on one: two that share one wait
    /// for each other.
    #[arg(long)]
    no_pin: bool,
}

impl CpuOptions {
    /// What they say.
    pub(crate) fn cpus(&self) -> Cpus {
        self.cpus_or(CpuCount::ONE)
    }

    /// What they say, where a bug may have to be made that takes several.
    ///
    /// # Errors
    /// If they say fewer.
    pub(crate) fn cpus_for(&self, bug: Option<Bug>) -> Result<Cpus, Failure> {
        let Some(bug) = bug else {
            return Ok(self.cpus());
        };
        let cpus = self.cpus_or(bugs::cpus(bug));
        if cpus.count() >= bug.cpus() {
            return Ok(cpus);
        }
        let (name, takes) = (bug.info().name, bug.cpus());
        Err(Failure::new(
            Exit::Usage,
            format!("the mistake of {name} takes {takes} CPUs: add --cpus {takes}"),
        ))
    }

    fn cpus_or(&self, unsaid: CpuCount) -> Cpus {
        Cpus::new(self.cpus.unwrap_or(unsaid)).pinned(!self.no_pin)
    }
}

/// The machine that was named.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Choice {
    Kvm,
    Qemu(PathBuf),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Choice, String> {
        match text.split_once(':') {
            None if text == "kvm" => Ok(Choice::Kvm),
            None if text == "qemu" => Ok(Choice::Qemu(PROGRAM.into())),
            Some(("qemu", program)) if !program.is_empty() => Ok(Choice::Qemu(program.into())),
            _ => Err("no such machine; there are `kvm`, `qemu` and `qemu:PROGRAM`".into()),
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Accel {
    Tcg,
    Kvm,
}

impl Options {
    /// Enters `sandbox` before the first machine is made, if it can be. QEMU is a program that has to be started:
    /// where there is one machine, the sandbox is entered when it runs ([`Sandbox::with_child`]).
    pub(crate) fn enter(&self, sandbox: &Sandbox) -> Result<(), Failure> {
        match self.machine {
            Choice::Kvm => sandbox.enter(),
            Choice::Qemu(_) => Ok(()),
        }
    }

    /// Where the machines are made.
    pub(crate) fn platform(&self) -> Result<Box<dyn Platform>, Failure> {
        let program = match &self.machine {
            Choice::Kvm => return Ok(Box::new(self.kvm()?)),
            Choice::Qemu(program) => program,
        };
        let accelerator = match self.accel {
            Accel::Tcg => Accelerator::Tcg,
            Accel::Kvm => Accelerator::Kvm,
        };
        match Qemu::new(program, accelerator) {
            Ok(qemu) => Ok(Box::new(qemu)),
            Err(error) => Err(Failure::new(Exit::Host, error)),
        }
    }

    /// KVM, for what QEMU cannot do.
    pub(crate) fn kvm_for(&self, what: &str) -> Result<Host, Failure> {
        match self.machine {
            Choice::Kvm => self.kvm(),
            Choice::Qemu(_) => Err(Failure::new(
                Exit::Usage,
                format!("{what} is for guests on KVM, not for --machine qemu"),
            )),
        }
    }

    fn kvm(&self) -> Result<Host, Failure> {
        Host::open_at(&self.device).map_err(|error| without_kvm(&error))
    }
}

/// KVM cannot be opened; QEMU may do.
fn without_kvm(error: &KvmError) -> Failure {
    let hint = match error {
        KvmError::Missing { .. }
        | KvmError::Permission { .. }
        | KvmError::ModuleNotLoaded { .. }
        | KvmError::Busy { .. }
            if Qemu::is_installed() =>
        {
            "\n  QEMU is installed and needs no KVM: --machine qemu"
        }
        _ => "",
    };
    Failure::new(Exit::Host, format!("{error}{hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_named_with_its_program_or_without() {
        for (text, choice) in [
            ("kvm", Choice::Kvm),
            ("qemu", Choice::Qemu(PROGRAM.into())),
            ("qemu:/opt/q:1/qemu", Choice::Qemu("/opt/q:1/qemu".into())),
        ] {
            assert_eq!(text.parse(), Ok(choice));
        }
        for text in ["", "KVM", "qemu:", "kvm:/dev/kvm", "bochs"] {
            assert!(text.parse::<Choice>().unwrap_err().contains("`qemu`"));
        }
    }
}
