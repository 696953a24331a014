//! The kernel half is one: same PGD entries, same tables.

use std::collections::HashMap;

use heirloom_abi::layout::KERNEL_HALF_FIRST_ENTRY;

use super::shown;
use crate::addr::GuestPhys;
use crate::judge::finding::{Evidence, Finding};
use crate::judge::rule::{Moment, Rule, RuleInfo};
use crate::level::Half;
use crate::snapshot::{RootId, RootLabel};

/// Every process has the kernel's own PGD entries.
pub(super) struct KernelHalfShared;

impl Rule for KernelHalfShared {
    fn info(&self) -> RuleInfo {
        RuleInfo {
            name: "kernel-half-shared",
            statement: "every process has the same kernel PGD entries as the kernel itself",
            source: "lecture: every process owns its own pgd entries but inherits the kernel pgd entries from the parent",
        }
    }

    fn judge(&mut self, moment: &Moment<'_>, evidence: &mut Evidence) {
        let snapshot = moment.snapshot;
        let Some(kernel) = snapshot.root_of(RootLabel::Kernel) else {
            return;
        };
        let Some(reference) = snapshot.root_table(kernel.id) else {
            return;
        };
        for root in snapshot.roots().iter().filter(|root| root.id != kernel.id) {
            evidence.checked(Half::Kernel.indices().len() as u64);
            let Some(table) = snapshot.root_table(root.id) else {
                continue;
            };
            let half = KERNEL_HALF_FIRST_ENTRY..;
            if reference.words()[half.clone()] == table.words()[half] {
                continue;
            }
            for index in Half::Kernel.indices() {
                let (expected, found) = (reference.entry(index), table.entry(index));
                if expected.as_written() == found.as_written()
                    || !expected.present() && !found.present()
                {
                    continue;
                }
                evidence.broken(|| {
                    let address = moment.address_below(index);
                    Finding {
                        whose: Some(root.label),
                        place: format!("PGD[{index}]"),
                        address: Some(address),
                        expected: format!("{}, as the kernel's own PGD has it", shown(expected)),
                        found: shown(found),
                        walks: moment.walks(root.id, address),
                    }
                });
            }
        }
    }
}

/// Wherever two address spaces have a kernel table, it is the same frame.
pub(super) struct KernelTablesSameFrames;

impl Rule for KernelTablesSameFrames {
    fn info(&self) -> RuleInfo {
        RuleInfo {
            name: "kernel-tables-same-frames",
            statement: "all processes walk through the same kernel tables, frame by frame",
            source: "lecture: all updates to E1 are visible across all the processes",
        }
    }

    fn judge(&mut self, moment: &Moment<'_>, evidence: &mut Evidence) {
        // Below one and the same PGD entry everything is the same frame; so the entries decide.
        let mut first: HashMap<u16, (GuestPhys, RootId)> = HashMap::new();
        for subtree in moment.kernel_half {
            evidence.checked(subtree.roots.len() as u64);
            let frame = subtree.entry.address();
            let (expected, model) = *first
                .entry(subtree.index)
                .or_insert((frame, subtree.roots[0]));
            if frame == expected {
                continue;
            }
            for root in &subtree.roots {
                evidence.broken(|| {
                    let address = moment.address_below(subtree.index);
                    Finding {
                        whose: Some(moment.label(*root)),
                        place: format!("PGD[{}]", subtree.index),
                        address: Some(address),
                        expected: format!(
                            "the table in frame {}, as in {}",
                            expected.pfn(),
                            moment.label(model)
                        ),
                        found: format!("a table of its own in frame {}", frame.pfn()),
                        walks: [model, *root]
                            .map(|id| (moment.label(id), moment.snapshot.translate(id, address)))
                            .to_vec(),
                    }
                });
            }
        }
    }
}
