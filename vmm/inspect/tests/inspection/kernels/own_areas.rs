//! What each process has of its own in the kernel half, at one address in all.

use heirloom_inspect::{Depth, Entry, PageSize, PhysAddr};

use super::ram::{DATA, LARGE, PAGE, Ram, USER_DATA, expected, kinds};

const IMAGE: u64 = 0xffff_ffff_8000_0000;

/// A kernel whose processes each have `pages` pages of their own at `at`; `inherit` gives a root the kernel half of
/// the kernel's.
fn guest_by(
    inherit: fn(&mut Ram, PhysAddr, PhysAddr),
    (at, pages, processes): (u64, u64, u64),
) -> (Ram, PhysAddr, Vec<PhysAddr>) {
    let mut ram = Ram::new(64, Depth::Four);
    let kernel = ram.root();
    ram.image(kernel, IMAGE);
    let mut roots = Vec::new();
    for number in 0..processes {
        let root = ram.root();
        inherit(&mut ram, kernel, root);
        for page in 0..pages {
            let pa = 0x200_0000 + number * 0x10_0000 + page * PAGE;
            ram.map(root, at + page * PAGE, pa, PageSize::Size4KiB, DATA);
        }
        ram.user(root, 0x40_0000, 0x300_0000 + number * 0x1_0000);
        roots.push(root);
    }
    (ram, kernel, roots)
}

/// By the kernel's own entries.
fn guest(at: u64, pages: u64, processes: u64) -> (Ram, PhysAddr, Vec<PhysAddr>) {
    let inherit = |ram: &mut Ram, kernel, root| ram.share(kernel, root, 256..512);
    guest_by(inherit, (at, pages, processes))
}

/// By copies of all its tables, in which the stack is one entry.
fn copies(at: u64, pages: u64, processes: u64) -> (Ram, PhysAddr, Vec<PhysAddr>) {
    let inherit = |ram: &mut Ram, _, root| ram.image(root, IMAGE);
    guest_by(inherit, (at, pages, processes))
}

fn assert_each_has_its_own(ram: &mut Ram, kernel: PhysAddr, roots: &[PhysAddr]) {
    for root in [roots[0], kernel] {
        ram.cpus.clear();
        ram.run(root);
        assert_eq!(kinds(&ram.discover()), expected(kernel, roots));
        assert_eq!(ram.broken(), []);
        assert_eq!(ram.let_pass(), [("each-its-own", roots.len() as u64)]);
    }
}

#[test]
fn stacks_of_processes_at_one_address_are_let_pass_by_name() {
    for (at, pages, processes) in [
        (0xffff_9000_0000_0000, 1, 4),
        (0xffff_ff00_0000_0000, 8, 3),
        (0xffff_a123_4567_8000, 33, 7),
    ] {
        let (mut ram, kernel, roots) = guest(at, pages, processes);
        assert_each_has_its_own(&mut ram, kernel, &roots);
    }
}

#[test]
fn among_private_copies_only_what_differs_in_each_is_its_own() {
    let at = 0xffff_ffff_9000_0000;
    for (pages, processes) in [(1, 3), (4, 5)] {
        let (mut ram, kernel, roots) = copies(at, pages, processes);
        assert_each_has_its_own(&mut ram, kernel, &roots);
        // A page of the image that only one lacks, one that all lack, one that is another's.
        for (lacking, pa) in [(1, None), (processes, None), (1, Some(0x3f0_0000))] {
            let mut ram = ram.clone();
            let number = usize::try_from(lacking).unwrap();
            for root in &roots[..number] {
                let (va, other) = (IMAGE + 3 * LARGE, pa.unwrap_or_default());
                let flags = if pa.is_some() { DATA } else { Entry::ABSENT };
                ram.map(*root, va, other & !(LARGE - 1), PageSize::Size2MiB, flags);
            }
            let broken = ram.broken();
            let equal = ("kernel-mappings-equal", processes);
            assert!(broken.contains(&equal), "{lacking} {pa:?}: {broken:?}");
        }
    }
}

#[test]
fn what_only_some_have_or_two_share_or_ring_3_sees_is_none() {
    let at = 0xffff_9000_0000_0000;
    // Of two processes nobody knows which is right.
    let (mut ram, kernel, _) = guest(at, 1, 2);
    ram.run(kernel);
    assert_eq!(ram.broken(), [("kernel-mappings-equal", 2)]);
    // A page that stayed with the process that made it.
    let (mut ram, kernel, roots) = guest(at, 2, 4);
    ram.run(kernel);
    let other = at + 9 * PAGE;
    ram.map(roots[1], other, 0x280_0000, PageSize::Size4KiB, DATA);
    assert_eq!(ram.broken(), [("kernel-mappings-equal", 4)]);
    // One process shows another's.
    let (mut ram, kernel, roots) = guest(at, 2, 4);
    ram.run(kernel);
    ram.map(roots[3], at, 0x200_0000, PageSize::Size4KiB, DATA);
    assert_eq!(ram.broken(), [("kernel-mappings-equal", 4)]);
    // One has none.
    let (mut ram, kernel, roots) = guest(at, 2, 5);
    ram.run(kernel);
    ram.memory.poke(roots[2].pfn(), 288, Entry::ABSENT);
    let broken: Vec<_> = ram.broken().into_iter().map(|(rule, _)| rule).collect();
    assert_eq!(broken, ["kernel-mappings-equal"]);
    // Ring 3 may use it.
    let (mut ram, kernel, roots) = guest(at, 2, 3);
    ram.run(kernel);
    ram.map(roots[0], at, 0x200_0000, PageSize::Size4KiB, USER_DATA);
    let broken: Vec<_> = ram.broken().into_iter().map(|(rule, _)| rule).collect();
    assert_eq!(broken, ["kernel-mappings-equal", "kernel-not-user"]);
}
