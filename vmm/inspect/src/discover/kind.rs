//! What an address space is for, by what its root holds.

use std::collections::HashSet;
use std::fmt;

use serde::Serialize;

use crate::snapshot::{Root, RootId, RootLabel, Snapshot};
use crate::table::{Slot, Table};
use crate::tally::Tallier;
use heirloom_paging::addr::PhysAddr;
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

/// What an address space is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A process's: kernel half and pages of its own.
    Process,
    /// What a process runs on in ring 3 where the kernel isolates itself (KPTI): its pages, and of the
    /// kernel the way in.
    UserRoot,
    /// The kernel's own: no user half.
    Kernel,
    /// A kernel half and a user half without a page for ring 3: the kernel maps something there for a
    /// moment (Linux's text poking), or a process is being made or has just ended.
    NoPages,
    /// What a CPU comes up on or firmware is called with: memory mapped to its own address, for ring 0
    /// alone, or nothing but a few of the kernel's entries.
    Trampoline,
    /// Memory mapped to its own address, and no kernel half: what firmware, a loader or a memory test runs on, or
    /// a kernel without processes.
    Identity,
    /// A CPU runs on it, and finds its own code there; but it is not of the kernel that the others are of.
    Separate,
    /// A kernel half and no user half, on no CPU: a kernel thread's, or one whose process has ended. Memory
    /// does not tell which.
    Idle,
    /// A root that was freed: its frame, or its tables, have been used for something else.
    Freed,
    /// The user or a dump's notes name it, and its kernel half is not that of the others.
    Foreign,
    /// A CPU is said to run on it, and what stands there is not what a CPU can run on.
    NotUnderstood,
}

impl Kind {
    /// Whether such a root has the whole kernel half, and must have the same as all others.
    pub const fn has_kernel_half(self) -> bool {
        matches!(self, Kind::Process | Kind::Kernel | Kind::NoPages)
    }

    /// Whether anybody can run on it.
    pub const fn is_live(self) -> bool {
        !matches!(self, Kind::Freed | Kind::Idle | Kind::NotUnderstood)
    }

    /// Whether such a root has the kernel half, so that it can be said what it lacks against the others: all
    /// that must have it, and those of which memory does not tell whether they live.
    pub const fn is_compared(self) -> bool {
        self.has_kernel_half() || matches!(self, Kind::Idle)
    }

    /// As it is printed.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Process => "process",
            Kind::UserRoot => "user root",
            Kind::Kernel => "kernel",
            Kind::NoPages => "no user pages",
            Kind::Trampoline => "trampoline",
            Kind::Identity => "identity map",
            Kind::Separate => "another kernel's",
            Kind::Idle => "idle or freed",
            Kind::Freed => "freed",
            Kind::Foreign => "foreign",
            Kind::NotUnderstood => "not understood",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

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
    identity_pages: u64,
    /// Whether no page of the user half, or hardly any, is for ring 3, and none of those is code.
    is_without_program: bool,
    /// Entries of the user half that no kernel writes …
    odd_user_entries: usize,
    /// … of which so many would be sound if they were not for ring 0 alone.
    closed_user_entries: usize,
    /// Entries of the tables below the user half, and those of them that no kernel writes.
    lower_entries: usize,
    odd_lower_entries: usize,
    /// Tables below each part whose frames have been used again.
    kernel_tables: Found,
    pub(super) user_tables: Found,
    /// The user half maps memory to its own address by tables of the kernel half.
    pub(super) is_boot_map: bool,
    pub(super) role: Role,
}

/// Whether a CPU is on a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnCpu {
    /// None is.
    No,
    /// CR3 says so, and not where the CPU is, or that is no code by this root.
    Said,
    /// And the CPU finds the instruction there that it is at.
    Runs,
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
                odd += 1;
                closed += usize::from(!is_odd(snapshot, table, index, entry | Entry::USER));
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

    /// What the root is for, and why it is taken for that. `own`: why it is the kernel's own, if it is.
    /// `may_be_alone`: a user root needs no kernel root beside it, because a CPU runs on it, or because the
    /// kernel has one root for all processes.
    pub(super) fn kind(
        &self,
        root: &Root,
        partner: Option<PhysAddr>,
        may_be_alone: bool,
        own: Option<String>,
        cpu: OnCpu,
    ) -> (Kind, String) {
        let is_known = matches!(root.label, RootLabel::Kernel | RootLabel::Process(_));
        match self.role {
            Role::User => match partner {
                Some(kernel) => (
                    Kind::UserRoot,
                    format!("a way into the kernel, and the kernel root {kernel} beside it"),
                ),
                None if is_known || may_be_alone => (
                    Kind::UserRoot,
                    "a kernel half that holds only a way into the kernel".into(),
                ),
                None => (
                    Kind::Freed,
                    "a user root's kernel half, but no kernel root beside it".into(),
                ),
            },
            Role::Few => (
                Kind::Trampoline,
                format!(
                    "{} entries, all of them the kernel's",
                    self.kernel_entries + self.user_entries
                ),
            ),
            Role::Named if self.kernel_entries + self.user_entries == 0 => {
                (Kind::Foreign, "no page table stands there".into())
            }
            Role::Named if self.is_identity() => (Kind::Identity, self.identity()),
            Role::Named => (
                Kind::Foreign,
                "its kernel half has little in common with that of the others".into(),
            ),
            Role::Full => self.kind_of_full(own, is_known, cpu),
        }
    }

    /// `is_known`: somebody says that the root lives.
    fn kind_of_full(&self, own: Option<String>, is_known: bool, cpu: OnCpu) -> (Kind, String) {
        if let Some(why) = own {
            return (Kind::Kernel, why);
        }
        let has_cpu = cpu != OnCpu::No;
        let is_said_to_live = is_known || has_cpu;
        if self.kernel_tables.reused > 0 && !is_said_to_live {
            let evidence = "a table below its kernel half has been used for something else";
            return (Kind::Freed, evidence.into());
        }
        if self.user_entries == 0 && is_known {
            return (Kind::NoPages, "a process that has no user half yet".into());
        }
        if self.user_entries == 0 {
            return (
                Kind::Idle,
                "no user half, on no CPU, and not the kernel's own root".into(),
            );
        }
        if self.is_identity() {
            return (
                Kind::Trampoline,
                format!(
                    "its user half maps {} pages, for ring 0 alone, {} of them to their own address",
                    self.supervisor_pages, self.identity_pages
                ),
            );
        }
        if self.is_boot_map && !is_said_to_live {
            let evidence = "memory at its own address by tables of the kernel half, for ring 3, too, and on no \
                            CPU: what the kernel booted on";
            return (Kind::Idle, evidence.into());
        }
        // A CPU's own root is not freed, whatever it looks like.
        let used_again = if has_cpu {
            Kind::NotUnderstood
        } else {
            Kind::Freed
        };
        // Where a CPU finds its code, what is for ring 0 alone is the kernel's.
        let odd_user_entries = match cpu {
            OnCpu::Runs => self.odd_user_entries - self.closed_user_entries,
            OnCpu::No | OnCpu::Said => self.odd_user_entries,
        };
        if 2 * odd_user_entries > self.user_entries && !is_known {
            return (
                used_again,
                format!(
                    "{odd_user_entries} of {} user entries are none that a kernel writes: the frame has been used again",
                    self.user_entries
                ),
            );
        }
        if self.lower_entries > 0 && 2 * self.odd_lower_entries > self.lower_entries && !is_known {
            return (
                used_again,
                format!(
                    "{} of {} entries of the tables below its user half are none that a kernel writes: their \
                     frames have been used again",
                    self.odd_lower_entries, self.lower_entries
                ),
            );
        }
        if self.user_tables.reused > 0 && self.user_tables.user_pages == 0 && !is_said_to_live {
            let evidence = "no page for ring 3 but by tables whose frames have been used again";
            return (Kind::Freed, evidence.into());
        }
        if self.user_pages == 0 {
            let what = match self.supervisor_pages {
                0 => "maps no page".to_owned(),
                pages => format!("maps {pages} pages, none for ring 3"),
            };
            return (
                Kind::NoPages,
                format!("its user half has tables, but {what}"),
            );
        }
        (Kind::Process, "a user half of its own".into())
    }
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
