//! What address spaces share.

use heirloom_inspect::check::Spaces;
use heirloom_inspect::{Entry, Level, PageSize, VirtAddr};

use super::{assert_breaks, assert_breaks_in, isolated};
use crate::scene::{
    Guest, IMAGE_CONSTANTS, PAGE, USER_DATA, USER_HUGE, USER_TEXT, bits, broken, check, finding,
    flags_of,
};

use PageSize::{Size2MiB, Size4KiB};

#[test]
fn a_kernel_entry_that_one_process_lacks_is_a_mapping_that_differs() {
    let drop = |guest: &mut Guest| {
        let (root, index) = (guest.processes[1], guest.top_index(guest.vmalloc()));
        guest.memory.poke(root.pfn(), index, Entry::ABSENT);
    };
    assert_breaks(&["kernel-mappings-equal"], drop);
    for mut guest in Guest::all() {
        let va = guest.vmalloc();
        let entry = guest.entry(guest.init, va, guest.top());
        drop(&mut guest);
        let finding = finding(&guest, "kernel-mappings-equal");
        assert_eq!(finding.place, guest.top_place(va));
        let at = finding.entry.unwrap();
        assert_eq!(at.table, guest.processes[1].pfn());
        assert_eq!(at.index, guest.top_index(va));
        assert_eq!(at.entry, Entry::ABSENT);
        assert_eq!(finding.range.unwrap().first.index(guest.top()), at.index);
        assert_eq!(finding.spaces.roots, [guest.processes[1]]);
        assert_eq!(finding.spaces.count, 1);
        assert!(finding.expected.contains(&entry.to_string()), "{finding:?}");
        assert_eq!(finding.found, "absent");
        // The walk in the reference succeeds, that in the process ends at the top.
        let [(_, theirs), (_, its)] = &finding.walks[..] else {
            panic!("{finding:?}")
        };
        assert_eq!((theirs.root, its.root), (guest.init, guest.processes[1]));
        assert!(theirs.result.is_ok() && its.result.is_err());
        assert_eq!(its.steps().len(), 1);
    }
}

#[test]
fn an_entry_below_a_huge_untouched_area_may_be_lacked_only_if_nothing_is_mapped_there() {
    // The last preallocated table but one of the vmalloc area is empty. Without it nothing is mapped
    // otherwise, but what is mapped there next will be missing.
    assert_breaks(&["kernel-tables-shared"], |guest| {
        let (root, index) = (guest.processes[1], guest.top_index(guest.vmalloc()) + 5);
        guest.memory.poke(root.pfn(), index, Entry::ABSENT);
    });
}

#[test]
fn a_private_copy_of_a_kernel_table_is_told_from_a_mapping_that_differs() {
    for level in [Level::Pdpt, Level::Pd, Level::Pt] {
        let copy = |guest: &mut Guest| {
            let (root, va) = (guest.processes[2], guest.vmalloc());
            guest.privatize(root, va, level);
        };
        assert_breaks(&["kernel-tables-shared"], copy);
        assert_breaks(&["kernel-mappings-equal"], |guest| {
            copy(guest);
            guest.privatize(guest.processes[2], guest.vmalloc(), Level::Pt);
            let (root, va, page) = (guest.processes[2], guest.vmalloc(), guest.data_page());
            guest.change(root, va, Level::Pt, |entry| {
                Entry::pointing_to(page, flags_of(entry))
            });
            assert_eq!(
                finding(guest, "kernel-mappings-equal").walks[1].1.va,
                va,
                "the address that leads elsewhere"
            );
        });
    }
    for mut guest in Guest::all() {
        let (root, va) = (guest.processes[2], guest.vmalloc());
        guest.privatize(root, va, Level::Pd);
        let finding = finding(&guest, "kernel-tables-shared");
        assert_eq!(finding.place, guest.top_place(va));
        assert!(finding.found.contains("private copy"), "{finding:?}");
        assert_eq!(finding.spaces.roots, [root]);
        let walks: Vec<_> = finding.walks.iter().map(|(_, walk)| walk.result).collect();
        assert_eq!(walks[0], walks[1]);
    }
}

#[test]
fn a_copy_that_maps_the_same_page_with_other_rights_differs() {
    assert_breaks(&["kernel-mappings-equal"], |guest| {
        let (root, va) = (guest.processes[2], guest.vmalloc());
        guest.privatize(root, va, Level::Pt);
        guest.change(root, va, Level::Pt, |entry| entry.without(Entry::WRITABLE));
    });
}

#[test]
fn a_large_page_in_the_place_of_equal_small_ones_is_a_private_copy() {
    assert_breaks(&["kernel-tables-shared"], |guest| {
        let (root, va) = (guest.processes[0], guest.image(IMAGE_CONSTANTS));
        guest.privatize(root, va, Level::Pd);
        let leaf = guest.entry(root, va, Level::Pd);
        let table = guest.memory.frame();
        for index in 0..512 {
            let to = leaf.address().wrapping_add(u64::from(index) * PAGE);
            let flags = flags_of(leaf).without(Entry::LARGE);
            guest
                .memory
                .poke(table, index, Entry::pointing_to(to, flags));
        }
        guest.change(root, va, Level::Pd, |_| {
            Entry::pointing_to(table.base(), bits::TABLE)
        });
    });
}

#[test]
fn other_flags_in_the_top_entry_differ_as_far_as_they_have_an_effect() {
    // A software bit, and US above pages that have none: the same table, mapping the same.
    for flag in [Entry::new(1 << 58), Entry::USER] {
        let change = |guest: &mut Guest| {
            let (root, va) = (guest.processes[1], guest.vmalloc());
            let top = guest.top();
            guest.change(root, va, top, |entry| Entry::new(entry.get() ^ flag.get()));
        };
        assert_breaks(&["kernel-tables-shared"], change);
        for mut guest in Guest::all() {
            change(&mut guest);
            let found = finding(&guest, "kernel-tables-shared").found;
            assert!(found.contains("other flags"), "{found}");
        }
    }
    assert_breaks(&["kernel-mappings-equal"], |guest| {
        let (root, va) = (guest.processes[1], guest.vmalloc());
        let top = guest.top();
        guest.change(root, va, top, |entry| entry.without(Entry::WRITABLE));
    });
}

#[test]
fn user_roots_are_held_against_each_other() {
    assert_breaks_in(isolated(), &["kernel-mappings-equal"], |guest| {
        let user = guest.user_root(guest.processes[1]);
        let index = guest.top_index(guest.plan.bases.direct_map);
        guest.memory.poke(user.pfn(), index, Entry::ABSENT);
    });
}

#[test]
fn an_ldt_is_let_pass_by_name_up_to_its_size_and_read_only() {
    let slots = 32;
    for mut guest in isolated() {
        let root = guest.processes[1];
        guest.add_ldt(root, slots, bits::CONSTANTS);
        let check = check(&guest);
        assert!(check.holds, "{}", guest.plan);
        let equal = &check.rules[0];
        assert_eq!(equal.rule.name, "kernel-mappings-equal");
        let met: Vec<_> = equal
            .exceptions
            .iter()
            .map(|met| (met.exception.name, met.count))
            .collect();
        assert_eq!(met, [("ldt-remap", 2)], "both roots of the pair");
    }
    assert_breaks_in(isolated(), &["kernel-mappings-equal"], |guest| {
        let root = guest.processes[1];
        guest.add_ldt(root, slots + 1, bits::CONSTANTS);
    });
    let both = ["kernel-mappings-equal", "user-root-minimal"];
    assert_breaks_in(isolated(), &both, |guest| {
        let root = guest.processes[1];
        guest.add_ldt(root, 1, bits::DATA);
    });
    // The direct map shows its frame, too.
    let executable = [
        "kernel-mappings-equal",
        "no-writable-text-alias",
        "user-root-minimal",
    ];
    assert_breaks_in(isolated(), &executable, |guest| {
        let root = guest.processes[1];
        guest.add_ldt(root, 1, bits::TEXT);
    });
    let user = [
        "kernel-mappings-equal",
        "kernel-not-user",
        "user-root-minimal",
    ];
    assert_breaks_in(isolated(), &user, |guest| {
        let root = guest.processes[1];
        guest.add_ldt(root, 1, bits::USER_CONSTANTS);
    });
    // A large page is no LDT, nor is one in another place.
    assert_breaks_in(isolated(), &both, |guest| {
        let (root, at) = (guest.processes[1], guest.ldt());
        let to = heirloom_inspect::PhysAddr::new(50 << 20);
        guest.map(root, at, to, Size2MiB, bits::CONSTANTS);
        let index = guest.top_index(at);
        let entry = guest.memory.peek(root.pfn(), index);
        let user = guest.user_root(root);
        guest.memory.poke(user.pfn(), index, entry);
    });
    assert_breaks_in(isolated(), &["kernel-mappings-equal"], |guest| {
        let (root, to) = (guest.processes[1], guest.data_page());
        let beside = guest.ldt().wrapping_add(guest.top().entry_span());
        assert!(guest.top_index(beside) < guest.top_index(guest.plan.bases.direct_map));
        guest.map(root, beside, to, Size4KiB, bits::CONSTANTS);
    });
}

#[test]
fn a_table_of_another_process_is_found_at_every_level_once() {
    for level in [Level::Pml4, Level::Pdpt, Level::Pd] {
        let share = |guest: &mut Guest| {
            let (from, to) = (guest.processes[1], guest.processes[2]);
            let entry = guest.entry(from, USER_TEXT, level);
            for root in guest.pair(to) {
                let flags = guest.entry(root, USER_TEXT, level);
                let entry = Entry::pointing_to(entry.address(), flags_of(flags));
                guest.change(root, USER_TEXT, level, |_| entry);
            }
        };
        let guests: Vec<_> = Guest::all()
            .into_iter()
            .filter(|guest| level >= guest.top())
            .collect();
        assert_breaks_in(guests.clone(), &["user-tables-private"], share);
        for mut guest in guests {
            share(&mut guest);
            let finding = finding(&guest, "user-tables-private");
            let at = finding.entry.unwrap();
            assert_eq!((at.level, at.index), (level, USER_TEXT.index(level)));
            assert_eq!(finding.spaces.roots, [guest.processes[2]]);
            let walked: Vec<_> = finding.walks.iter().map(|(_, walk)| walk.root).collect();
            assert_eq!(walked, [guest.processes[1], guest.processes[2]]);
            let named = format!("of the address space {}", guest.processes[1]);
            assert!(finding.found.contains(&named), "{finding:?}");
        }
    }
}

#[test]
fn processes_may_share_a_pd_of_huge_pages_alone() {
    let share = |guest: &mut Guest, with_small: bool| {
        let (from, to) = (guest.processes[1], guest.processes[2]);
        let at = VirtAddr::new(0x7e00_0000_0000);
        for page in 0..4 {
            let va = at.wrapping_add(page << 21);
            let pa = heirloom_inspect::PhysAddr::new(58 << 20);
            guest.map(from, va, pa, Size2MiB, bits::USER_DATA);
        }
        if with_small {
            let page = guest.data_page();
            let va = at.wrapping_add(64 << 21);
            guest.map(from, va, page, Size4KiB, bits::USER_DATA);
        }
        let entry = guest.entry(from, at, Level::Pdpt);
        guest.change(to, at, Level::Pdpt, |_| entry);
        guest.mirror(from);
        guest.mirror(to);
    };
    for mut guest in Guest::all() {
        share(&mut guest, false);
        let check = check(&guest);
        assert!(check.holds, "{}", guest.plan);
        let private = check
            .rules
            .iter()
            .find(|rule| rule.rule.name == "user-tables-private")
            .unwrap();
        assert_eq!(private.exceptions[0].exception.name, "hugetlb-shared-pd");
    }
    assert_breaks(&["user-tables-private"], |guest| share(guest, true));
}

#[test]
fn frames_may_be_shared_tables_not() {
    // Shared memory, and pages to be copied on write.
    for mut guest in Guest::all() {
        let page = guest.data_page();
        for root in guest.processes.clone() {
            let va = USER_HUGE.wrapping_add(4 << 21);
            guest.map_user(root, va, page, Size4KiB, bits::USER_DATA);
        }
        assert_eq!(broken(&guest), [""; 0]);
    }
}

#[test]
fn a_table_of_the_kernel_half_in_a_user_half_is_found() {
    let leak = |guest: &mut Guest| {
        let root = guest.processes[3];
        let table = guest.entry(root, guest.vmalloc(), Level::Pdpt);
        let va = VirtAddr::new(0x1234_0000_0000);
        guest.change(root, va, Level::Pdpt, |_| table);
        guest.mirror(root);
    };
    assert_breaks(&["halves-separate"], leak);
    for mut guest in Guest::all() {
        leak(&mut guest);
        let finding = finding(&guest, "halves-separate");
        assert_eq!(finding.entry.unwrap().level, Level::Pdpt);
        assert_eq!(finding.place, "PDPT[208]");
        let roots = guest.pair(guest.processes[3]);
        assert_eq!(
            finding.spaces,
            Spaces {
                at_least: false,
                count: roots.len(),
                of: finding.spaces.of,
                roots
            }
        );
    }
    // Where all that it holds may be accessed, and the user half lets ring 3 through, more is wrong; what
    // the entry itself forbids, is not.
    assert_breaks(&["halves-separate"], |guest| {
        let root = guest.processes[3];
        let top = guest.top();
        let entry = guest.entry(root, guest.vmalloc(), top);
        for (root, nx) in guest.pair(root).into_iter().zip([guest.plan.kpti, false]) {
            let nx = if nx { bits::NX } else { Entry::ABSENT };
            guest.memory.poke(root.pfn(), 77, entry | nx);
        }
    });
    assert_breaks(&[], |guest| {
        let (root, page) = (guest.processes[3], guest.data_page());
        guest.map_user(
            root,
            USER_DATA.wrapping_add(64 * PAGE),
            page,
            Size4KiB,
            bits::USER_DATA,
        );
    });
}
