//! Roots that show ring 3 a window of the kernel only, of whatever size.

use heirloom_inspect::discover::Kind;
use heirloom_inspect::{Depth, Entry, PageSize, PhysAddr, VirtAddr};

use super::ram::{CODE, DATA, LARGE, PAGE, Ram, kinds};

const IMAGE: u64 = 0xffff_ffff_8000_0000;

/// A kernel, and three processes whose roots map `window` pages of its code and nothing else of it.
fn guest(depth: Depth, window: u64) -> (Ram, PhysAddr, Vec<PhysAddr>) {
    let mut ram = Ram::new(64, depth);
    let kernel = ram.root();
    for page in 0..512 {
        ram.map(
            kernel,
            IMAGE + page * PAGE,
            0x100_0000 + page * PAGE,
            PageSize::Size4KiB,
            CODE,
        );
    }
    for page in 0..32 {
        let pa = page * LARGE;
        ram.map(
            kernel,
            0xffff_8000_0000_0000 + pa,
            pa,
            PageSize::Size2MiB,
            DATA,
        );
    }
    let mut users = Vec::new();
    for number in 0..3 {
        let root = ram.root();
        for page in 100..100 + window {
            ram.map(
                root,
                IMAGE + page * PAGE,
                0x100_0000 + page * PAGE,
                PageSize::Size4KiB,
                CODE,
            );
        }
        ram.user(root, 0x40_0000, 0x200_0000 + number * 0x1_0000);
        users.push(root);
    }
    (ram, kernel, users)
}

/// A kernel that has a root for ring 3 beside each of its processes' own, so many frames behind it: one of its two
/// entries, and the same user half.
fn pairs(gap: u64, processes: u64) -> (Ram, PhysAddr, Vec<(PhysAddr, PhysAddr)>) {
    let way_in = 0xffff_fe00_0000_0000;
    let mut ram = Ram::new(64, Depth::Four);
    let kernel = ram.root();
    ram.image(kernel, IMAGE);
    ram.map(kernel, way_in, 0x300_0000, PageSize::Size4KiB, CODE);
    ram.map(kernel, way_in + PAGE, 0x300_1000, PageSize::Size4KiB, DATA);
    let mut roots = Vec::new();
    for number in 0..processes {
        let root = ram.root();
        for _ in 1..gap {
            ram.memory.frame();
        }
        let user = ram.root();
        ram.share(kernel, root, 256..512);
        ram.share(kernel, user, 508..509);
        ram.user(root, 0x40_0000, 0x310_0000 + number * 0x1_0000);
        let entry = ram.memory.peek(root.pfn(), 0);
        ram.memory.poke(user.pfn(), 0, entry);
        let no_execute = Entry::new(1 << 63);
        ram.memory.poke(root.pfn(), 0, entry | no_execute);
        roots.push((root, user));
    }
    (ram, kernel, roots)
}

#[test]
fn a_root_for_ring_3_need_not_lie_beside_the_kernels() {
    for (gap, processes) in [(1, 3), (2, 1), (3, 4), (7, 2), (40, 5)] {
        let (mut ram, kernel, roots) = pairs(gap, processes);
        for (root, user) in roots.iter().copied() {
            for from in [root, user, kernel] {
                ram.cpus.clear();
                ram.run(from);
                let discovery = ram.discover();
                let found = kinds(&discovery);
                assert_eq!(found.len(), 1 + 2 * roots.len(), "{gap} {found:?}");
                assert_eq!(found[&kernel], Kind::Kernel);
                for (root, user) in &roots {
                    assert_eq!(found[root], Kind::Process, "{gap}");
                    assert_eq!(found[user], Kind::UserRoot, "{gap} from {from}: {found:?}");
                    let space = discovery.space_at(*root).unwrap();
                    assert_eq!(space.partner, Some(*user), "{gap}");
                }
                assert_eq!(ram.broken(), [], "{gap}");
            }
        }
    }
}

#[test]
fn a_kernel_need_not_guard_its_user_halves_by_nx_but_if_it_does_all_of_them() {
    let no_execute = Entry::new(1 << 63);
    for lacking in [1, 3] {
        let (mut ram, kernel, roots) = pairs(1, 3);
        for (root, _) in &roots[..lacking] {
            let entry = ram.memory.peek(root.pfn(), 0);
            ram.memory.poke(root.pfn(), 0, entry.without(no_execute));
        }
        ram.run(kernel);
        let expected = match lacking {
            1 => vec![("user-half-nx", 1)],
            _ => Vec::new(),
        };
        assert_eq!(ram.broken(), expected, "{lacking}");
    }
}

#[test]
fn the_roots_of_ring_3_are_found_by_the_window_alone() {
    for (depth, window) in [
        (Depth::Four, 1),
        (Depth::Four, 4),
        (Depth::Five, 2),
        (Depth::Four, 60),
    ] {
        let (mut ram, kernel, users) = guest(depth, window);
        for idt in [None, Some(VirtAddr::new(IMAGE + 100 * PAGE))] {
            ram.cpus.clear();
            ram.run(kernel).idt = idt;
            let discovery = ram.discover();
            let found = kinds(&discovery);
            assert_eq!(found[&kernel], Kind::Kernel);
            for root in &users {
                assert_eq!(found.get(root), Some(&Kind::UserRoot), "{window}");
            }
            assert_eq!(found.len(), 4);
        }
    }
}

#[test]
fn a_window_on_something_else_is_none() {
    let (mut ram, kernel, _) = guest(Depth::Four, 1);
    let stranger = ram.root();
    ram.map(
        stranger,
        IMAGE + 100 * PAGE,
        0x300_0000,
        PageSize::Size4KiB,
        CODE,
    );
    ram.user(stranger, 0x40_0000, 0x310_0000);
    ram.run(kernel);
    assert!(ram.discover().space_at(stranger).is_none());
}

#[test]
fn a_window_with_a_large_page_of_all_memory_shows_ring_3_too_much() {
    for depth in [Depth::Four, Depth::Five] {
        let (mut ram, kernel, users) = guest(depth, 4);
        ram.run(kernel);
        assert_eq!(ram.broken(), []);
        let memory = 0xffff_8000_0000_0000;
        let all = |ram: &mut Ram, pa: u64, size: PageSize| {
            for root in &users {
                ram.map(*root, memory + pa, pa, size, DATA);
            }
        };
        // A page of a CPU's own is none too many.
        all(&mut ram, 5 * PAGE, PageSize::Size4KiB);
        assert_eq!(ram.broken(), []);
        all(&mut ram, 7 * LARGE, PageSize::Size2MiB);
        assert_eq!(ram.broken(), [("user-root-minimal", 3)]);
        let findings = ram.findings("user-root-minimal");
        let first = findings[0].range.unwrap().first;
        assert_eq!(first, VirtAddr::new(memory + 7 * LARGE));
    }
}
