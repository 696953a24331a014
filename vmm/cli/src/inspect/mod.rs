//! The commands that inspect any guest: each opens a target, finds its address spaces, lets it run on, and
//! shows what was found.

pub(crate) mod check;
pub(crate) mod diff;
pub(crate) mod layout;
pub(crate) mod maps;
pub(crate) mod reverse;
pub(crate) mod roots;
pub(crate) mod translate;

pub(crate) mod profile;

mod arrow;
mod awaited;
mod number;
mod root;
mod rows;
mod watch;

use std::cell::OnceCell;
use std::path::PathBuf;
use std::thread;

use heirloom_inspect::check::Check;
use heirloom_inspect::discover::Search;
use heirloom_inspect::rules::GIVEN_UP;
use heirloom_inspect::{Discovery, RootId, Target, names};
use heirloom_source::{Spec, Unpacking};
use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::output::{self, Output};
use crate::progress::Progress;
use crate::sandbox::Sandbox;
use crate::signals;
use crate::text::{Shown, Text};

/// What `--help` of each of them says about targets.
pub(crate) const TARGETS: &str = "Targets:
  FILE[,OPTION…]       a dump or an image; what it is, its content tells: an ELF
                       core, a kdump-compressed dump (makedumpfile's, QEMU's),
                       LiME, AVML, an image of RAM, a recording
  core:FILE[,OPTION…]  an ELF core, whatever else it could be
  raw:FILE[,OPTION…]   an image of RAM
  qemu:SOCKET[,memory=file|process|pmemsave]
                       a running QEMU with -qmp unix:SOCKET,server=on,wait=off;
                       it is paused while it is looked at. memory: the only way
                       to read its memory
  rec:FILE[@EVENT]     a recording of heirloom's, at an event
Options of files:
  cr3=ADDRESS, cr4=VALUE     registers of a CPU
  encrypt-bit=N              which bit of an entry says that memory is encrypted
  phys-bits=N                how wide the CPU's physical addresses are
  map=OFFSET:ADDRESS:LENGTH  of an image: which part of the file is where; may be
                             given several times
  hole=ADDRESS               of an image: where the RAM below 4 GiB ends, if the
                             hole behind it was left out
  part=FILE                  of a split dump: another file of it
A comma in a file's name is written twice.";

/// Options that all of them have.
#[derive(clap::Args)]
// The commands' own options have the same type name, and clap makes a group of each.
#[group(skip)]
pub(crate) struct Options {
    /// The guest to inspect, such as a file guest.core, or qemu:/tmp/qmp.sock.
    #[arg(value_name = "TARGET")]
    target: Spec,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    /// Forgets what is known of CPUs and roots, and looks for kernel halves in all of memory.
    #[arg(long)]
    blind: bool,
    /// What is known of the kernel: linux, xen, heirloom, generic, or a file that `heirloom profile` began.
    /// Without it the kernel's own memory tells.
    #[arg(long, value_name = "NAME|FILE.toml")]
    profile: Option<String>,
    /// The names of the kernel's functions and variables: its vmlinux or another ELF, a System.map, or what nm
    /// prints. Without it Linux's own memory tells them.
    #[arg(long, value_name = "FILE")]
    symbols: Option<PathBuf>,
}

impl Options {
    /// Opens the target and finds its address spaces.
    fn discover(&self) -> Result<(String, Discovery), Failure> {
        let target = self.open()?;
        let _progress = self.progress();
        self.discover_in(&target)
    }

    /// Looking through all of memory may take a while.
    fn progress(&self) -> Progress {
        if !self.blind {
            return Progress::silent();
        }
        let progress = Progress::spinner();
        progress.tell(|| "looking for kernel halves in all of memory".into());
        progress
    }

    /// What is known before the search.
    fn search(&self) -> Result<Search, Failure> {
        let profile = self.profile.as_deref().map(profile::named).transpose()?;
        Ok(Search {
            profile,
            ..Search::default()
        })
    }

    fn discover_in(&self, target: &Target) -> Result<(String, Discovery), Failure> {
        search_in(target, self.search()?)
    }

    /// The same, with what the kernel's own data say of names.
    fn discover_named(&self) -> Result<(String, Discovery), Failure> {
        let target = self.open()?;
        let (name, mut discovery) = self.discover_in(&target)?;
        self.name(&target, &mut discovery)?;
        trustworthy(&target)?;
        Ok((name, discovery))
    }

    /// The same, with names only if the user gives a file of them.
    fn discover_with_file(&self) -> Result<(String, Discovery), Failure> {
        if self.symbols.is_some() {
            self.discover_named()
        } else {
            self.discover()
        }
    }

    /// Reads what the kernel's own data say of names, and what a file of the user's says.
    fn name(&self, target: &Target, discovery: &mut Discovery) -> Result<(), Failure> {
        discovery.read_names(target);
        let Some(path) = &self.symbols else {
            return Ok(());
        };
        let failed = |error: &dyn std::fmt::Display| Failure::new(Exit::Usage, error);
        let file = heirloom_source::read_symbols(path).map_err(|error| failed(&error))?;
        discovery
            .use_symbols(target, &file)
            .map_err(|error| failed(&error))
    }

    /// What it reads.
    fn sandbox(&self) -> Sandbox {
        // A profile that is built in is no file.
        let profile = self.profile.iter().map(PathBuf::from);
        Sandbox::of(&[&self.target]).and_reading(profile.chain(self.symbols.clone()))
    }

    fn open(&self) -> Result<Target, Failure> {
        self.open_in(&self.sandbox())
    }

    /// Opens the target in this sandbox.
    fn open_in(&self, sandbox: &Sandbox) -> Result<Target, Failure> {
        let mut target = open(&self.target, sandbox)?;
        if self.blind {
            target.cpus.clear();
            target.roots.clear();
            target.is_recorded = false;
            target.depth = None;
            target.notes.clear();
        }
        Ok(target)
    }

    /// Opens the target, finds its address spaces, what the kernel's own data say of names, and the address
    /// space that `root` names; a root that is named by its address need not be among them, if there is memory.
    fn discover_root(&self, root: &root::Options) -> Result<(String, Discovery, RootId), Failure> {
        let root = root.name();
        let target = self.open()?;
        let progress = self.progress();
        let (name, mut discovery) = self.discover_in(&target)?;
        drop(progress);
        // As CR3 has it: with the bit that says that the root is encrypted, too.
        let root = root.map(|root| root.without(target.encryption));
        if let Some(names::RootName::Address(address)) = root
            && discovery.space_at(address).is_none()
            && target
                .memory
                .read_table(address.pfn(), &mut [0; 512])
                .is_ok()
        {
            discovery = Discovery::by(
                &target,
                Search {
                    including: vec![address],
                    ..self.search()?
                },
            )
            .map_err(|error| Failure::new(Exit::Usage, error))?;
            trustworthy(&target)?;
        }
        self.name(&target, &mut discovery)?;
        let root = root::find(&discovery, root.as_ref())?;
        Ok((name, discovery, root))
    }

    /// Prints something as JSON.
    fn print_json<R: Serialize>(report: &R) -> Result<(), Failure> {
        Output::new()?.line(&output::json(report)?)
    }

    /// Prints a report, as tables or as JSON.
    fn print<R: Serialize + Text>(&self, report: &R) -> Result<(), Failure> {
        print(report, self.json)
    }
}

/// Opens a target. Should the user end the command meanwhile, a live guest is not left standing still.
fn open(spec: &Spec, sandbox: &Sandbox) -> Result<Target, Failure> {
    sandbox.enter_if_connected()?;
    signals::stop_by(|| {
        // Without a thread for it, the guest is let run on when this process is gone.
        let _ = thread::Builder::new().spawn(heirloom_source::resume_all);
    })?;
    let progress = OnceCell::new();
    let is_live = spec.is_live();
    let target = spec.open_telling(&|unpacking| {
        let progress = progress.get_or_init(Progress::spinner);
        progress.tell(|| unpacked(unpacking));
    });
    let target = target?;
    if is_live {
        sandbox.connected()?;
    }
    Ok(target)
}

/// How far a file is unpacked.
fn unpacked(unpacking: &Unpacking<'_>) -> String {
    let mib = unpacking.unpacked >> 20;
    let share = match unpacking.total {
        Some(total) if total > 0 => format!(" ({} %)", unpacking.read.min(total) * 100 / total),
        _ => String::new(),
    };
    format!("unpacking {}: {mib} MiB{share}", unpacking.name)
}

/// Opens a target in a sandbox and finds its address spaces. A live guest runs on afterwards.
pub(crate) fn discover(spec: &Spec, sandbox: &Sandbox) -> Result<(String, Discovery), Failure> {
    search_in(&open(spec, sandbox)?, Search::default())
}

/// That something can be concluded from what was found.
///
/// # Errors
/// No root is live, or a CPU runs on what is no root.
fn conclusive(name: &str, discovery: &Discovery) -> Result<(), Failure> {
    match discovery.problem() {
        None => Ok(()),
        Some(problem) => Err(Failure::new(Exit::Usage, format!("{name}: {problem}"))),
    }
}

/// What a check comes to.
///
/// # Errors
/// No rule is broken, but not all could be tried.
pub(crate) fn verdict(name: &str, check: &Check) -> Result<Exit, Failure> {
    if check.is_broken() || !check.required_not_tried.is_empty() {
        Ok(Exit::Broken)
    } else if check.holds {
        Ok(Exit::Good)
    } else {
        let what = format!("{name}: not all rules could be tried: {GIVEN_UP}");
        Err(Failure::new(Exit::Usage, what))
    }
}

/// That what was read of the target is what it had when it was opened.
///
/// # Errors
/// Its file became shorter meanwhile.
fn trustworthy(target: &Target) -> Result<(), Failure> {
    match target.memory.account().problem {
        None => Ok(()),
        Some(problem) => Err(Failure::new(
            Exit::Usage,
            format!("{}: {problem}", target.name),
        )),
    }
}

fn search_in(target: &Target, search: Search) -> Result<(String, Discovery), Failure> {
    let found = Discovery::by(target, search);
    trustworthy(target)?;
    let discovery = found.map_err(|error| {
        // What the target was taken for may be the reason.
        let lines = std::iter::once(error.to_string());
        let lines = lines.chain(target.notes.iter().map(|note| format!("note: {note}")));
        Failure::new(Exit::Usage, lines.collect::<Vec<_>>().join("\n"))
    })?;
    Ok((target.name.clone(), discovery))
}

fn print<R: Serialize + Text>(report: &R, json: bool) -> Result<(), Failure> {
    let mut out = Output::new()?;
    if json {
        out.line(&output::json(report)?)
    } else {
        out.tables(&Shown(report))
    }
}
