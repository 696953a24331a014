//! An isolated kernel: what ring 3 runs on shows nothing of it but what the CPU needs to enter it.

use heirloom_abi::layout::Region;

use super::shown_end;
use crate::judge::finding::{Evidence, Finding};
use crate::judge::rule::{Moment, Rule, RuleInfo};
use crate::snapshot::RootLabel;

/// In a user root nothing of the kernel translates but the CPU entry area.
pub(super) struct UserRootIsolated;

impl Rule for UserRootIsolated {
    fn info(&self) -> RuleInfo {
        RuleInfo {
            name: "user-root-isolated",
            statement: "in a process's root nothing of the kernel half translates but the CPU entry area",
            source: "lecture: a small part of the kernel can not be isolated; Linux pti.rst",
        }
    }

    fn judge(&mut self, moment: &Moment<'_>, evidence: &mut Evidence) {
        let area = crate::region::range_of_region(Region::CpuEntryArea);
        for subtree in &moment.survey.kernel_half {
            let processes = || {
                let roots = subtree.roots.iter().copied();
                roots.filter(|root| moment.label(*root) != RootLabel::Kernel)
            };
            let Some(one) = processes().next() else {
                continue;
            };
            let among = processes().count() as u64;
            for page in moment.snapshot.leaves(one, subtree.range) {
                if !evidence.may_walk(1) {
                    return;
                }
                evidence.checked(among);
                if area.contains(page.va) {
                    continue;
                }
                for root in processes() {
                    evidence.broken(|| {
                        let (label, walk) = moment.walk(root, page.va);
                        Finding {
                            whose: Some(label),
                            place: format!("PGD[{}]", subtree.index),
                            address: Some(page.va),
                            expected: "nothing: only the CPU entry area is mapped for ring 3"
                                .into(),
                            found: shown_end(&walk),
                            walks: vec![(label, walk)],
                        }
                    });
                }
            }
        }
    }
}
