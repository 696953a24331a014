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
mod found;
mod kind;
mod look;
mod own;
mod pairs;
pub(crate) mod part;
mod recognize;
mod recursive;
mod reference;
mod reused;
mod scan;
mod space;
mod special;
mod start;
mod without_kernel;

use std::collections::{HashMap, HashSet};

use serde::Serialize;

pub use kind::Kind;
pub use part::SelfMap;
pub use space::Space;

use crate::capture::Capturer;
use crate::layout::{Area, Layout};
use crate::linux::Symbols;
use crate::memory::PhysRange;
use crate::profile::{Profile, Recognized};
use crate::snapshot::{RootId, Snapshot};
use crate::target::Target;
use anchors::Anchors;
use candidates::{
    Candidate, Role, forget_tables_of_the_first, in_order, keep_what_is_no_identity_map, labelled,
    look_alikes, named,
};
use clusters::{KernelHalf, kernel_half_of};
use heirloom_paging::addr::{Pfn, PhysAddr};
use heirloom_paging::bits::EntrySet;
use heirloom_paging::mode::{CpuState, ModeError};
use recognize::recognize;
use reference::{Alike, Reference};
use start::Start;

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
    /// No address space has a page for ring 3, and more of the kernel's image is writable and executable than
    /// read-only: what a kernel has that has not come to protecting its pages yet.
    pub is_unprotected: bool,
    /// What the reference's kernel half has where.
    pub layout: Layout,
    /// All RAM that the guest has, ascending; what of it the source left out cannot be read.
    pub ram: Vec<PhysRange>,
    /// Whether the source left RAM out, so that what cannot be read of it is unknown.
    pub is_partial: bool,
    /// Whether the source tells how wide the CPU's physical addresses are; else none that an entry has is
    /// taken for too long.
    pub is_width_known: bool,
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

/// The roots that have the kernel's part, and those of ring 3.
fn known(candidates: &[Candidate], users: &HashMap<Pfn, Pfn>) -> HashSet<Pfn> {
    let full = candidates
        .iter()
        .filter(|candidate| candidate.role == Role::Full);
    let full = full.map(|candidate| candidate.pfn);
    full.chain(users.keys().copied()).collect()
}

/// Adds the roots that are told by what they translate: the kernel, or what processes have in common where the kernel's
/// only entry is missing.
fn add_by_walks(
    target: &Target,
    start: &Start,
    reference: &Reference,
    anchors: Option<(&Anchors, &[Pfn])>,
    candidates: &mut Vec<Candidate>,
) {
    let full = |pfn: Pfn| Candidate {
        pfn,
        role: Role::Full,
    };
    if let Some((anchors, suspects)) = anchors {
        let known = known(candidates, &HashMap::new());
        let found = anchors.roots_among(target, suspects, &known);
        candidates.extend(found.into_iter().map(full));
    }
    let found = without_kernel::roots_without_it(target, &start.mode, reference, candidates);
    candidates.extend(found.into_iter().map(full));
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
        let reference = start.reference.as_ref();
        let reference = reference.filter(|_| start.basis != Basis::Given);
        let alike = reference.map(|reference| Alike::find(target, reference));
        let anchors = match (&alike, reference, &start.snapshot) {
            (Some(alike), Some(reference), Some(snapshot)) => {
                candidates.extend(look_alikes(target, reference, &alike.frames));
                Anchors::of(target, start.mode, reference, snapshot.clone())
            }
            _ => None,
        };
        let suspects = anchors.as_ref().map(|anchors| anchors.suspects(target));
        let suspects = suspects.unwrap_or_default();
        if let Some(reference) = reference {
            let anchors = anchors.as_ref().map(|anchors| (anchors, &suspects[..]));
            add_by_walks(target, &start, reference, anchors, &mut candidates);
        }
        let mut users = match &start.reference {
            Some(reference) => pairs::user_roots(target, reference, &candidates, alike.as_ref()),
            None => HashMap::new(),
        };
        // Where guests have roots of their own, those of a guest's kernel and its processes are no such pairs.
        if let (Some(reference), None) = (&start.reference, &profile.kernel_half)
            && start.basis != Basis::Given
        {
            pairs::add_by_user_half(target, &start.mode, reference, &candidates, &mut users);
        }
        if start.basis == Basis::Given {
            users.retain(|user, _| start.named.contains(user));
        } else if let (true, Some(reference)) = (users.is_empty(), &start.reference) {
            let depth = start.mode.depth;
            let way_in = profile.place_of(Area::CpuEntryArea, depth);
            let isolated = way_in.map_or_else(Vec::new, |way_in| {
                pairs::isolated_roots(target, reference, (way_in, depth))
            });
            users.extend(isolated.into_iter().map(|user| (user, user)));
            // One may have tables of its own for the way in.
            if let Some(anchors) = &anchors {
                let windows = anchors.windows(target, &suspects, &known(&candidates, &users));
                let mut windows = windows.into_iter().map(|user| (user, user)).collect();
                if profile.kernel_half.is_none() {
                    pairs::find_partners(target, reference, &candidates, &mut windows);
                }
                users.extend(windows);
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
            is_width_known: target.phys_bits.is_some(),
            cpus: extent::cpus(target),
            symbols: Symbols::default(),
            notes,
            places: HashMap::new(),
        };
        discovery.explain(&candidates, &start, &users);
        discovery.ask_for_ram(target);
        if target.gigabyte_pages == Some(false) {
            discovery.note_gigabyte_pages();
        }
        Ok(discovery)
    }
}
