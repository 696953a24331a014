//! Each root is named for what it is, and compared with those of its kind.

use std::collections::{BTreeMap, BTreeSet};

use heirloom_inspect::discover::Kind;
use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{
    Cr3, Depth, Discovery, Entry, Level, PageSize, Pfn, PhysAddr, RootLabel, VirtAddr,
};

use crate::discovery::{expected, guests, kinds};
use crate::scene::{
    CPU_ENTRY_AREA, Guest, PAGE, Plan, TRAMPOLINE, UNUSED, USER_DATA, bits, broken, flags_of,
};

#[test]
fn each_kind_is_recognized_for_the_reason_that_is_given() {
    for mut guest in guests() {
        guest.cpus.truncate(1);
        let freed = guest.add_freed();
        let reused = guest.add_reused();
        // Not even the kernel half is whole, but it is most of it.
        let torn = guest.add_freed();
        let direct = guest.top_index(guest.plan.bases.direct_map);
        for root in guest.pair(torn) {
            guest.memory.poke(root.pfn(), direct, Entry::ABSENT);
        }
        let discovery = guest.discover();
        for (root, kind, words) in [
            (guest.processes[0], Kind::Process, "a user half of its own"),
            (
                guest.init,
                Kind::Kernel,
                "in the kernel image, next to the table",
            ),
            (guest.poking, Kind::NoPages, "has tables, but maps no page"),
            (
                TRAMPOLINE.base(),
                Kind::Trampoline,
                "for ring 0 alone, 1022 of them to their own address",
            ),
            (freed, Kind::Idle, "no user half, on no CPU"),
            (torn, Kind::Idle, "no user half, on no CPU"),
            (
                reused,
                Kind::Freed,
                "256 of 256 user entries are none that a kernel writes",
            ),
        ] {
            let space = discovery.space_at(root).unwrap();
            assert_eq!(space.kind, kind, "{}: {space:?}", guest.plan);
            assert!(space.evidence.contains(words), "{}: {space:?}", guest.plan);
        }
        if guest.plan.kpti {
            for (root, kind, words) in [
                (
                    guest.processes[0],
                    Kind::UserRoot,
                    "a way into the kernel, and the kernel root",
                ),
                (
                    freed,
                    Kind::Idle,
                    "the user root of a pair that is idle or freed",
                ),
                (reused, Kind::Freed, "the user root of a freed pair"),
            ] {
                let space = discovery.space_at(guest.user_root(root)).unwrap();
                assert_eq!(space.kind, kind, "{}: {space:?}", guest.plan);
                assert!(space.evidence.contains(words), "{}: {space:?}", guest.plan);
            }
        }
    }
}

#[test]
fn a_trampoline_of_two_entries_as_older_kernels_have_it_is_one_and_a_single_word_is_none() {
    for mut guest in guests() {
        let direct = guest.top_index(guest.plan.bases.direct_map);
        let entry = |guest: &Guest, index| guest.memory.peek(guest.init.pfn(), index);
        let old = guest.memory.frame();
        guest.memory.poke(old, 0, entry(&guest, direct));
        guest.memory.poke(old, 511, entry(&guest, 511));
        // Data that happens to have one word of the kernel's root, alone or among others.
        let lone = guest.memory.frame();
        guest.memory.poke(lone, 511, entry(&guest, 511));
        let stack = guest.memory.frame();
        for index in 0..512 {
            guest
                .memory
                .poke(stack, index, Entry::new(u64::from(index) << 4));
        }
        guest.memory.poke(stack, direct, entry(&guest, direct));
        let discovery = guest.discover();
        let space = discovery.space_at(old.base()).unwrap();
        assert_eq!(space.kind, Kind::Trampoline, "{space:?}");
        assert!(
            space
                .evidence
                .contains("2 entries, all of them the kernel's"),
            "{space:?}"
        );
        for frame in [lone, stack] {
            assert!(discovery.space_at(frame.base()).is_none(), "{}", guest.plan);
        }
        assert_eq!(discovery.spaces.len(), expected(&guest).len() + 1);
    }
}

#[test]
fn a_root_that_lacks_a_kernel_entry_or_has_a_private_copy_is_found_and_told_apart() {
    for mut guest in guests() {
        let (lacking, private) = (guest.processes[1], guest.processes[2]);
        let vmalloc = guest.vmalloc();
        let (dropped, copied) = (
            guest.top_index(vmalloc),
            guest.top_index(guest.image(UNUSED)),
        );
        guest.memory.poke(lacking.pfn(), dropped, Entry::ABSENT);
        guest.privatize(private, guest.image(UNUSED), Level::Pdpt);
        let discovery = guest.discover();
        assert_eq!(kinds(&discovery), expected(&guest), "{}", guest.plan);
        for (root, index) in [(lacking, dropped), (private, copied)] {
            let space = discovery.space_at(root).unwrap();
            let differing: Vec<_> = space.differences.iter().map(|found| found.index).collect();
            assert_eq!(differing, [index], "{}", guest.plan);
        }
        let others = discovery
            .spaces
            .iter()
            .filter(|space| ![lacking, private].contains(&space.address));
        assert!(others.into_iter().all(|space| space.differences.is_empty()));
    }
}

#[test]
fn where_as_many_roots_say_otherwise_it_is_the_kernels_own_that_the_others_are_compared_with() {
    for mut plan in Plan::all() {
        plan.processes = 0;
        plan.cpus = 1;
        let mut guest = Guest::new(plan);
        for root in guest.pair(guest.poking) {
            guest.memory.remove(root.pfn());
        }
        guest.memory.remove(TRAMPOLINE);
        // A process whose root is below the kernel's: the order must not matter.
        let process = PhysAddr::new(0x10_0000);
        guest.memory.add(process.pfn());
        guest.inherit(guest.init, process);
        let page = guest.data_page();
        guest.map(
            process,
            USER_DATA,
            page,
            PageSize::Size4KiB,
            bits::USER_DATA,
        );
        let dropped = guest.top_index(guest.vmalloc());
        guest.memory.poke(process.pfn(), dropped, Entry::ABSENT);
        let discovery = guest.discover();
        let differing = |root| &discovery.space_at(root).unwrap().differences[..];
        assert_eq!(differing(process).len(), 1, "{}", guest.plan);
        assert_eq!(differing(guest.init), []);
    }
}

#[test]
fn clusters_are_equal_kernel_halves_numbered_by_size() {
    let mut guest = Guest::new(Plan::new(Depth::Four, true));
    let index = guest.top_index(guest.vmalloc());
    for number in [0, 2] {
        guest
            .memory
            .poke(guest.processes[number].pfn(), index, Entry::ABSENT);
    }
    let discovery = guest.discover();
    let mut members: BTreeMap<usize, BTreeSet<PhysAddr>> = BTreeMap::new();
    for space in &discovery.spaces {
        members
            .entry(space.cluster)
            .or_default()
            .insert(space.address);
    }
    let sizes: Vec<usize> = members.values().map(BTreeSet::len).collect();
    // User roots; kernel roots, kernel, poking, trampoline; those that lack an entry.
    assert_eq!(sizes, [6, 5, 2]);
    assert_eq!(members[&2], [guest.processes[0], guest.processes[2]].into());
    // A and D are the CPU's: they part nobody.
    let mut guest = Guest::new(Plan::new(Depth::Four, false));
    let entry = guest.memory.peek(guest.init.pfn(), index);
    let unused = entry.without(Entry::ACCESSED | Entry::DIRTY);
    guest.memory.poke(guest.processes[1].pfn(), index, unused);
    assert!(
        guest
            .discover()
            .spaces
            .iter()
            .all(|space| space.cluster == 0)
    );
}

#[test]
fn a_process_that_a_cpu_still_borrows_after_its_end_is_no_freed_root() {
    for mut guest in guests() {
        let lazy = guest.add_freed();
        let freed = guest.add_freed();
        guest.cpus[1].cr3 = Cr3::new(lazy.get());
        let discovery = guest.discover();
        assert_eq!(discovery.space_at(lazy).unwrap().kind, Kind::Kernel);
        assert_eq!(discovery.space_at(freed).unwrap().kind, Kind::Idle);
        // It is init_top_pgt that the others are compared with.
        let reference = discovery.reference.unwrap();
        assert!([guest.init, lazy].contains(&discovery.space(reference).address));
    }
}

#[test]
fn entries_without_p_are_no_frames_even_with_a_frame_number() {
    for mut guest in guests() {
        let root = guest.processes[0];
        // A PROT_NONE page whose (not inverted) frame number is that of a table, and a swap entry.
        let table = guest.table(root, USER_DATA, Level::Pt);
        let none = Entry::pointing_to(table.base(), Entry::GLOBAL);
        guest.memory.poke(table, 100, none);
        let pages = guest.table(root, USER_DATA, Level::Pd);
        guest.memory.poke(pages, 400, none);
        let before = Guest::new(guest.plan.clone()).discover();
        let after = guest.discover();
        let pages = |discovery: &Discovery| discovery.space_at(root).unwrap().user_pages;
        assert_eq!(pages(&before), pages(&after));
        assert_eq!(
            before.snapshot.tables().count(),
            after.snapshot.tables().count()
        );
    }
}

#[test]
fn user_pages_are_counted_though_tables_are_shared_within_the_user_half() {
    let mut guest = Guest::new(Plan::new(Depth::Four, false));
    let root = guest.processes[3];
    let before = guest.discover().space_at(root).unwrap().user_pages;
    // The same page table at two more places.
    let entry = guest.entry(root, USER_DATA, Level::Pd);
    for place in [1, 2] {
        let va = VirtAddr::new(0x1000_0000_0000 + (place << 21));
        let table = guest.table(root, va, Level::Pd);
        guest.memory.poke(table, va.index(Level::Pd), entry);
    }
    guest.mirror(root);
    let after = guest.discover().space_at(root).unwrap().user_pages;
    assert_eq!(after - before, 2 * 3);
    let supervisor = guest.data_page();
    guest.map(
        root,
        VirtAddr::new(0x1000_0000),
        supervisor,
        PageSize::Size4KiB,
        bits::DATA,
    );
    guest.mirror(root);
    assert_eq!(guest.discover().space_at(root).unwrap().user_pages, after);
}

#[test]
fn a_cr3_that_leads_nowhere_is_a_root_that_is_not_understood() {
    for mut guest in guests() {
        for nowhere in [UNUSED, PhysAddr::new(0x7_0000_0000)] {
            guest.cpus[1].cr3 = Cr3::new(nowhere.get());
            let discovery = guest.discover();
            let space = discovery.space_at(nowhere).unwrap();
            assert_eq!(space.kind, Kind::NotUnderstood, "{space:?}");
            assert!(space.evidence.contains("no page table"), "{space:?}");
        }
        // A frame of zeroes is not a root of few entries.
        guest.memory.add(Pfn::new(UNUSED.get() / PAGE));
        guest.cpus[1].cr3 = Cr3::new(UNUSED.get());
        assert_eq!(
            guest.discover().space_at(UNUSED).unwrap().kind,
            Kind::NotUnderstood
        );
    }
}

#[test]
fn where_the_kernel_has_one_root_for_all_each_process_is_found_by_the_cpu_entry_area_they_share() {
    let mut guest = Guest::new(Plan::new(Depth::Four, false));
    let entry_area = guest.top_index(CPU_ENTRY_AREA);
    for root in guest.processes.clone() {
        for index in (256..512).filter(|index| *index != entry_area) {
            guest.memory.poke(root.pfn(), index, Entry::ABSENT);
        }
    }
    // Whoever is on them is in ring 3: what ring 0 runs is not there.
    for cpu in &mut guest.cpus {
        if guest.processes.contains(&cpu.cr3.root()) {
            cpu.cpl = 3;
        }
    }
    // They have the entry, but also one that the kernel has not, or nothing for ring 3.
    let [strange, empty] = [guest.add_root(), guest.add_root()];
    for root in [strange, empty] {
        for index in (256..512).filter(|index| *index != entry_area) {
            guest.memory.poke(root.pfn(), index, Entry::ABSENT);
        }
    }
    guest
        .memory
        .poke(strange.pfn(), 300, FakeMemory::POINTER | Entry::new(0x5000));
    guest
        .memory
        .poke(strange.pfn(), 0, FakeMemory::POINTER | Entry::new(0x5000));
    let discovery = guest.discover();
    for root in &guest.processes {
        let space = discovery.space_at(*root).unwrap();
        assert_eq!(space.kind, Kind::UserRoot, "{space:?}");
        assert!(
            space.evidence.contains("a way into the kernel"),
            "{space:?}"
        );
        assert!(space.user_pages > 0, "{space:?}");
    }
    assert_eq!(discovery.space_at(guest.init).unwrap().kind, Kind::Kernel);
    assert!(discovery.space_at(strange).is_none());
    assert!(discovery.space_at(empty).is_none());
    assert_eq!(broken(&guest), [""; 0]);
}

#[test]
fn recorded_processes_with_private_copies_of_all_kernel_tables_are_processes_and_the_copies_are_told()
 {
    let mut guest = Guest::new(Plan::new(Depth::Four, false));
    guest.roots = vec![(RootLabel::Kernel, guest.init)];
    for (pid, root) in (1..).zip(guest.processes.clone()) {
        for index in 256..512 {
            let entry = guest.memory.peek(root.pfn(), index);
            if entry.present() {
                let copy = guest.memory.copy_of(entry.address().pfn());
                let flags = flags_of(entry);
                guest
                    .memory
                    .poke(root.pfn(), index, Entry::pointing_to(copy.base(), flags));
            }
        }
        guest.roots.push((RootLabel::Process(pid), root));
    }
    let discovery = guest.discover();
    for root in &guest.processes {
        let space = discovery.space_at(*root).unwrap();
        assert_eq!(space.kind, Kind::Process, "{space:?}");
    }
    assert_eq!(broken(&guest), ["kernel-tables-shared"]);
}

#[test]
fn a_root_that_the_user_names_and_that_is_none_is_a_fault_of_its_own() {
    for mut guest in guests() {
        guest.roots = vec![(RootLabel::Found(UNUSED), UNUSED)];
        guest.memory.add(UNUSED.pfn());
        assert_eq!(broken(&guest), ["cr3-known"], "{}", guest.plan);
    }
}
