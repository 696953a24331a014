//! Frames come back, and a table is nothing else while it is a table.

use heirloom_abi::layout::Region;

use crate::addr::PAGE_SIZE;
use crate::judge::event::Claim;
use crate::judge::finding::{Evidence, Finding};
use crate::judge::rule::{Moment, Rule, RuleInfo};

/// Whatever the guest counts as in use is reachable: nothing of the dead is left over.
pub(super) struct FramesReleased;

impl Rule for FramesReleased {
    fn info(&self) -> RuleInfo {
        RuleInfo {
            name: "frames-released",
            statement: "every frame that counts as table, user or kernel memory is reachable from a living address space: what the dead had came back",
            source: "lecture: processes and memory are dynamically created and destroyed",
        }
    }

    fn judge(&mut self, moment: &Moment<'_>, evidence: &mut Evidence) {
        if matches!(moment.told.claim, Claim::Crash { .. }) {
            return;
        }
        let counters = &moment.told.counters;
        let tables = moment.table_frames.len() as u64;
        let user = moment.user_frames() as u64;
        let allocated: u64 = moment
            .world
            .allocations()
            .map(|allocation| allocation.range.bytes() / PAGE_SIZE)
            .sum();
        // A process's own data is one frame, until it is waited for.
        let processes = counters
            .processes_live
            .saturating_add(counters.processes_zombie);
        let kernel = allocated.saturating_add(processes);
        for (what, counted, known, right) in [
            (
                "frames of page tables",
                counters.frames_table,
                tables,
                counters.frames_table <= tables,
            ),
            (
                "frames of processes",
                counters.frames_user,
                user,
                counters.frames_user <= user,
            ),
            (
                "frames of kernel memory",
                counters.frames_kernel,
                kernel,
                counters.frames_kernel == kernel,
            ),
        ] {
            evidence.check(right, || Finding {
                whose: None,
                place: what.to_owned(),
                address: None,
                expected: format!("{known}, which are reachable"),
                found: format!("{counted} in use"),
                walks: Vec::new(),
            });
        }
        let ended = moment.world.processes().count() as u64 - moment.world.live().count() as u64;
        evidence.check(counters.processes_zombie <= ended, || Finding {
            whose: None,
            place: "zombies".into(),
            address: None,
            expected: format!("at most {ended}, who ended"),
            found: counters.processes_zombie.to_string(),
            walks: Vec::new(),
        });
    }
}

/// No entry points to a table that is gone or is something else as well.
pub(super) struct NoDanglingTable;

impl Rule for NoDanglingTable {
    fn info(&self) -> RuleInfo {
        RuleInfo {
            name: "no-dangling-table",
            statement: "every entry above a leaf points to RAM that is a table of that one level, and to nothing that is a page of a process or of vmalloc",
            source: "SDM vol. 3A, 4.5; Linux: freed page tables and their use after free",
        }
    }

    fn judge(&mut self, moment: &Moment<'_>, evidence: &mut Evidence) {
        for missing in moment.snapshot.missing() {
            evidence.broken(|| Finding {
                whose: None,
                place: format!("{} in frame {}", missing.level, missing.pfn),
                address: None,
                expected: "a table in RAM".into(),
                found: "an address outside RAM".into(),
                walks: Vec::new(),
            });
        }
        let tables = moment.snapshot.tables().count();
        evidence.checked(tables as u64);
        if tables != moment.table_frames.len() {
            let mut level_of = std::collections::HashMap::new();
            for table in moment.snapshot.tables() {
                if let Some(other) = level_of.insert(table.pfn(), table.level()) {
                    evidence.broken(|| Finding {
                        whose: None,
                        place: format!("table in frame {}", table.pfn()),
                        address: None,
                        expected: format!("a {other} and nothing else"),
                        found: format!("used as {} as well", table.level()),
                        walks: Vec::new(),
                    });
                }
            }
        }
        let user = moment
            .user_pages
            .iter()
            .map(|(root, page)| (*root, page.va, page.pa));
        let vmalloc = moment
            .kernel_tables
            .iter()
            .flat_map(super::super::rule::KernelTable::pages)
            .filter(|page| Region::Vmalloc.contains(page.va.get()))
            .map(|page| (page.root, page.va, page.pa));
        for (root, va, pa) in user.chain(vmalloc) {
            evidence.check(!moment.table_frames.contains(&pa.pfn()), || Finding {
                whose: Some(moment.label(root)),
                place: format!("table in frame {}", pa.pfn()),
                address: Some(va),
                expected: "a table and nothing else".into(),
                found: format!("also the page at {va}"),
                walks: vec![(moment.label(root), moment.snapshot.translate(root, va))],
            });
        }
    }
}
