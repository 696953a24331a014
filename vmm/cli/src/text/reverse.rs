//! All that reaches a physical address.

use std::fmt;

use heirloom_inspect::report::ReverseReport;
use heirloom_inspect::reverse::Reached;

use super::subject::RootList;
use super::{Shown, Text};

/// Roots that a line names.
const MAX_NAMED: usize = 8;

impl Text for ReverseReport {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", Shown(&self.target))?;
        write!(f, "{:#x}, frame {}", self.pa, self.pa.pfn())?;
        if !self.in_ram {
            write!(f, ", outside RAM")?;
        }
        if self.is_root {
            write!(f, ", a root")?;
        }
        for table in &self.tables {
            let entries = table.entries.len();
            write!(f, ", a {}", self.target.mode.depth.name(table.level))?;
            if entries > 0 {
                let noun = if entries == 1 { "entry" } else { "entries" };
                write!(f, " ({entries} {noun} point there)")?;
            }
        }
        if self.reached.is_empty() {
            return write!(f, "\n  no virtual address reaches it");
        }
        for by in &self.reached {
            let Reached { va, mapping, .. } = &by.reached;
            let area = by
                .area
                .map_or("no named area", |area| self.target.name_of(area));
            write!(
                f,
                "\n  {va:#018x}  {}  {} page  {area:<14}  ",
                mapping.rights, mapping.size
            )?;
            if let Some(symbol) = &by.symbol {
                write!(f, "{symbol}  ")?;
            }
            if by.roots.len() == self.roots {
                write!(f, "all {} roots", self.roots)?;
            } else {
                let named = &by.roots[..by.roots.len().min(MAX_NAMED)];
                let noun = if by.roots.len() == 1 { "root" } else { "roots" };
                let list = RootList {
                    roots: named,
                    count: by.roots.len(),
                };
                write!(f, "{} {noun}: {list}", by.roots.len())?;
            }
        }
        if self.is_cut {
            write!(f, "\n  … and too many more to list")?;
        }
        Ok(())
    }
}
