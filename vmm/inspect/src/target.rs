//! What can be inspected: a guest that stands still, wherever it comes from.

use crate::memory::{PhysRange, PhysicalMemory};
use crate::snapshot::RootLabel;
use heirloom_paging::addr::PhysAddr;
use heirloom_paging::entry::Entry;
use heirloom_paging::level::Depth;
use heirloom_paging::mode::{CpuState, PhysBits};

/// A guest that stands still: its memory, and what is known of its CPUs. A core dump, a raw image, a
/// paused QEMU, a machine of our own and a moment of a recording all come as one of these.
///
/// Only `memory` and `ram` are certain. A field that is `None` or empty means that the source does not
/// tell; whoever needs it finds out from the tables, or assumes something and says so.
pub struct Target {
    /// As the user named it: `core:guest.core`.
    pub name: String,
    /// Dropping it lets a live guest run on.
    pub memory: Box<dyn PhysicalMemory + Send + Sync>,
    /// Where guest-physical memory has RAM: ascending, not overlapping, neither empty nor touching.
    pub ram: Vec<PhysRange>,
    /// Every vCPU's registers, by its number; empty where the source has none.
    pub cpus: Vec<CpuState>,
    /// MAXPHYADDR of the guest's CPU.
    pub phys_bits: Option<PhysBits>,
    /// Whether the guest's CPU has 1 GiB leaves.
    pub gigabyte_pages: Option<bool>,
    /// 4 or 5 levels, where CR4 is not known and something else tells: the user, or the guest kernel's
    /// own account of itself (VMCOREINFO's `pgtable_l5_enabled`).
    pub depth: Option<Depth>,
    /// Bits of page-table entries, and of CR3, that say that a frame is encrypted and are no part of its
    /// address; none where memory is not encrypted.
    pub encryption: Entry,
    /// Roots that are known, with their owners: those of a recording, or one that the user named.
    pub roots: Vec<(RootLabel, PhysAddr)>,
    /// `roots` are all that can be looked at, and heirloom's own guest has told whose they are: a recording's.
    pub is_recorded: bool,
    /// What the source leaves open and what was assumed instead, in sentences for people.
    pub notes: Vec<String>,
}

impl Target {
    /// What the note of a source begins with that says which Linux runs, by the kernel's own account of itself.
    pub const LINUX_SAYS: &str = "by VMCOREINFO the guest runs Linux ";

    /// The release of Linux that runs, if the source knows of one.
    pub fn linux_release(&self) -> Option<&str> {
        let mut notes = self.notes.iter();
        let said = notes.find_map(|note| note.strip_prefix(Target::LINUX_SAYS))?;
        said.split([';', ' ']).next()
    }
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target")
            .field("name", &self.name)
            .field("ram", &self.ram)
            .field("cpus", &self.cpus)
            .field("depth", &self.depth)
            .field("roots", &self.roots)
            .finish_non_exhaustive()
    }
}
