//! What the kernel half lets whom do.

use super::super::rule::KernelPage;
use crate::judge::finding::{Evidence, Finding};
use crate::judge::rule::{Moment, Rule, RuleInfo};

/// Ring 3 can reach nothing of the kernel half.
pub(super) struct KernelNotUser;

impl Rule for KernelNotUser {
    fn info(&self) -> RuleInfo {
        RuleInfo {
            name: "kernel-not-user",
            statement: "no page of the kernel half is accessible to ring 3",
            source: "lecture: efficient memory isolation between user and kernel; SDM vol. 3A, 4.6.1",
        }
    }

    fn judge(&mut self, moment: &Moment<'_>, evidence: &mut Evidence) {
        each_kernel_page(moment, evidence, |page| {
            page.rights.user.then(|| "supervisor only".to_owned())
        });
    }
}

/// Nothing of the kernel half is writable and executable.
pub(super) struct WriteXorExecute;

impl Rule for WriteXorExecute {
    fn info(&self) -> RuleInfo {
        RuleInfo {
            name: "write-xor-execute",
            statement: "no page of the kernel half is both writable and executable",
            source: "Linux CONFIG_DEBUG_WX; SDM vol. 3A, 4.6",
        }
    }

    fn judge(&mut self, moment: &Moment<'_>, evidence: &mut Evidence) {
        each_kernel_page(moment, evidence, |page| {
            let both = page.rights.write && page.rights.execute;
            both.then(|| "writable or executable, not both".to_owned())
        });
    }
}

/// Kernel text and constants can be written nowhere, by whatever address.
pub(super) struct NoWritableTextAlias;

impl Rule for NoWritableTextAlias {
    fn info(&self) -> RuleInfo {
        RuleInfo {
            name: "no-writable-text-alias",
            statement: "no mapping of the kernel half allows writes to the frames of kernel text or constants",
            source: "Linux CONFIG_STRICT_KERNEL_RWX, set_memory_ro on the direct map's alias",
        }
    }

    fn judge(&mut self, moment: &Moment<'_>, evidence: &mut Evidence) {
        let image = &moment.world.truth().image;
        each_kernel_page(moment, evidence, |page| {
            let hit = page.rights.write.then(|| {
                image.iter().find(|segment| {
                    let (start, end) = (segment.pa.get(), segment.pa.get() + segment.bytes);
                    !segment.writable && page.pa.get() < end && start < page.pa.get() + page.bytes
                })
            })??;
            let what = if hit.executable { "text" } else { "constants" };
            Some(format!("read-only: the frame holds kernel {what}"))
        });
    }
}

/// Ring 3 can reach no page table.
pub(super) struct TablesNotUserMapped;

impl Rule for TablesNotUserMapped {
    fn info(&self) -> RuleInfo {
        RuleInfo {
            name: "tables-not-user-mapped",
            statement: "no page table is mapped where ring 3 can access it",
            source: "SDM vol. 3A, 4.6: who writes a page table has all of memory",
        }
    }

    fn judge(&mut self, moment: &Moment<'_>, evidence: &mut Evidence) {
        evidence.checked(moment.user_pages.len() as u64);
        let user = moment.user_pages.iter().map(|(root, page)| KernelPage {
            va: page.va,
            pa: page.pa,
            bytes: page.size.bytes(),
            rights: page.rights,
            root: *root,
        });
        let kernel = moment
            .kernel_tables
            .iter()
            .flat_map(super::super::rule::KernelTable::pages);
        for page in user.chain(kernel).filter(|page| page.rights.user) {
            let frames = page.bytes / crate::addr::PAGE_SIZE;
            let first = page.pa.pfn().get();
            let hit = (first..first + frames)
                .map(crate::addr::Pfn::new)
                .find(|frame| moment.table_frames.contains(frame));
            if let Some(frame) = hit {
                evidence.broken(|| {
                    finding(
                        moment,
                        &page,
                        format!("no page table: frame {frame} is one"),
                    )
                });
            }
        }
    }
}

/// Shows every kernel page to `wrong`, which says what was expected instead.
fn each_kernel_page(
    moment: &Moment<'_>,
    evidence: &mut Evidence,
    wrong: impl Fn(&KernelPage) -> Option<String>,
) {
    for page in moment
        .kernel_tables
        .iter()
        .flat_map(super::super::rule::KernelTable::pages)
    {
        evidence.checked(1);
        if let Some(expected) = wrong(&page) {
            evidence.broken(|| finding(moment, &page, expected));
        }
    }
}

fn finding(moment: &Moment<'_>, page: &KernelPage, expected: String) -> Finding {
    let label = moment.label(page.root);
    Finding {
        whose: Some(label),
        place: format!("page at {}", page.va),
        address: Some(page.va),
        expected,
        found: format!("{} bytes at {}, {}", page.bytes, page.pa, page.rights),
        walks: vec![(label, moment.snapshot.translate(page.root, page.va))],
    }
}
