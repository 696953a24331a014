//! A kernel whose tables are broken: where in them what can be done.

use std::collections::HashSet;

use heirloom_inspect::paging::mode::PhysBits;
use heirloom_inspect::{
    Capturer, Depth, Entry, Half, Level, Mapping, Mode, PageSize, Pfn, PhysAddr, RootLabel,
    VirtAddr,
};

use crate::booted::Moment;
use crate::common::corrupted::{
    Expected, Place, Tables, free_frames, is_users_own, number, of_process, shared,
};
use crate::common::linux::core::Core;

/// The kernel.
pub(super) struct Subject {
    pub(super) tables: Tables,
    /// What the first CPU is on, or the kernel's own root.
    pub(super) kernel: PhysAddr,
    /// Two processes, on no CPU, that share no memory.
    pub(super) processes: Option<[PhysAddr; 2]>,
    /// Where the kernel's tables are changed: in an area without a meaning of its own.
    pub(super) area: VirtAddr,
    pub(super) direct_map: Option<VirtAddr>,
    /// CR3 of each CPU.
    pub(super) cr3s: Vec<u64>,
    pub(super) roots: Roots,
    /// Each address space has kernel tables of its own.
    pub(super) has_copies: bool,
    /// The middle of its memory, but not far up.
    middle: u64,
}

/// The roots of a process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Roots {
    One,
    /// Two with the same user half.
    Same,
    /// One for the kernel, and one for ring 3 behind it.
    Isolated,
    /// One for ring 3: the kernel has one for all.
    OneKernel,
}

/// The root for ring 3 of a process whose kernel's is this: Linux's is the page behind.
pub(super) fn user_root(root: PhysAddr) -> PhysAddr {
    PhysAddr::new(root.get() | 0x1000)
}

impl Subject {
    /// The guest as it stands in `core`.
    pub(super) fn of(core: Core, moment: &Moment) -> Subject {
        let target = &moment.roots.report["target"];
        let depth = match target["mode"]["depth"].as_str() {
            Some("four") => Depth::Four,
            Some("five") => Depth::Five,
            other => panic!("{other:?}"),
        };
        let mode = Mode {
            phys_bits: PhysBits::MAX,
            ..Mode::typical(depth)
        };
        let kinds = moment.kinds();
        let address = |root: &str| PhysAddr::new(word(root));
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
        let users = of_kind("user-root");
        let mut processes = of_kind("process");
        let kind = match (processes.is_empty(), users.is_empty()) {
            (false, false) => Roots::Isolated,
            (true, false) => Roots::OneKernel,
            _ if moment.profile() == "xen" => Roots::Same,
            _ => Roots::One,
        };
        if processes.is_empty() {
            processes = users;
        }
        processes.retain(|root| {
            let is_on = |root| on_cpus.contains(&root);
            !(is_on(*root) || kind == Roots::Isolated && is_on(user_root(*root)))
        });
        let area = |wanted: &str| {
            let mut areas = moment.areas().into_iter();
            let found = areas.find(|(name, _)| *name == wanted);
            found.map(|(_, first)| VirtAddr::new(word(first)))
        };
        let direct_map = area("direct map");
        let is_free = |pfn: Pfn| snapshot.levels_of(pfn).next().is_none();
        let free = free_frames(&core, is_free);
        let cpus = target["cpus"].as_array().unwrap();
        let ram = core.ram().map(|ram| ram.bytes).max().unwrap();
        let tables = Tables::new(core, snapshot, free);
        let below = |root: PhysAddr| -> HashSet<PhysAddr> {
            let table = root.pfn();
            let entries = Half::User.indices();
            let entries = entries.map(|index| tables.entry(Place { table, index }));
            let present = entries.filter(|entry| entry.present());
            present.map(Entry::address).collect()
        };
        // Two roots of one process, as those of Xen's guests have, share what they map.
        let two = processes.first().and_then(|first| {
            let mut others = processes[1..].iter();
            let other = others.find(|other| below(**other).is_disjoint(&below(*first)))?;
            Some([*first, *other])
        });
        Subject {
            kernel,
            processes: two,
            area: area("vmalloc").or(direct_map).unwrap_or(VirtAddr::new(0)),
            direct_map,
            cr3s: cpus.iter().map(|cpu| number(&cpu["cr3"])).collect(),
            roots: kind,
            has_copies: moment.let_pass().contains(&"private-kernel-tables"),
            middle: (ram / 2).min(128 << 20) & !0x1f_ffff,
            tables,
        }
    }

    /// Makes an entry that was empty lead to a frame.
    pub(super) fn lead(&self, place: Place, to: Pfn, flags: Entry) {
        self.tables.set(place, Entry::pointing_to(to.base(), flags));
    }

    /// What is to be reported of a process's entry.
    pub(super) fn of_process(
        &self,
        rule: &'static str,
        place: Place,
        process: PhysAddr,
    ) -> Vec<Expected> {
        vec![if self.roots == Roots::Same {
            shared(rule, place)
        } else {
            of_process(rule, place, process)
        }]
    }

    /// An empty entry of a table of this root as low as may be, at `from` or behind, and the table above it.
    pub(super) fn empty(&self, root: PhysAddr, from: VirtAddr) -> Option<(Place, Option<Pfn>)> {
        let mut levels = self.levels().into_iter();
        levels.find_map(|level| self.empty_at(root, from, level))
    }

    /// Levels at which an entry may lead to a table, the lowest first.
    fn levels(&self) -> [Level; 3] {
        [Level::Pd, Level::Pdpt, self.tables.top()]
    }

    /// Empty entries of two tables of this root, one of each level.
    pub(super) fn empty_at_two_levels(&self, root: PhysAddr, from: VirtAddr) -> Option<[Place; 2]> {
        let levels = self.levels().into_iter();
        let mut places = levels.filter_map(|level| self.empty_at(root, from, level));
        Some([places.next()?.0, places.next()?.0])
    }

    pub(super) fn empty_pd_entry(&self, root: PhysAddr, from: VirtAddr) -> Option<Place> {
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
    pub(super) fn large_page(&self) -> Option<Mapping> {
        let from = self.direct_map.unwrap_or(self.area);
        let from = from.wrapping_add(self.middle);
        self.tables.find_page(self.kernel, from, |page| {
            let size = page.size == PageSize::Size2MiB;
            size && page.rights.write && !page.rights.user && self.tables.has_no_table(page)
        })
    }

    /// Pages of the kernel's code that are executable there alone, and in which is no table.
    pub(super) fn text(&self) -> Vec<Mapping> {
        let pages = self.tables.kernel_pages(self.kernel).into_iter();
        let code: Vec<Mapping> = pages.filter(|page| page.rights.execute).collect();
        let overlap = |page: &Mapping, other: &Mapping| {
            let end = |page: &Mapping| page.pa.get() + page.size.bytes();
            page.va != other.va && page.pa.get() < end(other) && other.pa.get() < end(page)
        };
        let is_text = |page: &&Mapping| {
            let is_kernels = !page.rights.write && !page.rights.user;
            let is_alone = || !code.iter().any(|other| overlap(page, other));
            is_kernels && self.tables.has_no_table(page) && is_alone()
        };
        code.iter().filter(is_text).copied().collect()
    }

    /// Where the direct map has a page of code that cannot be written to there.
    pub(super) fn alias_of_text(&self) -> Option<VirtAddr> {
        let map = self.direct_map?;
        self.text().into_iter().find_map(|page| {
            let alias = map.wrapping_add(page.pa.get());
            let rights = self.tables.walk(self.kernel, alias).result.ok()?.rights;
            (page.va != alias && !rights.write && !rights.execute).then_some(alias)
        })
    }

    /// Where the entry for `va` stands in each table that roots have for it; one that differs from the others
    /// would be another fault.
    pub(super) fn leaves(&self, va: VirtAddr) -> Vec<Place> {
        self.steps(va)
            .into_iter()
            .filter_map(|steps| steps.last().copied())
            .collect()
    }

    /// The steps to `va` in each root that has a page there, but once those that end at the same entry.
    pub(super) fn steps(&self, va: VirtAddr) -> Vec<Vec<Place>> {
        let mut all: Vec<Vec<Place>> = Vec::new();
        for root in self.tables.snapshot.roots() {
            let walk = self.tables.walk(root.address, va);
            if walk.translation().is_none() {
                continue;
            }
            let steps = walk.steps().iter().map(|step| Place {
                table: step.table,
                index: step.index,
            });
            all.push(steps.collect());
        }
        all
    }

    /// The entry of a process's root for the kernel's view of memory, or for what else it has of the kernel.
    pub(super) fn entry_of_kernel(&self) -> Option<Place> {
        let [process, _] = self.processes?;
        let view = self.large_page()?.va.index(self.tables.top());
        let indices = std::iter::once(view).chain(Half::Kernel.indices());
        let mut places = indices.map(|index| Place {
            table: process.pfn(),
            index,
        });
        places.find(|place| self.tables.entry(*place).present())
    }

    /// Whether a root has no other entry of the kernel's.
    pub(super) fn is_all_of_kernel(&self, place: Place) -> bool {
        let mut others = Half::Kernel.indices().filter(|index| *index != place.index);
        let table = place.table;
        !others.any(|index| self.tables.entry(Place { table, index }).present())
    }

    /// Gives a root tables of its own below an entry: the first page in the last of them.
    pub(super) fn leaf_of_copy(&self, place: Place) -> Option<Place> {
        let (mut at, mut level) = (place, self.tables.top());
        while level != Level::Pt {
            let table = self.tables.copy_table(self.tables.below(at));
            self.tables.point(at, table);
            let mut entries = (0..512).map(|index| Place { table, index });
            at = entries.find(|place| self.tables.entry(*place).present())?;
            level = level.next()?;
        }
        Some(at)
    }

    /// The first entry of a root's user half.
    pub(super) fn top_user_entry(&self, root: PhysAddr) -> Option<Place> {
        let mut places = Half::User.indices().map(|index| Place {
            table: root.pfn(),
            index,
        });
        places.find(|place| self.tables.entry(*place).present())
    }

    /// A page that a process alone has.
    pub(super) fn user_page(&self, process: PhysAddr) -> Option<Place> {
        let page = self
            .tables
            .find_page(process, VirtAddr::new(0), is_users_own)?;
        Some(self.tables.leaf(process, page.va))
    }

    /// An empty entry of a table that has a page of this process.
    pub(super) fn beside_a_user_page(&self, process: PhysAddr) -> Option<Place> {
        let leaf = self.user_page(process)?;
        Some(self.tables.empty(leaf.table, 0))
    }
}

fn word(text: &str) -> u64 {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap()
}
