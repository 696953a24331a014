//! Looks through the tables of one moment, with a memory of the moments before: a user half whose
//! tables are all as they were is not looked through again.

use std::collections::HashMap;
use std::sync::Arc;

use super::survey::{Page, Place, Survey, Twice};
use crate::sharing::Subtree;
use crate::snapshot::{Root, RootId, RootLabel, Snapshot};
use crate::table::{Slot, Table};
use heirloom_paging::addr::{Pfn, VirtAddr, VirtRange};
use heirloom_paging::entry::{Decoded, Entry};
use heirloom_paging::level::Half;
use heirloom_paging::rights::Rights;

/// Pages that are looked at, of all address spaces together: 32 GiB in 4 KiB pages.
const MOST_PAGES: usize = 1 << 23;

/// Surveys the moments of one run. Snapshots of one capturer share what did not change.
#[derive(Debug, Default)]
pub(super) struct Surveyor {
    user_halves: HashMap<RootLabel, UserHalf>,
}

/// The user half of a process as it was looked through.
#[derive(Debug, Default)]
struct UserHalf {
    /// The root and the tables below, each with its slot and the first address it translates.
    tables: Vec<(Slot, Arc<Table>, VirtAddr)>,
    pages: Vec<Page>,
}

impl UserHalf {
    /// Whether `snapshot` has the same tables in the same slots.
    fn is_still_so(&self, snapshot: &Snapshot, root: &Root) -> bool {
        let mut tables = self.tables.iter();
        root.slot == self.tables.first().map(|(slot, _, _)| *slot)
            && tables.all(|(slot, known, _)| {
                let found = snapshot.table_at(*slot);
                found.is_some_and(|found| Arc::ptr_eq(found, known))
            })
    }
}

/// Where a table was reached.
#[derive(Clone, Copy, Default)]
struct Mark {
    first: Option<Place>,
    /// A bit for each set of rights.
    rights: u8,
    twice: bool,
}

/// What one survey has seen so far.
struct Walked<'s> {
    snapshot: &'s Snapshot,
    marks: Vec<Mark>,
    twice: Vec<Twice<'s>>,
    pending: Vec<(Slot, Rights, VirtAddr)>,
    pages_left: usize,
    is_cut: bool,
}

impl Surveyor {
    /// Looks through `snapshot`.
    pub(super) fn survey<'s>(&mut self, snapshot: &'s Snapshot) -> Survey<'s> {
        let mut walked = Walked {
            snapshot,
            marks: vec![Mark::default(); snapshot.slots()],
            twice: Vec::new(),
            pending: Vec::new(),
            pages_left: MOST_PAGES,
            is_cut: false,
        };
        let same_kernel_half = same_kernel_half(snapshot);
        let kernel_half = kernel_half(snapshot, &same_kernel_half);
        let mut kernel_pages = Vec::new();
        let kernel_tables = walked.kernel_half(&kernel_half, &mut kernel_pages);

        let mut user_pages = Vec::new();
        let user_tables = self.user_halves(&mut walked, &mut user_pages);
        if !walked.twice.is_empty() || walked.is_cut || snapshot.missing().next().is_some() {
            // What a user half has does not depend on its tables alone then.
            self.user_halves.clear();
        }
        let mut table_frames: Vec<Pfn> = snapshot.tables().map(|table| table.pfn()).collect();
        table_frames.sort_unstable();
        table_frames.dedup();
        let places = walked.marks.iter().map(|mark| mark.first).collect();
        Survey {
            same_kernel_half,
            kernel_half,
            kernel_tables,
            kernel_pages,
            user_tables,
            twice: walked.twice,
            table_frames,
            is_cut: walked.is_cut,
            places,
            ..Survey::of_user_pages(user_pages)
        }
    }

    /// The pages of all processes' user halves; how many tables those have.
    fn user_halves(&mut self, walked: &mut Walked<'_>, pages: &mut Vec<Page>) -> u64 {
        let mut tables = 0;
        let mut known = std::mem::take(&mut self.user_halves);
        for root in walked.snapshot.roots() {
            if root.label == RootLabel::Kernel {
                continue;
            }
            let half = known
                .remove(&root.label)
                .filter(|half| half.is_still_so(walked.snapshot, root));
            let half = match half {
                Some(half) if walked.is_new(&half) => {
                    walked.arrive_again(root.id, &half);
                    half
                }
                _ => walked.user_half(root),
            };
            tables += half.tables.len().saturating_sub(1) as u64;
            pages.extend(half.pages.iter().map(|page| Page {
                root: root.id,
                ..*page
            }));
            self.user_halves.insert(root.label, half);
        }
        tables
    }
}

impl Walked<'_> {
    fn kernel_half(&mut self, subtrees: &[Subtree], pages: &mut Vec<Page>) -> u64 {
        let mut tables = 0;
        for subtree in subtrees {
            let root = subtree.roots[0];
            let top = self.snapshot.root_table(root);
            if let Some(slot) = top.and_then(|top| top.link(subtree.index)) {
                let rights = Rights::ALL.through(subtree.entry);
                self.arrive(slot, rights, (root, subtree.range.first));
            }
            while let Some((slot, rights, base)) = self.pending.pop() {
                let mark = &mut self.marks[slot.index()];
                let bit = 1 << rights.number();
                if mark.rights & bit == 0 {
                    mark.rights |= bit;
                    let looked = self.look_through(slot, rights, (root, base), pages);
                    tables += u64::from(looked.is_some());
                }
            }
        }
        tables
    }

    fn user_half(&mut self, root: &Root) -> UserHalf {
        let mut half = UserHalf::default();
        let Some((slot, top)) = root
            .slot
            .and_then(|slot| Some((slot, self.snapshot.table_at(slot)?)))
        else {
            return half;
        };
        half.tables
            .push((slot, Arc::clone(top), VirtAddr::default()));
        let shift = top.level().shift();
        for (index, slot) in top.indexed_links() {
            if Half::of_index(index) == Half::User {
                let base = VirtAddr::new(u64::from(index) << shift);
                let rights = Rights::ALL.through(top.entry(index));
                self.arrive(slot, rights, (root.id, base));
            }
        }
        while let Some((slot, rights, base)) = self.pending.pop() {
            let mark = &mut self.marks[slot.index()];
            if mark.rights != 0 {
                continue;
            }
            mark.rights = u8::MAX;
            let looked = self.look_through(slot, rights, (root.id, base), &mut half.pages);
            if let Some(table) = looked {
                half.tables.push((slot, table, base));
            }
        }
        half
    }

    /// Whether none of the half's tables was reached yet in this survey.
    fn is_new(&self, half: &UserHalf) -> bool {
        let mut tables = half.tables.iter().skip(1);
        tables.all(|(slot, _, _)| self.marks[slot.index()].first.is_none())
    }

    /// Notes where a user half that is still as it was has its tables.
    fn arrive_again(&mut self, root: RootId, half: &UserHalf) {
        for (slot, _, base) in half.tables.iter().skip(1) {
            self.arrive(*slot, Rights::ALL, (root, *base));
            self.marks[slot.index()].rights = u8::MAX;
        }
        self.pending.clear();
        match self.pages_left.checked_sub(half.pages.len()) {
            Some(left) => self.pages_left = left,
            None => self.is_cut = true,
        }
    }

    /// Notes that a walk reaches the table in `slot`, to be looked through later.
    fn arrive(&mut self, slot: Slot, rights: Rights, place: Place) {
        let mark = &mut self.marks[slot.index()];
        let (root, base) = place;
        let first = *mark.first.get_or_insert(place);
        // The kernel half's tables are everybody's.
        let same = first.1 == base && (base.half() == Half::Kernel || first.0 == root);
        if !same
            && !mark.twice
            && let Some(table) = self.snapshot.table_at(slot)
        {
            mark.twice = true;
            self.twice.push(Twice {
                table,
                first,
                again: place,
            });
        }
        self.pending.push((slot, rights, base));
    }

    /// Puts a table's leaves into `pages` and arrives at the tables below. The table; `None` if
    /// guest memory does not have it.
    fn look_through(
        &mut self,
        slot: Slot,
        rights: Rights,
        (root, base): Place,
        pages: &mut Vec<Page>,
    ) -> Option<Arc<Table>> {
        let table = self.snapshot.table_at(slot)?;
        let shift = table.level().shift();
        for (index, entry) in table.entries() {
            let va = base.wrapping_add(u64::from(index) << shift);
            let rights = rights.through(entry);
            match table.decode(index) {
                Decoded::Leaf(leaf) if self.pages_left > 0 => {
                    self.pages_left -= 1;
                    pages.push(Page {
                        va,
                        pa: leaf.pa,
                        size: leaf.size,
                        rights,
                        root,
                    });
                }
                Decoded::Leaf(_) => self.is_cut = true,
                Decoded::Table(_) => {
                    if let Some(below) = table.link(index) {
                        self.arrive(below, rights, (root, va));
                    }
                }
                Decoded::Absent | Decoded::Reserved { .. } => {}
            }
        }
        Some(Arc::clone(table))
    }
}

/// The address spaces, those together whose roots have the same kernel half, but for what the CPU
/// writes there. Roots outside guest memory are in none.
fn same_kernel_half(snapshot: &Snapshot) -> Vec<Vec<RootId>> {
    let first = usize::from(Half::Kernel.indices().start);
    let as_written = |word: &u64| Entry::new(*word).as_written();
    let mut groups: Vec<(&[u64], Vec<RootId>)> = Vec::new();
    // Private kernel halves are as many as processes: they are not compared with each other, but by
    // hash.
    let mut known: HashMap<Vec<Entry>, usize> = HashMap::new();
    for root in snapshot.roots() {
        let Some(table) = snapshot.root_table(root.id) else {
            continue;
        };
        let half = &table.words()[first..];
        let like_first = groups.first().is_some_and(|(model, _)| {
            let mut pairs = half.iter().zip(*model);
            pairs.all(|(word, model)| as_written(word) == as_written(model))
        });
        let group = if like_first {
            0
        } else {
            let key = half.iter().map(as_written).collect();
            *known.entry(key).or_insert(groups.len())
        };
        match groups.get_mut(group) {
            Some((_, roots)) => roots.push(root.id),
            None => groups.push((half, vec![root.id])),
        }
    }
    groups.into_iter().map(|(_, roots)| roots).collect()
}

/// What is below the kernel-half entries of the roots, as [`Snapshot::subtrees`] has it, found from
/// one root of each group.
fn kernel_half(snapshot: &Snapshot, groups: &[Vec<RootId>]) -> Vec<Subtree> {
    let mut subtrees: Vec<Subtree> = Vec::new();
    for index in Half::Kernel.indices() {
        let mut known: HashMap<Entry, usize> = HashMap::new();
        for roots in groups {
            let Some(table) = snapshot.root_table(roots[0]) else {
                continue;
            };
            if !table.present().contains(index) {
                continue;
            }
            let entry = table.entry(index).as_written();
            let position = *known.entry(entry).or_insert(subtrees.len());
            match subtrees.get_mut(position) {
                Some(subtree) => subtree.roots.extend(roots),
                None => subtrees.push(Subtree {
                    index,
                    entry,
                    range: VirtRange::of_top_entry(index, snapshot.mode().depth),
                    roots: roots.clone(),
                }),
            }
        }
    }
    // A root of a later group may stand before one of an earlier.
    for subtree in &mut subtrees {
        subtree.roots.sort_unstable();
    }
    subtrees
}
