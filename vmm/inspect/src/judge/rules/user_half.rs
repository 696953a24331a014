//! The user half is each process's own.

use crate::judge::finding::{Evidence, Finding};
use crate::judge::rule::{Moment, Rule, RuleInfo};
use crate::judge::survey::Page;
use crate::snapshot::RootLabel;
use heirloom_paging::level::Half;

/// No user table is shared, a page that two processes have is writable in neither, and none is the
/// kernel's memory.
pub(super) struct UserHalfPrivate;

impl Rule for UserHalfPrivate {
    fn info(&self) -> RuleInfo {
        RuleInfo {
            name: "user-half-private",
            statement: "no two processes share a user table, or a page that one of them may write to; no user page is kernel memory; the kernel's own root has no user half",
            source: "lecture: every process owns its own pgd entries; copy on write: POSIX fork",
        }
    }

    fn judge(&mut self, moment: &Moment<'_>, evidence: &mut Evidence) {
        kernel_has_none(moment, evidence);
        tables_are_private(moment, evidence);
        pages_are_private(moment, evidence);
        pages_are_not_the_kernels(moment, evidence);
    }
}

fn kernel_has_none(moment: &Moment<'_>, evidence: &mut Evidence) {
    let kernel = moment.snapshot.root_of(RootLabel::Kernel);
    let Some((root, top)) =
        kernel.and_then(|root| Some((root, moment.snapshot.root_table(root.id)?)))
    else {
        return;
    };
    let entries = top.present().iter();
    let mut user = entries.filter(|index| Half::of_index(*index) == Half::User);
    evidence.checked(1);
    if let Some(index) = user.next() {
        evidence.broken(|| {
            let at = moment.address_below(index);
            Finding {
                whose: Some(root.label),
                place: format!("PGD[{index}]"),
                address: Some(at),
                expected: "absent: the boot's identity map is gone".into(),
                found: super::shown(top.entry(index)),
                walks: vec![moment.walk(root.id, at)],
            }
        });
    }
}

fn tables_are_private(moment: &Moment<'_>, evidence: &mut Evidence) {
    evidence.checked(moment.survey.user_tables);
    for twice in &moment.survey.twice {
        if !twice.is_shared_user_table() {
            continue;
        }
        evidence.broken(|| {
            let (table, (owner, at), (root, again)) = (twice.table, twice.first, twice.again);
            Finding {
                whose: Some(moment.label(root)),
                place: format!("{} in frame {}", table.level(), table.pfn()),
                address: Some(again),
                expected: "a table of its own".into(),
                found: format!("the table of {}", moment.label(owner)),
                walks: vec![moment.walk(owner, at), moment.walk(root, again)],
            }
        });
    }
}

fn pages_are_private(moment: &Moment<'_>, evidence: &mut Evidence) {
    let pages = &moment.survey.user_pages;
    evidence.checked(pages.len() as u64);
    // Pages ascend, so those that share a frame follow one another. Of each such run: its first
    // page, whether one so far may be written, and where it ends.
    let mut run: Option<(&Page, bool, u64)> = None;
    for page in pages {
        let (writable, end) = (page.rights.write, page.end().get());
        let Some((first, any_writable, run_end)) =
            run.filter(|(_, _, run_end)| page.pa.get() < *run_end)
        else {
            run = Some((page, writable, end));
            continue;
        };
        if first.root != page.root && (any_writable || writable) {
            evidence.broken(|| Finding {
                whose: Some(moment.label(page.root)),
                place: format!("user page in frame {}", page.pa.pfn()),
                address: Some(page.va),
                expected: "a page of its own, or one that nobody may write to".into(),
                found: format!("shared with {}, writable", moment.label(first.root)),
                walks: vec![
                    moment.walk(first.root, first.va),
                    moment.walk(page.root, page.va),
                ],
            });
        }
        run = Some((first, any_writable || writable, run_end.max(end)));
    }
}

fn pages_are_not_the_kernels(moment: &Moment<'_>, evidence: &mut Evidence) {
    let truth = moment.world.truth();
    for segment in truth.image.iter().map(crate::judge::Image::physical) {
        evidence.checked(1);
        for page in moment.survey.user_pages_in(segment.start, segment.bytes) {
            evidence.broken(|| not_of_ring_3(moment, page, "the kernel image"));
        }
    }
    for kernel in moment.survey.vmalloc_pages() {
        evidence.checked(1);
        for page in moment.survey.user_pages_in(kernel.pa, kernel.size.bytes()) {
            evidence.broken(|| {
                let what = format!("kernel memory, at {}", kernel.va);
                not_of_ring_3(moment, page, &what)
            });
        }
    }
    for page in &moment.survey.user_pages {
        if !truth.is_ram(page.pa, page.size.bytes()) {
            evidence.broken(|| not_of_ring_3(moment, page, "no RAM"));
        }
    }
}

fn not_of_ring_3(moment: &Moment<'_>, page: &Page, what: &str) -> Finding {
    Finding {
        whose: Some(moment.label(page.root)),
        place: format!("user page at {}", page.va),
        address: Some(page.va),
        expected: "memory of ring 3".into(),
        found: format!("frame {}, which is {what}", page.pa.pfn()),
        walks: vec![moment.walk(page.root, page.va)],
    }
}
