//! `heirloom boot`: boots any x86-64 kernel on our machine, stops it at a moment, and inspects the address
//! spaces that it has then.

pub(crate) mod console;
mod wait;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::builder::NonEmptyStringValueParser;
use heirloom_harness::recorder::MachineRecorder;
use heirloom_harness::{crash_report, file, machine_target};
use heirloom_inspect::check::{Check, Strictness};
use heirloom_inspect::report::{CheckReport, Roots};
use heirloom_inspect::{Discovery, Target};
use heirloom_machine::image::Kind;
use heirloom_machine::{Config, KernelImage, MemorySize, Module, Stop, VirtualMachine};
use heirloom_source::OutputFile;
use serde::Serialize;

use crate::debugger;
use crate::exit::{Exit, Failure, unrecorded};
use crate::machine;
use crate::output::Output;
use crate::progress::Progress;
use crate::sandbox::Sandbox;
use crate::text::Shown;
use crate::{inspect, output, signals, ui};
use console::{Console, Seen};
use wait::{Ending, Moment, wait};

const YEAR: u64 = 365 * 24 * 60 * 60;
/// Larger files are handed over by other means than memory, in GiB.
const MODULE_LIMIT: u64 = 4;
/// Linux's command line unless the user gives one: where its console is, from the first line on, and to
/// reset the machine after a panic, which ends the run.
const LINUX_WORDS: &str = "console=ttyS0 earlyprintk=serial,ttyS0 panic=-1";
/// Version of the JSON.
const VERSION: u32 = 1;

/// What `--help` says besides.
const HELP: &str = "Kernels:
  an ELF with a PVH note is entered by PVH, one with a Multiboot header as GRUB would, any other x86-64 ELF
  and a bzImage by Linux's 64-bit boot protocol. There is no BIOS: a kernel that calls it does not get far
  (Xen: `no-real-mode`). The machine has a serial port (COM1) and a PC's interrupt controllers and timer, but
  no ACPI tables, no PCI and no disks: Linux finds out by itself; `acpi=off pci=off` spare it the search.
  No table tells of CPUs beside the first: a kernel that uses more has to know how many there are.

The guest is stopped when it prints TEXT, after SECS, or when it ends: it resets its machine, halts with
interrupts off, crashes, or KVM cannot run it on. Then its address spaces are listed (`heirloom roots`)
and judged (`heirloom check`).

Exit codes: 0 the guest reached that moment and no rule is broken, 1 a rule is, 2 wrong usage or a file that
cannot be used, 3 this host cannot run it, 4 the guest did not get there.";

/// Options of `heirloom boot`.
#[derive(clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Options {
    /// The kernel: a PVH ELF, a vmlinux, a bzImage such as a distribution's /boot/vmlinuz, or one for GRUB
    /// with a Multiboot or Multiboot2 header.
    #[arg(value_name = "KERNEL")]
    kernel: PathBuf,
    /// Linux's initial RAM disk; for other kernels that boot by PVH or Multiboot, the first boot module.
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// A boot module; may be given several times. Only PVH and Multiboot have them.
    #[arg(long = "module", value_name = "FILE")]
    modules: Vec<PathBuf>,
    /// The kernel's command line; Linux's is `console=ttyS0 earlyprintk=serial,ttyS0 panic=-1` unless
    /// given. Features of the CPU that this host's KVM cannot run are always put in front.
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    cmdline: Option<String>,
    /// The guest's memory, such as 128M or 6G.
    #[arg(long, value_name = "SIZE", default_value = "512M")]
    memory: MemorySize,
    /// Stops the guest when it has printed this on its serial port.
    #[arg(long, value_name = "TEXT", conflicts_with = "after", value_parser = NonEmptyStringValueParser::new())]
    until: Option<String>,
    /// Stops the guest after so many seconds.
    #[arg(long, value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..=YEAR))]
    after: Option<u64>,
    /// Gives the guest up after so many seconds; it is still inspected.
    #[arg(long, value_name = "SECS", default_value_t = 300, conflicts_with = "after", value_parser = clap::value_parser!(u64).range(1..=YEAR))]
    timeout: u64,
    /// Also writes the stopped guest as an ELF core, to be inspected again as core:FILE.
    #[arg(long, value_name = "FILE")]
    core: Option<PathBuf>,
    /// Also records the address spaces of the stopped guest in a new file, to be inspected again as rec:FILE.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Shows the guest's console as it is, control sequences included. Whoever wrote the guest can then do with
    /// the terminal what it can do.
    #[arg(long)]
    raw_console: bool,
    #[command(flatten)]
    force: output::Force,
    /// Counts pages of processes that are writable and executable as a fault.
    #[arg(long)]
    strict_user: bool,
    /// Prints the reports as JSON; the guest's console goes to standard error.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: machine::Options,
    #[command(flatten)]
    cpus: machine::CpuOptions,
    #[command(flatten)]
    debugger: debugger::Options,
}

/// What was found, as JSON.
#[derive(Serialize)]
struct Report {
    version: u32,
    /// How the guest came to stand still, and after how long.
    stopped: String,
    seconds: f64,
    roots: Roots,
    check: CheckReport,
}

/// Boots the kernel, waits for the moment, and shows what is there.
pub(crate) fn run(options: &Options) -> Result<Exit, Failure> {
    let inputs = options.inputs();
    let core = options.core.as_deref();
    let core = core.map(|path| options.force.file("the core", path, &inputs));
    let core = core.transpose()?;
    let platform = options.debugger.platform(&options.machine)?;
    let sandbox = Sandbox::reading(&inputs).writing(options.core.iter().chain(&options.record));
    options.machine.enter(&sandbox)?;
    let moment = options.moment();
    let limit = Duration::from_secs(options.after.unwrap_or(options.timeout));
    let seen = Arc::new(Seen::default());
    let mut progress = options.progress();
    let config = options.config(&seen, &mut progress)?;
    let command_line = config.command_line.clone();
    let mut machine = platform.machine(config, Instant::now() + limit)?;
    sandbox.with_child().enter()?;
    let recorder = match &options.record {
        Some(file) => {
            options.force.recording(file, &inputs)?;
            let begun = MachineRecorder::begin(file, &*machine, &command_line);
            Some(begun.map_err(unrecorded)?)
        }
        None => None,
    };
    seen.watch(machine.interrupter());
    let interrupter = machine.interrupter();
    signals::stop_by(move || interrupter.interrupt())?;
    let start = Instant::now();
    let ending = wait(&mut *machine, limit, &seen, &progress)?;
    let took = start.elapsed().saturating_sub(machine.held());
    if ending == Ending::Stopped(Stop::Reset) {
        machine.ended(0);
    }
    drop(progress);
    let lost = match &ending {
        ending if ending.is(&moment) => None,
        ending => Some(missed(&*machine, ending, &moment, limit)),
    };
    let target = machine_target::target(&*machine, machine.kernel().name())?;
    drop(machine);
    let shown = options.show(&target, (&ending, took), core.as_ref(), recorder);
    match (lost, shown) {
        (Some(lost), Ok(_)) => Err(lost),
        // Both matter: a guest that did not get far may have no tables yet.
        (Some(lost), Err(problem)) => Err(Failure::new(lost.exit, format!("{lost}\n  {problem}"))),
        (None, shown) => shown,
    }
}

impl Options {
    /// The files that it reads.
    fn inputs(&self) -> Vec<&Path> {
        let files = [&self.kernel].into_iter().chain(&self.initrd);
        files.chain(&self.modules).map(PathBuf::as_path).collect()
    }

    fn moment(&self) -> Moment {
        match (&self.until, self.after) {
            (Some(text), _) => Moment::Text(text.clone()),
            (None, Some(_)) => Moment::After,
            (None, None) => Moment::End,
        }
    }

    fn config(&self, seen: &Arc<Seen>, progress: &mut Progress) -> Result<Config, Failure> {
        let kernel =
            KernelImage::read(&self.kernel).map_err(|error| Failure::new(Exit::Usage, error))?;
        let takes_modules = matches!(kernel.kind(), Kind::Pvh | Kind::Multiboot(_));
        if !self.modules.is_empty() && !takes_modules {
            return Err(Failure::new(
                Exit::Usage,
                format!(
                    "{} has no boot modules, as it is entered by Linux's own protocol: give its initial RAM disk \
                     as --initrd",
                    kernel.name()
                ),
            ));
        }
        let modules = self.initrd.iter().chain(&self.modules);
        let modules = modules
            .map(|path| read_module(path))
            .collect::<Result<_, _>>()?;
        let command_line = self.cmdline.clone().unwrap_or_else(|| {
            if kernel.is_linux() {
                LINUX_WORDS.into()
            } else {
                String::new()
            }
        });
        let out = if self.json {
            Output::standard_error()?
        } else {
            Output::new()?
        };
        log::info!(
            "{} is entered at {:#x} with `{command_line}`",
            kernel.name(),
            kernel.entry().0
        );
        Ok(Config {
            memory: self.memory,
            kernel,
            command_line,
            modules,
            console: Box::new(Console::new(
                progress.console(out, self.raw_console),
                self.until.as_deref(),
                Arc::clone(seen),
            )),
            cpus: self.cpus.cpus(),
            doorbell: None,
        })
    }

    /// On a terminal the guest's own console shows how far it is.
    fn progress(&self) -> Progress {
        let console_is_seen = if self.json {
            ui::error_is_terminal()
        } else {
            ui::output_is_terminal()
        };
        if console_is_seen {
            Progress::silent()
        } else {
            Progress::spinner()
        }
    }

    /// Writes the core, then finds, lists and judges the address spaces.
    fn show(
        &self,
        target: &Target,
        (ending, took): (&Ending, Duration),
        core: Option<&OutputFile>,
        recorder: Option<MachineRecorder>,
    ) -> Result<Exit, Failure> {
        if let Some(file) = core {
            heirloom_source::write_core_to(target, file)?;
        }
        let discovery = Discovery::of(target).map_err(|error| Failure::new(Exit::Guest, error))?;
        let strictness = Strictness {
            user: self.strict_user,
            ..Strictness::default()
        };
        let check = Check::of(&discovery, strictness);
        let report = Report {
            version: VERSION,
            stopped: ending.to_string(),
            seconds: took.as_secs_f64(),
            roots: Roots::new(&target.name, &discovery),
            check: CheckReport::new(&target.name, &discovery, check),
        };
        let mut output = Output::new()?;
        if self.json {
            output.line(&output::json(&report)?)?;
        } else {
            output.report(&report)?;
        }
        if let Some(recorder) = recorder {
            recorder.end(&discovery)?;
        }
        inspect::verdict(&target.name, &report.check.check)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nthe guest {} after {:.1} s\n",
            self.stopped, self.seconds
        )?;
        writeln!(f, "{}", Shown(&self.roots))?;
        write!(f, "{}", Shown(&self.check))
    }
}

/// Why the guest is not where the user wanted it.
fn missed(
    machine: &dyn VirtualMachine,
    ending: &Ending,
    moment: &Moment,
    limit: Duration,
) -> Failure {
    let seconds = limit.as_secs();
    let what = match (ending, moment) {
        (Ending::Interrupted, _) => "interrupted".into(),
        (Ending::Time, Moment::Text(text)) => {
            format!("the guest did not print `{text}` within {seconds} s; --timeout gives it more")
        }
        (Ending::Time, _) => format!(
            "the guest did not end within {seconds} s; --timeout gives it more, --after or --until stops it \
             at a moment of your choice"
        ),
        (Ending::Halted, Moment::Text(text)) => {
            format!("the guest halted with interrupts off, and did not print `{text}`")
        }
        (Ending::Stopped(stop), moment) => {
            let told = crash_report::text(machine, stop);
            match moment {
                Moment::Text(text) => format!("the guest did not print `{text}`: {told}"),
                Moment::After | Moment::End => told,
            }
        }
        (Ending::Halted | Ending::Text, _) => ending.to_string(),
    };
    Failure::new(Exit::Guest, what)
}

/// A file for the guest, named after itself.
fn read_module(path: &Path) -> Result<Module, Failure> {
    let bytes = file::read(path, MODULE_LIMIT).map_err(|problem| {
        let what = format!("could not use {} as a boot file: {problem}", path.display());
        Failure::new(Exit::Usage, what)
    })?;
    let name = path.file_name().unwrap_or(path.as_os_str());
    Ok(Module {
        name: name.to_string_lossy().into_owned(),
        bytes: bytes.into(),
    })
}
