//! Finding every address space of a guest, from nothing but its memory and, where they are known, its
//! CPUs' registers. No symbols, no kernel version.
//!
//! A root is what translates the kernel: its code, and what its CPUs need for the next interrupt, to the same
//! bytes as the root of a CPU does. One root is enough to find the others. Where all share the kernel's
//! entries, whichever frame holds most of them is a root, which is quickly seen; where each has copies, other
//! flags, or a small window only, the addresses are walked (`anchors`). Which entries are the kernel's is
//! found, too (`part`): mostly the upper half. The first root comes from CR3, from a recording, or
//! ([`Basis::Blind`]) from looking for kernel halves that show most of RAM.
//!
//! Under KPTI (Linux's Documentation/arch/x86/pti.rst) each process has two roots, in neighbouring frames:
//! the kernel's, and the one that ring 3 runs on, whose kernel half holds little more than the way in.

mod anchors;
mod blind;
mod budget;
mod candidates;
mod clusters;
mod explain;
mod extent;
mod kind;
mod pairs;
pub(crate) mod part;
mod recognize;
mod reference;
mod reused;
mod scan;
mod special;
mod start;

use std::collections::{HashMap, HashSet};

use serde::Serialize;

pub use kind::Kind;
pub use part::SelfMap;

use crate::capture::Capturer;
use crate::compare::EntryDifference;
use crate::layout::{Area, Layout};
use crate::linux::{Owner, Symbols};
use crate::memory::PhysRange;
use crate::profile::{Profile, Recognized};
use crate::snapshot::{RootId, RootLabel, Snapshot};
use crate::target::Target;
use anchors::Anchors;
use candidates::{
    forget_tables_of_the_first, in_order, keep_what_is_no_identity_map, labelled, look_alikes,
    named,
};
use clusters::{KernelHalf, kernel_half_of};
use heirloom_paging::addr::{Pfn, PhysAddr};
use heirloom_paging::bits::EntrySet;
use heirloom_paging::entry::Decoded;
use heirloom_paging::mode::{CpuState, Mode, ModeError, PhysBits};
use recognize::recognize;

/// Why no address space could be found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiscoverError {
    /// None of the CPUs pages in long mode.
    #[error("{name}: {source}")]
    Mode {
        /// The target.
        name: String,
        /// What its registers say instead.
        source: ModeError,
    },
    /// There is no CR3 to begin with, and nothing in memory looks like a kernel half.
    #[error(
        "{name}: no page tables found in {mib} MiB of RAM without a CR3 to begin with; if the guest was \
         running, name its root (`{name},cr3=…`)"
    )]
    Nothing {
        /// The target.
        name: String,
        /// How much RAM was looked through, in MiB.
        mib: u64,
    },
}

/// What the search began with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// The target names all its roots: a recording.
    Given,
    /// CR3 of the CPUs, or a root that the user named.
    Cr3,
    /// Nothing: kernel halves were looked for in all of memory.
    Blind,
}

/// One address space.
#[derive(Clone, Debug, Serialize)]
pub struct Space {
    /// Its root in the snapshot.
    #[serde(skip)]
    pub root: RootId,
    /// Where the root table is: what CR3 would hold.
    pub address: PhysAddr,
    /// Whose it is, where that is known.
    pub label: RootLabel,
    /// What it is taken for.
    pub kind: Kind,
    /// Why it is taken for that.
    pub evidence: String,
    /// The other root of a KPTI pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partner: Option<PhysAddr>,
    /// The CPUs whose CR3 it is.
    pub cpus: Vec<u32>,
    /// Number of its cluster: address spaces with the very same kernel half. 0 is the largest.
    pub cluster: usize,
    /// Present entries of the root in each half.
    pub kernel_entries: usize,
    /// Present entries of the root's user half.
    pub user_entries: usize,
    /// Leaves of the user half that ring 3 can access.
    pub user_pages: u64,
    /// Where its kernel half differs from that of most of its kind.
    pub differences: Vec<EntryDifference>,
    /// Entries of the root that point to a root, its own mostly, where the kernel uses recursive paging.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub self_maps: Vec<SelfMap>,
    /// Nothing is said of where its kernel half differs: the kernel only booted on it.
    #[serde(skip)]
    is_boot_map: bool,
    /// Whose it is, as the kernel's own data have it, where [`Discovery::read_names`] found them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub owners: Vec<Owner>,
}

/// Where entries have NX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoExecute {
    /// None has.
    Nowhere,
    /// Only such as are not the kernel's.
    UserHalves,
    /// The kernel's, too.
    Everywhere,
}

/// Every address space of a guest.
#[derive(Clone, Debug)]
pub struct Discovery {
    /// All their tables, captured at one moment; its roots are in the order of `spaces`.
    pub snapshot: Snapshot,
    /// Ascending by address, or in the order that a recording has.
    pub spaces: Vec<Space>,
    /// How the roots were found.
    pub basis: Basis,
    /// The root whose kernel half the others were compared with; `None` if no kernel half maps anything.
    pub reference: Option<RootId>,
    /// The same for the user roots of KPTI pairs.
    pub user_reference: Option<RootId>,
    /// Which entries of a root are the kernel's: 256 to 511, and those of the lower half in which a kernel
    /// is that has its code there, or that all share for ring 0 alone.
    pub kernel_part: EntrySet,
    /// What the kernel is known to do …
    pub profile: Profile,
    /// … and what tells that it is this kernel.
    pub recognized: Recognized,
    /// Which entries of the address spaces that live have NX.
    pub no_execute: NoExecute,
    /// There is one root, and by it no page of the kernel's image is read-only: what a kernel has that has not
    /// come to protecting its pages yet.
    pub is_unprotected: bool,
    /// What the reference's kernel half has where.
    pub layout: Layout,
    /// All RAM that the guest has, ascending; what of it the source left out cannot be read.
    pub ram: Vec<PhysRange>,
    /// Whether the source left RAM out, so that what cannot be read of it is unknown.
    pub is_partial: bool,
    /// The registers of the CPUs, by number.
    pub cpus: Vec<CpuState>,
    /// The names of the kernel's functions and variables, where [`Discovery::read_names`] found them.
    pub symbols: Symbols,
    /// What was assumed, in sentences for people: the target's notes and those of the search.
    pub notes: Vec<String>,
    /// Where in `spaces` a root is.
    places: HashMap<PhysAddr, usize>,
}

/// How to search.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// Roots that are captured and named, too, whatever they are: for a walk of a root that was not found.
    /// They decide nothing of the others.
    pub including: Vec<PhysAddr>,
    /// What the kernel is known to do, by the user's word.
    pub profile: Option<Profile>,
}

/// A root, before its tables are captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Candidate {
    pfn: Pfn,
    role: Role,
}

/// What a candidate's own words say of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// It has the reference's kernel half, or most of it.
    Full,
    /// A few entries of the reference's, and nothing else.
    Few,
    /// The user root of a pair.
    User,
    /// CR3 points to it, or a recording names it, and it is none of these.
    Named,
}

impl Discovery {
    /// Finds and captures every address space of `target`. A live guest may run on afterwards.
    ///
    /// # Errors
    /// [`DiscoverError`].
    pub fn of(target: &Target) -> Result<Discovery, DiscoverError> {
        Discovery::by(target, Search::default())
    }

    /// As [`Discovery::of`], with these roots captured and named, too: see [`Search::including`].
    ///
    /// # Errors
    /// [`DiscoverError`].
    pub fn including(target: &Target, more: &[PhysAddr]) -> Result<Discovery, DiscoverError> {
        let including = more.to_vec();
        let search = Search {
            including,
            ..Search::default()
        };
        Discovery::by(target, search)
    }

    /// As [`Discovery::of`], with more that is known.
    ///
    /// # Errors
    /// [`DiscoverError`].
    pub fn by(target: &Target, search: Search) -> Result<Discovery, DiscoverError> {
        let mut notes = target.notes.clone();
        let mut start = start::find(target, &mut notes)?;
        let (profile, recognized) = recognize(target, &start, search.profile);
        start.keep_to(&profile);
        let mut candidates: Vec<Candidate> = start
            .named
            .iter()
            .copied()
            .chain(search.including.iter().map(|root| root.pfn()))
            .map(|pfn| named(target, pfn, &start))
            .collect();
        let anchors = match (&start.reference, &start.snapshot) {
            (Some(reference), Some(snapshot)) if start.basis != Basis::Given => {
                candidates.extend(look_alikes(target, reference));
                Anchors::of(target, start.mode, reference, snapshot.clone())
            }
            _ => None,
        };
        let mut suspects = Vec::new();
        if let Some(anchors) = &anchors {
            suspects = anchors.suspects(target);
            let known: HashSet<Pfn> = candidates
                .iter()
                .filter(|candidate| candidate.role == Role::Full)
                .map(|candidate| candidate.pfn)
                .collect();
            let found = anchors.roots_among(target, &suspects, &known);
            candidates.extend(found.into_iter().map(|pfn| Candidate {
                pfn,
                role: Role::Full,
            }));
        }
        let mut users = match &start.reference {
            Some(reference) => pairs::user_roots(target, reference, &candidates, start.basis),
            None => HashMap::new(),
        };
        if start.basis == Basis::Given {
            users.retain(|user, _| start.named.contains(user));
        } else if let (true, Some(reference)) = (users.is_empty(), &start.reference) {
            let depth = start.mode.depth;
            let way_in = profile.place_of(Area::CpuEntryArea, depth);
            let isolated = way_in.map_or_else(Vec::new, |way_in| {
                pairs::isolated_roots(target, reference, (way_in, depth))
            });
            users.extend(isolated.into_iter().map(|user| (user, user)));
            if let (true, Some(anchors)) = (users.is_empty(), &anchors) {
                let full = candidates
                    .iter()
                    .filter(|candidate| candidate.role == Role::Full);
                let known = full.map(|candidate| candidate.pfn).collect();
                let windows = anchors.windows(target, &suspects, &known);
                users.extend(windows.into_iter().map(|user| (user, user)));
            }
        }
        if start.basis != Basis::Given {
            forget_tables_of_the_first(&start, &mut users);
        }
        candidates.extend(users.keys().map(|&pfn| Candidate {
            pfn,
            role: Role::User,
        }));
        if start.basis != Basis::Given {
            let known = &search.including;
            keep_what_is_no_identity_map(target, &start, known, &mut candidates);
        }
        let candidates = in_order(candidates, &start);
        let roots = labelled(target, &candidates);
        let snapshot = Capturer::new().capture(&*target.memory, start.mode, &roots);
        let (ram, is_partial) = extent::ram(target, &mut notes);
        let mut discovery = Discovery {
            snapshot,
            spaces: Vec::new(),
            basis: start.basis,
            reference: None,
            user_reference: None,
            layout: Layout::default(),
            kernel_part: part::upper_half(),
            profile,
            recognized,
            no_execute: NoExecute::Nowhere,
            is_unprotected: false,
            ram,
            is_partial,
            cpus: extent::cpus(target),
            symbols: Symbols::default(),
            notes,
            places: HashMap::new(),
        };
        discovery.explain(&candidates, start.reference.as_ref(), &users);
        if target.gigabyte_pages == Some(false) {
            discovery.note_gigabyte_pages();
        }
        Ok(discovery)
    }

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
        let mut tables = HashSet::new();
        let mut roots = 0;
        for space in &self.spaces {
            let table = self.snapshot.root_table(space.root);
            let Some(table) = table.filter(|_| space.kind.is_compared()) else {
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
        roots > 1 && self.basis != Basis::Given
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

impl Role {
    /// Smaller says more.
    const fn rank(self) -> u8 {
        match self {
            Role::User => 0,
            Role::Full => 1,
            Role::Few => 2,
            Role::Named => 3,
        }
    }
}
