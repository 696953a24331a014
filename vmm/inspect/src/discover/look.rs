//! What a root holds: what is looked at once, so that it can be said what the root is for.

use std::collections::HashSet;

use crate::snapshot::{RootId, Snapshot};
use crate::table::{Slot, Table};
use crate::tally::Tallier;
use heirloom_paging::bits::EntrySet;
use heirloom_paging::entry::{Decoded, Entry};

use super::Role;
use super::part::{self, all_but, ranges, upper_half};
use super::reused::{Found, Reused};

/// Entries that are passed at most, in all roots together, to see whether pages have their own
/// addresses: enough for a hundred trampolines of 4 GiB each. Only roots without a page for ring 3 are
/// asked.
const MAX_STEPS: u32 = 1 << 22;
/// A root that maps memory to its own address has no kernel half if at most one page in so many is in the upper
/// half: what somebody tries out there, or a device.
const MUCH_ABOVE: u64 = 64;

/// What a root holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) kernel_entries: usize,
    pub(super) user_entries: usize,
    /// Leaves of the user half that ring 3 can access …
    pub(super) user_pages: u64,
    /// … and that it cannot …
    pub(super) supervisor_pages: u64,
    /// … of which so many map an address to itself.
    pub(super) identity_pages: u64,
    /// Whether no page of the user half, or hardly any, is for ring 3, and none of those is code.
    pub(super) is_without_program: bool,
    /// Entries of the user half that no kernel writes …
    pub(super) odd_user_entries: usize,
    /// … of which so many would be sound if they were not for ring 0 alone.
    pub(super) closed_user_entries: usize,
    /// Entries of the tables below the user half, and those of them that no kernel writes.
    pub(super) lower_entries: usize,
    pub(super) odd_lower_entries: usize,
    /// Tables below each part whose frames have been used again.
    pub(super) kernel_tables: Found,
    pub(super) user_tables: Found,
    /// The user half maps memory to its own address by tables of the kernel half.
    pub(super) is_boot_map: bool,
    pub(super) role: Role,
}

/// Looks at roots.
pub(super) struct Looker<'s> {
    snapshot: &'s Snapshot,
    tallier: Tallier<'s>,
    reused: Reused<'s>,
    steps_left: u32,
}

impl<'s> Looker<'s> {
    pub(super) fn new(snapshot: &'s Snapshot) -> Self {
        Looker::beside(snapshot, None)
    }

    /// `reference`: a root that is known, and its entries that are the kernel's.
    pub(super) fn beside(snapshot: &'s Snapshot, reference: Option<(RootId, EntrySet)>) -> Self {
        Looker {
            snapshot,
            tallier: Tallier::new(snapshot),
            reused: Reused::new(snapshot, reference),
            steps_left: MAX_STEPS,
        }
    }

    /// `kernel` and `user`: which of its entries are the kernel's and which are not.
    pub(super) fn look(
        &mut self,
        root: RootId,
        role: Role,
        [kernel, user]: [&EntrySet; 2],
    ) -> Look {
        let snapshot = self.snapshot;
        let Some(table) = snapshot.root_table(root) else {
            return Look {
                kernel_entries: 0,
                user_entries: 0,
                user_pages: 0,
                supervisor_pages: 0,
                identity_pages: 0,
                is_without_program: true,
                odd_user_entries: 0,
                closed_user_entries: 0,
                lower_entries: 0,
                odd_lower_entries: 0,
                kernel_tables: Found::default(),
                user_tables: Found::default(),
                is_boot_map: false,
                role,
            };
        };
        let entries_of = |part: &EntrySet| {
            let present = table.present();
            present.iter().filter(|index| part.contains(*index)).count()
        };
        let (mut odd, mut closed) = (0, 0);
        for (index, entry) in table.entries() {
            if user.contains(index) && is_odd(snapshot, table, index, entry) {
                let is_closed = !is_odd(snapshot, table, index, entry | Entry::USER);
                // What others have there, too, is the kernel's, below an entry that is not its alone.
                if !is_closed || !is_anothers(snapshot, table, index) {
                    odd += 1;
                    closed += usize::from(is_closed);
                }
            }
        }
        let (lower_entries, odd_lower_entries) = lower_entries(snapshot, table, user);
        let pages = self.tallier.count_entries(root, user);
        let halves_meet = pages.user > 0 && shares_tables(snapshot, table, [kernel, user]);
        let identity_pages = match (pages.user, pages.supervisor) {
            (0, 0) => 0,
            (0, _) => self.identity_pages(root, user),
            _ if halves_meet || part::is_few(pages) => self.identity_pages(root, user),
            _ => 0,
        };
        let is_without_program = pages.user == 0
            || part::is_few(pages) && identity_pages > 0 && !part::has_program(snapshot, root);
        Look {
            kernel_entries: entries_of(kernel),
            user_entries: entries_of(user),
            user_pages: pages.user,
            supervisor_pages: pages.supervisor,
            identity_pages,
            is_without_program,
            odd_user_entries: odd,
            closed_user_entries: closed,
            lower_entries,
            odd_lower_entries,
            kernel_tables: self.reused.below(root, kernel),
            user_tables: self.reused.below(root, user),
            is_boot_map: halves_meet && identity_pages >= pages.pages() / 2,
            role,
        }
    }

    /// What tells that the lower half of a root is memory at its own address and nothing else, where ring 3 may use
    /// it, too, and there is no upper half, or next to nothing in it, or nothing that ring 3 may not use. `runs`:
    /// ring 0 is there.
    pub(super) fn open_identity(&mut self, root: RootId, runs: bool) -> Option<String> {
        let upper = upper_half();
        let lower = all_but(&upper);
        let pages = self.tallier.count_entries(root, &lower);
        let all = pages.pages();
        let tally = self.tallier.count_entries(root, &upper);
        let above = tally.pages();
        // A kernel that keeps nothing from ring 3 in its upper half either knows no processes.
        let is_closed = tally.supervisor > 0 && above > all / MUCH_ABOVE;
        if pages.user == 0 || is_closed {
            return None;
        }
        let identity = self.identity_pages(root, &lower);
        if all > identity.saturating_mul(2) {
            return None;
        }
        let kernel_half = match above {
            0 => "no kernel half".to_owned(),
            1 => "1 page in the upper half".to_owned(),
            pages => format!("{pages} pages in the upper half"),
        };
        let where_from = if runs { ", and ring 0 runs there" } else { "" };
        Some(format!(
            "maps {all} pages, {identity} of them to their own address, and has {kernel_half}; ring 3 may use {} of \
             them{where_from}",
            pages.user
        ))
    }

    /// How many pages below these entries have their own addresses.
    fn identity_pages(&mut self, root: RootId, part: &EntrySet) -> u64 {
        let mut count = 0;
        for range in ranges(part, self.snapshot.mode().depth) {
            let mut leaves = self.snapshot.leaves(root, range).limited(self.steps_left);
            let pages = leaves.by_ref();
            count += pages.filter(|page| page.va.get() == page.pa.get()).count() as u64;
            self.steps_left = leaves.steps_left();
        }
        count
    }
}

/// Whether an entry of the one part of a root, or of a table right below, leads to a table that one of the other
/// part leads to, too.
fn shares_tables(snapshot: &Snapshot, root: &Table, [kernel, user]: [&EntrySet; 2]) -> bool {
    let tables = |part: &EntrySet| -> HashSet<Slot> {
        let own: Vec<Slot> = root
            .indexed_links()
            .filter(|(index, _)| part.contains(*index))
            .map(|(_, slot)| slot)
            .collect();
        let below = own.iter().filter_map(|slot| snapshot.table_at(*slot));
        let below: Vec<Slot> = below.flat_map(|table| table.links()).collect();
        own.into_iter().chain(below).collect()
    };
    !tables(kernel).is_disjoint(&tables(user))
}

/// How many present entries the tables right below these entries of a root have, and how many of them are
/// none that a kernel writes.
fn lower_entries(snapshot: &Snapshot, root: &Table, part: &EntrySet) -> (usize, usize) {
    let (mut all, mut odd) = (0, 0);
    for table in part.iter().filter_map(|index| snapshot.child(root, index)) {
        for (index, _) in table.entries() {
            all += 1;
            odd += usize::from(match table.decode(index) {
                Decoded::Reserved { .. } => true,
                Decoded::Table(_) => snapshot.leads_nowhere(table, index),
                Decoded::Leaf(_) | Decoded::Absent => false,
            });
        }
    }
    (all, odd)
}

impl Look {
    /// Whether the user half maps memory to its own address, and no program of ring 3.
    pub(super) fn is_identity(&self) -> bool {
        self.is_without_program
            && self.supervisor_pages > 0
            && 2 * self.identity_pages >= self.supervisor_pages
    }

    /// What an identity map is told by.
    pub(super) fn identity(&self) -> String {
        let open = match self.user_pages {
            0 => String::new(),
            1 => ", 1 page that ring 3 may use and no program that could".to_owned(),
            pages => format!(", {pages} pages that ring 3 may use and no program that could"),
        };
        format!(
            "maps {} pages for ring 0 alone{open}, {} of them to their own address, and has no kernel half",
            self.supervisor_pages, self.identity_pages
        )
    }

    /// Whether the root has a kernel half and nothing else.
    pub(super) fn is_kernel_half_alone(&self) -> bool {
        self.role == Role::Full && self.user_entries == 0
    }
}

/// Whether another root leads to the same table by the same entry.
fn is_anothers(snapshot: &Snapshot, root: &Table, index: u16) -> bool {
    let link = root.link(index);
    let mut others = snapshot.roots().iter();
    link.is_some()
        && others.any(|other| {
            let table = snapshot.root_table(other.id);
            table.is_some_and(|table| table.pfn() != root.pfn() && table.link(index) == link)
        })
}

/// Whether no kernel would write such an entry into a root's user half: reserved bits, not for ring 3,
/// or a table where there is no memory.
fn is_odd(snapshot: &Snapshot, table: &Table, index: u16, entry: Entry) -> bool {
    match table.decode(index) {
        Decoded::Table(_) => !entry.user() || snapshot.leads_nowhere(table, index),
        Decoded::Reserved { .. } | Decoded::Leaf(_) => true,
        Decoded::Absent => false,
    }
}
