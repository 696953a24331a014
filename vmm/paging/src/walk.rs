//! Translating one address, entry by entry, as the CPU does (Intel SDM vol. 3A, 4.5).
//!
//! A walk descends one level per step and has at most five, so no arrangement of tables makes it
//! loop. Access rights are reported, not applied: a walk ends at the leaf, whoever may use it.

use core::fmt;

use crate::addr::{Pfn, PhysAddr, VirtAddr};
use crate::entry::{Decoded, Entry};
use crate::level::{Depth, Level, PageSize};
use crate::mode::Mode;
use crate::rights::Rights;

/// One entry that a walk read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Step {
    /// The level of the table.
    pub level: Level,
    /// The frame of the table.
    pub table: Pfn,
    /// Which of its 512 entries.
    pub index: u16,
    /// The entry as it was read.
    pub entry: Entry,
}

/// Where a walk ended: the page, and what the walk allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Translation {
    /// The byte that the address stands for.
    pub pa: PhysAddr,
    /// The first byte of its page.
    pub page: PhysAddr,
    /// The size of the page.
    pub size: PageSize,
    /// What all entries of the walk allow together.
    pub rights: Rights,
    /// The leaf has G (it counts only while CR4.PGE is set).
    pub global: bool,
    /// The leaf has A.
    pub accessed: bool,
    /// The leaf has D.
    pub dirty: bool,
}

/// Why a walk has no page at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(
    feature = "serde",
    serde(rename_all = "kebab-case", rename_all_fields = "kebab-case")
)]
pub enum Fault {
    /// The CPU raises #GP (or #SS) before it looks at a table.
    NonCanonical {
        /// It decides which bits must be equal.
        depth: Depth,
    },
    /// P is clear.
    NotPresent {
        /// The level of the entry.
        level: Level,
    },
    /// The CPU raises #PF with the RSVD bit.
    Reserved {
        /// The level of the entry.
        level: Level,
        /// The reserved bits that are set.
        bits: Entry,
    },
    /// The entry above (or CR3) points outside guest memory.
    TableOutsideMemory {
        /// What the table would be.
        level: Level,
        /// Where it would be.
        table: Pfn,
    },
    /// The table was left out because the capture had reached its limit.
    TableNotCaptured {
        /// What the table is.
        level: Level,
        /// Where it is.
        table: Pfn,
    },
}

impl Fault {
    /// In words, with the tables called as a walk of this depth has them: [`Depth::name`].
    pub const fn display(self, depth: Depth) -> FaultText {
        FaultText { fault: self, depth }
    }
}

/// A fault to be shown; see [`Fault::display`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultText {
    fault: Fault,
    depth: Depth,
}

impl fmt::Display for FaultText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fault.write(f, |level| self.depth.name(level))
    }
}

/// With Intel's names of the tables; [`Fault::display`] has those for people.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, Level::name)
    }
}

impl Fault {
    fn write(
        &self,
        f: &mut fmt::Formatter<'_>,
        name: impl Fn(Level) -> &'static str,
    ) -> fmt::Result {
        match *self {
            Fault::NonCanonical { depth } => {
                let highest = depth.virtual_bits() - 1;
                write!(f, "not canonical: bits 63–{highest} are not all equal")
            }
            Fault::NotPresent { level } => write!(f, "not present in the {}", name(level)),
            Fault::Reserved { level, bits } => {
                write!(f, "reserved bits {bits} set in the {} entry", name(level))
            }
            Fault::TableOutsideMemory { level, table } => write!(
                f,
                "the {} would be in frame {table}, which is outside guest memory",
                name(level)
            ),
            Fault::TableNotCaptured { level, table } => write!(
                f,
                "the {} in frame {table} was not captured: the capture reached its table limit",
                name(level)
            ),
        }
    }
}

impl core::error::Error for Fault {}

/// The translation of one address in one address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    /// The address that was translated.
    pub va: VirtAddr,
    /// The root table's address.
    pub root: PhysAddr,
    /// How many levels there are.
    pub depth: Depth,
    /// The page at its end, or why there is none.
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

/// Where a walk reads entries from: live memory, a snapshot, the kernel's own direct map.
pub trait ReadTables {
    /// Entry `index` of the table in frame `table`, which the walk takes for one of `level`.
    ///
    /// # Errors
    /// [`Unreadable`] if there is no such table to read.
    fn entry(&mut self, table: Pfn, level: Level, index: u16) -> Result<Entry, Unreadable>;
}

/// Why a table could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unreadable {
    /// Its frame is outside guest memory.
    OutsideMemory,
    /// It was left out of a capture that had reached its limit.
    NotCaptured,
}

/// A function that has every table that it is asked for.
impl<F: FnMut(Pfn, Level, u16) -> Result<Entry, Unreadable>> ReadTables for F {
    fn entry(&mut self, table: Pfn, level: Level, index: u16) -> Result<Entry, Unreadable> {
        self(table, level, index)
    }
}

/// Translates `va` through `tables`, below the root table at `root`.
pub fn translate(mode: &Mode, root: PhysAddr, va: VirtAddr, mut tables: impl ReadTables) -> Walk {
    const NOTHING: Step = Step {
        level: Level::Pml5,
        table: Pfn::new(0),
        index: 0,
        entry: Entry::ABSENT,
    };
    let mut walk = Walk {
        va,
        root,
        depth: mode.depth,
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
        let entry = match tables.entry(table, level, index) {
            Ok(entry) => entry,
            Err(Unreadable::OutsideMemory) => {
                break Err(Fault::TableOutsideMemory { level, table });
            }
            Err(Unreadable::NotCaptured) => break Err(Fault::TableNotCaptured { level, table }),
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
            let place = Place {
                name: self.depth.name(step.level),
                index: step.index,
            };
            write!(f, "  {place:<9} = {} → ", step.entry)?;
            let last = number + 1 == self.steps().len();
            match &self.result {
                Ok(translation) if last => write!(f, "page {}", translation.page)?,
                Err(Fault::NotPresent { .. }) if last => f.write_str("nothing")?,
                Err(Fault::Reserved { .. }) if last => f.write_str("reserved bits")?,
                _ => match self.steps().get(number + 1) {
                    // Where it was read, and not what the entry holds besides the address.
                    Some(next) => write!(f, "table {}", next.table)?,
                    None => match &self.result {
                        Err(
                            Fault::TableOutsideMemory { table, .. }
                            | Fault::TableNotCaptured { table, .. },
                        ) => write!(f, "table {table}")?,
                        _ => write!(f, "table {}", step.entry.address().pfn())?,
                    },
                },
            }
            writeln!(f, " ({})", step.entry.flags())?;
        }
        match &self.result {
            Ok(translation) => write!(
                f,
                "  → {}, {} page, {}",
                translation.pa, translation.size, translation.rights
            ),
            Err(fault) => write!(f, "  → {}", fault.display(self.depth)),
        }
    }
}

/// `PDPT[12]`
struct Place {
    name: &'static str,
    index: u16,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::text::pad::<16>(f, format_args!("{}[{}]", self.name, self.index))
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Walk {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        struct Evidence<'a> {
            va: VirtAddr,
            root: PhysAddr,
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
