//! What of the kernel lies below entries of the root that are not its alone, because its processes have pages below
//! them, too: there no entry of the root tells whether an address space has it.

use std::collections::BTreeMap;

use super::context::Context;
use super::evidence::Evidence;
use super::finding::{EntryPlace, Finding};
use crate::discover::part::all_but;
use crate::discover::{Discovery, Space};
use crate::snapshot::RootId;
use crate::table::{Slot, Table};
use crate::tally::Tallier;
use heirloom_paging::addr::{PhysAddr, VirtAddr, VirtRange};
use heirloom_paging::bits::EntrySet;
use heirloom_paging::entry::Decoded;
use heirloom_paging::level::Level;
use heirloom_paging::walk::Translation;

/// Of fewer address spaces, one that lacks something does not stand against most.
const MIN_SPACES: usize = 3;

/// Holds every address space to the interrupt table of the CPUs: the CPU reads it by whichever root it is on. Where an
/// entry that is the kernel's alone leads to it, the entries are compared.
pub(super) fn interrupts_are_served(
    context: &Context<'_>,
    found: &Discovery,
    evidence: &mut Evidence,
) {
    let snapshot = context.snapshot();
    let top = snapshot.mode().depth.top();
    let mut tables: BTreeMap<VirtAddr, (u32, RootId)> = BTreeMap::new();
    for (number, cpu) in found.running_cpus() {
        let space = found.space_at(cpu.cr3.root());
        let space = space.filter(|space| space.kind.has_kernel_half());
        let table = cpu.idt;
        let table = table.filter(|va| !found.kernel_part.contains(va.index(top)));
        if let (Some(space), Some(va)) = (space, table) {
            tables.entry(va).or_insert((number, space.root));
        }
    }
    for (va, (number, known)) in tables {
        let place = |root: RootId| {
            let walk = snapshot.translate(root, va);
            walk.translation()
                .filter(|found| !found.rights.user)
                .map(|found| found.pa)
        };
        let Some(expected) = place(known) else {
            continue;
        };
        let others = context.judged.iter();
        for other in others.filter(|other| other.kind.has_kernel_half() && other.root != known) {
            evidence.check(place(other.root) == Some(expected), || Finding {
                whose: Some(other.label),
                place: format!("IDT of CPU {number}"),
                address: Some(va),
                spaces: context.only(other.root),
                expected: format!("at {expected}, as by the root that the CPU is on"),
                found: match snapshot.translate(other.root, va).result {
                    Ok(found) => format!("{}, {}", found.pa, found.rights),
                    Err(_) => "not mapped: no interrupt can be served".into(),
                },
                walks: vec![context.walk(known, va), context.walk(other.root, va)],
                ..Finding::default()
            });
        }
    }
}

/// What stands in an entry, as far as it may be the kernel's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stands {
    /// A table by which ring 0 has pages and ring 3 none.
    Table(Slot),
    /// A page for ring 0 alone.
    Page(PhysAddr),
}

/// Holds every address space to what most have below such entries, down to tables and pages of 2 MiB: the very same
/// table, or page, by which ring 3 gets to nothing. Single pages of 4 KiB are no matter for a majority: of a guard
/// page, two processes after a fork have the same one.
pub(super) fn most_have_the_same(
    context: &Context<'_>,
    found: &Discovery,
    evidence: &mut Evidence,
) {
    let snapshot = context.snapshot();
    let judged = context.judged.iter().copied();
    let spaces: Vec<&Space> = judged
        .filter(|space| space.kind.has_kernel_half())
        .collect();
    let Some(reference) = found.reference.filter(|_| spaces.len() >= MIN_SPACES) else {
        return;
    };
    let [_, user] = found.parts(reference);
    let mut tallier = Tallier::new(snapshot);
    if tallier.count_entries(reference, &user).supervisor == 0 {
        return;
    }
    let roots = spaces.iter().map(|space| snapshot.root_table(space.root));
    let roots: Vec<Option<&Table>> = roots.map(|table| table.map(|table| &**table)).collect();
    let mut mixed = EntrySet::default();
    for index in user.iter() {
        let mut only = EntrySet::default();
        only.insert(index);
        let of_both = spaces.iter().filter(|space| {
            let pages = tallier.count_entries(space.root, &only);
            pages.user > 0 && pages.supervisor > 0
        });
        if of_both.take(2).count() == 2 {
            mixed.insert(index);
        }
    }
    let mut majority = Majority {
        context,
        spaces,
        tallier,
    };
    majority.compare(&roots, &mixed, VirtAddr::new(0), evidence);
}

struct Majority<'c, 'a> {
    context: &'c Context<'a>,
    /// The address spaces that are compared.
    spaces: Vec<&'a Space>,
    tallier: Tallier<'a>,
}

impl<'a> Majority<'_, 'a> {
    /// Compares these entries of one table of each address space, which may have none, and of the tables below those in
    /// which there is no majority.
    fn compare(
        &mut self,
        tables: &[Option<&'a Table>],
        entries: &EntrySet,
        base: VirtAddr,
        evidence: &mut Evidence,
    ) {
        let Some(level) = tables.iter().flatten().map(|table| table.level()).next() else {
            return;
        };
        let mut present = EntrySet::default();
        for table in tables.iter().flatten() {
            present = present.union(&table.present().intersection(entries));
        }
        for index in present.iter() {
            if !evidence.may_walk(tables.len() as u64) {
                return;
            }
            let offset = u64::from(index) << level.shift();
            let va = base.wrapping_add(offset);
            let mut votes: BTreeMap<Stands, Vec<usize>> = BTreeMap::new();
            for (at, table) in tables.iter().enumerate() {
                let stands = table.and_then(|table| self.stands(table, index));
                if let Some(stands) = stands {
                    votes.entry(stands).or_default().push(at);
                }
            }
            let most = votes.values().max_by_key(|have| have.len());
            match most.filter(|have| have.len() >= 2 && 2 * have.len() > tables.len()) {
                Some(have) => self.hold_to(tables, (index, va), have, evidence),
                None => self.compare_below(tables, (index, va), evidence),
            }
        }
    }

    fn stands(&mut self, table: &Table, index: u16) -> Option<Stands> {
        match table.decode(index) {
            Decoded::Table(_) => {
                let slot = table.link(index)?;
                let pages = self.tallier.below(slot);
                (pages.user == 0 && pages.supervisor > 0).then_some(Stands::Table(slot))
            }
            Decoded::Leaf(leaf) if !table.entry(index).user() => Some(Stands::Page(leaf.pa)),
            _ => None,
        }
    }

    fn compare_below(
        &mut self,
        tables: &[Option<&'a Table>],
        (index, va): (u16, VirtAddr),
        evidence: &mut Evidence,
    ) {
        let snapshot = self.context.snapshot();
        let below: Vec<Option<&Table>> = tables
            .iter()
            .map(|table| snapshot.child((*table)?, index).map(|table| &**table))
            .collect();
        let has_several = below.iter().flatten().nth(1).is_some();
        if has_several
            && below
                .iter()
                .flatten()
                .all(|table| table.level() != Level::Pt)
        {
            self.compare(&below, &all_but(&EntrySet::default()), va, evidence);
        }
    }

    /// Holds those that are not in `have` to what the first of these has at an entry.
    fn hold_to(
        &self,
        tables: &[Option<&'a Table>],
        (index, va): (u16, VirtAddr),
        have: &[usize],
        evidence: &mut Evidence,
    ) {
        let snapshot = self.context.snapshot();
        let Some(first) = have.first().and_then(|first| tables[*first]) else {
            return;
        };
        let level = first.level();
        let va = VirtAddr::sign_extended(va.get(), snapshot.mode().depth);
        let Some(range) = VirtRange::new(va, level.entry_span()) else {
            return;
        };
        let known = self.spaces[have[0]].root;
        evidence.checked(self.spaces.len() as u64);
        for (at, space) in self.spaces.iter().enumerate() {
            if have.contains(&at) {
                continue;
            }
            if let Some(missing) = self.first_that_lacks([known, space.root], range, evidence) {
                evidence.broken(|| Finding {
                    whose: Some(space.label),
                    place: self.context.entry_name(level, index),
                    address: Some(missing),
                    entry: tables[at].map(|table| EntryPlace {
                        level,
                        table: table.pfn(),
                        index,
                        entry: table.entry(index),
                    }),
                    range: Some(range),
                    spaces: self.context.only(space.root),
                    expected: format!(
                        "what {} of {} address spaces have there for ring 0",
                        have.len(),
                        tables.len()
                    ),
                    found: match snapshot.translate(space.root, missing).result {
                        Ok(found) => format!("{}, {}", found.pa, found.rights),
                        Err(fault) => fault.display(snapshot.mode().depth).to_string(),
                    },
                    walks: vec![
                        self.context.walk(known, missing),
                        self.context.walk(space.root, missing),
                    ],
                    ..Finding::default()
                });
            }
        }
    }

    /// The first page that one address space has in a range and that is not the same, with the same rights, in another.
    fn first_that_lacks(
        &self,
        [known, other]: [RootId; 2],
        range: VirtRange,
        evidence: &mut Evidence,
    ) -> Option<VirtAddr> {
        let snapshot = self.context.snapshot();
        for page in snapshot.leaves(known, range) {
            if !evidence.may_walk(1) {
                return None;
            }
            let there = snapshot.translate(other, page.va);
            let is_same = |found: &Translation| found.pa == page.pa && found.rights == page.rights;
            if !there.translation().is_some_and(is_same) {
                return Some(page.va);
            }
        }
        None
    }
}
