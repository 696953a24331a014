//! Frames that may be roots, by their own words.

use super::clusters::kernel_half_of;
use super::reference::Reference;
use super::start::Start;
use super::{Basis, Candidate, Role, pairs, scan};
use crate::target::Target;
use heirloom_paging::addr::Pfn;

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

/// The frames that have the reference's kernel half, or a part of it.
pub(super) fn look_alikes(target: &Target, reference: &Reference) -> Vec<Candidate> {
    let memory = &*target.memory;
    let mut frames: Vec<Pfn> = Vec::new();
    for index in reference.columns() {
        let wanted = reference.entry(index);
        frames.extend(scan::frames_where(memory, &target.ram, index, |entry| {
            entry.present() && entry.as_written() == wanted
        }));
    }
    frames.sort_unstable();
    frames.dedup();
    let mut words = [0; 512];
    frames
        .into_iter()
        .filter_map(|pfn| {
            memory.read_table(pfn, &mut words).ok()?;
            let role = reference.role_of(&words)?;
            Some(Candidate { pfn, role })
        })
        .collect()
}
