//! Which address space and which address people mean, as they write it.

use std::fmt;
use std::str::FromStr;

use crate::discover::{Discovery, Kind};
use crate::linux::Owner;
use crate::snapshot::{RootId, RootLabel};
use heirloom_paging::addr::{PhysAddr, VirtAddr};
use heirloom_paging::entry::Entry;
use heirloom_paging::mode::Cr3;

/// Why a name names nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its variant is")]
pub enum NameError {
    #[error("`{0}` is no address: write it in hexadecimal, such as 0xffff888000000000")]
    Number(String),
    #[error("`{0}` is no address of a process: write it as pid:7:0x400000")]
    Process(String),
    #[error(
        "`{0}` names no address space: write its root's address (such as 0x1234000), `kernel`, `cpu0`, or `pid7`"
    )]
    Root(String),
    #[error("there is no address space {name} among the {found} found")]
    NoSpace { name: RootName, found: usize },
    #[error("no address space was found")]
    NoSpaces,
    #[error(
        "{} processes have the command `{comm}`: name one by its number: {}",
        .pids.len(),
        numbers(.pids)
    )]
    Several { comm: String, pids: Vec<u32> },
    #[error("`all` are several address spaces: name one")]
    All,
    #[error(
        "`{0}` is no address: the guest's memory has no symbols of a Linux kernel; write the address in hexadecimal, \
         such as 0xffff888000000000"
    )]
    NoSymbols(String),
    #[error("`{name}` is no address: none of the kernel's {symbols} symbols is called so")]
    NoSymbol { name: String, symbols: usize },
}

fn numbers(pids: &[u32]) -> String {
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    pids.join(", ")
}

/// A number in hexadecimal (`0xffff888000000000`, also with `_` between digits) or decimal.
///
/// # Errors
/// [`NameError::Number`].
pub fn number(text: &str) -> Result<u64, NameError> {
    let refused = || NameError::Number(text.to_owned());
    let digits = text.replace('_', "");
    let number = match digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"))
    {
        Some(hexadecimal) if !hexadecimal.starts_with(['+', '-']) => {
            u64::from_str_radix(hexadecimal, 16)
        }
        Some(_) => return Err(refused()),
        None if digits.starts_with(['+', '-']) => return Err(refused()),
        None => digits.parse(),
    };
    number.map_err(|_| refused())
}

/// An address: a [`number`], or hexadecimal digits without `0x` in front, as kernels print them, where that can be
/// told: a letter is among them, or there are 16.
///
/// # Errors
/// [`NameError::Number`].
pub fn address(text: &str) -> Result<u64, NameError> {
    let digits = text.replace('_', "");
    let has_letter = digits.bytes().any(|digit| digit.is_ascii_alphabetic());
    let is_hexadecimal = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if is_hexadecimal && (has_letter || digits.len() == 16) {
        let refused = |_| NameError::Number(text.to_owned());
        return u64::from_str_radix(&digits, 16).map_err(refused);
    }
    number(text)
}

/// An address space, as people name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootName {
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
    /// Every one, where several can be listed.
    All,
}

impl RootName {
    /// The same, without these bits of an address.
    #[must_use]
    pub fn without(self, encryption: Entry) -> RootName {
        match self {
            RootName::Address(address) => {
                RootName::Address(PhysAddr::new(address.get() & !encryption.get()))
            }
            name => name,
        }
    }
}

impl FromStr for RootName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<RootName, NameError> {
        let refused = || NameError::Root(text.to_owned());
        let decimal = |digits: &str| digits.parse().map_err(|_| refused());
        match text {
            "kernel" => return Ok(RootName::Kernel),
            "all" => return Ok(RootName::All),
            _ => {}
        }
        if let Some(cpu) = text.strip_prefix("cpu") {
            return decimal(cpu).map(RootName::Cpu);
        }
        if let Some(pid) = text.strip_prefix("pid") {
            return decimal(pid).map(RootName::Process);
        }
        address(text)
            .map(|cr3| RootName::Address(Cr3::new(cr3).root()))
            .map_err(|_| refused())
    }
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

/// An address, and whose it is: `pid:N:ADDRESS`, or `ADDRESS` alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnAddress {
    /// The process that is named.
    pub process: Option<u32>,
    /// The address.
    pub address: Address,
}

impl FromStr for OwnAddress {
    type Err = NameError;

    fn from_str(text: &str) -> Result<OwnAddress, NameError> {
        let (process, address) = match text.strip_prefix("pid:") {
            None => (None, text),
            Some(rest) => {
                let split = rest
                    .split_once(':')
                    .and_then(|(pid, address)| Some((pid.parse().ok()?, address)));
                let (pid, address) = split.ok_or_else(|| NameError::Process(text.to_owned()))?;
                (Some(pid), address)
            }
        };
        let address = address.parse()?;
        Ok(OwnAddress { process, address })
    }
}

/// A virtual address, as people write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A number.
    Number(u64),
    /// A symbol of the kernel's, and bytes behind it.
    Symbol(String, u64),
}

impl FromStr for Address {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Address, NameError> {
        let (name, offset) = match text.split_once('+') {
            Some((name, offset)) => (name, number(offset)?),
            None => (text, 0),
        };
        let is_name = name.starts_with(|c: char| c.is_alphabetic() || c == '_')
            && name
                .chars()
                .all(|c| c.is_alphanumeric() || "_.$".contains(c));
        if is_name {
            return Ok(Address::Symbol(name.to_owned(), offset));
        }
        let address = address(name)?.wrapping_add(offset);
        Ok(Address::Number(address))
    }
}

impl Address {
    /// The address in a guest whose names were read.
    ///
    /// # Errors
    /// [`NameError::NoSymbol`] or [`NameError::NoSymbols`].
    pub fn resolve(&self, discovery: &Discovery) -> Result<VirtAddr, NameError> {
        let (name, offset) = match self {
            Address::Number(number) => return Ok(VirtAddr::new(*number)),
            Address::Symbol(name, offset) => (name, *offset),
        };
        let symbols = &discovery.symbols;
        // Digits that begin with a letter are a symbol where there is one.
        let digits = || address(name).ok().map(VirtAddr::new);
        let at = symbols.address_of(name).or_else(digits).ok_or_else(|| {
            let name = name.clone();
            if symbols.is_empty() {
                NameError::NoSymbols(name)
            } else {
                let symbols = symbols.len();
                NameError::NoSymbol { name, symbols }
            }
        })?;
        Ok(at.wrapping_add(offset))
    }
}

impl Discovery {
    /// The root that is meant; without a name that of CPU 0, or else the kernel's own, or the first.
    ///
    /// # Errors
    /// [`NameError`]: there is none, or there are several.
    pub fn root_named(&self, name: Option<&RootName>) -> Result<RootId, NameError> {
        let spaces = &self.spaces;
        let by_kind = || {
            let kernel = spaces.iter().find(|space| space.kind == Kind::Kernel);
            kernel.map(|space| space.root).or(self.reference)
        };
        let at = |address| self.space_at(address).map(|space| space.root);
        let of_cpu = |number: u32| {
            let (_, cpu) = self.running_cpus().find(|(cpu, _)| *cpu == number)?;
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
            Some(RootName::Command(comm)) => self.root_of_command(comm)?,
            Some(RootName::Kernel) => by_kind(),
            Some(RootName::All) => return Err(NameError::All),
        };
        found.ok_or_else(|| match name {
            Some(name) => NameError::NoSpace {
                name: name.clone(),
                found: spaces.len(),
            },
            None => NameError::NoSpaces,
        })
    }

    /// The root of the one process whose command is `comm`.
    fn root_of_command(&self, comm: &str) -> Result<Option<RootId>, NameError> {
        let (mut roots, mut pids) = (Vec::new(), Vec::new());
        for space in &self.spaces {
            for owner in &space.owners {
                if let Owner::Process { pid, comm: other } = owner
                    && other == comm
                {
                    roots.push(space.root);
                    pids.push(*pid);
                }
            }
        }
        roots.dedup();
        if roots.len() > 1 {
            let comm = comm.to_owned();
            return Err(NameError::Several { comm, pids });
        }
        Ok(roots.first().copied())
    }
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
            assert_eq!(name(text), Err(NameError::Root(text.to_owned())));
        }
    }

    #[test]
    fn an_address_may_say_whose_it_is() {
        let of = |text: &str| text.parse::<OwnAddress>();
        let address = Address::Number(0x40_0000);
        for (text, process) in [("pid:7:0x400000", Some(7)), ("0x400000", None)] {
            let address = address.clone();
            assert_eq!(of(text), Ok(OwnAddress { process, address }));
        }
        let symbol = of("pid:1:init_task+8").unwrap();
        assert_eq!(symbol.address, Address::Symbol("init_task".into(), 8));
        for text in ["pid:7", "pid::0x1", "pid:x:0x1", "pid:-1:0x1", "pid:7:zz:"] {
            assert!(of(text).is_err(), "{text}");
        }
    }

    #[test]
    fn digits_that_can_only_be_hexadecimal_need_no_0x() {
        for (text, value) in [
            ("ffff888000001000", 0xffff_8880_0000_1000),
            ("0000000000400000", 0x40_0000),
            ("ffff8880_00001000", 0xffff_8880_0000_1000),
            ("7f12a000", 0x7f12_a000),
            ("4096", 4096),
            ("0x4096", 0x4096),
        ] {
            assert_eq!(address(text), Ok(value));
        }
        for text in ["", "init_task", "fffff888000001000", "-ff", "0x"] {
            assert!(address(text).is_err(), "{text}");
        }
        let root = "0000000001234801".parse();
        assert_eq!(root, Ok(RootName::Address(PhysAddr::new(0x123_4000))));
        let of = |text: &str| text.parse::<Address>();
        assert_eq!(of("7f12a000+0x10"), Ok(Address::Number(0x7f12_a010)));
        assert_eq!(of("0x1000+16"), Ok(Address::Number(0x1010)));
        // Whether that is a symbol the guest's memory tells.
        assert_eq!(of("fade"), Ok(Address::Symbol("fade".into(), 0)));
    }

    #[test]
    fn an_address_is_hexadecimal_with_0x_and_decimal_without() {
        assert_eq!(number("0xffff_8880_0000_0000"), Ok(0xffff_8880_0000_0000));
        assert_eq!(number("0XFF"), Ok(255));
        assert_eq!(number("4096"), Ok(4096));
        for text in [
            "",
            "0x",
            "ffff",
            "-1",
            "+1",
            "0x-1",
            "0x10000000000000000",
            "0xg",
        ] {
            assert!(number(text).is_err(), "{text}");
        }
    }
}
