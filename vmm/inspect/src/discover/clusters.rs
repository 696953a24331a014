//! Kernel halves as they stand in roots, and which roots have the very same.

use std::collections::HashMap;

use super::{Kind, Space};
use crate::memory::Words;
use crate::snapshot::{RootId, Snapshot};
use heirloom_paging::bits::EntrySet;
use heirloom_paging::entry::Entry;

/// The kernel's entries of a root as software wrote them, without A and D; the others are absent.
pub(super) type KernelHalf = Box<[Entry; 512]>;

/// Of a root's words, those of the entries in `part`.
pub(super) fn kernel_half_of(words: &Words, part: &EntrySet) -> KernelHalf {
    let mut half = Box::new([Entry::ABSENT; 512]);
    for index in part.iter().map(usize::from) {
        let written = Entry::new(words[index]);
        if written.present() {
            half[index] = written.as_written();
        }
    }
    half
}

/// The number of each root's cluster: equal kernel halves have equal numbers, the largest cluster 0.
pub(super) fn clusters(snapshot: &Snapshot, part: impl Fn(RootId) -> EntrySet) -> Vec<usize> {
    let mut members: HashMap<Option<KernelHalf>, Vec<usize>> = HashMap::new();
    for (at, root) in snapshot.roots().iter().enumerate() {
        let half = snapshot
            .root_table(root.id)
            .map(|table| kernel_half_of(table.words(), &part(root.id)));
        members.entry(half).or_default().push(at);
    }
    let mut clusters: Vec<Vec<usize>> = members.into_values().collect();
    clusters.sort_by_key(|members| (std::cmp::Reverse(members.len()), members[0]));
    let mut numbers = vec![0; snapshot.roots().len()];
    for (number, members) in clusters.iter().enumerate() {
        for &at in members {
            numbers[at] = number;
        }
    }
    numbers
}

/// A root of the largest cluster among the spaces that count; of equally large ones, of that with the
/// kernel's own, or else of one that a CPU runs on.
pub(super) fn most_common(spaces: &[Space], counts: impl Fn(&Space) -> bool) -> Option<RootId> {
    let counted = || spaces.iter().filter(|space| counts(space));
    let mut sizes: HashMap<usize, (usize, bool, bool)> = HashMap::new();
    for space in counted() {
        let (size, has_kernel, has_cpu) = sizes.entry(space.cluster).or_default();
        *size += 1;
        *has_kernel |= space.kind == Kind::Kernel;
        *has_cpu |= !space.cpus.is_empty();
    }
    let (&largest, _) = sizes
        .iter()
        .max_by_key(|(cluster, rank)| (**rank, std::cmp::Reverse(**cluster)))?;
    counted()
        .filter(|space| space.cluster == largest)
        .min_by_key(|space| (space.kind != Kind::Kernel, space.root))
        .map(|space| space.root)
}
