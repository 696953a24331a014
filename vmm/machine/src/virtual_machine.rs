//! What every virtual machine can do, whoever runs its CPUs: our own VMM on KVM, or QEMU.

use std::time::{Duration, Instant};

use heirloom_paging::Pfn;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::address::GuestVirtual;
use crate::boot::BootError;
use crate::image::KernelImage;
use crate::kvm::Host;
use crate::machine::{Config, Machine};
use crate::memory::RamRange;
use crate::registers::Registers;
use crate::run::{RunError, Stop};
use crate::watchdog::Interrupter;

/// How a guest tells this machine that it has something to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doorbell {
    /// One write of 4 bytes to the port: the CPU stands still in it.
    Word,
    /// A 16550 serial port there: the guest sends the word's 4 bytes and waits until it receives one.
    Serial,
}

/// Where virtual machines are made.
pub trait Platform {
    /// Makes a machine and loads the guest; [`VirtualMachine::run`] starts it. Whatever the machine is
    /// asked while it stands still is answered by `deadline`, or soon after.
    ///
    /// # Errors
    /// [`BootError`] says what was tried, on what, and what to do.
    fn machine(
        &self,
        config: Config,
        deadline: Instant,
    ) -> Result<Box<dyn VirtualMachine>, BootError>;

    /// How the guest rings.
    fn doorbell(&self) -> Doorbell;

    /// What people call it.
    fn name(&self) -> &'static str;

    /// What [`VirtualMachine::translate`] asks, for people.
    fn translator(&self) -> &'static str;
}

/// A virtual machine. Outside of [`VirtualMachine::run`] all its CPUs stand still.
pub trait VirtualMachine: Send {
    /// Runs the guest until it rings the doorbell, ends, or `deadline` passes. Call it again to go on.
    ///
    /// # Errors
    /// [`RunError`]: the machine or the console's sink failed; the guest's own mishaps are a [`Stop`].
    fn run(&mut self, deadline: Instant) -> Result<Stop, RunError>;

    /// Guest memory, all that the host backs.
    fn memory(&self) -> &GuestMemoryMmap;

    /// What the guest was told is RAM, in ascending order.
    fn ram(&self) -> &[RamRange];

    /// The loaded kernel.
    fn kernel(&self) -> &KernelImage;

    /// From now on keeps a log of the frames that the guest writes, where it can.
    fn log_writes(&mut self) {}

    /// The frames that the guest, or its CPU in page tables, has written since the last call, ascending.
    /// `None` if that is not known, and anything may have been written.
    fn take_written_frames(&mut self) -> Option<Vec<Pfn>> {
        None
    }

    /// The registers of every CPU.
    ///
    /// # Errors
    /// As [`VirtualMachine::registers`].
    fn cpus(&self) -> Result<Vec<Registers>, RunError>;

    /// The number of the CPU that stopped the machine, the first one where none did; `None` where that is not
    /// known.
    fn stopped_by(&self) -> Option<usize> {
        None
    }

    /// The registers of the CPU that stopped the machine; of the first one where none did, or that is not known.
    ///
    /// # Errors
    /// [`RunError`]: the machine does not return them.
    fn registers(&self) -> Result<Registers, RunError>;

    /// Whether every CPU halted with interrupts off: none will go on by itself.
    ///
    /// # Errors
    /// As [`VirtualMachine::registers`].
    fn halted_for_good(&self) -> Result<bool, RunError>;

    /// What the machine itself makes of `address` in the present address space of the CPU that
    /// [`VirtualMachine::registers`] is about; `None` if it is unmapped.
    ///
    /// # Errors
    /// As [`VirtualMachine::registers`].
    fn translate(&self, address: GuestVirtual) -> Result<Option<GuestAddress>, RunError>;

    /// How long a debugger has held the guest, in all: time that is none of its own.
    fn held(&self) -> Duration {
        Duration::ZERO
    }

    /// The guest says that it cannot go on, and `why`: a debugger holds it until its user lets it go.
    ///
    /// # Errors
    /// The machine cannot be looked at.
    fn hold(&mut self, _why: &str) -> Result<(), RunError> {
        Ok(())
    }

    /// The guest has come to its end by itself, with this status: a debugger is told.
    fn ended(&mut self, _status: u8) {}

    /// MAXPHYADDR of the guest's CPU, in bits (CPUID 0x80000008).
    fn max_phys_addr(&self) -> u8;

    /// Whether the guest's CPU has 1 GiB leaves.
    fn gigabyte_pages(&self) -> bool;

    /// A handle that stops a run from another thread.
    fn interrupter(&self) -> Interrupter;
}

impl Platform for Host {
    fn machine(&self, config: Config, _: Instant) -> Result<Box<dyn VirtualMachine>, BootError> {
        Ok(Box::new(Machine::on(self, config)?))
    }

    fn doorbell(&self) -> Doorbell {
        Doorbell::Word
    }

    fn name(&self) -> &'static str {
        "KVM"
    }

    fn translator(&self) -> &'static str {
        "KVM_TRANSLATE"
    }
}

impl Platform for Box<dyn Platform> {
    fn machine(
        &self,
        config: Config,
        deadline: Instant,
    ) -> Result<Box<dyn VirtualMachine>, BootError> {
        (**self).machine(config, deadline)
    }

    fn doorbell(&self) -> Doorbell {
        (**self).doorbell()
    }

    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn translator(&self) -> &'static str {
        (**self).translator()
    }
}

impl VirtualMachine for Machine {
    fn run(&mut self, deadline: Instant) -> Result<Stop, RunError> {
        Machine::run(self, deadline)
    }

    fn memory(&self) -> &GuestMemoryMmap {
        Machine::memory(self)
    }

    fn ram(&self) -> &[RamRange] {
        Machine::ram(self)
    }

    fn kernel(&self) -> &KernelImage {
        Machine::kernel(self)
    }

    fn log_writes(&mut self) {
        Machine::log_writes(self);
    }

    fn take_written_frames(&mut self) -> Option<Vec<Pfn>> {
        Machine::take_written_frames(self)
    }

    fn cpus(&self) -> Result<Vec<Registers>, RunError> {
        Ok(Machine::cpus(self)?)
    }

    fn stopped_by(&self) -> Option<usize> {
        Some(Machine::stopped_by(self))
    }

    fn registers(&self) -> Result<Registers, RunError> {
        Ok(Machine::registers(self)?)
    }

    fn halted_for_good(&self) -> Result<bool, RunError> {
        Ok(Machine::halted_for_good(self)?)
    }

    fn translate(&self, address: GuestVirtual) -> Result<Option<GuestAddress>, RunError> {
        Ok(Machine::translate(self, address)?)
    }

    fn held(&self) -> Duration {
        Machine::held(self)
    }

    fn hold(&mut self, why: &str) -> Result<(), RunError> {
        Machine::hold(self, why)
    }

    fn ended(&mut self, status: u8) {
        Machine::ended(self, status);
    }

    fn max_phys_addr(&self) -> u8 {
        Machine::max_phys_addr(self)
    }

    fn gigabyte_pages(&self) -> bool {
        Machine::gigabyte_pages(self)
    }

    fn interrupter(&self) -> Interrupter {
        Machine::interrupter(self)
    }
}
