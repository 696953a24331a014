//! Kernel page-table isolation.

use heirloom_inspect::{Entry, Level, PageSize, Pfn, PhysAddr, PhysicalMemory, VirtAddr};

use super::{assert_breaks, assert_breaks_in, isolated};
use crate::scene::{
    CPU_ENTRY_AREA, Guest, IMAGE_CONSTANTS, IMAGE_DATA, MIB, MODULE_TEXT, MODULES, PAGE, TSS,
    UNUSED, USER_DATA, USER_TEXT, bits, check, finding, findings,
};

use PageSize::{Size2MiB, Size4KiB};

/// Maps something in what all user roots share of the kernel half.
fn leak(guest: &mut Guest, va: VirtAddr, to: PhysAddr, size: PageSize, flags: Entry) {
    let user = guest.user_root(guest.init);
    let before: Vec<Entry> = (256..512)
        .map(|index| guest.memory.peek(user.pfn(), index))
        .collect();
    guest.map(user, va, to, size, flags);
    for (index, before) in (256..512).zip(before) {
        let entry = guest.memory.peek(user.pfn(), index);
        if entry != before {
            for kernel in guest.processes.clone().into_iter().chain([guest.poking]) {
                let user = guest.user_root(kernel);
                guest.memory.poke(user.pfn(), index, entry);
            }
        }
    }
}

#[track_caller]
fn assert_leaks(
    rules: &[&str],
    va: impl Fn(&Guest) -> VirtAddr,
    to: PhysAddr,
    size: PageSize,
    flags: Entry,
) {
    assert_breaks_in(isolated(), rules, |guest| {
        let va = va(guest);
        leak(guest, va, to, size, flags);
        if !rules.is_empty() {
            let finding = finding(guest, "user-root-minimal");
            assert_eq!(finding.range.unwrap().first, va);
            assert_eq!(finding.spaces.count, 6, "{finding:?}");
            let walk = finding.walks[0].1;
            assert_eq!(walk.root.get() % (2 * PAGE), PAGE, "in a user root");
            assert!(walk.result.is_ok());
        }
    });
}

const MINIMAL: [&str; 1] = ["user-root-minimal"];

#[test]
fn what_a_user_root_shows_of_direct_map_vmalloc_data_or_modules_is_a_leak() {
    assert_leaks(
        &MINIMAL,
        |guest| guest.direct(UNUSED),
        UNUSED,
        Size4KiB,
        bits::DATA,
    );
    assert_leaks(
        &MINIMAL,
        |guest| guest.direct(UNUSED),
        UNUSED,
        Size2MiB,
        bits::CONSTANTS,
    );
    assert_leaks(&MINIMAL, Guest::vmalloc, UNUSED, Size4KiB, bits::DATA);
    assert_leaks(
        &MINIMAL,
        |guest| guest.image(IMAGE_DATA),
        IMAGE_DATA,
        Size2MiB,
        bits::DATA,
    );
    assert_leaks(&MINIMAL, |_| MODULES, MODULE_TEXT, Size2MiB, bits::TEXT);
}

#[test]
fn constants_of_the_image_may_be_in_a_user_root() {
    assert_leaks(
        &[],
        |guest| guest.image(IMAGE_CONSTANTS),
        IMAGE_CONSTANTS,
        Size2MiB,
        bits::CONSTANTS,
    );
    for mut guest in isolated() {
        let va = guest.image(IMAGE_CONSTANTS);
        leak(&mut guest, va, IMAGE_CONSTANTS, Size2MiB, bits::CONSTANTS);
        let check = check(&guest);
        let minimal = check
            .rules
            .iter()
            .find(|rule| rule.rule.name == MINIMAL[0])
            .unwrap();
        let met: Vec<_> = minimal
            .exceptions
            .iter()
            .map(|met| (met.exception.name, met.count))
            .collect();
        assert_eq!(met, [("kpti-cpu-tss", 2), ("kpti-global-image", 1)]);
    }
}

#[test]
fn only_a_page_that_the_cpu_entry_area_shows_may_be_in_a_user_roots_direct_map() {
    // The TSS of a CPU that is not there.
    let stranger = TSS.wrapping_add(2 * PAGE);
    assert_leaks(
        &MINIMAL,
        |guest| guest.direct(stranger),
        stranger,
        Size4KiB,
        bits::DATA,
    );
    // With its page in the cpu entry area it is like the others.
    assert_breaks_in(isolated(), &[], |guest| {
        let va = CPU_ENTRY_AREA.wrapping_add(100 * PAGE);
        guest.map(guest.init, va, stranger, Size4KiB, bits::CONSTANTS);
        let va = guest.direct(stranger);
        leak(guest, va, stranger, Size4KiB, bits::DATA);
    });
    // Not in a large page, which shows more; and never to be executed.
    assert_breaks_in(isolated(), &MINIMAL, |guest| {
        let tss = guest.direct(TSS);
        let user = guest.user_root(guest.init);
        guest.change(user, tss, Level::Pd, |_| {
            Entry::pointing_to(TSS, bits::DATA | Entry::LARGE)
        });
    });
    let executable = ["no-writable-text-alias", "user-root-minimal"];
    assert_breaks_in(isolated(), &executable, |guest| {
        let tss = guest.direct(TSS);
        let user = guest.user_root(guest.init);
        guest.change(user, tss, Level::Pt, |_| {
            Entry::pointing_to(TSS, bits::TEXT)
        });
    });
}

#[test]
fn a_leak_into_one_user_root_alone_is_a_difference_too() {
    let rules = ["kernel-mappings-equal", "user-root-minimal"];
    assert_breaks_in(isolated(), &rules, |guest| {
        let user = guest.user_root(guest.processes[1]);
        let va = guest.vmalloc();
        guest.map(user, va, UNUSED, Size4KiB, bits::DATA);
        let finding = finding(guest, "user-root-minimal");
        assert_eq!(finding.spaces.roots, [user]);
    });
}

#[test]
fn a_user_root_with_the_whole_kernel_half_is_found_for_what_it_is() {
    // Not a user root any more by its words: two processes with one user half.
    for mut guest in isolated() {
        let kernel = guest.processes[1];
        guest.inherit(guest.init, guest.user_root(kernel));
        let found = crate::scene::broken(&guest);
        assert!(
            found.contains(&"user-tables-private"),
            "{}: {found:?}",
            guest.plan
        );
    }
}

#[test]
fn a_missing_nx_in_a_kernel_roots_user_half_is_found() {
    let change = |guest: &mut Guest| {
        let root = guest.processes[1];
        let top = guest.top();
        guest.change(root, USER_TEXT, top, |entry| entry.without(bits::NX));
    };
    assert_breaks_in(isolated(), &["user-half-nx"], change);
    for mut guest in isolated() {
        change(&mut guest);
        let finding = finding(&guest, "user-half-nx");
        assert_eq!(finding.place, guest.top_place(USER_TEXT));
        assert_eq!(finding.entry.unwrap().table, guest.processes[1].pfn());
        assert_eq!(finding.expected, "NX");
        assert_eq!(finding.spaces.roots, [guest.processes[1]]);
        let walk = finding.walks[0].1;
        assert!(walk.translation().unwrap().rights.user, "{walk}");
    }
    // Without KPTI there is no such promise.
    let guests = Guest::all().into_iter().filter(|guest| !guest.plan.kpti);
    for mut guest in guests {
        let top = guest.top();
        guest.change(guest.processes[1], USER_TEXT, top, |entry| entry | bits::NX);
        assert_eq!(crate::scene::broken(&guest), [""; 0]);
    }
}

#[test]
fn a_cpu_that_does_not_know_nx_cannot_be_asked_for_it() {
    let mut guests = isolated();
    for guest in &mut guests {
        // Neither has any entry.
        for cpu in &mut guest.cpus {
            cpu.efer &= !(1 << 11);
        }
        let frames: Vec<_> = (0..0x4000).map(Pfn::new).collect();
        for frame in frames {
            let mut words = [0; 512];
            if guest.memory.read_table(frame, &mut words).is_ok() {
                for (index, word) in (0..).zip(words) {
                    guest
                        .memory
                        .poke(frame, index, Entry::new(word).without(bits::NX));
                }
            }
        }
    }
    for guest in guests {
        let found = crate::scene::broken(&guest);
        assert!(!found.contains(&"user-half-nx"), "{found:?}");
        assert!(found.contains(&"write-xor-execute"), "{found:?}");
    }
}

#[test]
fn roots_of_a_pair_with_other_user_tables_are_found() {
    let change = |guest: &mut Guest| {
        let user = guest.user_root(guest.processes[1]);
        let va = VirtAddr::new(0x4000_0000_0000);
        let page = guest.data_page();
        guest.map(user, va, page, Size4KiB, bits::USER_DATA);
        guest.change(user, va, guest.top(), |entry| entry | Entry::ACCESSED);
    };
    let only_user = |guest: &mut Guest| {
        if guest.top() == Level::Pml4 {
            change(guest);
        } else {
            // The low half is one entry: another table in its place.
            let user = guest.user_root(guest.processes[1]);
            let page = guest.data_page();
            let high = VirtAddr::new(40 << 48);
            guest.map(user, high, page, Size4KiB, bits::USER_DATA);
        }
    };
    assert_breaks_in(isolated(), &["user-halves-mirrored"], only_user);
    let dropped = |guest: &mut Guest| {
        let user = guest.user_root(guest.processes[1]);
        let root = guest.processes[1];
        let page = guest.data_page();
        let high = VirtAddr::new(match guest.top() {
            Level::Pml4 => 0x4000_0000_0000,
            _ => 40 << 48,
        });
        guest.map_user(root, high, page, Size4KiB, bits::USER_DATA);
        let index = guest.top_index(high);
        guest.memory.poke(user.pfn(), index, Entry::ABSENT);
    };
    assert_breaks_in(isolated(), &["user-halves-mirrored"], dropped);
    for mut guest in isolated() {
        dropped(&mut guest);
        let finding = finding(&guest, "user-halves-mirrored");
        assert_eq!(finding.spaces.roots, [guest.user_root(guest.processes[1])]);
        assert_eq!(finding.found, "absent");
    }
    // What the kernel maps for itself is not for the user root.
    assert_breaks_in(isolated(), &[], |guest| {
        let root = guest.processes[1];
        let va = VirtAddr::new(match guest.top() {
            Level::Pml4 => 0x4000_0000_0000,
            _ => 40 << 48,
        });
        let page = guest.data_page();
        guest.map(root, va, page, Size4KiB, bits::DATA);
        let top = guest.top();
        guest.change(root, va, top, |entry| {
            Entry::pointing_to(entry.address(), bits::KERNEL_TABLE)
        });
    });
}

#[test]
fn findings_are_kept_to_a_number_and_counted_beyond() {
    for mut guest in isolated() {
        for page in 0..100 {
            let va = guest.vmalloc().wrapping_add(page * PAGE);
            leak(
                &mut guest,
                va,
                UNUSED.wrapping_add(page * PAGE),
                Size4KiB,
                bits::DATA,
            );
        }
        let rules = check(&guest).rules;
        let minimal = rules
            .iter()
            .find(|rule| rule.rule.name == MINIMAL[0])
            .unwrap();
        assert_eq!(minimal.violations, 100);
        assert_eq!(findings(&guest, MINIMAL[0]).len(), 100);
    }
    assert_breaks(&[], |guest| {
        let (root, page) = (guest.processes[0], guest.data_page());
        guest.map_user(
            root,
            USER_DATA.wrapping_add(MIB),
            page,
            Size4KiB,
            bits::USER_DATA,
        );
    });
}
