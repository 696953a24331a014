//! What the kernel half lets whom do.

use crate::judge::finding::{Evidence, Finding};
use crate::judge::rule::{Moment, Rule, RuleInfo};
use crate::judge::survey::Page;

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

/// Nothing of the kernel half is writable and executable, and only kernel text is executable.
pub(super) struct WriteXorExecute;

impl Rule for WriteXorExecute {
    fn info(&self) -> RuleInfo {
        RuleInfo {
            name: "write-xor-execute",
            statement: "no page of the kernel half is both writable and executable, and only kernel text is executable",
            source: "Linux CONFIG_DEBUG_WX; SDM vol. 3A, 4.6",
        }
    }

    fn judge(&mut self, moment: &Moment<'_>, evidence: &mut Evidence) {
        let image = &moment.world.truth().image;
        each_kernel_page(moment, evidence, |page| {
            if !page.rights.execute {
                return None;
            }
            if page.rights.write {
                return Some("writable or executable, not both".to_owned());
            }
            let is_text = image.iter().any(|segment| {
                let text = segment.physical();
                segment.executable && text.start <= page.pa && page.end() <= text.end()
            });
            (!is_text).then(|| "no execute: this is not kernel text".to_owned())
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
            if !page.rights.write {
                return None;
            }
            let hit = image.iter().find(|segment| {
                let physical = segment.physical();
                !segment.writable && physical.overlaps(page.pa, page.size.bytes())
            })?;
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
        let survey = moment.survey;
        evidence.checked((survey.user_pages.len() + survey.kernel_pages.len()) as u64);
        let kernel = survey
            .kernel_pages
            .iter()
            .filter(|page| page.rights.user)
            .filter_map(|page| Some((page, survey.table_in(page)?)));
        for (page, frame) in survey.user_pages_on_tables().chain(kernel) {
            if page.rights.user {
                evidence.broken(|| {
                    let expected = format!("no page table: frame {frame} is one");
                    finding(moment, page, expected)
                });
            }
        }
    }
}

/// Shows every kernel page to `wrong`, which says what was expected instead.
fn each_kernel_page(
    moment: &Moment<'_>,
    evidence: &mut Evidence,
    wrong: impl Fn(&Page) -> Option<String>,
) {
    evidence.checked(moment.survey.kernel_pages.len() as u64);
    for page in &moment.survey.kernel_pages {
        if let Some(expected) = wrong(page) {
            evidence.broken(|| finding(moment, page, expected));
        }
    }
}

fn finding(moment: &Moment<'_>, page: &Page, expected: String) -> Finding {
    Finding {
        whose: Some(moment.label(page.root)),
        place: format!("page at {}", page.va),
        address: Some(page.va),
        expected,
        found: format!("{} page at {}, {}", page.size, page.pa, page.rights),
        walks: vec![moment.walk(page.root, page.va)],
    }
}
