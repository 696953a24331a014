//! Dumps that are recognised by their content and need no prefix, one file for each format.
//!
//! ```text
//! kdump             makedumpfile's and QEMU's compressed dumps: pages one by one
//! lime              LiME, and AVML without compression: ranges of RAM
//! avml              AVML with compression
//! migration         QEMU's migration stream
//! libvirt           the same as libvirt saves it
//! windows           crash dumps of Windows
//! vmware            .vmss and .vmsn with .vmem
//! firecracker       snapshots of Firecracker's
//! cloud_hypervisor  and of Cloud Hypervisor's
//! kvm               CPU registers in these two
//! ```

mod avml;
pub(crate) mod cloud_hypervisor;
pub(crate) mod firecracker;
mod kdump;
mod kvm;
pub(crate) mod libvirt;
mod lime;
pub(crate) mod migration;
pub(crate) mod vmware;
pub(crate) mod windows;

use heirloom_inspect::{CpuState, Depth, Entry, PhysAddr, PhysRange, PhysicalMemory, RootLabel};

use crate::Target;
use crate::assumed::{Registers, RootOutside, holds_frame};
use crate::file::FileError;
use crate::memory::{Layout, Memory, Piece, RAM_LIMIT, Source};
use crate::pc;
use crate::raw::{around, hole};

pub(crate) use kdump::Kdump;

/// Why a dump cannot be inspected.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its variant is")]
pub enum DumpError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(
        "there is no file {name}: check the path, or write core:FILE, raw:FILE, qemu:SOCKET or rec:FILE"
    )]
    NoTarget { name: String },
    #[error("{name} is {what}, which is not read: {remedy}")]
    Unread {
        name: String,
        what: String,
        remedy: &'static str,
    },
    #[error("{name} is a damaged {kind}: {what}; dump or copy it again")]
    Damaged {
        name: String,
        kind: &'static str,
        what: String,
    },
    #[error(
        "{name} is cut off: {what} ends at byte {end}, but the file has only {length}; dump or copy it \
         again"
    )]
    Truncated {
        name: String,
        what: &'static str,
        end: u64,
        length: u64,
    },
    #[error("{name} holds no memory: no page of RAM is in it; dump or copy it again")]
    NoMemory { name: String },
    #[error(
        "{name} claims {bytes} bytes of RAM, more than 64 TiB, which no machine has; dump or copy it \
         again"
    )]
    TooMuch { name: String, bytes: u64 },
    #[error(
        "cr3={cr3:#x} points to {root:#x}, where {name} has no RAM: check it, it is a guest-physical \
         address"
    )]
    RootOutside {
        name: String,
        cr3: u64,
        root: PhysAddr,
    },
    #[error("{spec} is {what}: {option} is only for {kinds}; leave it out")]
    Option {
        spec: String,
        what: &'static str,
        option: &'static str,
        kinds: &'static str,
    },
    #[error("{name} is no part of the same dump: {what}; give all parts of one dump, each once")]
    Part { name: String, what: String },
}

/// What a reader of dumps found.
#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) layout: Layout,
    pub(crate) sources: Vec<Source>,
    pub(crate) cpus: Vec<CpuState>,
    /// Roots of which no more is known.
    pub(crate) roots: Vec<(RootLabel, PhysAddr)>,
    /// RAM that the machine had and the file has not.
    pub(crate) left_out: Vec<PhysRange>,
    /// It is known to be of a PC, whatever its pieces look like.
    pub(crate) is_pc: bool,
    pub(crate) notes: Vec<String>,
}

impl Contents {
    /// As a target.
    ///
    /// # Errors
    /// There is no memory, or more than can be.
    pub(crate) fn into_target(self, name: String, file_name: &str) -> Result<Target, DumpError> {
        let bytes = self.layout.bytes();
        if bytes == 0 {
            return Err(DumpError::NoMemory {
                name: file_name.into(),
            });
        }
        if bytes > RAM_LIMIT {
            return Err(DumpError::TooMuch {
                name: file_name.into(),
                bytes,
            });
        }
        let mut ram = self.layout.ram();
        if self.is_pc {
            ram = pc::without_legacy(&ram);
        } else if !self.cpus.is_empty() {
            // Only hypervisors write the registers of CPUs.
            ram = pc::ram_of_a_dump(&ram, ram.clone());
        }
        let memory = Memory::new(self.layout, self.sources)
            .without(self.left_out)
            .open_ended(self.cpus.is_empty());
        let mut target = target(name, Box::new(memory), ram, self.cpus, self.notes);
        for (label, root) in self.roots {
            if holds_frame(&target.ram, root) {
                target.roots.push((label, root));
            } else {
                target.notes.push(format!(
                    "the root at {root:#x}, which {file_name} names, is not in it"
                ));
            }
        }
        Ok(target)
    }
}

/// A target of which no more is known than this.
pub(crate) fn target(
    name: String,
    memory: Box<dyn PhysicalMemory + Send + Sync>,
    ram: Vec<PhysRange>,
    cpus: Vec<CpuState>,
    notes: Vec<String>,
) -> Target {
    Target {
        name,
        memory,
        ram,
        cpus,
        phys_bits: None,
        gigabyte_pages: None,
        depth: None,
        encryption: heirloom_inspect::Entry::ABSENT,
        roots: Vec::new(),
        is_recorded: false,
        notes,
    }
}

/// Where the RAM of a machine lies that was written as one piece of `length` bytes, without the hole below 4 GiB:
/// the tables of its first CPU tell where that begins, or else it is at `assumed`.
pub(crate) fn with_hole(
    read: hole::Read<'_>,
    length: u64,
    cpu: Option<&CpuState>,
    assumed: u64,
    notes: &mut Vec<String>,
) -> Layout {
    let told = cpu.filter(|_| length > 2 << 30);
    let told = told.map(|cpu| hole_by_tables(read, length, cpu));
    let (start, witness) = match told {
        Some(hole::Hole::At(start)) => (start, "the page tables tell"),
        Some(hole::Hole::None) => (length, "the page tables tell"),
        _ => (assumed, "as such machines have it"),
    };
    if start >= length {
        let start = PhysAddr::new(0);
        let ram = PhysRange {
            start,
            bytes: length,
        };
        return Layout::of(vec![Piece::new(ram, 0, 0)]);
    }
    notes.push(format!(
        "there is no RAM from {start:#x} to 0x100000000, {witness}"
    ));
    around(start, length)
}

/// What the tables tell that `cpu` runs on.
pub(crate) fn hole_by_tables(read: hole::Read<'_>, length: u64, cpu: &CpuState) -> hole::Hole {
    judge_by_tables(read, length, cpu).0
}

/// How deep the tables are that a CPU walks.
pub(crate) fn depth_of(cpu: &CpuState) -> Depth {
    const LA57: u64 = 1 << 12;
    match cpu.cr4 & LA57 {
        0 => Depth::Four,
        _ => Depth::Five,
    }
}

/// The same, and how well these look: more is better.
pub(crate) fn judge_by_tables(
    read: hole::Read<'_>,
    length: u64,
    cpu: &CpuState,
) -> (hole::Hole, isize) {
    let depth = depth_of(cpu);
    hole::judge(read, length, cpu.cr3.root(), Some(depth), Entry::ABSENT)
}

/// Adds what the user knows of the CPUs.
///
/// # Errors
/// A root that he names is not in the dump.
pub(crate) fn add(
    registers: &Registers,
    target: &mut Target,
    file_name: &str,
) -> Result<(), DumpError> {
    if target.cpus.is_empty() && target.roots.is_empty() && registers.cr3.is_empty() {
        target
            .notes
            .push("the dump has no CPU registers; give cr3=0x… if CR3 is known".into());
    }
    registers
        .add_to(target)
        .map_err(|RootOutside(cr3)| DumpError::RootOutside {
            name: file_name.into(),
            cr3: cr3.get(),
            root: cr3.root(),
        })
}

pub(crate) use avml::open as open_avml;
pub(crate) use lime::open as open_lime;
