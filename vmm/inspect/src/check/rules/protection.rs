//! Who may do what: ring 3 nothing of the kernel's, and nobody both write and execute.

use super::Rule;
use crate::check::evidence::{Finding, Spaces, Verdict};
use crate::check::exceptions::{VSYSCALL, WRITABLE_DIRECT_MAP};
use crate::check::scene::{Page, Scene};
use crate::discover::{Basis, Kind};
use crate::judge::RuleInfo;
use crate::layout::{Area, VSYSCALL as VSYSCALL_PAGE};
use heirloom_paging::addr::PhysAddr;
use heirloom_paging::level::{Half, PageSize};

pub(super) const WRITE_XOR_EXECUTE: Rule = Rule {
    info: RuleInfo {
        name: "write-xor-execute",
        statement: "no page of the kernel half is both writable and executable",
        source: "Linux CONFIG_DEBUG_WX; SDM vol. 3A, 4.6",
    },
    judge: |scene, verdict| {
        verdict.checked(scene.kernel_pages.len() as u64);
        if !scene.snapshot.mode().nxe {
            // Every page is executable then, and there is one thing to mend.
            if let Some(page) = scene.kernel_pages.iter().find(|page| page.rights.write) {
                verdict.broken(|| Finding {
                    place: "EFER.NXE".into(),
                    entry: None,
                    range: None,
                    spaces: Spaces::new(
                        &scene
                            .live
                            .iter()
                            .map(|space| space.address)
                            .collect::<Vec<_>>(),
                        scene.live.len(),
                    ),
                    found: "clear: every page of the kernel is executable, the writable ones, too"
                        .into(),
                    ..scene.finding(page, "set, so that pages can have NX")
                });
            }
            return;
        }
        for page in &scene.kernel_pages {
            if page.rights.write && page.rights.execute {
                verdict.broken(|| scene.finding(page, "writable or executable, not both"));
            }
        }
    },
};

pub(super) const NO_WRITABLE_TEXT_ALIAS: Rule = Rule {
    info: RuleInfo {
        name: "no-writable-text-alias",
        statement: "no frame that is executable in the kernel half is writable by another mapping, the direct map first",
        source: "Linux CONFIG_STRICT_KERNEL_RWX: set_memory_ro reaches the direct map's alias, too",
    },
    judge: no_writable_text_alias,
};

/// What is executable in the kernel half.
struct Text<'a> {
    /// Ascending by physical address; they may overlap.
    pages: Vec<&'a Page>,
    /// For each page, of it and those before it the two that reach furthest, at different addresses.
    furthest: Vec<[Option<&'a Page>; 2]>,
}

impl<'a> Text<'a> {
    fn of(scene: &'a Scene<'_>) -> Text<'a> {
        let executable = scene.kernel_pages.iter().filter(|page| page.rights.execute);
        let mut pages: Vec<&Page> = executable.collect();
        pages.sort_unstable_by_key(|page| (page.leaf.pa, page.va));
        let mut furthest = Vec::with_capacity(pages.len());
        let [mut first, mut second]: [Option<&Page>; 2] = [None, None];
        for &page in &pages {
            let reaches_beyond =
                |other: Option<&Page>| other.is_none_or(|other| page.end() > other.end());
            if first.is_some_and(|first| first.va == page.va) {
                if reaches_beyond(first) {
                    first = Some(page);
                }
            } else if reaches_beyond(first) {
                (first, second) = (Some(page), first);
            } else if reaches_beyond(second) {
                second = Some(page);
            }
            furthest.push([first, second]);
        }
        Text { pages, furthest }
    }

    /// Whether the direct map shows all of it writable, in a kernel that is none like Linux: then the kernel
    /// does not protect text there, and no page is a mistake.
    fn is_all_writable_in_the_direct_map(&self, scene: &Scene<'_>) -> bool {
        let discovery = scene.discovery;
        let regions = &discovery.layout.regions;
        let is_like_linux = regions
            .iter()
            .any(|region| matches!(region.area, Area::Vmemmap | Area::CpuEntryArea));
        let (Some(map), Some(reference)) = (discovery.layout.direct_map, discovery.reference)
        else {
            return false;
        };
        // Of a recording it is known what its kernel promises.
        discovery.basis != Basis::Given
            && !is_like_linux
            && self.pages.iter().all(|page| {
                let va = map.base.wrapping_add(page.leaf.pa.get());
                let walk = scene.snapshot.translate(reference, va);
                map.range.contains(page.va)
                    || walk.translation().is_some_and(|found| found.rights.write)
            })
    }

    /// An executable page that has a byte of `other`. Where `other` is executable itself, that it is
    /// writable, too, is another rule's.
    fn aliased_by(&self, other: &Page) -> Option<&'a Page> {
        let behind = self
            .pages
            .partition_point(|page| page.leaf.pa < other.end());
        let furthest = self.furthest.get(behind.checked_sub(1)?)?;
        let is_itself = |page: &Page| page.va == other.va && other.rights.execute;
        furthest
            .iter()
            .flatten()
            .find(|page| page.end() > other.leaf.pa && !is_itself(page))
            .copied()
    }
}

fn no_writable_text_alias(scene: &Scene<'_>, verdict: &mut Verdict) {
    if !scene.snapshot.mode().nxe {
        // Without NX nothing tells text from data.
        return;
    }
    let text = Text::of(scene);
    let map = scene.discovery.layout.direct_map;
    let is_meant = text.is_all_writable_in_the_direct_map(scene);
    // Of user halves those that ring 3 can write, and those that the kernel maps there for itself.
    let pages = scene.kernel_pages.iter().chain(&scene.user_pages);
    for page in pages {
        if scene.space(page.root).kind == Kind::Trampoline && page.half == Half::User {
            continue;
        }
        verdict.checked(1);
        if !page.rights.write {
            continue;
        }
        if let Some(executable) = text.aliased_by(page) {
            if is_meant && map.is_some_and(|map| map.range.contains(page.va)) {
                verdict.excepted(WRITABLE_DIRECT_MAP);
                continue;
            }
            verdict.broken(|| {
                let mut finding = scene.finding(
                    page,
                    format!(
                        "read-only: the frames at {} are executable at {}",
                        executable.leaf.pa.max(page.leaf.pa),
                        executable.va
                    ),
                );
                finding
                    .walks
                    .push(scene.walk(executable.root, executable.va));
                finding
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
    judge: |scene, verdict| {
        verdict.checked(scene.kernel_pages.len() as u64);
        for page in &scene.kernel_pages {
            if !page.rights.user {
                continue;
            }
            let is_vsyscall = page.va == VSYSCALL_PAGE
                && page.leaf.size == PageSize::Size4KiB
                && !page.rights.write;
            if is_vsyscall {
                verdict.excepted(VSYSCALL);
            } else {
                verdict.broken(|| scene.finding(page, "supervisor only"));
            }
        }
    },
};

pub(super) const TABLES_NOT_USER_MAPPED: Rule = Rule {
    info: RuleInfo {
        name: "tables-not-user-mapped",
        statement: "no page table of a live address space is mapped where ring 3 can access it",
        source: "SDM vol. 3A, 4.6: who writes a page table has all of memory",
    },
    judge: tables_not_user_mapped,
};

fn tables_not_user_mapped(scene: &Scene<'_>, verdict: &mut Verdict) {
    let mut frames: Vec<PhysAddr> = scene.table_frames.iter().map(|pfn| pfn.base()).collect();
    frames.sort_unstable();
    for page in scene.kernel_pages.iter().chain(&scene.user_pages) {
        if !page.rights.user {
            continue;
        }
        verdict.checked(1);
        let at = frames.partition_point(|frame| *frame < page.leaf.pa);
        if let Some(frame) = frames.get(at).filter(|frame| **frame < page.end()) {
            verdict.broken(|| {
                scene.finding(page, format!("no page table: frame {} is one", frame.pfn()))
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
    judge: |scene, verdict| {
        for page in &scene.user_pages {
            if !page.rights.user || !scene.snapshot.mode().nxe {
                continue;
            }
            verdict.checked(1);
            if page.rights.write && page.rights.execute {
                verdict.broken(|| scene.finding(page, "writable or executable, not both"));
            }
        }
    },
};
