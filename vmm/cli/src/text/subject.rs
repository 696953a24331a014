//! What a report about a target begins with: which one it is, and how it was read.

use std::fmt;

use heirloom_inspect::PhysAddr;
use heirloom_inspect::discover::Basis;
use heirloom_inspect::report::Subject;

use super::Text;

/// Lines for people: the guest, its CPUs, what was assumed.
impl Text for Subject {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.name)?;
        match self.ram_bytes() {
            Some(bytes) => write!(f, "{} MiB of RAM", bytes >> 20)?,
            None => write!(f, "RAM that ends nobody knows where")?,
        }
        writeln!(f, ", {} levels of page tables", self.mode.depth.levels())?;
        writeln!(
            f,
            "  profile: {} ({})",
            self.profile.name, self.profile.evidence
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
