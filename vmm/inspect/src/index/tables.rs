//! Sums over tables as such, wherever they stand.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::is_ram;
use crate::memory::PhysRange;
use crate::table::{Slot, Table};
use heirloom_paging::addr::{PAGE_SIZE, Pfn};

/// All tables of an index.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    /// How many there are, a frame once for each level at which it is used.
    pub(crate) count: u64,
    /// Their present entries.
    pub(crate) present: u64,
    /// Those with reserved bits.
    pub(crate) unsound: BTreeSet<Slot>,
    /// Those that are not in RAM.
    pub(crate) outside_ram: BTreeSet<Slot>,
    /// Every frame that is a table, with the levels at which it is one, counted.
    pub(crate) frames: BTreeMap<Pfn, u32>,
}

impl Tables {
    pub(super) fn add(&mut self, slot: Slot, table: &Table, ram: &[PhysRange]) {
        self.count += 1;
        self.present += table.present().len() as u64;
        if !table.is_sound() {
            self.unsound.insert(slot);
        }
        if !is_ram(ram, table.pfn().base(), PAGE_SIZE) {
            self.outside_ram.insert(slot);
        }
        *self.frames.entry(table.pfn()).or_default() += 1;
    }

    pub(super) fn remove(&mut self, slot: Slot, table: &Table) {
        self.count -= 1;
        self.present -= table.present().len() as u64;
        self.unsound.remove(&slot);
        self.outside_ram.remove(&slot);
        if let Some(levels) = self.frames.get_mut(&table.pfn()) {
            *levels -= 1;
            if *levels == 0 {
                self.frames.remove(&table.pfn());
            }
        }
    }
}
