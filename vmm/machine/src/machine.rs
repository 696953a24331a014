//! A whole machine: memory, CPUs, devices and a loaded kernel, ready to run.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use heirloom_paging::Pfn;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::address::GuestVirtual;
use crate::boot::{self, BootError, Module};
use crate::cpuid::{Cpuid, Feature, Standing};
use crate::cpus::Cpus;
use crate::devices::{Devices, SERIAL_IRQ};
use crate::gdb::{Session, Wishes};
use crate::image::KernelImage;
use crate::kvm::{Host, KvmError, KvmModule};
use crate::memory::{MemorySize, Ram, RamRange};
use crate::registers::Registers;
use crate::run::{Bus, RunError};
use crate::vcpu::Vcpu;
use crate::vcpu_threads::VcpuThreads;
use crate::vm::Vm;
use crate::watchdog::{Interrupter, Watchdog};

/// What a machine is made from.
pub struct Config {
    /// How much RAM.
    pub memory: MemorySize,
    /// The kernel that it boots.
    pub kernel: KernelImage,
    /// The kernel's command line: printable ASCII. Where KVM overstates the CPU
    /// ([`Standing::Overstated`], [`KvmModule::unemulated`]), `clearcpuid=` with the features' names is
    /// put in front: Linux's word for features that a kernel must not use.
    pub command_line: String,
    /// How many CPUs it has. All but the first wait until the guest starts them.
    pub cpus: Cpus,
    /// Files for the guest, in the order in which it finds them.
    pub modules: Vec<Module>,
    /// Where the guest's serial port writes. A sink that retries interrupted writes by itself (std's
    /// `Stdout` does) can hold a run beyond its deadline while its reader is stuck; a `File` cannot.
    pub console: Box<dyn Write + Send>,
    /// The port whose 4-byte writes are [`Stop::Doorbell`](crate::Stop::Doorbell); `None` for a kernel
    /// that knows of none.
    pub doorbell: Option<u16>,
}

/// A virtual machine.
pub struct Machine {
    // The threads go before the CPU that they can make leave the guest, and that before the machine that it
    // belongs to: fields drop in this order.
    pub(crate) other_cpus: VcpuThreads,
    /// The first CPU.
    pub(crate) vcpu: Vcpu,
    pub(crate) bus: Bus,
    pub(crate) watchdog: Watchdog,
    /// The CPU that stopped the machine.
    pub(crate) stopped_by: usize,
    /// The debugger that is attached.
    pub(crate) gdb: Option<Box<Session>>,
    pub(crate) wishes: Wishes,
    /// How long it has held the guest.
    pub(crate) held: Duration,
    /// It has written to guest memory.
    has_written: bool,
    vm: Vm,
    kernel: KernelImage,
    /// What KVM can run.
    offered: Cpuid,
    /// What the guest sees.
    shown: Cpuid,
}

impl Machine {
    /// Makes a machine on `/dev/kvm` and loads the guest; [`Machine::run`] starts it.
    ///
    /// # Errors
    /// [`BootError`] says what was tried, on what, and what to do.
    pub fn new(config: Config) -> Result<Machine, BootError> {
        Machine::on(&Host::open()?, config)
    }

    /// As [`Machine::new`], on a KVM that is open already.
    ///
    /// # Errors
    /// As [`Machine::new`].
    pub fn on(host: &Host, config: Config) -> Result<Machine, BootError> {
        host.require_capabilities()?;
        let offered = host.cpuid()?;
        let vm = Vm::new(host, Ram::new(config.memory, offered.max_phys_addr())?)?;
        let count = config.cpus.count();
        let mut vcpu = Vcpu::new(&vm, 0, count, &offered)?;
        let shown = vcpu.cpuid()?;
        let unusable = unusable_features(host, &config.kernel, &offered, &shown);
        let command_line = boot::without_features(&config.command_line, &unusable);
        let entry = boot::load(vm.ram(), &config.kernel, &command_line, &config.modules)?;
        vcpu.enter(&entry)?;
        let watchdog = Watchdog::new().map_err(BootError::Watchdog)?;
        let devices = Devices::new(
            config.console,
            vm.interrupt_line(SERIAL_IRQ)?,
            watchdog.bell(),
        );
        let bus = Bus {
            devices: Arc::new(Mutex::new(devices)),
            doorbell: config.doorbell,
            memory: vm.ram().memory().clone(),
        };
        let mut others = Vec::new();
        for id in 1..count {
            let other = Vcpu::new(&vm, id, count, &offered)?;
            other.wait_to_be_started()?;
            others.push(other);
        }
        let other_cpus = VcpuThreads::new(vcpu.kick(), others, &bus, config.cpus.places());
        Ok(Machine {
            other_cpus: other_cpus.map_err(BootError::Cpus)?,
            vcpu,
            bus,
            watchdog,
            stopped_by: 0,
            gdb: None,
            wishes: Wishes::default(),
            held: Duration::ZERO,
            has_written: false,
            vm,
            kernel: config.kernel,
            offered,
            shown,
        })
    }

    /// The features that `kernel` must not use on KVM here though CPUID shows them, by the names that it
    /// knows; found out with a machine that never runs.
    pub(crate) fn unusable_on(
        host: &Host,
        kernel: &KernelImage,
    ) -> Result<Vec<&'static str>, BootError> {
        let offered = host.cpuid()?;
        let ram = Ram::new(MemorySize::MINIMUM, offered.max_phys_addr())?;
        let vm = Vm::new(host, ram)?;
        let shown = Vcpu::new(&vm, 0, 1, &offered)?.cpuid()?;
        Ok(unusable_features(host, kernel, &offered, &shown))
    }

    /// Guest memory, all that the host backs.
    pub fn memory(&self) -> &GuestMemoryMmap {
        self.vm.ram().memory()
    }

    /// From now on keeps a log of the frames that the guest writes, for
    /// [`Machine::take_written_frames`]. Where KVM cannot, a warning says so.
    pub fn log_writes(&mut self) {
        self.vm.log_writes();
    }

    /// The frames that the guest, or its CPU in page tables, has written since the last call, ascending.
    /// `None` if that is not known, and anything may have been written: there is no log, or this is the
    /// first call. What this program itself stores in guest memory is not logged.
    pub fn take_written_frames(&mut self) -> Option<Vec<Pfn>> {
        let written = self.vm.take_written_frames();
        if std::mem::take(&mut self.has_written) {
            return None;
        }
        written
    }

    /// Anything may have been written since the last call of [`Machine::take_written_frames`].
    pub(crate) fn forget_written_frames(&mut self) {
        self.has_written = true;
    }

    /// What the guest was told is RAM, in ascending order.
    pub fn ram(&self) -> &[RamRange] {
        self.vm.ram().memory_map()
    }

    /// The loaded kernel.
    pub fn kernel(&self) -> &KernelImage {
        &self.kernel
    }

    /// The registers of every CPU, while they stand still.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn cpus(&self) -> Result<Vec<Registers>, KvmError> {
        let mut all = vec![self.vcpu.registers()?];
        for vcpu in self.other_cpus.vcpus() {
            all.push(vcpu.registers()?);
        }
        Ok(all)
    }

    /// The number of the CPU that stopped the machine, by ringing or otherwise; 0 where none did.
    pub fn stopped_by(&self) -> usize {
        self.stopped_by
    }

    /// The registers of the CPU that stopped the machine, while it stands still.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn registers(&self) -> Result<Registers, KvmError> {
        self.ask_speaker(Vcpu::registers)
    }

    /// Whether every CPU halted with interrupts off, or was never started: none will go on by itself.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn halted_for_good(&self) -> Result<bool, KvmError> {
        if !self.vcpu.halted_for_good()? {
            return Ok(false);
        }
        for vcpu in self.other_cpus.vcpus() {
            if !vcpu.halted_for_good()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What KVM makes of `address` in the present address space of the CPU that stopped the machine; `None` if
    /// it is unmapped.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn translate(&self, address: GuestVirtual) -> Result<Option<GuestAddress>, KvmError> {
        self.ask_speaker(|vcpu| vcpu.translate(address))
    }

    fn ask_speaker<T>(&self, question: impl Fn(&Vcpu) -> T) -> T {
        self.ask(self.stopped_by, question)
    }

    /// Asks CPU `cpu`; the first one if there is no such.
    pub(crate) fn ask<T>(&self, cpu: usize, question: impl Fn(&Vcpu) -> T) -> T {
        let mut others = self.other_cpus.vcpus();
        match cpu.checked_sub(1).and_then(|at| others.nth(at)) {
            Some(vcpu) => question(&vcpu),
            None => question(&self.vcpu),
        }
    }

    /// How long a debugger has held the guest, in all: time that is none of its own.
    pub fn held(&self) -> Duration {
        self.held
    }

    /// The guest says that it cannot go on, and `why`: a debugger holds it until its user lets it go.
    ///
    /// # Errors
    /// [`RunError`]: the machine cannot be looked at.
    pub fn hold(&mut self, why: &str) -> Result<(), RunError> {
        if let Some(mut session) = self.gdb.take() {
            session.last_look(self, why)?;
            self.gdb = Some(session);
        }
        Ok(())
    }

    /// The guest has come to its end by itself, with this status: a debugger is told.
    pub fn ended(&mut self, status: u8) {
        if let Some(mut session) = self.gdb.take() {
            session.end(self, status);
        }
    }

    /// MAXPHYADDR of the guest's CPU, in bits (CPUID 0x80000008).
    pub fn max_phys_addr(&self) -> u8 {
        self.shown.max_phys_addr()
    }

    /// Whether the guest's CPU has 1 GiB leaves.
    pub fn gigabyte_pages(&self) -> bool {
        self.standing(Feature::GIGABYTE_PAGES) == Standing::Usable
    }

    /// How the guest stands with `feature`.
    pub fn standing(&self, feature: Feature) -> Standing {
        standing(feature, &self.offered, &self.shown)
    }

    /// The vendor's 12 letters, as CPUID shows them to the guest.
    pub fn cpu_vendor(&self) -> String {
        self.shown.vendor()
    }

    /// A handle that stops a run from another thread.
    pub fn interrupter(&self) -> Interrupter {
        self.watchdog.interrupter()
    }
}

fn standing(feature: Feature, offered: &Cpuid, shown: &Cpuid) -> Standing {
    match (shown.shows(feature), offered.shows(feature)) {
        (true, true) => Standing::Usable,
        (true, false) => Standing::Overstated,
        (false, _) => Standing::Absent,
    }
}

/// The features that CPUID shows, but that this kernel must not use on this KVM, by the names that it
/// knows.
fn unusable_features(
    host: &Host,
    kernel: &KernelImage,
    offered: &Cpuid,
    shown: &Cpuid,
) -> Vec<&'static str> {
    let overstated = Feature::ALL
        .into_iter()
        .filter(|feature| standing(*feature, offered, shown) == Standing::Overstated);
    if kernel.is_linux() {
        let unemulated = host.module().map_or(&[][..], KvmModule::unemulated);
        overstated
            .map(Feature::linux_name)
            .chain(unemulated.iter().copied())
            .collect()
    } else {
        overstated.map(|feature| feature.name).collect()
    }
}
