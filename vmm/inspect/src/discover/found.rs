//! What is asked of the address spaces that were found.

use std::collections::HashSet;

use super::{Basis, Discovery, Kind, Space};
use crate::layout::Area;
use crate::snapshot::RootId;
use heirloom_paging::addr::PhysAddr;
use heirloom_paging::bits::EntrySet;
use heirloom_paging::entry::Decoded;
use heirloom_paging::mode::{CpuState, Mode, PhysBits};

impl Discovery {
    /// The address spaces that rules are held against: those that somebody can run on. A root that is none
    /// of this kernel's, where the kernel is known, is wrong as such: its entries are any bytes, and what
    /// these would make of other frames is not so.
    pub fn judged(&self) -> impl Iterator<Item = &Space> {
        let is_known = self.reference.is_some();
        self.spaces
            .iter()
            .filter(move |space| space.kind.is_live() && !(is_known && space.kind == Kind::Foreign))
    }

    /// The address space at `address`.
    pub fn space_at(&self, address: PhysAddr) -> Option<&Space> {
        self.places.get(&address).map(|at| &self.spaces[*at])
    }

    /// The CPUs that run on address spaces of this depth, with their numbers. One that does not page,
    /// or pages otherwise, has a CR3 that says nothing here.
    pub fn running_cpus(&self) -> impl Iterator<Item = (u32, &CpuState)> {
        let depth = self.mode().depth;
        (0..).zip(&self.cpus).filter(move |(_, cpu)| {
            Mode::of_cpu(cpu, PhysBits::MAX, true).is_ok_and(|mode| mode.depth == depth)
        })
    }

    /// The space of a root.
    ///
    /// # Panics
    /// If `root` comes from another snapshot that has more roots.
    pub fn space(&self, root: RootId) -> &Space {
        &self.spaces[root.0 as usize]
    }

    /// What people call an area of this kernel.
    pub fn name_of(&self, area: Area) -> &'static str {
        self.profile.name_of(area)
    }

    /// How the tables are read.
    pub fn mode(&self) -> &Mode {
        self.snapshot.mode()
    }

    /// Of the entries of a root those that are the kernel's, and the others; what points back to a root is
    /// neither.
    pub fn parts(&self, root: RootId) -> [EntrySet; 2] {
        let space = self.spaces.get(root.0 as usize);
        self.parts_less(space.map(|space| &space.self_maps))
    }

    /// Whether every address space has kernel tables of its own, no two sharing one: a kernel that is made so,
    /// as teaching kernels are. Of a recording it is known whether that is meant.
    pub fn copies_kernel_tables(&self) -> bool {
        self.copies_tables(Kind::is_compared)
    }

    /// The same of what ring 3 runs on in an isolated kernel.
    pub fn copies_windows(&self) -> bool {
        self.copies_tables(|kind| kind == Kind::UserRoot)
    }

    /// Whether no two address spaces of these kinds share a table of the kernel's.
    fn copies_tables(&self, of: impl Fn(Kind) -> bool) -> bool {
        let mut tables = HashSet::new();
        let mut roots = 0;
        for space in &self.spaces {
            let table = self.snapshot.root_table(space.root);
            let Some(table) = table.filter(|_| of(space.kind)) else {
                continue;
            };
            roots += 1;
            let [kernel, _] = self.parts(space.root);
            for index in table
                .pointers()
                .iter()
                .filter(|index| kernel.contains(*index))
            {
                if let Decoded::Table(below) = table.decode(index)
                    && !tables.insert(below)
                {
                    return false;
                }
            }
        }
        roots > 1 && !tables.is_empty() && self.basis != Basis::Given
    }

    /// The CPUs whose root is not understood, and why.
    pub fn not_understood(&self) -> impl Iterator<Item = &Space> {
        let spaces = self.spaces.iter();
        spaces.filter(|space| space.kind == Kind::NotUnderstood)
    }

    /// Why nothing can be concluded from what was found, if that is so: a CPU runs on what is no root, or no
    /// root is live.
    pub fn problem(&self) -> Option<String> {
        if let Some(space) = self.not_understood().next() {
            let cpus: Vec<String> = space.cpus.iter().map(ToString::to_string).collect();
            return Some(format!(
                "the root {} of CPU {} is not understood: {}",
                space.address,
                cpus.join(", "),
                space.evidence
            ));
        }
        if self.judged().next().is_some() {
            return None;
        }
        let count = |kind| {
            self.spaces
                .iter()
                .filter(|space| space.kind == kind)
                .count()
        };
        Some(format!(
            "no live root among the {} found: {} idle or freed, {} freed, {} foreign; if the guest was \
             running, name its root (cr3=…)",
            self.spaces.len(),
            count(Kind::Idle),
            count(Kind::Freed),
            count(Kind::Foreign)
        ))
    }
}
