//! Who may do what: ring 3 nothing of the kernel's, and nobody both write and execute.

use super::context::{Context, PageAt};
use super::evidence::Evidence;
use super::exceptions::{VSYSCALL, WRITABLE_DIRECT_MAP};
use super::finding::Finding;
use super::pages::finding;
use super::rule::{Broken, Clause, Fact, Judge, Reads, Rule, RuleInfo};
use crate::discover::{Basis, Discovery, Kind};
use crate::index::Page;
use crate::layout::VSYSCALL as VSYSCALL_PAGE;
use heirloom_paging::addr::PhysAddr;
use heirloom_paging::level::{Half, PageSize};

const NO_KERNEL_PAGES: &str = "no page of a kernel half";
const NO_USER_PAGES: &str = "no page that ring 3 can access";

pub(super) const WRITE_XOR_EXECUTE: Rule = Rule {
    info: RuleInfo {
        name: "write-xor-execute",
        statement: "no page of the kernel half is both writable and executable, and only kernel text is executable, where it is known",
        source: "Linux CONFIG_DEBUG_WX; SDM vol. 3A, 4.6",
    },
    untried: NO_KERNEL_PAGES,
    clauses: &[
        Clause {
            reads: Reads::KERNEL,
            judge: Judge::KernelPages(write_xor_execute),
        },
        Clause {
            reads: Reads::KERNEL,
            judge: Judge::Tables(no_execute_is_enabled),
        },
    ],
};

/// Without NX every page is executable, and there is one thing to mend.
fn no_execute_is_enabled(context: &Context<'_>, evidence: &mut Evidence) {
    if context.kernel_uses_nx() {
        return;
    }
    let mut pages = context.index.pages(Half::Kernel);
    // A core may not tell EFER: what is to be mended reads the same of it as of the guest that it was made of.
    let expected = "set, and NX in the entries of what is no code";
    let found = if context.snapshot().mode().nxe {
        "no entry of the kernel half has NX: every page of it is executable, the writable ones, too"
    } else {
        "clear: every page of the kernel is executable, the writable ones, too"
    };
    if let Some((part, page)) = pages.find(|(_, page)| page.rights.write) {
        if let Some(early) = context.early_boot() {
            evidence.excepted(early, page.va);
            return;
        }
        let roots: Vec<PhysAddr> = context.roots().collect();
        evidence.broken(|| Finding {
            place: "EFER.NXE".into(),
            entry: None,
            range: None,
            spaces: context.spaces(&roots),
            found: found.into(),
            ..context.page_finding(PageAt { page, part }, expected)
        });
    }
}

fn write_xor_execute(context: &Context<'_>, PageAt { page, .. }: PageAt<'_>) -> Fact {
    if !page.rights.execute || !context.kernel_uses_nx() {
        return Fact::Holds;
    }
    if page.rights.write {
        if let Some(early) = context.early_boot() {
            return Fact::Excepted(early);
        }
        return Fact::Broken(Broken::new("w+x", "writable or executable, not both"));
    }
    let Some(image) = context.image() else {
        return Fact::Holds;
    };
    let is_text = image.iter().any(|segment| {
        let text = segment.physical();
        segment.executable && text.start <= page.pa && page.end() <= text.end()
    });
    if is_text {
        Fact::Holds
    } else {
        Fact::Broken(Broken::new(
            "executable",
            "no execute: this is not kernel text",
        ))
    }
}

pub(super) const NO_WRITABLE_TEXT_ALIAS: Rule = Rule {
    info: RuleInfo {
        name: "no-writable-text-alias",
        statement: "no mapping allows writes to the frames of kernel text (known, or executable in the kernel half) or of the kernel's constants, the direct map's first",
        source: "Linux CONFIG_STRICT_KERNEL_RWX: set_memory_ro reaches the direct map's alias, too",
    },
    untried: NO_KERNEL_PAGES,
    clauses: &[
        Clause {
            reads: Reads::KERNEL,
            judge: Judge::KernelPages(no_alias_of_the_image),
        },
        Clause {
            reads: Reads::KERNEL.and(Reads::USER),
            judge: Judge::Found(no_alias_of_what_is_executable),
        },
    ],
};

/// Where the kernel's segments are known: in its own half.
fn no_alias_of_the_image(context: &Context<'_>, PageAt { page, .. }: PageAt<'_>) -> Fact {
    let Some(image) = context.image() else {
        return Fact::Other;
    };
    if !page.rights.write {
        return Fact::Holds;
    }
    let hit = image.iter().find(|segment| {
        let physical = segment.physical();
        !segment.writable && physical.overlaps(page.pa, page.size.bytes())
    });
    hit.map_or(Fact::Holds, |hit| {
        let what = if hit.executable { "text" } else { "constants" };
        let expected = format!("read-only: the frame holds kernel {what}");
        Fact::Broken(Broken::new("writable alias", expected))
    })
}

/// What is executable in the kernel half.
struct Text<'a> {
    /// Ascending by physical address; they may overlap.
    pages: Vec<PageAt<'a>>,
    /// For each page, of it and those before it the two that reach furthest, at different addresses.
    furthest: Vec<[Option<PageAt<'a>>; 2]>,
}

impl<'a> Text<'a> {
    fn of(context: &Context<'a>) -> Text<'a> {
        let kernel = context.index.pages(Half::Kernel);
        // All that a line of memory shows executable and writable is no text for that: it is another rule's.
        let map = context.found.and_then(|found| found.layout.direct_map);
        let is_line =
            |page: &Page| page.rights.write && map.is_some_and(|map| map.range.contains(page.va));
        let mut pages: Vec<PageAt<'_>> = kernel
            .filter(|(_, page)| page.rights.execute && !is_line(page))
            .map(|(part, page)| PageAt { page, part })
            .collect();
        pages.sort_unstable_by_key(|at| (at.page.pa, at.page.va));
        let mut furthest = Vec::with_capacity(pages.len());
        let [mut first, mut second]: [Option<PageAt<'_>>; 2] = [None, None];
        for &at in &pages {
            let reaches_beyond = |other: Option<PageAt<'_>>| {
                other.is_none_or(|other| at.page.end() > other.page.end())
            };
            if first.is_some_and(|first| first.page.va == at.page.va) {
                if reaches_beyond(first) {
                    first = Some(at);
                }
            } else if reaches_beyond(first) {
                (first, second) = (Some(at), first);
            } else if reaches_beyond(second) {
                second = Some(at);
            }
            furthest.push([first, second]);
        }
        Text { pages, furthest }
    }

    /// Whether the direct map shows all of it writable: then the kernel does not protect text there, and no
    /// page is a mistake.
    fn is_all_writable_in_the_direct_map(&self, context: &Context<'_>, found: &Discovery) -> bool {
        let (Some(map), Some(reference)) = (found.layout.direct_map, found.reference) else {
            return false;
        };
        // Of a recording it is known what its kernel promises.
        found.basis != Basis::Given
            && self.pages.iter().all(|at| {
                let va = map.base.wrapping_add(at.page.pa.get());
                let walk = context.snapshot().translate(reference, va);
                map.range.contains(at.page.va)
                    || walk.translation().is_some_and(|end| end.rights.write)
            })
    }

    /// An executable page that has a byte of `other`. Where `other` is executable itself, that it is
    /// writable, too, is another rule's.
    fn aliased_by(&self, other: &Page) -> Option<PageAt<'a>> {
        let behind = self.pages.partition_point(|at| at.page.pa < other.end());
        let furthest = self.furthest.get(behind.checked_sub(1)?)?;
        let is_itself = |page: &Page| page.va == other.va && other.rights.execute;
        let mut furthest = furthest.iter().flatten();
        furthest
            .find(|at| at.page.end() > other.pa && !is_itself(at.page))
            .copied()
    }
}

fn no_alias_of_what_is_executable(
    context: &Context<'_>,
    found: &Discovery,
    evidence: &mut Evidence,
) {
    if !context.kernel_uses_nx() {
        // Without NX nothing tells text from data.
        return;
    }
    let index = context.index;
    let text = Text::of(context);
    let is_meant = context.excepts(WRITABLE_DIRECT_MAP)
        && text.is_all_writable_in_the_direct_map(context, found);
    let map = found.layout.direct_map.filter(|_| is_meant);
    // Of user halves those that ring 3 can write, and those that the kernel maps there for itself.
    let parts = index.parts(Half::Kernel).chain(index.parts(Half::User));
    for (part, below) in parts {
        let is_trampoline =
            below.half == Half::User && found.space(index.root_of(part)).kind == Kind::Trampoline;
        if is_trampoline {
            continue;
        }
        evidence.checked(below.pages.len() as u64);
        for page in below.pages.iter().filter(|page| page.rights.write) {
            let Some(executable) = text.aliased_by(page) else {
                continue;
            };
            let meant = if map.is_some_and(|map| map.range.contains(page.va)) {
                Some(WRITABLE_DIRECT_MAP)
            } else {
                context
                    .early_boot()
                    .or_else(|| context.lets_pass(NO_WRITABLE_TEXT_ALIAS.info.name, page))
            };
            if let Some(exception) = meant {
                evidence.excepted(exception, page.va);
                continue;
            }
            evidence.broken(|| {
                let expected = format!(
                    "read-only: the frames at {} are executable at {}",
                    executable.page.pa.max(page.pa),
                    executable.page.va
                );
                let beside = (index.root_of(executable.part), executable.page.va);
                let broken = Broken {
                    beside: Some(beside),
                    ..Broken::new("writable alias", expected)
                };
                finding(context, PageAt { page, part }, broken)
            });
        }
    }
}

pub(super) const KERNEL_NOT_USER: Rule = Rule {
    info: RuleInfo {
        name: "kernel-not-user",
        statement: "no page of the kernel half is accessible to ring 3, by the rights of the whole walk",
        source: "lecture: efficient memory isolation between user and kernel; SDM vol. 3A, 4.6.1",
    },
    untried: NO_KERNEL_PAGES,
    clauses: &[Clause {
        reads: Reads::KERNEL,
        judge: Judge::KernelPages(kernel_not_user),
    }],
};

fn kernel_not_user(context: &Context<'_>, PageAt { page, .. }: PageAt<'_>) -> Fact {
    if !page.rights.user {
        return Fact::Holds;
    }
    let is_vsyscall =
        page.va == VSYSCALL_PAGE && page.size == PageSize::Size4KiB && !page.rights.write;
    if is_vsyscall && context.excepts(VSYSCALL) {
        Fact::Excepted(VSYSCALL)
    } else {
        Fact::Broken(Broken::new("user", "supervisor only"))
    }
}

pub(super) const TABLES_NOT_USER_MAPPED: Rule = Rule {
    info: RuleInfo {
        name: "tables-not-user-mapped",
        statement: "no page table of a live address space is mapped where ring 3 can access it",
        source: "SDM vol. 3A, 4.6: who writes a page table has all of memory",
    },
    untried: NO_USER_PAGES,
    clauses: &[
        Clause {
            reads: Reads::KERNEL.and(Reads::TABLES),
            judge: Judge::Tables(|context, evidence| {
                tables_not_mapped(context, evidence, Half::Kernel, false);
            }),
        },
        Clause {
            reads: Reads::USER.and(Reads::TABLES),
            judge: Judge::Tables(|context, evidence| {
                let is_sound = context.index.frames().none_is_a_table();
                tables_not_mapped(context, evidence, Half::User, is_sound);
            }),
        },
    ],
};

fn tables_not_mapped(context: &Context<'_>, evidence: &mut Evidence, half: Half, is_sound: bool) {
    let reachable = context.index.ring_3_page_count(half);
    evidence.checked(reachable);
    if reachable == 0 || is_sound {
        return;
    }
    for (part, page) in context.index.pages(half) {
        if !page.rights.user {
            continue;
        }
        if let Some(frame) = context.index.table_in(page) {
            if let Some(exception) = context.lets_pass(TABLES_NOT_USER_MAPPED.info.name, page) {
                evidence.excepted(exception, page.va);
                continue;
            }
            evidence.broken(|| {
                let expected = format!("no page table: frame {frame} is one");
                finding(
                    context,
                    PageAt { page, part },
                    Broken::new("table", expected),
                )
            });
        }
    }
}

pub(super) const USER_WRITE_XOR_EXECUTE: Rule = Rule {
    info: RuleInfo {
        name: "user-write-xor-execute",
        statement: "no page of a process is both writable and executable (counts only with --strict-user: compilers at run time have such pages)",
        source: "SELinux execmem; OpenBSD W^X",
    },
    untried: NO_USER_PAGES,
    clauses: &[Clause {
        reads: Reads::USER,
        judge: Judge::UserPages(|context, PageAt { page, .. }| match page.rights {
            rights if !rights.user || !context.uses_nx() => Fact::Other,
            rights if rights.write && rights.execute => {
                Fact::Broken(Broken::new("w+x", "writable or executable, not both"))
            }
            _ => Fact::Holds,
        }),
    }],
};
