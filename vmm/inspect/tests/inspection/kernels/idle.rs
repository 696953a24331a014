//! Roots without a user half on no CPU: kernel threads', or freed.

use heirloom_inspect::check::{Check, Strictness};
use heirloom_inspect::discover::Kind;
use heirloom_inspect::{Depth, Entry, PageSize, PhysAddr};

use super::ram::{DATA, Ram, broken, differing};

/// A kernel, a process on the CPU, and so many threads' roots; of these the first lacks the heap's entry.
fn guest(depth: Depth, heap: u64, threads: usize) -> (Ram, PhysAddr, Vec<PhysAddr>) {
    let mut ram = Ram::new(16, depth);
    let kernel = ram.root();
    ram.image(kernel, 0xffff_ffff_8000_0000);
    ram.map(kernel, heap, 0x70_0000, PageSize::Size4KiB, DATA);
    let mut roots = Vec::new();
    for _ in 0..threads {
        let root = ram.root();
        ram.share(kernel, root, 256..512);
        roots.push(root);
    }
    let process = ram.root();
    ram.share(kernel, process, 256..512);
    ram.user(process, 0x40_0000, 0x60_0000);
    let index = ram.index(heap);
    ram.memory.poke(roots[0].pfn(), index, Entry::ABSENT);
    ram.run(process);
    (ram, kernel, roots)
}

const GUESTS: [(Depth, u64, usize); 4] = [
    (Depth::Four, 0xffff_c900_0000_0000, 3),
    (Depth::Four, 0xffff_8000_0000_0000, 1),
    (Depth::Four, 0xffff_fd00_0000_0000, 12),
    (Depth::Five, 0xff80_0000_0000_0000, 4),
];

#[test]
fn what_an_idle_or_freed_root_lacks_is_told_and_a_fault_if_that_is_wanted() {
    for (depth, heap, threads) in GUESTS {
        let (ram, kernel, roots) = guest(depth, heap, threads);
        let discovery = ram.discover();
        assert_eq!(discovery.space_at(kernel).unwrap().kind, Kind::Kernel);
        for root in &roots {
            assert_eq!(discovery.space_at(*root).unwrap().kind, Kind::Idle);
        }
        let index = ram.index(heap);
        assert_eq!(differing(discovery.space_at(roots[0]).unwrap()), [index]);
        let check = Check::of(&discovery, Strictness::default());
        assert_eq!(broken(&check), []);
        let notes = check.notes.join("\n");
        assert!(notes.contains(&format!("{threads} root")), "{notes}");
        let lacks = format!("{} lacks {}[{index}]", roots[0], depth.root_name());
        assert!(notes.contains(&lacks), "no {lacks} in {notes}");
        let strict = Strictness {
            idle: true,
            ..Strictness::default()
        };
        let strict = Check::of(&discovery, strict);
        assert_eq!(broken(&strict), [("kernel-mappings-equal", 1)]);
    }
}

/// Two processes and `dead` ones that have ended, whose kernel isolates itself: each has a user root, whose kernel half
/// is its way into the kernel. That of the first that ended lacks an entry if `spoiled`.
fn isolated(depth: Depth, way_in: [u64; 2], dead: usize, spoiled: bool) -> (Ram, Vec<PhysAddr>) {
    let mut ram = Ram::new(16, depth);
    let kernel = ram.root();
    ram.image(kernel, 0xffff_ffff_8000_0000);
    for address in [way_in[0], way_in[1], 0xffff_fc00_0000_0000] {
        ram.map(kernel, address, 0x70_0000, PageSize::Size4KiB, DATA);
    }
    let window = way_in.map(|address| ram.index(address));
    let mut ended = Vec::new();
    for number in 0..2 + dead {
        let [root, user] = ram.pair();
        ram.share(kernel, root, 256..512);
        ram.share(kernel, user, window);
        if number < 2 {
            ram.user(root, 0x40_0000, 0x60_0000 + 0x1_0000 * number as u64);
            ram.share(root, user, 0..1);
        } else {
            ended.push(user);
        }
        if number == 0 {
            ram.run(root);
        }
    }
    if spoiled {
        ram.memory.poke(ended[0].pfn(), window[0], Entry::ABSENT);
    }
    (ram, ended)
}

#[test]
fn the_user_root_of_an_idle_pair_is_compared_with_user_roots() {
    for (depth, way_in) in [
        (Depth::Four, [0xffff_fe00_0000_0000, 0xffff_c900_0000_0000]),
        (Depth::Four, [0xffff_8880_0000_0000, 0xffff_8000_0000_0000]),
        (Depth::Five, [0xff11_0000_0000_0000, 0xffa0_0000_0000_0000]),
    ] {
        for spoiled in [false, true] {
            let (ram, ended) = isolated(depth, way_in, 3, spoiled);
            let discovery = ram.discover();
            for (number, user) in ended.iter().enumerate() {
                let space = discovery.space_at(*user).unwrap();
                assert_eq!(space.kind, Kind::Idle, "{space:?}");
                assert!(space.partner.is_some());
                let lacks = spoiled && number == 0;
                assert_eq!(space.differences.len(), usize::from(lacks), "{space:?}");
            }
            let strict = Strictness {
                idle: true,
                ..Strictness::default()
            };
            let strict = Check::of(&discovery, strict);
            let faults = broken(&strict);
            assert_eq!(faults.is_empty(), !spoiled, "{faults:?}");
        }
    }
}

#[test]
fn a_thread_that_a_cpu_runs_on_is_judged_like_all_others() {
    for (depth, heap, threads) in GUESTS {
        let (mut ram, _, roots) = guest(depth, heap, threads);
        ram.run(roots[0]);
        assert_eq!(
            ram.discover().space_at(roots[0]).unwrap().kind,
            Kind::Kernel
        );
        assert_eq!(ram.broken(), [("kernel-mappings-equal", 1)]);
    }
}

#[test]
fn roots_of_which_none_is_known_to_live_are_nothing_to_judge() {
    for count in [2, 3, 1000] {
        let mut ram = Ram::new(16, Depth::Four);
        let first = ram.root();
        ram.image(first, 0xffff_8000_0000_0000);
        for _ in 1..count {
            let root = ram.root();
            ram.share(first, root, 256..512);
        }
        let discovery = ram.discover();
        assert_eq!(discovery.spaces.len(), count);
        let problem = discovery.problem().unwrap();
        assert!(
            problem.contains(&format!("{count} idle or freed")),
            "{problem}"
        );
        let check = ram.check();
        assert!(check.holds && !check.has_kernel_half);
    }
}

#[test]
fn a_root_whose_tables_have_been_used_again_is_freed() {
    let (mut ram, kernel, _) = guest(Depth::Four, 0xffff_c900_0000_0000, 1);
    let mut dead = Vec::new();
    for number in 0..3 {
        let root = ram.root();
        ram.share(kernel, root, 256..512);
        ram.user(root, 0x40_0000, 0x68_0000 + number * 0x1_0000);
        // The table below holds somebody's data now.
        let below = ram.memory.peek(root.pfn(), 0).address().pfn();
        for index in 0..512 {
            let text = u64::from(index).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 << 51;
            ram.memory.poke(below, index, Entry::new(text));
        }
        dead.push(root);
    }
    let discovery = ram.discover();
    for root in dead {
        let space = discovery.space_at(root).unwrap();
        assert_eq!(space.kind, Kind::Freed, "{space:?}");
        assert!(space.evidence.contains("used again"), "{space:?}");
    }
    assert_eq!(ram.broken(), []);
}
