//! Where pages lead: the direct map to its own addresses, processes to RAM.

use super::Rule;
use crate::check::exceptions::ISA_HOLE;
use crate::judge::RuleInfo;
use heirloom_paging::entry::Entry;
use heirloom_paging::level::{Level, PageSize};

/// 640 KiB to 1 MiB.
const ISA: std::ops::Range<u64> = 0xa_0000..0x10_0000;

pub(super) const DIRECT_MAP_EXACT: Rule = Rule {
    info: RuleInfo {
        name: "direct-map-exact",
        statement: "every page of the direct map leads to the address less the map's base, and to RAM",
        source: "lecture: every PFN has a direct mapped kernel virtual address; Linux mm.rst",
    },
    judge: |scene, verdict| {
        let Some(map) = scene.discovery.layout.direct_map else {
            return;
        };
        for page in &scene.kernel_pages {
            if !map.range.contains(page.va) {
                continue;
            }
            verdict.checked(1);
            let expected = map.physical(page.va);
            if page.leaf.pa != expected {
                verdict.broken(|| scene.finding(page, format!("the page at {expected}")));
            } else if !scene.is_ram(page.leaf.pa, page.leaf.size) {
                let all_isa = ISA.contains(&page.leaf.pa.get()) && page.end().get() <= ISA.end;
                if all_isa {
                    verdict.excepted(ISA_HOLE);
                } else if page.leaf.size == PageSize::Size4KiB {
                    // Larger ones reach past RAM and over holes on many kernels: a note says which.
                    verdict.broken(|| scene.finding(page, "RAM"));
                }
            }
        }
    },
};

pub(super) const USER_PAGES_IN_RAM: Rule = Rule {
    info: RuleInfo {
        name: "user-pages-in-ram",
        statement: "a page of a process that is cached lies in RAM (devices are mapped uncached or write-combining)",
        source: "SDM vol. 3A, 11.3 and 11.12: memory types by PAT, PCD and PWT",
    },
    judge: |scene, verdict| {
        for page in &scene.user_pages {
            if !page.rights.user {
                continue;
            }
            verdict.checked(1);
            if !scene.is_ram(page.leaf.pa, page.leaf.size)
                && is_cached(page.at.entry, page.at.level)
            {
                verdict.broken(|| scene.finding(page, "RAM"));
            }
        }
    },
};

/// Whether a leaf selects entry 0 of the PAT, which is write-back on every kernel.
pub(in crate::check) fn is_cached(leaf: Entry, level: Level) -> bool {
    !leaf.has(Entry::WRITE_THROUGH) && !leaf.has(Entry::CACHE_DISABLE) && !leaf.pat(level)
}
