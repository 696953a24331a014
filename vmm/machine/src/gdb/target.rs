//! What gdb asks of a machine, and what it is answered, as gdbstub puts it.

use gdbstub::common::{Signal, Tid};
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{
    MultiThreadBase, MultiThreadResume, MultiThreadResumeOps, MultiThreadSchedulerLocking,
    MultiThreadSchedulerLockingOps, MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::base::single_register_access::{
    SingleRegisterAccess, SingleRegisterAccessOps,
};
use gdbstub::target::ext::breakpoints::{
    Breakpoints as BreakpointsExt, BreakpointsOps, HwBreakpoint, HwBreakpointOps, SwBreakpoint,
    SwBreakpointOps,
};
use gdbstub::target::ext::memory_map::{MemoryMap, MemoryMapOps};
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd, MonitorCmdOps};
use gdbstub::target::ext::target_description_xml_override::{
    TargetDescriptionXmlOverride, TargetDescriptionXmlOverrideOps,
};
use gdbstub::target::ext::thread_extra_info::{ThreadExtraInfo, ThreadExtraInfoOps};
use gdbstub::target::{Target, TargetError, TargetResult};

use super::breakpoints::{Breakpoints, Kind};
use super::registers::{Bytes, Place, X86_64};
use super::session::{PACKET_BYTES, TEXT_BYTES};
use super::{Monitor, documents, memory, registers};
use crate::kvm::KvmError;
use crate::machine::Machine;
use crate::run::RunError;

/// Bytes of memory that are read at a time, at most: two digits stand for each.
const MAX_READ: usize = PACKET_BYTES / 2;

/// What gdb wants of a machine.
#[derive(Default)]
pub(crate) struct Wishes {
    pub(super) breakpoints: Breakpoints,
    pub(super) resume: Resume,
    /// Why the CPUs cannot run as they were to.
    pub(super) refused: Option<String>,
    /// The CPU whose registers or memory were asked for last, or that stopped.
    pub(super) looked_at: usize,
    /// All CPUs stand still, and KVM is done with what they left it for.
    pub(super) is_held: bool,
    monitor: Option<Monitor>,
    /// Whether KVM emulates ring 0 and debugs nothing else.
    ring_3_is_out_of_reach: bool,
    /// What each CPU that is named is to do, and whether others stand still.
    actions: Vec<(usize, Action)>,
    is_locked: bool,
    /// What has been told to whoever started the guest.
    told: Vec<&'static str>,
}

/// Which CPUs run, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Resume {
    /// This one alone; else all.
    pub only: Option<usize>,
    /// Those that make one step.
    pub stepping: Vec<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Continue,
    Step,
}

/// What gdb calls a CPU.
pub(super) fn tid(cpu: usize) -> Tid {
    Tid::MIN.saturating_add(cpu)
}

fn fatal(error: KvmError) -> TargetError<RunError> {
    TargetError::Fatal(error.into())
}

/// Why something is not done. The protocol has a number for it.
fn refused(why: &str) -> TargetError<RunError> {
    log::debug!("gdb is refused something: {why}");
    TargetError::NonFatal
}

impl Wishes {
    /// None yet, of whom `monitor` answers.
    pub(super) fn new(monitor: Monitor, ring_3_is_out_of_reach: bool) -> Wishes {
        Wishes {
            monitor: Some(monitor),
            ring_3_is_out_of_reach,
            ..Wishes::default()
        }
    }

    /// As [`refused`], for what a user of gdb may not know. It is said once where the guest was started.
    fn refused(&mut self, why: &'static str) -> TargetError<RunError> {
        if !self.told.contains(&why) {
            self.told.push(why);
            log::warn!("gdb is refused something: {why}");
        }
        TargetError::NonFatal
    }

    fn set_breakpoint(&mut self, kind: Kind, address: u64) -> TargetResult<bool, Machine> {
        if self.breakpoints.set(kind, address) {
            return Ok(true);
        }
        Err(self.refused("all four breakpoints that a CPU has are set"))
    }
}

impl Machine {
    fn cpu(&self, tid: Tid) -> Option<usize> {
        let cpu = tid.get() - 1;
        (cpu < self.cpu_count()).then_some(cpu)
    }

    /// The CPU that gdb is about to look at.
    fn look_at(&mut self, tid: Tid) -> TargetResult<usize, Machine> {
        if !self.wishes.is_held {
            return Err(refused("the guest runs"));
        }
        let cpu = self
            .cpu(tid)
            .ok_or_else(|| refused("there is no such CPU"))?;
        self.wishes.looked_at = cpu;
        Ok(cpu)
    }

    fn set_registers(&mut self, cpu: usize, bytes: &[u8]) -> TargetResult<(), Machine> {
        let old = self.state(cpu).map_err(fatal)?;
        let Some(new) = registers::read(&old, bytes) else {
            let why = "selectors, control registers and the FPU's own are not set by a debugger";
            return Err(self.wishes.refused(why));
        };
        // What KVM does not take is the user's mistake.
        let set = self.set_state(cpu, &old, &new);
        set.map_err(|error| refused(&error.to_string()))
    }

    fn set_action(&mut self, tid: Tid, action: Action) {
        match self.cpu(tid) {
            Some(cpu) => {
                let actions = &mut self.wishes.actions;
                // The first one is meant.
                if actions.iter().all(|(named, _)| *named != cpu) {
                    actions.push((cpu, action));
                }
            }
            None => self.wishes.refused = Some("there is no such CPU".into()),
        }
    }

    /// How the CPUs are to run, or why they do not: what would not come to an end is refused.
    fn resume_of_actions(&self) -> Result<Result<Resume, String>, KvmError> {
        let wishes = &self.wishes;
        let stepping = wishes
            .actions
            .iter()
            .filter(|(_, action)| *action == Action::Step);
        let stepping: Vec<usize> = stepping.map(|(cpu, _)| *cpu).collect();
        for cpu in &stepping {
            if self.waits_to_be_started(*cpu)? {
                return Ok(Err(format!("CPU {cpu} is not started yet")));
            }
            if wishes.ring_3_is_out_of_reach && self.state(*cpu)?.registers().cpl == 3 {
                let why = "this host's KVM (kvm_pvm) makes no single steps in ring 3";
                return Ok(Err(why.into()));
            }
        }
        let only = match wishes.actions[..] {
            _ if !wishes.is_locked => None,
            _ if wishes.actions.len() == self.cpu_count() => None,
            [(cpu, _)] => Some(cpu),
            _ => return Ok(Err("either one CPU runs or all do".into())),
        };
        Ok(Ok(Resume { only, stepping }))
    }
}

impl Target for Machine {
    type Arch = X86_64;
    type Error = RunError;

    fn base_ops(&mut self) -> BaseOps<'_, X86_64, RunError> {
        BaseOps::MultiThread(self)
    }

    /// What is sent can be read by people, and by any client.
    fn use_rle(&self) -> bool {
        false
    }

    fn use_fork_stop_reason(&self) -> bool {
        false
    }

    fn use_vfork_stop_reason(&self) -> bool {
        false
    }

    fn use_vforkdone_stop_reason(&self) -> bool {
        false
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }

    fn support_target_description_xml_override(
        &mut self,
    ) -> Option<TargetDescriptionXmlOverrideOps<'_, Self>> {
        Some(self)
    }

    fn support_memory_map(&mut self) -> Option<MemoryMapOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadBase for Machine {
    fn read_registers(&mut self, registers: &mut Bytes, tid: Tid) -> TargetResult<(), Self> {
        let cpu = self.look_at(tid)?;
        *registers = Bytes(registers::write(&self.state(cpu).map_err(fatal)?));
        Ok(())
    }

    fn write_registers(&mut self, registers: &Bytes, tid: Tid) -> TargetResult<(), Self> {
        let cpu = self.look_at(tid)?;
        self.set_registers(cpu, &registers.0)
    }

    fn support_single_register_access(&mut self) -> Option<SingleRegisterAccessOps<'_, Tid, Self>> {
        Some(self)
    }

    fn read_addrs(&mut self, at: u64, bytes: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        let cpu = self.look_at(tid)?;
        // gdbstub asks for what is longer part by part, without an end.
        if bytes.len() > MAX_READ {
            return Err(refused("this is more than a packet has room for"));
        }
        let cpu = self.state(cpu).map_err(fatal)?.registers();
        let read = memory::read(self, &cpu, at, bytes.len());
        let read = read.map_err(|why| refused(&format!("{at:#x}: {why}")))?;
        bytes[..read.len()].copy_from_slice(&read);
        Ok(read.len())
    }

    fn write_addrs(&mut self, at: u64, bytes: &[u8], tid: Tid) -> TargetResult<(), Self> {
        let cpu = self.look_at(tid)?;
        let cpu = self.state(cpu).map_err(fatal)?.registers();
        let written = memory::write(self, &cpu, at, bytes);
        written.map_err(|why| refused(&format!("{at:#x}: {why}")))?;
        // No log of KVM's tells of it, and it may have been a page table.
        self.forget_written_frames();
        Ok(())
    }

    fn list_active_threads(&mut self, is_one: &mut dyn FnMut(Tid)) -> Result<(), RunError> {
        (0..self.cpu_count()).map(tid).for_each(is_one);
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(&mut self) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}

impl SingleRegisterAccess<Tid> for Machine {
    fn read_register(
        &mut self,
        tid: Tid,
        register: Place,
        bytes: &mut [u8],
    ) -> TargetResult<usize, Self> {
        let cpu = self.look_at(tid)?;
        let all = registers::write(&self.state(cpu).map_err(fatal)?);
        bytes.copy_from_slice(&all[register.0]);
        Ok(bytes.len())
    }

    fn write_register(
        &mut self,
        tid: Tid,
        register: Place,
        value: &[u8],
    ) -> TargetResult<(), Self> {
        let cpu = self.look_at(tid)?;
        let mut all = registers::write(&self.state(cpu).map_err(fatal)?);
        if value.len() != register.0.len() {
            return Err(refused("the register has another size"));
        }
        all[register.0].copy_from_slice(value);
        self.set_registers(cpu, &all)
    }
}

/// Signals are nothing to a machine.
impl MultiThreadResume for Machine {
    fn clear_resume_actions(&mut self) -> Result<(), RunError> {
        self.wishes.actions.clear();
        self.wishes.is_locked = false;
        self.wishes.refused = None;
        Ok(())
    }

    fn set_resume_action_continue(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), RunError> {
        self.set_action(tid, Action::Continue);
        Ok(())
    }

    fn resume(&mut self) -> Result<(), RunError> {
        if self.wishes.refused.is_none() {
            match self.resume_of_actions()? {
                Ok(resume) => self.wishes.resume = resume,
                Err(why) => self.wishes.refused = Some(why),
            }
        }
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadSingleStep for Machine {
    fn set_resume_action_step(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), RunError> {
        self.set_action(tid, Action::Step);
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for Machine {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), RunError> {
        self.wishes.is_locked = true;
        Ok(())
    }
}

/// Both kinds are the same to the CPU.
impl BreakpointsExt for Machine {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for Machine {
    fn add_sw_breakpoint(&mut self, at: u64, _: usize) -> TargetResult<bool, Self> {
        self.wishes.set_breakpoint(Kind::Software, at)
    }

    fn remove_sw_breakpoint(&mut self, at: u64, _: usize) -> TargetResult<bool, Self> {
        self.wishes.breakpoints.remove(Kind::Software, at);
        Ok(true)
    }
}

impl HwBreakpoint for Machine {
    fn add_hw_breakpoint(&mut self, at: u64, _: usize) -> TargetResult<bool, Self> {
        self.wishes.set_breakpoint(Kind::Hardware, at)
    }

    fn remove_hw_breakpoint(&mut self, at: u64, _: usize) -> TargetResult<bool, Self> {
        self.wishes.breakpoints.remove(Kind::Hardware, at);
        Ok(true)
    }
}

impl MonitorCmd for Machine {
    fn handle_monitor_cmd(
        &mut self,
        command: &[u8],
        mut output: ConsoleOutput<'_>,
    ) -> Result<(), RunError> {
        let Some(mut monitor) = self.wishes.monitor.take() else {
            return Ok(());
        };
        let command = String::from_utf8_lossy(command);
        let text = monitor(self, self.wishes.looked_at, command.trim());
        self.wishes.monitor = Some(monitor);
        for part in text.as_bytes().chunks(TEXT_BYTES) {
            output.write_raw(part);
        }
        Ok(())
    }
}

impl ThreadExtraInfo for Machine {
    /// What people read about a CPU.
    fn thread_extra_info(&self, tid: Tid, bytes: &mut [u8]) -> Result<usize, RunError> {
        let Some(cpu) = self.cpu(tid).filter(|_| self.wishes.is_held) else {
            return Ok(0);
        };
        let text = if self.waits_to_be_started(cpu)? {
            format!("CPU {cpu}, not started")
        } else {
            format!("CPU {cpu}, ring {}", self.state(cpu)?.registers().cpl)
        };
        Ok(documents::part(&text, 0, usize::MAX, bytes))
    }
}

impl TargetDescriptionXmlOverride for Machine {
    fn target_description_xml(
        &self,
        annex: &[u8],
        offset: u64,
        length: usize,
        bytes: &mut [u8],
    ) -> TargetResult<usize, Self> {
        if annex != b"target.xml" {
            return Err(refused("there is no such description"));
        }
        let description = registers::description();
        Ok(documents::part(&description, offset, length, bytes))
    }
}

impl MemoryMap for Machine {
    fn memory_map_xml(
        &self,
        offset: u64,
        length: usize,
        bytes: &mut [u8],
    ) -> TargetResult<usize, Self> {
        let map = documents::memory_map(self);
        Ok(documents::part(&map, offset, length, bytes))
    }
}
