//! Each rule broken on purpose in a copy of a kernel's core, once at one entry: the command says that rule is broken,
//! there, and no other.

use heirloom_inspect::paging::mode::PhysBits;
use heirloom_inspect::{
    Capturer, Depth, Entry, Half, Level, Mapping, Mode, PageSize, Pfn, PhysAddr, RootLabel,
    VirtAddr,
};

use crate::booted::{Moment, ask};
use crate::common::corrupted::{
    BEYOND_RAM, Expected, Judge, KERNEL_TABLE, Place, Tables, USER_PAGE, USER_TABLE, free_frames,
    is_users_own, of_process, only, shared,
};
use crate::common::linux::core::Core;
use crate::common::machine::Machine;

/// A kernel whose tables are broken.
struct Subject {
    tables: Tables,
    /// What the first CPU is on, or the kernel's own root.
    kernel: PhysAddr,
    /// Two processes, on no CPU.
    processes: Option<[PhysAddr; 2]>,
    /// Where the kernel's tables are changed: in an area without a meaning of its own.
    area: VirtAddr,
    direct_map: Option<VirtAddr>,
    /// Each process has two roots with the same user half.
    is_paired: bool,
}

/// One rule that is broken: what is to be reported, or nothing if this kernel has not what it takes.
struct Break {
    rule: &'static str,
    apply: fn(&Subject) -> Option<Expected>,
}

/// The rules that can be broken where there are a kernel and processes.
pub(crate) const ALL: [&str; 13] = [
    "tables-in-ram",
    "no-loop",
    "reserved-bits-clear",
    "kernel-tables-once",
    "kernel-not-user",
    "write-xor-execute",
    "direct-map-exact",
    "kernel-mappings-equal",
    "kernel-tables-shared",
    "user-tables-private",
    "halves-separate",
    "tables-not-user-mapped",
    "user-pages-in-ram",
];

const BREAKS: [Break; 13] = [
    Break {
        rule: "tables-in-ram",
        apply: |subject| {
            let (place, _) = subject.empty(subject.kernel, subject.area)?;
            subject.lead(place, BEYOND_RAM, KERNEL_TABLE);
            Some(shared("tables-in-ram", place))
        },
    },
    Break {
        rule: "no-loop",
        apply: |subject| {
            let (place, above) = subject.empty(subject.kernel, subject.area)?;
            // An entry of the root itself would be recursive paging.
            subject.lead(place, above?, KERNEL_TABLE);
            Some(shared("no-loop", place))
        },
    },
    Break {
        rule: "reserved-bits-clear",
        apply: |subject| {
            let page = subject.large_page()?;
            let place = subject.tables.leaf(subject.kernel, page.va);
            subject.tables.add(place, Entry::new(1 << 13));
            Some(shared("reserved-bits-clear", place))
        },
    },
    Break {
        rule: "kernel-tables-once",
        apply: |subject| {
            subject.processes?;
            let table = subject.tables.free_frame();
            let first = subject.empty_pd_entry(subject.kernel, subject.area)?;
            subject.lead(first, table, KERNEL_TABLE);
            let second = subject.tables.empty(first.table, first.index + 1);
            subject.lead(second, table, KERNEL_TABLE);
            Some(shared("kernel-tables-once", second))
        },
    },
    Break {
        rule: "kernel-not-user",
        apply: |subject| {
            subject.processes?;
            let page = subject.large_page()?;
            let walk = subject.tables.walk(subject.kernel, page.va);
            let (top, below) = walk.steps().split_first()?;
            let entry = |table, index| subject.tables.entry(Place { table, index });
            let shown = entry(top.table, top.index).address();
            let roots = subject.tables.snapshot.roots().iter();
            // In all roots: one that differs would be another fault.
            let roots = roots.map(|root| root.address.pfn());
            let roots = roots.filter(|root| entry(*root, top.index).address() == shown);
            let tops = roots.map(|root| (root, top.index));
            for (table, index) in tops.chain(below.iter().map(|step| (step.table, step.index))) {
                subject.tables.add(Place { table, index }, Entry::USER);
            }
            let place = subject.tables.leaf(subject.kernel, page.va);
            Some(shared("kernel-not-user", place))
        },
    },
    Break {
        rule: "write-xor-execute",
        apply: |subject| {
            subject.processes?;
            let pages = subject.tables.kernel_pages(subject.kernel).into_iter();
            let mut text = pages.filter(|page| {
                let is_kernels = page.rights.execute && !page.rights.user;
                is_kernels && !page.rights.write && subject.tables.has_no_table(page)
            });
            let place = subject.tables.leaf(subject.kernel, text.next()?.va);
            subject.tables.add(place, Entry::WRITABLE);
            Some(shared("write-xor-execute", place))
        },
    },
    Break {
        rule: "direct-map-exact",
        apply: |subject| {
            let page = subject.large_page()?;
            subject.direct_map?;
            let place = subject.tables.leaf(subject.kernel, page.va);
            subject
                .tables
                .point(place, Pfn::new(page.pa.pfn().get() + 512));
            Some(shared("direct-map-exact", place))
        },
    },
    Break {
        rule: "kernel-mappings-equal",
        apply: |subject| {
            let place = subject.entry_of_memory()?;
            let [process, _] = subject.processes?;
            subject.tables.set(place, Entry::ABSENT);
            Some(only("kernel-mappings-equal", place, process))
        },
    },
    Break {
        rule: "kernel-tables-shared",
        apply: |subject| {
            let place = subject.entry_of_memory()?;
            let [process, _] = subject.processes?;
            let copy = subject.tables.copy_table(subject.tables.below(place));
            subject.tables.point(place, copy);
            Some(only("kernel-tables-shared", place, process))
        },
    },
    Break {
        rule: "user-tables-private",
        apply: |subject| {
            let table = subject.tables.free_frame();
            let mut places = subject.processes?.into_iter().map(|process| {
                let place = subject.empty_pd_entry(process, VirtAddr::new(0))?;
                subject.lead(place, table, USER_TABLE);
                Some((process, place))
            });
            let (first, second) = (places.next()??, places.next()??);
            // Of the two who have it the one with the lower root counts as the owner.
            let (process, place) = if first.0 < second.0 { second } else { first };
            Some(subject.of_process("user-tables-private", place, process))
        },
    },
    Break {
        rule: "halves-separate",
        apply: |subject| {
            let [process, _] = subject.processes?;
            let table = subject.tables.free_frame();
            let kernels = subject.empty_pd_entry(subject.kernel, subject.area)?;
            subject.lead(kernels, table, KERNEL_TABLE);
            let place = subject.empty_pd_entry(process, VirtAddr::new(0))?;
            subject.lead(place, table, USER_TABLE);
            Some(subject.of_process("halves-separate", place, process))
        },
    },
    Break {
        rule: "tables-not-user-mapped",
        apply: |subject| {
            let [process, _] = subject.processes?;
            let place = subject.beside_a_user_page(process)?;
            subject.lead(place, place.table, USER_PAGE);
            Some(subject.of_process("tables-not-user-mapped", place, process))
        },
    },
    Break {
        rule: "user-pages-in-ram",
        apply: |subject| {
            let [process, _] = subject.processes?;
            let place = subject.beside_a_user_page(process)?;
            subject.lead(place, BEYOND_RAM, USER_PAGE);
            Some(subject.of_process("user-pages-in-ram", place, process))
        },
    },
];

impl Subject {
    /// The guest as it stands in `core`.
    fn of(core: Core, moment: &Moment) -> Subject {
        let depth = match moment.roots.report["target"]["mode"]["depth"].as_str() {
            Some("four") => Depth::Four,
            Some("five") => Depth::Five,
            other => panic!("{other:?}"),
        };
        let mode = Mode {
            phys_bits: PhysBits::MAX,
            ..Mode::typical(depth)
        };
        let kinds = moment.kinds();
        let roots: Vec<(RootLabel, PhysAddr)> = kinds
            .keys()
            .map(|root| address(root))
            .map(|root| (RootLabel::Found(root), root))
            .collect();
        let snapshot = Capturer::new().capture(&core, mode, &roots);
        let of_kind = |wanted: &str| {
            let found = kinds.iter().filter(|(_, kind)| **kind == wanted);
            found.map(|(root, _)| address(root)).collect::<Vec<_>>()
        };
        let on_cpus = moment.roots_of_cpus();
        let kernel = of_kind("kernel").first().copied().unwrap_or(on_cpus[0]);
        let mut processes = of_kind("process");
        processes.retain(|root| !on_cpus.contains(root));
        let area = |wanted: &str| {
            let mut areas = moment.areas().into_iter();
            let found = areas.find(|(name, _)| *name == wanted);
            found.map(|(_, first)| VirtAddr::new(word(first)))
        };
        let direct_map = area("direct map");
        let is_free = |pfn: Pfn| snapshot.levels_of(pfn).next().is_none();
        let free = free_frames(&core, is_free);
        Subject {
            kernel,
            processes: match processes[..] {
                [first, second, ..] => Some([first, second]),
                _ => None,
            },
            area: area("vmalloc").or(direct_map).unwrap_or(VirtAddr::new(0)),
            direct_map,
            is_paired: moment.profile() == "xen",
            tables: Tables::new(core, snapshot, free),
        }
    }

    /// Makes an entry that was empty lead to a frame.
    fn lead(&self, place: Place, to: Pfn, flags: Entry) {
        self.tables.set(place, Entry::pointing_to(to.base(), flags));
    }

    /// What is to be reported of a process's entry.
    fn of_process(&self, rule: &'static str, place: Place, process: PhysAddr) -> Expected {
        if self.is_paired {
            shared(rule, place)
        } else {
            of_process(rule, place, process)
        }
    }

    /// An empty entry of a table of this root as low as may be, at `from` or behind, and the table above it.
    fn empty(&self, root: PhysAddr, from: VirtAddr) -> Option<(Place, Option<Pfn>)> {
        let mut levels = [Level::Pd, Level::Pdpt, self.tables.top()].into_iter();
        levels.find_map(|level| self.empty_at(root, from, level))
    }

    fn empty_pd_entry(&self, root: PhysAddr, from: VirtAddr) -> Option<Place> {
        let found = self.empty_at(root, from, Level::Pd);
        found.map(|(place, _)| place)
    }

    fn empty_at(
        &self,
        root: PhysAddr,
        from: VirtAddr,
        level: Level,
    ) -> Option<(Place, Option<Pfn>)> {
        let last = match from.half() {
            Half::User => 255,
            Half::Kernel => 511,
        };
        let top = self.tables.top();
        let mut pending = vec![(root.pfn(), top, from.index(top)..=last, None)];
        while let Some((table, at, indices, above)) = pending.pop() {
            let places = indices.map(|index| Place { table, index });
            if at == level {
                // Not the first, which may be next to something.
                let mut empty = places.filter(|place| self.tables.entry(*place) == Entry::ABSENT);
                if let Some(place) = empty.nth(1).filter(|place| place.index < 500) {
                    return Some((place, above));
                }
                continue;
            }
            let below = places.rev().filter(|place| {
                let entry = self.tables.entry(*place);
                entry.present() && !entry.has(Entry::LARGE)
            });
            let next = at.next()?;
            pending.extend(below.map(|place| {
                let below = self.tables.below(place);
                (below, next, 0..=511, Some(table))
            }));
        }
        None
    }

    /// A 2 MiB page of the kernel's, in the middle of its memory, that it may write and in which is no table.
    fn large_page(&self) -> Option<Mapping> {
        let from = self.direct_map.unwrap_or(self.area);
        let from = from.wrapping_add(128 << 20);
        self.tables.find_page(self.kernel, from, |page| {
            let size = page.size == PageSize::Size2MiB;
            size && page.rights.write && !page.rights.user && self.tables.has_no_table(page)
        })
    }

    /// The entry of a process's root for the kernel's view of memory.
    fn entry_of_memory(&self) -> Option<Place> {
        let [process, _] = self.processes?;
        Some(Place {
            table: process.pfn(),
            index: self.large_page()?.va.index(self.tables.top()),
        })
    }

    /// An empty entry of a table that has a page of this process.
    fn beside_a_user_page(&self, process: PhysAddr) -> Option<Place> {
        let tables = &self.tables;
        let page = tables.find_page(process, VirtAddr::new(0), is_users_own)?;
        let leaf = tables.leaf(process, page.va);
        Some(tables.empty(leaf.table, 0))
    }
}

fn word(text: &str) -> u64 {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap()
}

fn address(text: &str) -> PhysAddr {
    PhysAddr::new(word(text))
}

/// Breaks one rule after the other in a core of the guest, which stood still when `moment` was seen: these rules can
/// be broken there, and each is reported as what it is.
pub(crate) fn assert_caught(machine: &Machine, rules: &[&str]) {
    let mut qmp = machine.qmp();
    qmp.stop();
    let path = machine.at("broken");
    qmp.dump(&path, false);
    let target = format!("core:{}", path.display());
    let moment = Moment::of(&target);
    let sound = moment.rules("broken");
    assert!(sound.is_empty(), "{sound:?}");
    let subject = Subject::of(Core::open_to_change(&path), &moment);
    let (mut caught, mut wrong) = (Vec::new(), Vec::new());
    for Break { rule, apply } in BREAKS {
        if let Some(expected) = apply(&subject) {
            let answer = ask("check", &target);
            let judge = Judge {
                tables: &subject.tables,
                many: 0,
                user_root: None,
                has_names: false,
            };
            assert_eq!(expected.rule, rule);
            match judge.judge(&answer.report, vec![expected]) {
                Ok(()) if answer.code == 1 => caught.push(rule),
                Ok(()) => wrong.push(format!("{rule}: exit code {}", answer.code)),
                Err(error) => wrong.push(format!("{rule}: {error}")),
            }
        }
        subject.tables.restore();
    }
    std::fs::remove_file(path).unwrap();
    qmp.resume();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(caught, rules);
}
