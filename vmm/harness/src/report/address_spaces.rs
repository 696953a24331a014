//! Address spaces side by side: how each kernel half compares, and what the kernel's PGD entries are.

use crate::region::{Region, regions_of_top_entry};
use heirloom_inspect::paging::bits::EntrySet;
use heirloom_inspect::tally::Tallier;
use heirloom_inspect::{
    Comparer, EntryDifferenceKind, Half, Mappings, PhysAddr, Root, RootLabel, Snapshot, VirtRange,
};
use serde::Serialize;

/// One address space and how its kernel half compares with the kernel's own.
#[derive(Clone, Debug, Serialize)]
pub struct AddressSpace {
    /// Whose it is.
    pub whose: RootLabel,
    /// Its root table.
    pub root: PhysAddr,
    /// The comparison.
    pub kernel_half: KernelHalf,
}

/// How a kernel half compares with the kernel's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "comparison", rename_all = "kebab-case")]
pub enum KernelHalf {
    /// It is the one that the others are compared with.
    Reference {
        /// PGD entries in use.
        entries: usize,
    },
    /// The very same entries, and so the very same tables.
    Same {
        /// PGD entries in use.
        entries: usize,
    },
    /// These PGD entries are absent; all others are the same.
    Lacks {
        /// Their indices.
        entries: Vec<u16>,
    },
    /// These PGD entries point to tables of its own, which map the same; all others are the same.
    Copies {
        /// Their indices.
        entries: Vec<u16>,
    },
    /// These PGD entries differ; `mapped_differently` of them also map something else.
    Differs {
        /// Their indices.
        entries: Vec<u16>,
        /// How many of them map something else.
        mapped_differently: usize,
    },
    /// These PGD entries differ; whether they map the same was not found out, as their tables are too many.
    NotCompared {
        /// Their indices.
        entries: Vec<u16>,
    },
    /// The root is outside the guest's memory.
    Unreadable,
}

/// Compares every address space of `snapshot` with the kernel's own, or else the first.
pub(crate) fn address_spaces(snapshot: &Snapshot) -> Vec<AddressSpace> {
    let reference = snapshot
        .root_of(RootLabel::Kernel)
        .or(snapshot.roots().first());
    let mut comparer = Comparer::within(snapshot);
    snapshot
        .roots()
        .iter()
        .map(|root| AddressSpace {
            whose: root.label,
            root: root.address,
            kernel_half: kernel_half(snapshot, &mut comparer, root, reference),
        })
        .collect()
}

fn kernel_half(
    snapshot: &Snapshot,
    comparer: &mut Comparer<'_>,
    root: &Root,
    reference: Option<&Root>,
) -> KernelHalf {
    let Some(table) = snapshot.root_table(root.id) else {
        return KernelHalf::Unreadable;
    };
    let entries = table
        .present()
        .iter()
        .filter(|i| Half::of_index(*i) == Half::Kernel)
        .count();
    match reference {
        Some(reference) if reference.id != root.id => {
            let differences = comparer.compare(reference.id, root.id, Half::Kernel);
            if differences.is_empty() {
                return KernelHalf::Same { entries };
            }
            let all = |kind, mappings: fn(Mappings) -> bool| {
                let mut differences = differences.iter();
                differences.all(|found| found.kind == kind && mappings(found.mappings))
            };
            let entries = differences
                .iter()
                .map(|difference| difference.index)
                .collect();
            if all(EntryDifferenceKind::OnlyLeft, |_| true) {
                return KernelHalf::Lacks { entries };
            }
            if all(EntryDifferenceKind::Frame, |mappings| {
                mappings == Mappings::Same
            }) {
                return KernelHalf::Copies { entries };
            }
            let mut found = differences.iter();
            if found.any(|found| found.mappings == Mappings::Undecided) {
                return KernelHalf::NotCompared { entries };
            }
            let mapped_differently = differences
                .iter()
                .filter(|difference| difference.mappings != Mappings::Same)
                .count();
            KernelHalf::Differs {
                entries,
                mapped_differently,
            }
        }
        _ => KernelHalf::Reference { entries },
    }
}

/// Neighbouring PGD entries of one region that as many address spaces share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EntryGroup {
    /// The first index.
    pub first: u16,
    /// The last index.
    pub last: u16,
    /// The addresses below.
    pub range: VirtRange,
    /// The region's name, or none.
    pub region: Option<String>,
    /// How many address spaces have these very entries …
    pub shared_by: usize,
    /// … of how many.
    pub of: usize,
    /// How many different entries stand there in different address spaces: 1 where all is well.
    pub versions: usize,
    /// Pages mapped below, in the first address space that has the entries.
    pub pages: u64,
    /// The same in bytes.
    pub bytes: u64,
}

/// The kernel-half PGD entries in use, by region.
pub(crate) fn entry_groups(snapshot: &Snapshot) -> Vec<EntryGroup> {
    let depth = snapshot.mode().depth;
    let of = snapshot.roots().len();
    let mut groups: Vec<EntryGroup> = Vec::new();
    let mut last_index = None;
    let mut tallier = Tallier::new(snapshot);
    for subtree in snapshot.subtrees(Half::Kernel) {
        // With five levels the last entry holds several.
        let names: Vec<_> = regions_of_top_entry(subtree.index, depth)
            .map(Region::name)
            .collect();
        let region = (!names.is_empty()).then(|| names.join(", "));
        let mut entry = EntrySet::EMPTY;
        entry.insert(subtree.index);
        let below = tallier.count_entries(subtree.roots[0], &entry);
        let (pages, bytes) = (below.pages(), below.bytes);
        let shared_by = subtree.roots.len();
        match groups.last_mut() {
            // Another version of the same entry.
            Some(group) if last_index == Some(subtree.index) => {
                group.versions += 1;
                group.shared_by = group.shared_by.max(shared_by);
            }
            Some(group)
                if group.region == region
                    && group.last + 1 == subtree.index
                    && group.shared_by == shared_by
                    && group.versions == 1 =>
            {
                group.last = subtree.index;
                group.range.last = subtree.range.last;
                group.pages = group.pages.saturating_add(pages);
                group.bytes = group.bytes.saturating_add(bytes);
            }
            _ => groups.push(EntryGroup {
                first: subtree.index,
                last: subtree.index,
                range: subtree.range,
                region,
                shared_by,
                of,
                versions: 1,
                pages,
                bytes,
            }),
        }
        last_index = Some(subtree.index);
    }
    groups
}
