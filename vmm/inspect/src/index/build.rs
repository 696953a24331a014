//! Looks through tables.

use std::collections::HashSet;
use std::sync::OnceLock;

use super::frames::Frames;
use super::groups::Groups;
use super::part::{Page, Part, PartId, Parts, PlacedTable, Twice, Use};
use super::tables::Tables;
use super::{Delta, Generations, Scope, Space, TableIndex, halves};
use crate::memory::Words;
use crate::snapshot::{RootId, RootLabel, Snapshot};
use crate::table::Slot;
use heirloom_paging::addr::{PhysAddr, VirtAddr, VirtRange};
use heirloom_paging::bits::EntrySet;
use heirloom_paging::entry::{Decoded, Entry};
use heirloom_paging::level::Half;
use heirloom_paging::rights::Rights;

/// Pages that are looked at, of all address spaces together: 32 GiB in 4 KiB pages.
const MAX_PAGES: usize = 1 << 23;

/// What a part is below.
#[derive(Clone, Copy)]
enum Below {
    /// An entry of the kernel half: its number, and the entry.
    Entry(u16, u64),
    /// A root.
    Root(PhysAddr),
}

/// A table that is still to be looked through.
type Pending = (Slot, Rights, VirtAddr);

impl TableIndex {
    pub(super) fn build(
        snapshot: &Snapshot,
        order: Vec<(RootId, [EntrySet; 2])>,
        scope: Scope,
        since: Generations,
    ) -> TableIndex {
        let roots = snapshot.roots();
        let halves = halves();
        let in_order = |(at, (root, parts)): (usize, &(RootId, [EntrySet; 2]))| {
            root.0 as usize == at && *parts == halves
        };
        let is_whole = order.len() == roots.len() && order.iter().enumerate().all(in_order);
        let mut index = TableIndex {
            scope,
            snapshot: snapshot.clone(),
            is_whole,
            spaces: Vec::with_capacity(order.len()),
            divisions: vec![halves],
            groups: Groups::default(),
            parts: Parts::default(),
            uses: vec![Use::default(); snapshot.slots()],
            twice: Vec::new(),
            shared: 0,
            leads_nowhere: false,
            is_cut: false,
            pages_left: MAX_PAGES,
            tables: Tables::default(),
            frames: Frames::new(is_whole),
            generations: Generations {
                kernel: since.kernel + 1,
                user: since.user + 1,
                spaces: since.spaces + 1,
                tables: since.tables + 1,
            },
            delta: Delta::default(),
            by_frame: OnceLock::new(),
            owners: OnceLock::new(),
        };
        for (root, parts) in order {
            let space = index.space(root, parts);
            index.spaces.push(space);
        }
        index.put_in_order();
        if is_whole {
            index.add_tables(|_| true);
        }
        for (number, entry) in index.entries_without_part() {
            index.add_kernel_part(number, entry);
        }
        for at in 0..index.spaces.len() {
            index.add_user_half(at);
        }
        if index.shared > 0 {
            index.leave_out_doubled_pages();
        }
        if !is_whole {
            let roots: HashSet<Slot> = index.spaces.iter().filter_map(|space| space.slot).collect();
            let reached: Vec<bool> = index.uses.iter().map(|used| used.first.is_some()).collect();
            index.add_tables(|slot| reached[slot.index()] || roots.contains(&slot));
        }
        index
    }

    /// The address space of a root joins its group.
    pub(super) fn space(&mut self, root: RootId, parts: [EntrySet; 2]) -> Space {
        let known = *self.snapshot.root(root);
        let division = self.division(parts);
        let group = self
            .groups
            .join(words(&self.snapshot, known.slot), &parts[0]);
        if known
            .slot
            .and_then(|slot| self.snapshot.table_at(slot))
            .is_none()
        {
            self.leads_nowhere = true;
        }
        Space {
            root,
            label: known.label,
            address: known.address,
            slot: known.slot,
            group,
            division,
            user: None,
        }
    }

    /// Its number; a new one if it is not the last one's.
    fn division(&mut self, parts: [EntrySet; 2]) -> u32 {
        if self.divisions.last() != Some(&parts) {
            self.divisions.push(parts);
        }
        u32::try_from(self.divisions.len() - 1).unwrap_or(u32::MAX)
    }

    pub(super) fn put_in_order(&mut self) -> bool {
        let members = self.spaces.iter().map(|space| space.group);
        self.groups
            .put_in_order(self.snapshot.mode().depth, members)
    }

    fn add_tables(&mut self, counts: impl Fn(Slot) -> bool) {
        for (slot, table) in self.snapshot.slotted_tables() {
            if counts(slot) {
                self.tables.add(slot, table, &self.scope.ram);
            }
        }
    }

    /// The kernel-half entries below which nobody has looked yet, ascending.
    pub(super) fn entries_without_part(&self) -> Vec<(u16, Entry)> {
        let subtrees = self.groups.subtrees().iter();
        subtrees
            .map(|subtree| (subtree.index, subtree.entry))
            .filter(|(index, entry)| self.groups.part_below(*index, entry.get()).is_none())
            .collect()
    }

    /// Looks through what is below a kernel-half entry.
    pub(super) fn add_kernel_part(&mut self, index: u16, entry: Entry) -> Option<PartId> {
        let group = *self.groups.having(index, entry.get()).first()?;
        let slot = self.spaces.get(self.groups.get(group).first)?.slot?;
        let top = self.snapshot.table_at(slot)?;
        let below = top.link(index)?;
        let range = VirtRange::of_top_entry(index, self.snapshot.mode().depth);
        let start = (below, Rights::ALL.through(entry), range.first);
        let id = self.look_through(
            Half::Kernel,
            range,
            Below::Entry(index, entry.get()),
            &[start],
        );
        self.groups.set_part_below(index, entry.get(), id);
        Some(id)
    }

    /// Looks through the user half of an address space.
    pub(super) fn add_user_half(&mut self, at: usize) -> Option<PartId> {
        let space = self.spaces[at];
        if self.scope.kernel_has_own_root && space.label == RootLabel::Kernel {
            return None;
        }
        let starts = user_links(
            &self.snapshot,
            space.slot?,
            self.divisions[space.division as usize][1],
        )?;
        let id = self.look_through(
            Half::User,
            VirtRange::half(Half::User),
            Below::Root(space.address),
            &starts,
        );
        self.spaces[at].user = Some(id);
        Some(id)
    }

    fn look_through(
        &mut self,
        half: Half,
        range: VirtRange,
        below: Below,
        starts: &[Pending],
    ) -> PartId {
        let id = self.parts.reserve();
        let mut part = Part {
            half,
            range,
            entry: match below {
                Below::Entry(index, entry) => Some((index, entry)),
                Below::Root(_) => None,
            },
            owner: match below {
                Below::Entry(..) => PhysAddr::default(),
                Below::Root(address) => address,
            },
            tables: Vec::new(),
            pages: Vec::new(),
            dynamic: 0,
            ring_3: 0,
        };
        let mut pending = Vec::new();
        for start in starts {
            self.arrive((id, half), *start, &mut pending);
        }
        while let Some((slot, rights, base)) = pending.pop() {
            let used = &mut self.uses[slot.index()];
            let bit = 1 << (rights.number() + 8 * u32::from(half == Half::Kernel));
            if used.seen & bit != 0 {
                continue;
            }
            if used.seen != 0 {
                self.shared += 1;
                // Where the kernel's own root is known, what it has is the kernel's, whoever reaches it.
                if half == Half::User && self.scope.kernel_has_own_root {
                    continue;
                }
            }
            used.seen |= bit;
            self.add_table((id, &mut part), (slot, rights, base), &mut pending);
        }
        part.ring_3 = part.pages.iter().filter(|page| page.rights.user).count() as u64;
        if self.is_whole {
            let tables = &self.tables.frames;
            let is_table = |frame| tables.contains_key(&frame);
            self.frames.add(&part, self.scope.dynamic, is_table);
        }
        self.parts.put(id, part);
        id
    }

    /// Notes that a walk reaches a table, to be looked through later.
    fn arrive(&mut self, (part, half): (PartId, Half), table: Pending, pending: &mut Vec<Pending>) {
        let (slot, _, base) = table;
        let used = &mut self.uses[slot.index()];
        let (first, at) = *used.first.get_or_insert((part, base));
        // The kernel half's tables are everybody's.
        let same = at == base && (half == Half::Kernel || first == part);
        if first != part {
            self.shared += 1;
        }
        if !same
            && !used.is_twice
            && let Some(table) = self.snapshot.table_at(slot)
        {
            used.is_twice = true;
            self.twice.push(Twice {
                table: table.pfn(),
                level: table.level(),
                first: (first, at),
                again: (part, base),
            });
        }
        pending.push(table);
    }

    /// Puts a table with its leaves into a part and arrives at the tables below.
    fn add_table(
        &mut self,
        (id, part): (PartId, &mut Part),
        (slot, rights, base): Pending,
        pending: &mut Vec<Pending>,
    ) {
        let snapshot = self.snapshot.clone();
        let Some(table) = snapshot.table_at(slot) else {
            self.leads_nowhere = true;
            return;
        };
        let level = table.level();
        let depth = snapshot.mode().depth;
        let before = part.pages.len();
        for (index, entry) in table.entries() {
            let offset = u64::from(index) << level.shift();
            let va = VirtAddr::sign_extended(base.get().wrapping_add(offset), depth);
            let rights = rights.through(entry);
            match table.decode(index) {
                Decoded::Leaf(leaf) if self.pages_left > 0 => {
                    self.pages_left -= 1;
                    part.pages.push(Page {
                        va,
                        pa: leaf.pa,
                        size: leaf.size,
                        rights,
                        table: table.pfn(),
                        index,
                    });
                    let area = self.scope.dynamic.filter(|_| part.half == Half::Kernel);
                    part.dynamic += u64::from(area.is_some_and(|area| area.contains(va)));
                }
                Decoded::Leaf(_) => self.is_cut = true,
                Decoded::Table(_) => match table.link(index) {
                    Some(below) => self.arrive((id, part.half), (below, rights, va), pending),
                    None => self.leads_nowhere = true,
                },
                Decoded::Absent | Decoded::Reserved { .. } => {}
            }
        }
        part.tables.push(PlacedTable {
            slot,
            rights,
            base,
            pages: u32::try_from(part.pages.len() - before).unwrap_or(512),
        });
    }

    /// With KPTI two roots have a process's tables, the kernel's with NX on top. What ring 3 does, it does
    /// by the other one: so the pages without execute are left out.
    fn leave_out_doubled_pages(&mut self) {
        let users = || {
            self.parts
                .iter()
                .filter(|(_, part)| part.half == Half::User)
        };
        let executable: HashSet<(Slot, Rights)> = users()
            .flat_map(|(_, part)| &part.tables)
            .filter(|table| table.rights.execute)
            .map(|table| (table.slot, table.rights))
            .collect();
        let is_doubled = |table: &PlacedTable| {
            let with_execute = Rights {
                execute: true,
                ..table.rights
            };
            !table.rights.execute && executable.contains(&(table.slot, with_execute))
        };
        let doubled: Vec<PartId> = users()
            .filter(|(_, part)| part.tables.iter().any(is_doubled))
            .map(|(id, _)| id)
            .collect();
        for id in doubled {
            let Some(mut part) = self.parts.take(id) else {
                continue;
            };
            if self.is_whole {
                self.frames.remove(&part, self.scope.dynamic, |_| false);
            }
            let pages = std::mem::take(&mut part.pages);
            let mut rest = pages.as_slice();
            for table in &mut part.tables {
                let (own, others) = rest.split_at(rest.len().min(table.pages as usize));
                rest = others;
                if is_doubled(table) {
                    table.pages = 0;
                } else {
                    part.pages.extend_from_slice(own);
                }
            }
            part.ring_3 = part.pages.iter().filter(|page| page.rights.user).count() as u64;
            if self.is_whole {
                let tables = &self.tables.frames;
                let is_table = |frame| tables.contains_key(&frame);
                self.frames.add(&part, self.scope.dynamic, is_table);
            }
            // The number was given back last.
            let same = self.parts.reserve();
            debug_assert_eq!(same, id);
            self.parts.put(same, part);
        }
    }
}

pub(super) fn words(snapshot: &Snapshot, root: Option<Slot>) -> Option<&Words> {
    Some(snapshot.table_at(root?)?.words())
}

/// The tables that a root's user half leads to.
fn user_links(snapshot: &Snapshot, root: Slot, entries: EntrySet) -> Option<Vec<Pending>> {
    let top = snapshot.table_at(root)?;
    let shift = top.level().shift();
    let links = top.indexed_links();
    let user = links.filter(|(index, _)| entries.contains(*index));
    Some(
        user.map(|(index, slot)| {
            let base = u64::from(index) << shift;
            let base = VirtAddr::sign_extended(base, snapshot.mode().depth);
            (slot, Rights::ALL.through(top.entry(index)), base)
        })
        .collect(),
    )
}

impl Twice {
    /// Where it was reached first, and where again.
    pub fn places(&self, index: &TableIndex) -> [super::Place; 2] {
        [self.first, self.again].map(|(part, va)| (index.root_of(part), va))
    }

    /// Whether two address spaces have it in their user halves.
    pub fn is_shared_user_table(&self) -> bool {
        let is_user = |place: (PartId, VirtAddr)| place.1.half() == Half::User;
        is_user(self.first) && is_user(self.again) && self.first.0 != self.again.0
    }
}
