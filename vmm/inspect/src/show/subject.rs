//! What a report about a target begins with: which one it is, and how it was read.

use std::fmt;

use serde::Serialize;

use crate::discover::{Basis, Discovery};
use crate::memory::PhysRange;
use heirloom_paging::addr::PhysAddr;
use heirloom_paging::mode::{CpuState, Mode};

/// Version of the JSON of the commands that inspect a target; grows when a field changes its meaning or
/// goes.
pub const INSPECTION_VERSION: u32 = 1;

/// A guest, as reports name it.
#[derive(Clone, Debug, Serialize)]
pub struct Subject {
    /// As the user named it.
    pub name: String,
    pub mode: Mode,
    /// What the search for address spaces began with.
    pub basis: Basis,
    pub cpus: Vec<CpuState>,
    pub ram: Vec<PhysRange>,
    /// What was assumed.
    pub notes: Vec<String>,
}

impl Subject {
    /// The guest that `discovery` is of.
    pub fn new(name: &str, discovery: &Discovery) -> Subject {
        Subject {
            name: name.to_owned(),
            mode: *discovery.mode(),
            basis: discovery.basis,
            cpus: discovery.cpus.clone(),
            ram: discovery.ram.clone(),
            notes: discovery.notes.clone(),
        }
    }

    /// Bytes of RAM.
    pub fn ram_bytes(&self) -> u64 {
        self.ram.iter().map(|range| range.bytes).sum()
    }
}

/// Lines for people: the guest, its CPUs, what was assumed.
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} MiB of RAM, {} levels of page tables",
            self.name,
            self.ram_bytes() >> 20,
            self.mode.depth.levels()
        )?;
        for (number, cpu) in self.cpus.iter().enumerate() {
            writeln!(
                f,
                "  CPU {number}: CR3 {:#x} (root {}), ring {}, RIP {:#x}",
                cpu.cr3.get(),
                cpu.cr3.root(),
                cpu.cpl,
                cpu.rip
            )?;
        }
        match self.basis {
            Basis::Blind => {
                writeln!(
                    f,
                    "  no CR3: kernel halves were looked for in all of memory"
                )?;
            }
            Basis::Given | Basis::Cr3 => {}
        }
        for note in &self.notes {
            writeln!(f, "  note: {note}")?;
        }
        Ok(())
    }
}

/// Roots as people list them: the first few, and how many more.
pub(super) struct RootList<'a> {
    pub(super) roots: &'a [PhysAddr],
    pub(super) count: usize,
}

impl fmt::Display for RootList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, root) in self.roots.iter().enumerate() {
            let separator = if number == 0 { "" } else { ", " };
            write!(f, "{separator}{root}")?;
        }
        let more = self.count.saturating_sub(self.roots.len());
        if more > 0 {
            write!(f, " and {more} more")?;
        }
        Ok(())
    }
}
