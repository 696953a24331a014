//! Translating one address, entry by entry, as the CPU does (Intel SDM vol. 3A, 4.5).
//!
//! A walk descends one level per step and has at most five, so no arrangement of tables makes it
//! loop. Access rights are reported, not applied: a walk ends at the leaf, whoever may use it.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::addr::{GuestPhys, GuestVirt, Pfn};
use crate::entry::{Decoded, Entry};
use crate::level::{Depth, Level, PageSize};
use crate::memory::PhysicalMemory;
use crate::mode::Mode;
use crate::rights::Rights;

/// One entry that a walk read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    pub level: Level,
    /// The frame of the table.
    pub table: Pfn,
    /// Which of its 512 entries.
    pub index: u16,
    pub entry: Entry,
}

/// Where a walk ended: the page, and what the walk allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Translation {
    /// The byte that the address stands for.
    pub pa: GuestPhys,
    /// The first byte of its page.
    pub page: GuestPhys,
    pub size: PageSize,
    pub rights: Rights,
    /// The leaf has G (it counts only while CR4.PGE is set).
    pub global: bool,
    /// The leaf has A.
    pub accessed: bool,
    /// The leaf has D.
    pub dirty: bool,
}

/// Why a walk has no page at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Fault {
    /// The CPU raises #GP (or #SS) before it looks at a table.
    #[error("not canonical: bits 63–{} are not all equal", .depth.virtual_bits() - 1)]
    NonCanonical { depth: Depth },
    /// P is clear.
    #[error("not present in the {level}")]
    NotPresent { level: Level },
    /// The CPU raises #PF with the RSVD bit.
    #[error("reserved bits {bits} set in the {level} entry")]
    Reserved { level: Level, bits: Entry },
    /// The entry above (or CR3) points outside guest memory.
    #[error("the {level} would be in frame {table}, which is outside guest memory")]
    TableOutsideMemory { level: Level, table: Pfn },
    /// The table was left out because the capture had reached its limit.
    #[error("the {level} in frame {table} was not captured: the capture reached its table limit")]
    TableNotCaptured { level: Level, table: Pfn },
}

/// The translation of one address in one address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    pub va: GuestVirt,
    /// The root table's address.
    pub root: GuestPhys,
    pub result: Result<Translation, Fault>,
    steps: [Step; 5],
    length: u8,
}

impl Walk {
    /// The entries read, from the root down; the last one decided.
    pub fn steps(&self) -> &[Step] {
        &self.steps[..usize::from(self.length)]
    }

    /// The page, if there is one.
    pub fn translation(&self) -> Option<&Translation> {
        self.result.as_ref().ok()
    }
}

/// Walks with `read` as the source of entries.
pub(crate) fn walk(
    mode: &Mode,
    root: GuestPhys,
    va: GuestVirt,
    mut read: impl FnMut(Pfn, Level, u16) -> Result<Entry, Fault>,
) -> Walk {
    const NOTHING: Step = Step {
        level: Level::Pml5,
        table: Pfn::new(0),
        index: 0,
        entry: Entry::ABSENT,
    };
    let mut walk = Walk {
        va,
        root,
        result: Err(Fault::NonCanonical { depth: mode.depth }),
        steps: [NOTHING; 5],
        length: 0,
    };
    if !va.is_canonical(mode.depth) {
        return walk;
    }
    let mut table = root.pfn();
    let mut level = mode.depth.top();
    let mut rights = Rights::ALL;
    walk.result = loop {
        let index = va.index(level);
        let entry = match read(table, level, index) {
            Ok(entry) => entry,
            Err(fault) => break Err(fault),
        };
        walk.steps[usize::from(walk.length)] = Step {
            level,
            table,
            index,
            entry,
        };
        walk.length += 1;
        rights = rights.through(entry);
        match entry.decode(level, mode) {
            Decoded::Absent => break Err(Fault::NotPresent { level }),
            Decoded::Reserved { bits } => break Err(Fault::Reserved { level, bits }),
            Decoded::Leaf(leaf) => {
                break Ok(Translation {
                    pa: leaf.pa.wrapping_add(va.offset_in(level)),
                    page: leaf.pa,
                    size: leaf.size,
                    rights,
                    global: entry.global(),
                    accessed: entry.accessed(),
                    dirty: entry.dirty(),
                });
            }
            Decoded::Table(next) => match level.next() {
                Some(below) => (table, level) = (next, below),
                // A PT has only leaves.
                None => break Err(Fault::NotPresent { level }),
            },
        }
    };
    walk
}

/// Translates `va` through the tables that stand in `memory` now, below the table at `root`.
pub fn translate_in_memory<M: PhysicalMemory + ?Sized>(
    memory: &M,
    mode: &Mode,
    root: GuestPhys,
    va: GuestVirt,
) -> Walk {
    walk(mode, root, va, |table, level, index| {
        memory
            .read_entry(table, index)
            .map_err(|_| Fault::TableOutsideMemory { level, table })
    })
}

/// As people draw it, one entry a line:
///
/// ```text
/// 0xffffc90000000123 from root 0x1000
///   PGD[402]  = 0x0000000000002067 → table 0x2 (P RW US A D)
///   PDPT[0]   = …
///   PT[0]     = 0x8000000000009163 → page 0x9000 (P RW A D G NX)
///   → 0x9123, 4 KiB page, rw--
/// ```
impl fmt::Display for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:#018x} from root {:#x}", self.va, self.root)?;
        for (number, step) in self.steps().iter().enumerate() {
            write!(f, "  {step} → ")?;
            let last = number + 1 == self.steps().len();
            match &self.result {
                Ok(translation) if last => write!(f, "page {}", translation.page)?,
                Err(Fault::NotPresent { .. }) if last => f.write_str("nothing")?,
                Err(Fault::Reserved { .. }) if last => f.write_str("reserved bits")?,
                _ => write!(f, "table {}", step.entry.address().pfn())?,
            }
            writeln!(f, " ({})", step.entry.flags())?;
        }
        match &self.result {
            Ok(translation) => write!(
                f,
                "  → {}, {} page, {}",
                translation.pa, translation.size, translation.rights
            ),
            Err(fault) => write!(f, "  → {fault}"),
        }
    }
}

/// `PGD[273] = 0x…`
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = format!("{}[{}]", self.level, self.index);
        write!(f, "{place:<9} = {}", self.entry)
    }
}

impl Serialize for Walk {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Evidence<'a> {
            va: GuestVirt,
            root: GuestPhys,
            steps: &'a [Step],
            #[serde(skip_serializing_if = "Option::is_none")]
            translation: Option<&'a Translation>,
            #[serde(skip_serializing_if = "Option::is_none")]
            fault: Option<&'a Fault>,
        }
        Evidence {
            va: self.va,
            root: self.root,
            steps: self.steps(),
            translation: self.result.as_ref().ok(),
            fault: self.result.as_ref().err(),
        }
        .serialize(serializer)
    }
}
