//! Follows an index from one snapshot to the next.

use std::collections::BTreeSet;

use super::build::words;
use super::part::{Part, PartId, Use};
use super::{Delta, Space, TableIndex, all_roots, halves};
use crate::snapshot::{Root, RootId, RootLabel, Snapshot};
use crate::table::{Slot, Table};
use heirloom_paging::addr::Pfn;
use heirloom_paging::entry::Entry;
use heirloom_paging::level::Half;

impl TableIndex {
    /// Makes this an index of all address spaces of `next`, as [`TableIndex::new`] does. The costs follow
    /// what is other than in the snapshot before, if both come from one capturer.
    pub fn update(&mut self, next: &Snapshot) {
        let before = self.snapshot.clone();
        if !self.depends_on_nothing_else() || self.cannot_follow(next) {
            let dropped = self.parts.take_all();
            self.rebuild(next, before, dropped);
            return;
        }
        let since = self.generations;
        let mut delta = Delta {
            since: Some(since),
            ..Delta::default()
        };
        let written = self.take_tables(next);
        let gone = self.take_spaces(next);
        self.snapshot = next.clone();
        let slots = self.uses.len().max(next.slots());
        self.uses.resize(slots, Use::default());
        let new = self.add_spaces(next, &gone);
        let rewritten = self.rewritten(&written, &new);

        // Whose parts are looked through again.
        let mut stale: BTreeSet<PartId> = written
            .iter()
            .filter_map(|slot| Some(self.uses.get(slot.index())?.first?.0))
            .collect();
        let gone_halves: BTreeSet<PartId> =
            gone.spaces.iter().filter_map(|space| space.user).collect();
        let is_half = |id: &PartId| self.parts.get(*id).half == Half::User;
        let stale_halves: Vec<PartId> = stale
            .difference(&gone_halves)
            .copied()
            .filter(is_half)
            .collect();
        stale.extend(&gone_halves);
        let mut regrouped = false;
        for at in &rewritten {
            let space = self.spaces[*at];
            stale.extend(space.user);
            regrouped |= self.regroup(*at);
        }
        for space in &gone.spaces {
            self.groups.leave(space.group);
        }
        stale.extend(self.groups.drop_unused());
        let is_reordered = (gone.changed || regrouped) && self.put_in_order();

        let mut kernel: Vec<(u16, Entry)> = Vec::new();
        for id in &stale {
            if let Some((index, entry)) = self.drop_part(*id, &mut delta.dropped) {
                kernel.push((index, Entry::new(entry)));
            }
        }
        if is_reordered {
            kernel.extend(self.entries_without_part());
        }
        let mut user: BTreeSet<usize> = new.into_iter().chain(rewritten).collect();
        if !stale_halves.is_empty() {
            let is_stale = |part: PartId| stale_halves.binary_search(&part).is_ok();
            let spaces = self.spaces.iter().enumerate();
            let with_stale = spaces.filter(|(_, space)| space.user.is_some_and(is_stale));
            user.extend(with_stale.map(|(at, _)| at));
        }
        kernel.sort_unstable_by_key(|(index, entry)| (*index, entry.get()));
        kernel.dedup();
        let kernel_changed = is_reordered || regrouped || gone.has_kernel || !kernel.is_empty();
        for (index, entry) in kernel {
            delta.new.extend(self.add_kernel_part(index, entry));
        }
        let mut user_changed = !user.is_empty();
        for at in user {
            delta.new.extend(self.add_user_half(at));
        }
        user_changed |= !gone_halves.is_empty();
        delta.gone = stale.into_iter().collect();
        if !self.depends_on_nothing_else() {
            self.rebuild(next, before, delta.dropped);
            return;
        }
        delta.before = Some(before);
        self.generations.kernel += u64::from(kernel_changed);
        self.generations.user += u64::from(user_changed);
        self.generations.spaces += u64::from(gone.changed || regrouped);
        self.generations.tables += u64::from(!written.is_empty());
        if user_changed || gone.changed || regrouped {
            self.by_frame.take();
            self.owners.take();
        }
        self.delta = delta;
    }

    /// Whether what a part has depends on its own tables alone.
    fn depends_on_nothing_else(&self) -> bool {
        self.is_whole
            && self.twice.is_empty()
            && self.shared == 0
            && !self.leads_nowhere
            && !self.is_cut()
    }

    fn cannot_follow(&self, next: &Snapshot) -> bool {
        next.mode() != self.snapshot.mode() || next.omitted() > 0 || next.missing_count() > 0
    }

    /// Begins anew. `dropped` are the parts of the snapshot before that may not be as they were.
    fn rebuild(&mut self, next: &Snapshot, before: Snapshot, dropped: Vec<Part>) {
        let order = all_roots(next);
        let scope = std::mem::take(&mut self.scope);
        *self = TableIndex::build(next, order, scope, self.generations);
        self.delta.dropped = dropped;
        self.delta.before = Some(before);
    }

    /// Takes in which tables are other than they were: those that software wrote, came or went.
    fn take_tables(&mut self, next: &Snapshot) -> Vec<Slot> {
        let before = self.snapshot.clone();
        let mut written = Vec::new();
        let mut frames: BTreeSet<Pfn> = BTreeSet::new();
        for (slot, old, new) in next.nodes().changed_since(before.nodes()) {
            let (old, new) = (old.table(), new.table());
            let is_same = match (old, new) {
                (None, None) => true,
                (Some(old), Some(new)) => is_as_written(old, new),
                _ => false,
            };
            if is_same {
                continue;
            }
            written.push(slot);
            if let Some(old) = old {
                self.tables.remove(slot, old);
                frames.insert(old.pfn());
            }
            if let Some(new) = new {
                self.tables.add(slot, new, &self.scope.ram);
                frames.insert(new.pfn());
            }
        }
        for frame in frames {
            let is_table = self.tables.frames.contains_key(&frame);
            self.frames.table(frame, is_table);
        }
        written
    }

    /// Takes away the address spaces that are gone.
    fn take_spaces(&mut self, next: &Snapshot) -> Gone {
        if self.snapshot.shares_roots(next) {
            return Gone::default();
        }
        let roots = next.roots();
        let is_same = |(space, root): &(&Space, &Root)| {
            space.label == root.label && space.address == root.address && space.slot == root.slot
        };
        let first = self.spaces.iter().zip(roots).take_while(is_same).count();
        let behind = self.spaces[first..]
            .iter()
            .rev()
            .zip(roots[first..].iter().rev())
            .take_while(is_same)
            .count();
        let spaces: Vec<Space> = self
            .spaces
            .drain(first..self.spaces.len() - behind)
            .collect();
        let end = roots.len() - behind;
        let is_kernel = |label: RootLabel| label == RootLabel::Kernel;
        Gone {
            has_kernel: spaces.iter().any(|space| is_kernel(space.label))
                || roots[first..end].iter().any(|root| is_kernel(root.label)),
            changed: !spaces.is_empty() || end > first,
            spaces,
            first,
            end,
        }
    }

    /// Puts the new address spaces in their places, which are the answer.
    fn add_spaces(&mut self, next: &Snapshot, gone: &Gone) -> Vec<usize> {
        if !gone.changed {
            return Vec::new();
        }
        let places: Vec<usize> = (gone.first..gone.end).collect();
        let new: Vec<Space> = next.roots()[gone.first..gone.end]
            .iter()
            .map(|root| self.space(root.id, halves()))
            .collect();
        self.spaces.splice(gone.first..gone.first, new);
        for (number, space) in (0u32..).zip(&mut self.spaces) {
            space.root = RootId(number);
        }
        places
    }

    /// The places of address spaces, but the new ones, whose roots were written.
    fn rewritten(&self, written: &[Slot], new: &[usize]) -> Vec<usize> {
        let top = self.snapshot.mode().depth.top();
        let is_root = |slot: &&Slot| {
            let table = self.snapshot.table_at(**slot);
            table.is_some_and(|table| table.level() == top)
        };
        let mut roots: Vec<Slot> = written.iter().filter(is_root).copied().collect();
        if roots.is_empty() {
            return Vec::new();
        }
        roots.sort_unstable();
        let is_written = |(at, space): &(usize, &Space)| {
            let slot = space.slot;
            slot.is_some_and(|slot| roots.binary_search(&slot).is_ok()) && !new.contains(at)
        };
        let spaces = self.spaces.iter().enumerate();
        spaces.filter(is_written).map(|(at, _)| at).collect()
    }

    /// Puts an address space whose root was written into its group. Whether that is another now.
    fn regroup(&mut self, at: usize) -> bool {
        let space = self.spaces[at];
        let words = words(&self.snapshot, space.slot);
        let kernel = &self.divisions[space.division as usize][0];
        if words.is_some_and(|words| self.groups.is_of(space.group, words, kernel)) {
            return false;
        }
        let group = self.groups.join(words, kernel);
        self.groups.leave(space.group);
        self.spaces[at].group = group;
        true
    }

    /// Forgets a part. The entry that it was below, if that is still there.
    fn drop_part(&mut self, id: PartId, dropped: &mut Vec<Part>) -> Option<(u16, u64)> {
        let part = self.parts.take(id)?;
        for table in &part.tables {
            if let Some(used) = self.uses.get_mut(table.slot.index()) {
                *used = Use::default();
            }
        }
        self.pages_left += part.pages.len();
        let tables = &self.tables.frames;
        let is_table = |frame| tables.contains_key(&frame);
        self.frames.remove(&part, self.scope.dynamic, is_table);
        debug_assert_eq!(part.entry.is_some(), part.half == Half::Kernel);
        let below = part.entry;
        dropped.push(part);
        let (index, entry) = below?;
        let is_there = self.groups.part_below(index, entry).is_some();
        is_there.then_some((index, entry))
    }
}

/// The address spaces that are gone, and where the new ones belong.
#[derive(Default)]
struct Gone {
    changed: bool,
    /// The kernel's own root came or went.
    has_kernel: bool,
    spaces: Vec<Space>,
    first: usize,
    end: usize,
}

/// Whether two tables are one as far as software wrote them.
fn is_as_written(old: &Table, new: &Table) -> bool {
    let written = |word: &u64| Entry::new(*word).as_written();
    let mut pairs = old.words().iter().zip(new.words().iter());
    old.pfn() == new.pfn()
        && old.level() == new.level()
        && pairs.all(|(old, new)| written(old) == written(new))
}
