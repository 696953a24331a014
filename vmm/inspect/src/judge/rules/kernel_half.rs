//! The kernel half is one: same PGD entries, same tables.

use heirloom_abi::layout::Region;

use super::shown;
use crate::compare::{Comparer, EntryDifferenceKind, Mappings};
use crate::judge::finding::{Evidence, Finding};
use crate::judge::rule::{Moment, Rule, RuleInfo};
use crate::judge::truth::Sharing;
use crate::sharing::Subtree;
use crate::snapshot::{RootId, RootLabel};
use heirloom_paging::addr::PhysAddr;
use heirloom_paging::entry::Entry;
use heirloom_paging::level::Half;

/// Every process has the kernel's own PGD entries.
pub(super) struct KernelHalfShared;

impl Rule for KernelHalfShared {
    fn info(&self) -> RuleInfo {
        RuleInfo {
            name: "kernel-half-shared",
            statement: "every process has the kernel PGD entries that its strategy promises: the kernel's own, copies that map the same (copy-all), or the CPU entry area alone (isolated)",
            source: "lecture: every process owns its own pgd entries but inherits the kernel pgd entries from the parent",
        }
    }

    fn judge(&mut self, moment: &Moment<'_>, evidence: &mut Evidence) {
        let snapshot = moment.snapshot;
        let sharing = moment.world.expectation().sharing();
        let Some(kernel) = snapshot.root_of(RootLabel::Kernel) else {
            return;
        };
        let Some(reference) = snapshot.root_table(kernel.id) else {
            return;
        };
        let mut comparer = Comparer::within(snapshot);
        let like_kernel = moment.survey.with_kernel_half_of(kernel.id);
        for root in snapshot.roots().iter().filter(|root| root.id != kernel.id) {
            evidence.checked(Half::Kernel.indices().len() as u64);
            let Some(table) = snapshot.root_table(root.id) else {
                continue;
            };
            if sharing == Sharing::Copies {
                copies_map_the_same(moment, &mut comparer, kernel.id, root.id, evidence);
                continue;
            }
            if sharing == Sharing::Entries && like_kernel.binary_search(&root.id).is_ok() {
                continue;
            }
            for index in Half::Kernel.indices() {
                let (mut expected, found) = (reference.entry(index), table.entry(index));
                if sharing == Sharing::EntryAreaOnly && !is_of(Region::CpuEntryArea, index) {
                    expected = Entry::ABSENT;
                }
                let may_come_later = sharing == Sharing::EntriesOnFault
                    && is_of(Region::Vmalloc, index)
                    && !found.present();
                if expected.as_written() == found.as_written()
                    || !expected.present() && !found.present()
                    || may_come_later
                {
                    continue;
                }
                evidence.broken(|| differs(moment, root.id, index, expected, found));
            }
        }
    }
}

fn differs(
    moment: &Moment<'_>,
    root: RootId,
    index: u16,
    expected: Entry,
    found: Entry,
) -> Finding {
    let address = moment.address_below(index);
    let promise = match moment.world.expectation().sharing() {
        Sharing::EntryAreaOnly => "as an isolated kernel promises",
        Sharing::Copies => "a copy that maps what the kernel's own maps",
        Sharing::Entries | Sharing::EntriesOnFault => "as the kernel's own PGD has it",
    };
    Finding {
        whose: Some(moment.label(root)),
        place: format!("PGD[{index}]"),
        address: Some(address),
        expected: format!("{}, {promise}", shown(expected)),
        found: shown(found),
        walks: moment.walks(RootLabel::Kernel, root, address),
    }
}

fn copies_map_the_same(
    moment: &Moment<'_>,
    comparer: &mut Comparer<'_>,
    kernel: RootId,
    root: RootId,
    evidence: &mut Evidence,
) {
    for difference in comparer.compare(kernel, root, Half::Kernel) {
        if difference.kind == EntryDifferenceKind::Frame && difference.mappings == Mappings::Same {
            continue;
        }
        evidence.broken(|| {
            let mut finding = differs(
                moment,
                root,
                difference.index,
                difference.left,
                difference.right,
            );
            if let Mappings::Differ { first } = difference.mappings {
                finding.address = Some(first);
                finding.walks = moment.walks(RootLabel::Kernel, root, first);
            }
            finding
        });
    }
}

fn is_of(region: Region, index: u16) -> bool {
    let (first, last) = region.pgd_entries();
    (first..=last).contains(&usize::from(index))
}

/// Wherever two address spaces have a kernel table, it is the same frame.
pub(super) struct KernelTablesSameFrames;

impl Rule for KernelTablesSameFrames {
    fn info(&self) -> RuleInfo {
        RuleInfo {
            name: "kernel-tables-same-frames",
            statement: "all processes walk through the same kernel tables, frame by frame; with copy-all each has its own",
            source: "lecture: all updates to E1 are visible across all the processes",
        }
    }

    fn judge(&mut self, moment: &Moment<'_>, evidence: &mut Evidence) {
        // Below one and the same PGD entry everything is the same frame; so the entries decide. The
        // subtrees come by index, and the kernel's own root is the first.
        let mut model: Option<(u16, PhysAddr, RootId)> = None;
        for subtree in &moment.survey.kernel_half {
            evidence.checked(subtree.roots.len() as u64);
            let frame = subtree.entry.address();
            if moment.world.expectation().sharing() == Sharing::Copies {
                for root in &subtree.roots[1..] {
                    evidence.broken(|| shared(moment, subtree, *root));
                }
                continue;
            }
            let (expected, owner) = match model {
                Some((index, expected, owner)) if index == subtree.index => (expected, owner),
                _ => {
                    model = Some((subtree.index, frame, subtree.roots[0]));
                    continue;
                }
            };
            if frame == expected {
                continue;
            }
            for root in &subtree.roots {
                evidence.broken(|| {
                    let address = moment.address_below(subtree.index);
                    let model = moment.label(owner);
                    Finding {
                        whose: Some(moment.label(*root)),
                        place: format!("PGD[{}]", subtree.index),
                        address: Some(address),
                        expected: format!("the table in frame {}, as in {model}", expected.pfn()),
                        found: format!("a table of its own in frame {}", frame.pfn()),
                        walks: moment.walks(model, *root, address),
                    }
                });
            }
        }
    }
}

/// Where everyone is to have tables of its own, `root` has the first one's.
fn shared(moment: &Moment<'_>, subtree: &Subtree, root: RootId) -> Finding {
    let address = moment.address_below(subtree.index);
    let owner = moment.label(subtree.roots[0]);
    Finding {
        whose: Some(moment.label(root)),
        place: format!("PGD[{}]", subtree.index),
        address: Some(address),
        expected: "a table of its own".into(),
        found: format!(
            "the table of {owner}, in frame {}",
            subtree.entry.address().pfn()
        ),
        walks: moment.walks(owner, root, address),
    }
}
