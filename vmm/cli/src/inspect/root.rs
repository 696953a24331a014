//! Which address space a command is about.

use std::fmt;
use std::str::FromStr;

use heirloom_inspect::discover::Kind;
use heirloom_inspect::linux::Owner;
use heirloom_inspect::{Cr3, Discovery, Entry, PhysAddr, RootId, RootLabel};

use super::number;
use crate::exit::{Exit, Failure};

/// Options of commands that are about one address space.
#[derive(clap::Args)]
#[group(skip)]
pub(super) struct Options {
    /// The address space: a root's address, `kernel`, `cpu1`, `pid7`. Without it, that of CPU 0.
    #[arg(long, value_name = "ROOT")]
    root: Option<RootName>,
    /// That of the process with this number.
    #[arg(long, value_name = "N", conflicts_with = "root")]
    pid: Option<u32>,
    /// That of the process whose command has this name, where there is one such process.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["root", "pid"])]
    comm: Option<String>,
}

impl Options {
    /// The same, or the address space of a process that an address names.
    ///
    /// # Errors
    /// Both name one.
    pub(super) fn of(&self, process: Option<u32>) -> Result<Options, Failure> {
        if process.is_some() && self.name().is_some() {
            let what = "the address says whose it is; --root, --pid and --comm would say it again";
            return Err(Failure::new(Exit::Usage, what));
        }
        Ok(Options {
            root: self.root.clone(),
            pid: process.or(self.pid),
            comm: self.comm.clone(),
        })
    }

    /// The one that is meant, if any is named.
    pub(super) fn name(&self) -> Option<RootName> {
        self.root
            .clone()
            .or(self.pid.map(RootName::Process))
            .or(self.comm.clone().map(RootName::Command))
    }
}

/// An address space, as users name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RootName {
    /// By the address of its root table, as CR3 has it: PCID and flags do not matter.
    Address(PhysAddr),
    /// The one that a CPU runs on.
    Cpu(u32),
    /// A process.
    Process(u32),
    /// A process, by its command's name.
    Command(String),
    /// The kernel's own.
    Kernel,
    /// Every one, where a command can list several.
    All,
}

impl RootName {
    /// The same, without these bits of an address.
    pub(super) fn without(self, encryption: Entry) -> RootName {
        match self {
            RootName::Address(address) => {
                RootName::Address(PhysAddr::new(address.get() & !encryption.get()))
            }
            name => name,
        }
    }
}

impl FromStr for RootName {
    type Err = String;

    fn from_str(text: &str) -> Result<RootName, String> {
        let number = |digits: &str| digits.parse().map_err(|_| refused(text));
        match text {
            "kernel" => return Ok(RootName::Kernel),
            "all" => return Ok(RootName::All),
            _ => {}
        }
        if let Some(cpu) = text.strip_prefix("cpu") {
            return number(cpu).map(RootName::Cpu);
        }
        if let Some(pid) = text.strip_prefix("pid") {
            return number(pid).map(RootName::Process);
        }
        number::parse(text)
            .map(|cr3| RootName::Address(Cr3::new(cr3).root()))
            .map_err(|_| refused(text))
    }
}

fn refused(text: &str) -> String {
    format!(
        "`{text}` names no address space: write its root's address (0x1234000; `heirloom roots` lists them), \
         `kernel`, `cpu0`, or `pid7`"
    )
}

impl fmt::Display for RootName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RootName::Address(address) => write!(f, "{address}"),
            RootName::Cpu(cpu) => write!(f, "cpu{cpu}"),
            RootName::Process(pid) => write!(f, "pid{pid}"),
            RootName::Command(comm) => write!(f, "of the command `{comm}`"),
            RootName::Kernel => f.write_str("kernel"),
            RootName::All => f.write_str("all"),
        }
    }
}

/// The root that is meant; without a name that of CPU 0, or else the kernel's own, or the first.
pub(super) fn find(discovery: &Discovery, name: Option<&RootName>) -> Result<RootId, Failure> {
    let spaces = &discovery.spaces;
    let by_kind = || {
        let kernel = spaces.iter().find(|space| space.kind == Kind::Kernel);
        kernel.map(|space| space.root).or(discovery.reference)
    };
    let at = |address| discovery.space_at(address).map(|space| space.root);
    let of_cpu = |number: u32| {
        let (_, cpu) = discovery.running_cpus().find(|(cpu, _)| *cpu == number)?;
        at(cpu.cr3.root())
    };
    let found = match name {
        None => of_cpu(0)
            .or_else(by_kind)
            .or(spaces.first().map(|space| space.root)),
        Some(RootName::Address(address)) => at(*address),
        Some(RootName::Cpu(number)) => of_cpu(*number),
        Some(RootName::Process(pid)) => spaces
            .iter()
            .find(|space| {
                space.label == RootLabel::Process(*pid)
                    || space.owners.iter().any(|owner| owner.pid() == Some(*pid))
            })
            .map(|space| space.root),
        Some(RootName::Command(comm)) => by_command(discovery, comm)?,
        Some(RootName::Kernel) => by_kind(),
        Some(RootName::All) => {
            return Err(Failure::new(
                Exit::Usage,
                "`all` is for `heirloom maps --format jsonl` or `csv`: name one address space",
            ));
        }
    };
    found.ok_or_else(|| {
        let what = match name {
            Some(name) => format!(
                "there is no address space {name} among the {} found",
                spaces.len()
            ),
            None => "no address space was found".into(),
        };
        Failure::new(Exit::Usage, format!("{what}: `heirloom roots` lists them"))
    })
}

/// The root of the one process whose command is `comm`.
fn by_command(discovery: &Discovery, comm: &str) -> Result<Option<RootId>, Failure> {
    let mut roots = Vec::new();
    let mut pids = Vec::new();
    for space in &discovery.spaces {
        for owner in &space.owners {
            if let Owner::Process { pid, comm: other } = owner
                && other == comm
            {
                roots.push(space.root);
                pids.push(pid.to_string());
            }
        }
    }
    roots.dedup();
    if roots.len() > 1 {
        let what = format!(
            "{} processes have the command `{comm}`: name one by --pid: {}",
            pids.len(),
            pids.join(", ")
        );
        return Err(Failure::new(Exit::Usage, what));
    }
    Ok(roots.first().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_space_is_named_by_its_root_its_cpu_its_process_or_as_the_kernels() {
        let name = |text: &str| text.parse::<RootName>();
        assert_eq!(
            name("0x1234000"),
            Ok(RootName::Address(PhysAddr::new(0x123_4000)))
        );
        assert_eq!(
            name("0x8000000001234801"),
            Ok(RootName::Address(PhysAddr::new(0x123_4000)))
        );
        assert_eq!(name("cpu1"), Ok(RootName::Cpu(1)));
        assert_eq!(name("pid7"), Ok(RootName::Process(7)));
        assert_eq!(name("kernel"), Ok(RootName::Kernel));
        for text in ["", "cpu", "pid-1", "everything", "cpu4294967296"] {
            assert!(name(text).unwrap_err().contains("heirloom roots"), "{text}");
        }
    }
}
