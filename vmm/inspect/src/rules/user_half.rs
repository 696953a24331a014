//! The user half is each process's own.

use super::context::{Context, PageAt, shown};
use super::evidence::Evidence;
use super::finding::Finding;
use super::pages::finding;
use super::rule::{Broken, Clause, Fact, Judge, Reads, Rule, RuleInfo};
use crate::discover::Kind;
use crate::history::{History, Image};
use crate::index::{Page, PartId};
use crate::snapshot::RootLabel;
use heirloom_paging::entry::Entry;
use heirloom_paging::level::{Half, Level};

/// No user table is shared, a page that two processes have is writable in neither, and none is the
/// kernel's memory.
pub(super) const USER_HALF_PRIVATE: Rule = Rule {
    info: RuleInfo {
        name: "user-half-private",
        statement: "no two processes share a user table, or a page that one of them may write to; no user page is kernel memory; the kernel's own root has no user half",
        source: "lecture: every process owns its own pgd entries; copy on write: POSIX fork",
    },
    untried: "no address space",
    clauses: &[
        Clause {
            reads: Reads::TABLES.and(Reads::SPACES),
            judge: Judge::History(kernel_has_none),
        },
        Clause {
            reads: Reads::USER,
            judge: Judge::History(tables_are_private),
        },
        Clause {
            reads: Reads::USER,
            judge: Judge::History(pages_are_private),
        },
        Clause {
            reads: Reads::USER,
            judge: Judge::History(|_, history, evidence| {
                evidence.checked(history.truth().image.len() as u64);
            }),
        },
        Clause {
            reads: Reads::USER,
            judge: Judge::UserPages(is_not_of_the_image),
        },
        Clause {
            reads: Reads::USER.and(Reads::KERNEL),
            judge: Judge::History(pages_are_not_dynamic),
        },
        Clause {
            reads: Reads::USER,
            judge: Judge::UserPages(|context, PageAt { page, .. }| {
                if context.is_ram(page.pa, page.size.bytes()) {
                    Fact::Other
                } else {
                    Fact::Found(not_of_ring_3(page, "no RAM"))
                }
            }),
        },
    ],
};

fn kernel_has_none(context: &Context<'_>, _: &History, evidence: &mut Evidence) {
    let snapshot = context.snapshot();
    let kernel = context.root_of(RootLabel::Kernel);
    let Some((root, top)) = kernel.and_then(|root| Some((root, snapshot.root_table(root.id)?)))
    else {
        return;
    };
    let entries = top.present().iter();
    let mut user = entries.filter(|index| Half::of_index(*index) == Half::User);
    evidence.checked(1);
    if let Some(index) = user.next() {
        evidence.broken(|| {
            let at = context.address_below(index);
            Finding {
                whose: Some(root.label),
                place: context.entry_name(top.level(), index),
                address: Some(at),
                expected: "absent: the boot's identity map is gone".into(),
                found: shown(top.entry(index)),
                walks: vec![context.walk(root.id, at)],
                ..Finding::default()
            }
        });
    }
}

fn tables_are_private(context: &Context<'_>, _: &History, evidence: &mut Evidence) {
    evidence.checked(context.index.table_count(Half::User));
    for twice in context.index.twice() {
        if !twice.is_shared_user_table() {
            continue;
        }
        evidence.broken(|| {
            let [(owner, at), (root, again)] = twice.places(context.index);
            Finding {
                whose: Some(context.label(root)),
                place: format!(
                    "{} in frame {}",
                    context.level_name(twice.level),
                    twice.table
                ),
                address: Some(again),
                expected: "a table of its own".into(),
                found: format!("the table of {}", context.label(owner)),
                walks: vec![context.walk(owner, at), context.walk(root, again)],
                what: "shared table",
                ..Finding::default()
            }
        });
    }
}

fn pages_are_private(context: &Context<'_>, _: &History, evidence: &mut Evidence) {
    let index = context.index;
    evidence.checked(index.page_count(Half::User));
    if index.frames().users_agree() {
        return;
    }
    // Pages ascend, so those that share a frame follow one another. Of each such run: its first
    // page, whether one so far may be written, and where it ends.
    let mut run: Option<((PartId, &Page), bool, u64)> = None;
    for (part, page) in index.user_pages_by_frame() {
        let (writable, end) = (page.rights.write, page.end().get());
        let Some((first, any_writable, run_end)) =
            run.filter(|(_, _, run_end)| page.pa.get() < *run_end)
        else {
            run = Some(((part, page), writable, end));
            continue;
        };
        if first.0 != part && (any_writable || writable) {
            evidence.broken(|| {
                let (owner, root) = (index.root_of(first.0), index.root_of(part));
                Finding {
                    whose: Some(context.label(root)),
                    place: format!("user page in frame {}", page.pa.pfn()),
                    address: Some(page.va),
                    expected: "a page of its own, or one that nobody may write to".into(),
                    found: format!("shared with {}, writable", context.label(owner)),
                    walks: vec![context.walk(owner, first.1.va), context.walk(root, page.va)],
                    what: "shared page",
                    ..Finding::default()
                }
            });
        }
        run = Some((first, any_writable || writable, run_end.max(end)));
    }
}

fn is_not_of_the_image(context: &Context<'_>, PageAt { page, .. }: PageAt<'_>) -> Fact {
    let image = context.image().unwrap_or(&[]);
    let is_image = |segment: &Image| segment.physical().overlaps(page.pa, page.size.bytes());
    if image.iter().any(is_image) {
        Fact::Found(not_of_ring_3(page, "the kernel image"))
    } else {
        Fact::Other
    }
}

fn pages_are_not_dynamic(context: &Context<'_>, _: &History, evidence: &mut Evidence) {
    let index = context.index;
    evidence.checked(index.dynamic_page_count());
    if index.frames().none_is_the_kernels() {
        return;
    }
    for (_, kernel) in index.dynamic_pages() {
        for (part, page) in index.user_pages_in(kernel.pa, kernel.size.bytes()) {
            evidence.broken(|| {
                let what = format!("kernel memory, at {}", kernel.va);
                finding(context, PageAt { page, part }, not_of_ring_3(page, &what))
            });
        }
    }
}

fn not_of_ring_3(page: &Page, what: &str) -> Broken {
    Broken {
        found: Some(format!("frame {}, which is {what}", page.pa.pfn())),
        ..Broken::new("kernel's", "memory of ring 3")
    }
}

/// Whether a leaf selects entry 0 of the PAT, which is write-back on every kernel.
fn is_cached(leaf: Entry, level: Level) -> bool {
    !leaf.has(Entry::WRITE_THROUGH) && !leaf.has(Entry::CACHE_DISABLE) && !leaf.pat(level)
}

pub(super) const USER_PAGES_IN_RAM: Rule = Rule {
    info: RuleInfo {
        name: "user-pages-in-ram",
        statement: "a page of a process that is cached lies in RAM (devices are mapped uncached or write-combining)",
        source: "SDM vol. 3A, 11.3 and 11.12: memory types by PAT, PCD and PWT",
    },
    untried: "no page that ring 3 can access",
    clauses: &[Clause {
        reads: Reads::USER,
        judge: Judge::UserPages(|context, PageAt { page, part }| {
            if !page.rights.user {
                return Fact::Other;
            }
            // Memory at its own address is no process's.
            let root = context.index.root_of(part);
            if context
                .found
                .is_some_and(|found| found.space(root).kind == Kind::Identity)
            {
                return Fact::Other;
            }
            if context.is_ram(page.pa, page.size.bytes())
                || !is_cached(context.entry_of(page).entry, page.level())
            {
                return Fact::Holds;
            }
            Fact::Broken(Broken::new("no RAM", "RAM"))
        }),
    }],
};
