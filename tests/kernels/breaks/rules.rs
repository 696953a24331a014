//! One way to break each rule.

use heirloom_inspect::{Entry, Pfn, PhysAddr, VirtAddr};

use super::subject::{Roots, Subject, user_root};
use crate::common::corrupted::{
    About, BEYOND_RAM, Expected, KERNEL_TABLE, Place, USER_PAGE, USER_TABLE, Where, only, shared,
};

/// One rule that is broken: what is to be reported, or nothing if this kernel has not what it takes.
pub(super) struct Break {
    pub(super) rule: &'static str,
    pub(super) apply: fn(&Subject) -> Option<Vec<Expected>>,
}

/// Every rule for a guest that is looked at once.
pub(super) const BREAKS: [Break; 21] = [
    Break {
        rule: "kernel-mappings-equal",
        apply: |subject| {
            let place = subject.entry_of_kernel()?;
            let [process, _] = subject.processes?;
            // Without any entry of the kernel's it would be no root.
            let missing = if subject.is_all_of_kernel(place) {
                subject.leaf_of_copy(place)?
            } else {
                place
            };
            subject.tables.set(missing, Entry::ABSENT);
            Some(vec![only("kernel-mappings-equal", place, process)])
        },
    },
    Break {
        rule: "kernel-tables-shared",
        apply: |subject| {
            let place = subject.entry_of_kernel()?;
            let [process, _] = subject.processes?;
            if subject.has_copies {
                return None;
            }
            let copy = subject.tables.copy_table(subject.tables.below(place));
            subject.tables.point(place, copy);
            Some(vec![only("kernel-tables-shared", place, process)])
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
            Some(match subject.roots {
                Roots::Same => vec![shared("user-tables-private", place)],
                _ => vec![only("user-tables-private", place, process)],
            })
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
        rule: "write-xor-execute",
        apply: |subject| {
            subject.processes?;
            let text = *subject.text().first()?;
            Some(subject.add("write-xor-execute", text.va, Entry::WRITABLE))
        },
    },
    Break {
        rule: "no-writable-text-alias",
        apply: |subject| {
            subject.processes?;
            let alias = subject.alias_of_text()?;
            Some(subject.add("no-writable-text-alias", alias, Entry::WRITABLE))
        },
    },
    Break {
        rule: "kernel-not-user",
        apply: |subject| {
            subject.processes?;
            let page = subject.large_page()?;
            for place in subject.steps(page.va).concat() {
                subject.tables.add(place, Entry::USER);
            }
            Some(subject.add("kernel-not-user", page.va, Entry::USER))
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
        rule: "user-root-minimal",
        apply: |subject| {
            let [process, _] = subject.processes?;
            let (users, process) = match subject.roots {
                Roots::Isolated => (user_root(process), process),
                Roots::OneKernel => (process, subject.kernel),
                Roots::One | Roots::Same => return None,
            };
            let va = subject.direct_map?;
            let top = subject.tables.top();
            let kernels = subject.tables.entry(subject.tables.place(process, va, top));
            let place = Place {
                table: users.pfn(),
                index: va.index(top),
            };
            subject.tables.set(place, kernels);
            let first = subject.tables.leaf(subject.kernel, va);
            Some(vec![
                only("user-root-minimal", first, users),
                only("kernel-mappings-equal", place, users),
            ])
        },
    },
    Break {
        rule: "user-half-nx",
        apply: |subject| {
            let process = subject.isolated()?;
            let place = subject.top_user_entry(process)?;
            let entry = subject.tables.entry(place).without(Entry::NO_EXECUTE);
            subject.tables.set(place, entry);
            Some(vec![only("user-half-nx", place, process)])
        },
    },
    Break {
        rule: "user-halves-mirrored",
        apply: |subject| {
            let users = user_root(subject.isolated()?);
            let place = subject.top_user_entry(users)?;
            subject.tables.set(place, Entry::ABSENT);
            Some(vec![only("user-halves-mirrored", place, users)])
        },
    },
    Break {
        rule: "reserved-bits-clear",
        apply: |subject| {
            let page = subject.large_page()?;
            Some(subject.add("reserved-bits-clear", page.va, Entry::new(1 << 13)))
        },
    },
    Break {
        rule: "tables-in-ram",
        apply: |subject| {
            let (place, _) = subject.empty(subject.kernel, subject.area)?;
            subject.lead(place, BEYOND_RAM, KERNEL_TABLE);
            Some(subject.in_one_copy(vec![shared("tables-in-ram", place)]))
        },
    },
    Break {
        rule: "no-loop",
        apply: |subject| {
            let (place, above) = subject.empty(subject.kernel, subject.area)?;
            // An entry of the root itself would be recursive paging.
            subject.lead(place, above?, KERNEL_TABLE);
            Some(subject.in_one_copy(vec![shared("no-loop", place)]))
        },
    },
    Break {
        rule: "self-map-supervisor",
        apply: |subject| {
            let process = subject.processes.map_or(subject.kernel, |[first, _]| first);
            let place = subject.self_map(process)?;
            subject.lead(place, process.pfn(), USER_TABLE);
            Some(vec![only("self-map-supervisor", place, process)])
        },
    },
    Break {
        rule: "one-level-per-table",
        apply: |subject| {
            let table = subject.tables.free_frame();
            let places = subject.empty_at_two_levels(subject.kernel, subject.area)?;
            for place in places {
                subject.lead(place, table, KERNEL_TABLE);
            }
            Some(vec![Expected {
                rule: "one-level-per-table",
                about: About::Frame(table),
                spaces: Where::Many,
            }])
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
            Some(vec![shared("kernel-tables-once", second)])
        },
    },
    Break {
        rule: "direct-map-exact",
        apply: |subject| {
            let page = subject.large_page()?;
            subject.direct_map?;
            let places = subject.leaves(page.va);
            for place in &places {
                subject
                    .tables
                    .point(*place, Pfn::new(page.pa.pfn().get() + 512));
            }
            Some(all("direct-map-exact", &places))
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
    Break {
        rule: "cr3-known",
        apply: |subject| {
            let nowhere = subject.tables.free_frame();
            let last = *subject.cr3s.last()?;
            subject.tables.replace_last_cr3(last, nowhere.base());
            Some(vec![Expected {
                rule: "cr3-known",
                about: About::Cr3(subject.cr3s.len() - 1),
                spaces: Where::Many,
            }])
        },
    },
    Break {
        rule: "user-write-xor-execute",
        apply: |subject| {
            let [process, _] = subject.processes?;
            let place = subject.user_page(process)?;
            let entry = subject.tables.entry(place).without(Entry::NO_EXECUTE);
            subject.tables.set(place, entry);
            Some(subject.of_process("user-write-xor-execute", place, process))
        },
    },
];

/// One finding for each table that has the entry.
fn all(rule: &'static str, places: &[Place]) -> Vec<Expected> {
    let mut told: Vec<Place> = Vec::new();
    for place in places {
        if !told.contains(place) {
            told.push(*place);
        }
    }
    told.into_iter().map(|place| shared(rule, place)).collect()
}

impl Subject {
    /// Sets bits of the entry for a page in all tables that have it.
    fn add(&self, rule: &'static str, va: VirtAddr, bits: Entry) -> Vec<Expected> {
        let places = self.leaves(va);
        for place in &places {
            self.tables.add(*place, bits);
        }
        all(rule, &places)
    }

    /// Where each root has copies of the kernel's tables, those of the others are not as what was changed in the area.
    fn in_one_copy(&self, mut expected: Vec<Expected>) -> Vec<Expected> {
        if self.has_copies {
            let index = self.area.index(self.tables.top());
            let roots = self.tables.snapshot.roots().iter();
            let others = roots.filter(|root| root.address != self.kernel);
            expected.extend(others.map(|root| {
                let table = root.address.pfn();
                only(
                    "kernel-mappings-equal",
                    Place { table, index },
                    root.address,
                )
            }));
        }
        expected
    }

    /// The kernel's root of a process that has another one for ring 3.
    fn isolated(&self) -> Option<PhysAddr> {
        let [process, _] = self.processes?;
        (self.roots == Roots::Isolated).then_some(process)
    }

    /// Where a root has, or may have, an entry that leads to itself.
    fn self_map(&self, root: PhysAddr) -> Option<Place> {
        let at = |index| Place {
            table: root.pfn(),
            index,
        };
        let mut places = (256..512).map(at);
        let is_one = |place: &Place| {
            let entry = self.tables.entry(*place);
            entry.present() && entry.address() == root
        };
        let found = places.find(is_one);
        found.or_else(|| {
            let is_free = self.processes.is_none();
            is_free.then(|| self.tables.empty(root.pfn(), 300))
        })
    }
}
