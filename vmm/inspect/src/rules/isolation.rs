//! An isolated kernel: what ring 3 runs on shows nothing of it but what the CPU needs to enter it.

use super::context::{Context, shown_end};
use super::evidence::Evidence;
use super::finding::Finding;
use super::rule::{Clause, Judge, Reads, Rule, RuleInfo};
use crate::history::{History, Sharing};
use crate::layout::Area;
use crate::snapshot::RootLabel;

/// In a user root nothing of the kernel translates but the CPU entry area.
pub(super) const USER_ROOT_ISOLATED: Rule = Rule {
    info: RuleInfo {
        name: "user-root-isolated",
        statement: "in a process's root nothing of the kernel half translates but the CPU entry area",
        source: "lecture: a small part of the kernel can not be isolated; Linux pti.rst",
    },
    untried: "no process of an isolated kernel",
    clauses: &[Clause {
        reads: Reads::KERNEL.and(Reads::SPACES),
        judge: Judge::History(user_root_isolated),
    }],
};

fn user_root_isolated(context: &Context<'_>, history: &History, evidence: &mut Evidence) {
    if history.sharing() != Sharing::EntryAreaOnly {
        return;
    }
    let index = context.index;
    let area = history.area(Area::CpuEntryArea);
    let kernel = context.root_of(RootLabel::Kernel).map(|root| root.id);
    let kernels = kernel.and_then(|root| index.group_of(root));
    for subtree in index.kernel_half() {
        let processes = || {
            let roots = index.members(&subtree.groups);
            roots.filter(|root| Some(*root) != kernel)
        };
        let has_kernel = kernels.is_some_and(|group| subtree.groups.contains(&group));
        let among = index.member_count(&subtree.groups) - u64::from(has_kernel);
        let Some(one) = processes().next() else {
            continue;
        };
        for page in context.snapshot().leaves(one, subtree.range) {
            if !evidence.may_walk(1) {
                return;
            }
            evidence.checked(among);
            if area.is_some_and(|area| area.contains(page.va)) {
                continue;
            }
            for root in processes() {
                evidence.broken(|| {
                    let (label, walk) = context.walk(root, page.va);
                    let top = context.snapshot().mode().depth.root_name();
                    Finding {
                        whose: Some(label),
                        place: format!("{top}[{}]", subtree.index),
                        address: Some(page.va),
                        expected: "nothing: only the CPU entry area is mapped for ring 3".into(),
                        found: shown_end(&walk),
                        walks: vec![(label, walk)],
                        what: "kernel page",
                        ..Finding::default()
                    }
                });
            }
        }
    }
}
