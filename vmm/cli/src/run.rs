//! `heirloom run`: boots the guest, streams its console, and follows its events to the end.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use heirloom_abi::event::{Crash, DOORBELL_PORT, Event, ProbePage};
use heirloom_abi::{PAGE_SIZE, options as words};
use heirloom_machine::kvm::DEVICE;
use heirloom_machine::{
    Config, GuestAddress, Host, KernelImage, Machine, MemorySize, Module, Registers, Stop,
};
use vm_memory::Bytes;
use zerocopy::FromBytes;

use crate::backtrace::{self, Place};
use crate::exit::{Exit, Failure};
use crate::guest;
use crate::output::Output;

/// The embedded program that runs first unless `--program` names another.
const FIRST_PROGRAM: &str = "family";
/// Larger files are no ring-3 programs.
const PROGRAM_LIMIT: u64 = 1 << 30;
const YEAR: u64 = 365 * 24 * 60 * 60;

/// What `heirloom run` is told.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The guest's memory, such as 64M (the least), 512M or 6G.
    #[arg(long, value_name = "SIZE", default_value = "128M")]
    memory: MemorySize,
    /// Boots this kernel (an ELF with a PVH note) instead of the embedded one.
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Runs this ring-3 ELF as the first process.
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Stops the guest after so many seconds.
    #[arg(long, value_name = "SECS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=YEAR))]
    timeout: u64,
    /// KVM's device, where it is not in its usual place.
    #[arg(long, value_name = "PATH", default_value = DEVICE)]
    device: PathBuf,
    /// More words for the kernel's command line; what follows ` -- ` goes to the first program.
    #[arg(
        long,
        value_name = "WORDS",
        default_value = "",
        allow_hyphen_values = true
    )]
    cmdline: String,
}

/// Boots the guest and follows it until it is done.
pub(crate) fn run(options: &Options) -> Result<Exit, Failure> {
    let mut machine = Machine::on(&Host::open_at(&options.device)?, configure(options)?)?;
    let interrupter = machine.interrupter();
    // Only a second handler in the same process could make this fail.
    ctrlc::set_handler(move || interrupter.interrupt()).map_err(|error| {
        Failure::new(Exit::Host, format!("could not watch for Ctrl-C: {error}"))
    })?;
    let deadline = Instant::now() + Duration::from_secs(options.timeout);
    loop {
        match machine.run(deadline)? {
            Stop::Doorbell { value } => {
                if let Some(exit) = react(&machine, value)? {
                    return Ok(exit);
                }
            }
            stop => return Err(lost(&machine, &stop, options.timeout)),
        }
    }
}

fn configure(options: &Options) -> Result<Config, Failure> {
    let kernel = match &options.kernel {
        Some(path) => KernelImage::read(path),
        None => guest::kernel(),
    }
    .map_err(|error| Failure::new(Exit::Usage, error))?;
    let mut modules = guest::modules();
    let mut first = FIRST_PROGRAM.to_string();
    if let Some(path) = &options.program {
        let program = read_program(path)?;
        first.clone_from(&program.name);
        // In front, so that it wins over an embedded program of the same name.
        modules.insert(0, program);
    }
    // Guest memory is a fresh mapping: the kernel need not zero it again.
    let command_line = format!(
        "{}={first} {} {}=zero {}",
        words::INIT,
        words::PROBE,
        words::FRESH_MEMORY,
        options.cmdline
    );
    Ok(Config {
        memory: options.memory,
        kernel,
        command_line,
        modules,
        console: Box::new(Output::new()?),
        doorbell: Some(DOORBELL_PORT),
    })
}

/// A user's own program, named after its file.
fn read_program(path: &Path) -> Result<Module, Failure> {
    let unusable = |reason: &dyn std::fmt::Display| {
        Failure::new(
            Exit::Usage,
            format!("could not use the program {}: {reason}", path.display()),
        )
    };
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .filter(|name| name.chars().all(|c| c.is_ascii_graphic()))
        .ok_or_else(|| unusable(&"its file name must be ASCII without blanks, as the kernel's command line names it"))?;
    // Asked by path first: opening a pipe would wait for its other end.
    let kind = std::fs::metadata(path).map_err(|error| unusable(&error))?;
    if !kind.is_file() {
        return Err(unusable(&"it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(PROGRAM_LIMIT + 1).read_to_end(&mut bytes))
        .map_err(|error: io::Error| unusable(&error))?;
    if bytes.len() as u64 > PROGRAM_LIMIT {
        return Err(unusable(&"it is larger than 1 GiB"));
    }
    Ok(Module {
        name: name.into(),
        bytes: bytes.into(),
    })
}

/// Reads the event behind a ring; an exit if it is the last one.
fn react(machine: &Machine, frame: u32) -> Result<Option<Exit>, Failure> {
    let page = read_probe_page(machine, frame)?;
    let header = page.header;
    let event = page.decode().map_err(|error| {
        Failure::new(
            Exit::Guest,
            format!("the guest rang with frame {frame:#x}, but {error}"),
        )
    })?;
    log::info!(
        "event {} cpu {} pid {:x}: {event:x?}",
        header.sequence,
        header.cpu,
        header.pid
    );
    match event {
        Event::Done(done) if done.status == 0 => Ok(Some(Exit::Good)),
        Event::Done(done) => Err(Failure::new(
            Exit::Guest,
            format!("the first program failed: wait status {:#x}", done.status),
        )),
        Event::Crash(crash) => Err(crashed(machine, &crash)),
        _ => Ok(None),
    }
}

fn read_probe_page(machine: &Machine, frame: u32) -> Result<ProbePage, Failure> {
    let mut bytes = [0; size_of::<ProbePage>()];
    machine
        .memory()
        .read_slice(&mut bytes, GuestAddress(u64::from(frame) * PAGE_SIZE))
        .map_err(|error| {
            Failure::new(
                Exit::Guest,
                format!("the guest rang with frame {frame:#x}, which is no memory: {error}"),
            )
        })?;
    ProbePage::read_from_bytes(&bytes).map_err(|error| {
        Failure::new(
            Exit::Guest,
            format!("the probe page cannot be read: {error}"),
        )
    })
}

/// The guest kernel says that it cannot go on; it has printed its own account.
fn crashed(machine: &Machine, crash: &Crash) -> Failure {
    let what = if crash.vector == Crash::PANIC {
        "the guest kernel panicked".to_string()
    } else {
        format!(
            "the guest kernel took exception {} (error code {:#x}, address {:#x})",
            crash.vector, crash.error_code, crash.address
        )
    };
    let place = Place {
        rip: crash.rip,
        rbp: crash.rbp,
    };
    Failure::new(Exit::Guest, what + &backtrace::told(machine, place))
}

/// The guest is gone, or was stopped from outside.
fn lost(machine: &Machine, stop: &Stop, timeout: u64) -> Failure {
    let what = match stop {
        Stop::TimeLimit => {
            format!("the guest was not done after {timeout} s; --timeout gives it more")
        }
        Stop::Interrupted => "interrupted".into(),
        Stop::Shutdown => {
            "the guest crashed so badly that it could not say so (triple fault)".into()
        }
        Stop::InternalError {
            suberror: 1,
            instruction,
        } => {
            let bytes: Vec<String> = instruction
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            format!(
                "this host's KVM cannot emulate the guest's instruction {}",
                bytes.join(" ")
            )
        }
        Stop::InternalError { suberror, .. } => format!("KVM gave up (internal error {suberror})"),
        Stop::FailEntry { reason } => {
            format!("the CPU refused to enter the guest (hardware reason {reason:#x})")
        }
        Stop::Doorbell { .. } => "the guest rang".into(),
        Stop::Unexpected { exit } => format!("KVM stopped the guest unasked ({exit})"),
    };
    let told = machine.registers().map_or_else(
        |error| format!("\n  {error}"),
        |registers| {
            let Registers {
                rip,
                rbp,
                rsp,
                cr2,
                cr3,
                cpl,
                ..
            } = registers;
            format!("\n  RIP {rip:#x} RSP {rsp:#x} CR2 {cr2:#x} CR3 {cr3:#x} ring {cpl}")
                + &backtrace::told(machine, Place { rip, rbp })
        },
    );
    Failure::new(Exit::Guest, what + &told)
}
