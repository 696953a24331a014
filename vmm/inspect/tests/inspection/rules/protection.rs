//! Who may do what.

use heirloom_inspect::check::{Check, Strictness};
use heirloom_inspect::layout::Area;
use heirloom_inspect::{Entry, Level, PageSize, PhysAddr};

use super::assert_breaks;
use crate::scene::{
    Guest, IMAGE_DATA, IMAGE_ENTRY_TEXT, IMAGE_TEXT, MIB, MODULE_TEXT, PAGE, USER_DATA, VSYSCALL,
    bits, broken, broken_strictly, check, finding,
};

use PageSize::Size4KiB;

#[test]
fn a_kernel_page_that_is_writable_and_executable_is_found() {
    let change = |guest: &mut Guest| {
        let va = guest.vmalloc();
        guest.change(guest.init, va, Level::Pt, |entry| entry.without(bits::NX));
    };
    // The direct map shows the same frame, so it has a writable alias as well.
    assert_breaks(&["write-xor-execute", "no-writable-text-alias"], change);
    for mut guest in Guest::all() {
        change(&mut guest);
        let found = finding(&guest, "write-xor-execute");
        assert_eq!(found.entry.unwrap().level, Level::Pt);
        assert_eq!(found.range.unwrap().first, guest.vmalloc());
        assert!(found.found.contains("rwx-"), "{found:?}");
        assert_eq!(found.area, Some(Area::Vmalloc));
        let alias = finding(&guest, "no-writable-text-alias");
        assert_eq!(alias.area, Some(Area::DirectMap));
    }
}

#[test]
fn nx_above_and_read_only_above_count() {
    assert_breaks(&[], |guest| {
        let va = guest.vmalloc();
        guest.change(guest.init, va, Level::Pt, |entry| entry.without(bits::NX));
        guest.change(guest.init, va, Level::Pd, |entry| entry | bits::NX);
        let text = guest.image(IMAGE_TEXT);
        guest.change(guest.init, text, Level::Pd, |entry| entry | Entry::USER);
        guest.change(guest.init, text, Level::Pdpt, |entry| {
            entry.without(Entry::USER)
        });
    });
}

#[test]
fn text_that_the_direct_map_can_write_is_found_once_for_each_page() {
    for text in [IMAGE_TEXT, MODULE_TEXT] {
        let change = |guest: &mut Guest| {
            let va = guest.direct(text);
            guest.change(guest.init, va, Level::Pd, |entry| entry | Entry::WRITABLE);
        };
        assert_breaks(&["no-writable-text-alias"], change);
        for mut guest in Guest::all() {
            change(&mut guest);
            let finding = finding(&guest, "no-writable-text-alias");
            assert_eq!(finding.range.unwrap().first, guest.direct(text));
            let executable = finding.walks.last().unwrap().1;
            let translation = executable.translation().unwrap();
            assert_eq!(translation.page, text);
            assert!(translation.rights.execute);
            assert!(
                finding.expected.contains(&executable.va.to_string()),
                "{finding:?}"
            );
        }
    }
}

#[test]
fn text_that_vmalloc_or_a_process_can_write_is_found() {
    // One 4 KiB page inside the 2 MiB of text, at either end.
    for offset in [0, 2 * MIB - PAGE] {
        let frame = IMAGE_ENTRY_TEXT.wrapping_add(offset);
        assert_breaks(&["no-writable-text-alias"], |guest| {
            let va = guest.vmalloc().wrapping_add(77 * PAGE);
            guest.map(guest.init, va, frame, Size4KiB, bits::DATA);
        });
        assert_breaks(&["no-writable-text-alias"], |guest| {
            let (root, va) = (guest.processes[2], USER_DATA.wrapping_add(77 * PAGE));
            guest.map_user(root, va, frame, Size4KiB, bits::USER_DATA);
            let finding = finding(guest, "no-writable-text-alias");
            assert_eq!(finding.range.unwrap().first, va);
        });
        // Reading is allowed: the vDSO is a kernel's frame, too.
        assert_breaks(&[], |guest| {
            let (root, va) = (guest.processes[2], USER_DATA.wrapping_add(77 * PAGE));
            guest.map_user(root, va, frame, Size4KiB, bits::USER_TEXT);
        });
    }
    // The frames just before and behind.
    for frame in [IMAGE_TEXT.get() - PAGE, IMAGE_DATA.get()] {
        assert_breaks(&[], |guest| {
            let va = guest.vmalloc().wrapping_add(77 * PAGE);
            guest.map(guest.init, va, PhysAddr::new(frame), Size4KiB, bits::DATA);
        });
    }
}

#[test]
fn text_that_one_process_alone_can_write_at_the_same_address_is_found() {
    let rules = ["kernel-mappings-equal", "no-writable-text-alias"];
    assert_breaks(&rules, |guest| {
        let (root, va) = (guest.processes[1], guest.image(IMAGE_TEXT));
        guest.privatize(root, va, Level::Pd);
        guest.change(root, va, Level::Pd, |entry| {
            entry | Entry::WRITABLE | bits::NX
        });
    });
}

#[test]
fn a_kernel_page_that_ring_3_can_access_is_found_by_the_rights_of_the_whole_walk() {
    // Every top entry of the kernel half has US, and every table below: the leaf alone decides.
    for guest in Guest::all() {
        let mut guest = guest;
        for index in 256..512 {
            let entry = guest.memory.peek(guest.init.pfn(), index);
            assert!(!entry.present() || entry.user());
        }
        assert_eq!(broken(&guest), [""; 0]);
        let va = guest.vmalloc();
        guest.change(guest.init, va, Level::Pt, |entry| entry | Entry::USER);
        assert_eq!(broken(&guest), ["kernel-not-user"], "{}", guest.plan);
        let finding = finding(&guest, "kernel-not-user");
        assert_eq!(finding.range.unwrap().first, va);
        assert!(finding.found.contains("rw-u"), "{finding:?}");
        guest.change(guest.init, va, Level::Pd, |entry| {
            entry.without(Entry::USER)
        });
        assert_eq!(broken(&guest), [""; 0]);
    }
}

#[test]
fn the_vsyscall_page_is_let_pass_read_only_small_and_in_its_place() {
    let map = |guest: &mut Guest, va, flags| {
        let page = guest.data_page();
        guest.map(guest.init, va, page, Size4KiB, flags);
        if guest.plan.kpti {
            // Linux's pti_setup_vsyscall: user roots have it, too.
            let user = guest.user_root(guest.init);
            guest.map(user, va, page, Size4KiB, flags);
            let top = guest.top();
            guest.change(user, va, top, |entry| entry | Entry::USER);
            let entry = guest.memory.peek(user.pfn(), 511);
            for kernel in guest.processes.clone().into_iter().chain([guest.poking]) {
                let user = guest.user_root(kernel);
                guest.memory.poke(user.pfn(), 511, entry);
            }
        }
    };
    for mut guest in Guest::all() {
        map(&mut guest, VSYSCALL, bits::USER_CONSTANTS);
        let check = check(&guest);
        assert!(check.holds, "{}: {:?}", guest.plan, broken(&guest));
        let met: Vec<_> = check
            .rules
            .iter()
            .flat_map(|rule| {
                rule.exceptions
                    .iter()
                    .map(|met| (rule.rule.name, met.exception.name))
            })
            .filter(|(_, name)| *name == "vsyscall-page")
            .map(|(rule, _)| rule)
            .collect();
        let kpti: &[_] = if guest.plan.kpti {
            &["user-root-minimal"]
        } else {
            &[]
        };
        assert_eq!(met, [&["kernel-not-user"], kpti].concat());
    }
    for (va, flags) in [
        (VSYSCALL, bits::USER_DATA),
        (VSYSCALL.wrapping_add(PAGE), bits::USER_CONSTANTS),
    ] {
        for mut guest in Guest::all() {
            map(&mut guest, va, flags);
            let rules: &[_] = if guest.plan.kpti {
                &["kernel-not-user", "user-root-minimal"]
            } else {
                &["kernel-not-user"]
            };
            assert_eq!(broken(&guest), rules, "{}: {va}", guest.plan);
        }
    }
}

#[test]
fn a_page_table_that_ring_3_can_reach_is_found_even_inside_a_large_page() {
    assert_breaks(&["tables-not-user-mapped"], |guest| {
        let root = guest.processes[2];
        let table = guest.table(guest.processes[1], USER_DATA, Level::Pt);
        let va = USER_DATA.wrapping_add(99 * PAGE);
        guest.map_user(root, va, table.base(), Size4KiB, bits::USER_CONSTANTS);
        let finding = finding(guest, "tables-not-user-mapped");
        assert_eq!(finding.range.unwrap().first, va);
        assert!(finding.expected.contains(&table.to_string()), "{finding:?}");
    });
    assert_breaks(&["tables-not-user-mapped"], |guest| {
        let root = guest.processes[2];
        let va = heirloom_inspect::VirtAddr::new(0x7e00_0000_0000);
        guest.map_user(
            root,
            va,
            PhysAddr::new(32 * MIB),
            PageSize::Size2MiB,
            bits::USER_DATA,
        );
    });
    // A freed root is a page like any other.
    assert_breaks(&[], |guest| {
        let freed = guest.add_freed();
        let (root, va) = (guest.processes[2], USER_DATA.wrapping_add(99 * PAGE));
        guest.map_user(root, va, freed, Size4KiB, bits::USER_DATA);
    });
}

#[test]
fn a_compilers_pages_are_a_note_and_with_strictness_a_fault() {
    for guest in Guest::all() {
        let lenient = check(&guest);
        assert!(lenient.holds);
        let notes = lenient.notes.join("\n");
        assert!(
            notes.contains("1 page of processes is writable and executable"),
            "{notes}"
        );
        assert!(notes.contains("--strict-user"), "{notes}");
        assert_eq!(broken_strictly(&guest), ["user-write-xor-execute"]);
        let strict = Check::of(
            &guest.discover(),
            Strictness {
                user: true,
                ..Strictness::default()
            },
        );
        let verdict = strict.rules.last().unwrap();
        assert_eq!(verdict.violations, 1, "{}", guest.plan);
        let finding = &verdict.findings[0];
        assert_eq!(
            finding.range.unwrap().first,
            USER_DATA.wrapping_add(4 * PAGE)
        );
        // With KPTI it is the user root that may execute it.
        let roots = guest.pair(guest.processes[0]);
        assert_eq!(finding.walks[0].1.root, *roots.last().unwrap());
        let mut strict_notes = strict.notes;
        strict_notes.retain(|note| note.contains("strict"));
        assert_eq!(strict_notes, [""; 0]);
    }
}

#[test]
fn a_page_of_a_user_half_is_judged_once_though_two_roots_have_it() {
    for guest in Guest::all() {
        let pages: u64 = guest
            .discover()
            .spaces
            .iter()
            .filter(|space| guest.processes.contains(&space.address))
            .map(|space| space.user_pages)
            .sum();
        let check = Check::of(
            &guest.discover(),
            Strictness {
                user: true,
                ..Strictness::default()
            },
        );
        for rule in [
            "user-write-xor-execute",
            "user-pages-in-ram",
            "tables-not-user-mapped",
        ] {
            let verdict = check
                .rules
                .iter()
                .find(|verdict| verdict.rule.name == rule)
                .unwrap();
            assert_eq!(verdict.checks, pages, "{}: {rule}", guest.plan);
        }
    }
}
