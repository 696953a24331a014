//! Frames that may be roots, by their own words.

use std::collections::HashMap;

use super::clusters::kernel_half_of;
use super::look::Looker;
use super::part::{all_but, less, self_entries, upper_half};
use super::reference::Reference;
use super::start::Start;
use super::{Basis, pairs};
use crate::capture::Capturer;
use crate::snapshot::RootLabel;
use crate::tally::Tallier;
use crate::target::Target;
use heirloom_paging::addr::{Pfn, PhysAddr};
use heirloom_paging::bits::EntrySet;
use heirloom_paging::level::Half;

/// A root, before its tables are captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) pfn: Pfn,
    pub(super) role: Role,
}

/// What a candidate's own words say of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It has the reference's kernel half, or most of it.
    Full,
    /// A few entries of the reference's, and nothing else.
    Few,
    /// The user root of a pair.
    User,
    /// CR3 points to it, or a recording names it, and it is none of these.
    Named,
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

/// A root that is known to be one.
pub(super) fn named(target: &Target, pfn: Pfn, start: &Start) -> Candidate {
    let mut words = [0; 512];
    let role = match &start.reference {
        Some(reference) if target.memory.read_table(pfn, &mut words).is_ok() => {
            match reference.role_of(&words) {
                Some(role) => role,
                // Whose a recorded root is, is known: its kernel half may be all private copies.
                None if start.basis == Basis::Given
                    && reference.has_places_of(&kernel_half_of(&words, &reference.part)) =>
                {
                    Role::Full
                }
                // A recording may have user roots without their kernel roots; elsewhere they come in pairs.
                None if start.basis == Basis::Given
                    && pairs::is_smaller(&kernel_half_of(&words, &reference.part), reference) =>
                {
                    Role::User
                }
                None => Role::Named,
            }
        }
        _ => Role::Named,
    };
    Candidate { pfn, role }
}

/// Those of `frames` that have the reference's kernel half, or a part of it.
pub(super) fn look_alikes(
    target: &Target,
    reference: &Reference,
    frames: &[Pfn],
) -> Vec<Candidate> {
    let memory = &*target.memory;
    let mut words = [0; 512];
    frames
        .iter()
        .filter_map(|&pfn| {
            memory.read_table(pfn, &mut words).ok()?;
            let role = reference.role_of(&words)?;
            Some(Candidate { pfn, role })
        })
        .collect()
}

/// Takes out of the user roots what is a table below the first root: that of a loader's identity map may look like
/// one.
pub(super) fn forget_tables_of_the_first(start: &Start, users: &mut HashMap<Pfn, Pfn>) {
    if let Some(snapshot) = &start.snapshot {
        let top = start.mode.depth.top();
        users.retain(|user, _| snapshot.levels_of(*user).all(|level| level == top));
    }
}

/// Roots whose tables are captured at most to see whether they have a page for ring 3.
const MAX_ASKED: usize = 4096;

/// Where the first root maps nothing but memory at its own address, any table of such a map looks like another
/// root, those of a loader's earlier copy among them: of the candidates only those stay that a CPU runs on,
/// that the user names (`known`), or that have a page for ring 3.
pub(super) fn keep_what_is_no_identity_map(
    target: &Target,
    start: &Start,
    known: &[PhysAddr],
    candidates: &mut Vec<Candidate>,
) {
    let (Some(reference), Some(snapshot)) = (&start.reference, &start.snapshot) else {
        return;
    };
    let mut roots = snapshot.roots().iter();
    let first = roots.find(|root| root.address == reference.pfn.base());
    let (upper, lower) = (upper_half(), all_but(&upper_half()));
    let is_alone = first.is_some_and(|root| {
        let mut looker = Looker::new(snapshot);
        let table = snapshot.root_table(root.id);
        let own = table.map_or(EntrySet::default(), |table| self_entries(table));
        let [upper, lower] = [&upper, &lower].map(|half| less(half, &own));
        let look = looker.look(root.id, Role::Named, [&upper, &lower]);
        look.is_identity() && look.kernel_entries == 0
    });
    if !is_alone {
        return;
    }
    let is_known = |pfn: Pfn| {
        start.named.contains(&pfn) || pfn == reference.pfn || known.contains(&pfn.base())
    };
    let asked: Vec<(RootLabel, PhysAddr)> = candidates
        .iter()
        .filter(|candidate| !is_known(candidate.pfn))
        .take(MAX_ASKED)
        .map(|candidate| candidate.pfn.base())
        .map(|address| (RootLabel::Found(address), address))
        .collect();
    let tables = Capturer::new().capture(&*target.memory, start.mode, &asked);
    let mut tallier = Tallier::new(&tables);
    let mut processes = Vec::new();
    for root in tables.roots() {
        if tallier.count(root.id, Half::User).user > 0 {
            processes.push(root.address.pfn());
        }
    }
    candidates.retain(|candidate| is_known(candidate.pfn) || processes.contains(&candidate.pfn));
}

/// The candidates, each frame once: by address, or in the order in which they were given.
pub(super) fn in_order(mut candidates: Vec<Candidate>, start: &Start) -> Vec<Candidate> {
    // Of several entries for one frame the one that says most comes first.
    candidates.sort_by_key(|candidate| (candidate.pfn, candidate.role.rank()));
    candidates.dedup_by_key(|candidate| candidate.pfn);
    if start.basis == Basis::Given {
        let order: HashMap<Pfn, usize> = start
            .named
            .iter()
            .enumerate()
            .map(|(at, pfn)| (*pfn, at))
            .collect();
        candidates.sort_by_key(|candidate| order.get(&candidate.pfn).copied());
    }
    candidates
}

/// The candidates with the labels that the target has for them.
pub(super) fn labelled(target: &Target, candidates: &[Candidate]) -> Vec<(RootLabel, PhysAddr)> {
    let labels: HashMap<Pfn, RootLabel> = target
        .roots
        .iter()
        .filter(|(label, _)| !matches!(label, RootLabel::Cpu(_)))
        .map(|(label, root)| (root.pfn(), *label))
        .collect();
    candidates
        .iter()
        .map(|candidate| {
            let address = candidate.pfn.base();
            let found = RootLabel::Found(address);
            (*labels.get(&candidate.pfn).unwrap_or(&found), address)
        })
        .collect()
}
