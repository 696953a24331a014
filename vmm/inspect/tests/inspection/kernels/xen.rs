//! Xen, and the roots of a paravirtualized guest on it, made by hand.

use heirloom_inspect::discover::Kind;
use heirloom_inspect::{Entry, PageSize, PhysAddr};

use super::ram::{CODE, DATA, LARGE, PAGE, Ram, TABLE, USER_CODE, USER_DATA, kinds};

const TEXT: u64 = 0xffff_82d0_4020_0000;
const MEMORY: u64 = 0xffff_8300_0000_0000;
const PER_DOMAIN: u64 = 0xffff_8200_0000_0000;
const GUEST_TABLE: u64 = 0xffff_8000_0000_0000;
const GUEST: u64 = 0xffff_8880_0000_0000;
const FRAMES: u64 = 0xffff_82e0_0000_0000;
const CONSTANTS_FOR_ALL: Entry = Entry::new(1 << 63 | 0x25);

struct Machine {
    ram: Ram,
    xen: PhysAddr,
    /// Of each process of the guest, the root of its kernel and that of ring 3.
    pairs: Vec<[PhysAddr; 2]>,
}

/// Xen with a guest of so many processes; the root of the first one's kernel is on the CPU.
fn machine(processes: u64) -> Machine {
    let mut ram = Ram::new(64, heirloom_inspect::Depth::Four);
    // In Xen's image, as Xen has it.
    let xen = PhysAddr::new(0x61_0000);
    ram.memory.add(xen.pfn());
    for (page, flags) in [(2, CODE), (3, DATA)] {
        let va = TEXT + (page - 2) * LARGE;
        ram.map(xen, va, page * LARGE, PageSize::Size2MiB, flags);
    }
    for page in 0..32 {
        let pa = page * LARGE;
        ram.map(xen, MEMORY + pa, pa, PageSize::Size2MiB, DATA);
    }
    ram.map(xen, FRAMES, 0x100_0000, PageSize::Size2MiB, DATA);
    ram.map(xen, 0x8_f000, 0x8_f000, PageSize::Size4KiB, CODE);
    // The guest's, that all its processes share.
    let guest = ram.root();
    for page in 0..64 {
        let flags = if page < 8 { USER_CODE } else { USER_DATA };
        let pa = 0x200_0000 + page * PAGE;
        ram.map(guest, GUEST + page * PAGE, pa, PageSize::Size4KiB, flags);
    }
    let table = 0x300_0000;
    ram.map(
        guest,
        GUEST_TABLE,
        table,
        PageSize::Size2MiB,
        CONSTANTS_FOR_ALL,
    );
    ram.map(guest, PER_DOMAIN, 0x320_0000, PageSize::Size4KiB, DATA);
    let mut pairs = Vec::new();
    for number in 0..processes {
        let [kernel, user] = [ram.root(), ram.root()];
        ram.user(kernel, 0x40_0000, 0x210_0000 + number * 0x1_0000);
        ram.share(kernel, user, 0..256);
        ram.share(guest, kernel, [256, 260, 273]);
        ram.share(guest, user, [260]);
        for root in [kernel, user] {
            ram.share(xen, root, [261, 262]);
            // The guest reads its page tables.
            let va = GUEST + 0x10_0000 + (root.get() & 0xf_f000);
            ram.map(
                kernel,
                va,
                root.get(),
                PageSize::Size4KiB,
                CONSTANTS_FOR_ALL,
            );
        }
        pairs.push([kernel, user]);
    }
    for root in pairs.iter().flatten().copied().chain([xen]) {
        let entry = Entry::pointing_to(root, TABLE);
        ram.memory.poke(root.pfn(), 258, entry);
    }
    let first = pairs.first().map_or(xen, |pair| pair[0]);
    ram.run(first);
    Machine { ram, xen, pairs }
}

#[test]
fn xens_own_root_and_those_of_its_guests_are_named_and_nothing_is_broken() {
    for processes in [1, 2, 5] {
        let Machine {
            mut ram,
            xen,
            pairs,
        } = machine(processes);
        for from in pairs.iter().flatten().copied().chain([xen]) {
            ram.cpus.clear();
            ram.run(from);
            let discovery = ram.discover();
            assert_eq!(discovery.profile.name.as_str(), "xen", "from {from}");
            let found = kinds(&discovery);
            assert_eq!(found.get(&xen), Some(&Kind::Kernel), "from {from}");
            for [kernel, user] in &pairs {
                for root in [kernel, user] {
                    assert_eq!(found.get(root), Some(&Kind::Process), "from {from}");
                }
                let evidence = &discovery.space_at(*user).unwrap().evidence;
                assert!(
                    evidence.contains(&format!("whose kernel runs on {kernel}")),
                    "{evidence}"
                );
            }
            assert_eq!(ram.broken(), [], "from {from}");
            let regions = discovery.layout.regions.iter();
            let names: Vec<&str> = regions.map(|region| region.name.as_str()).collect();
            for name in [
                "page-frame table",
                "guest kernel",
                "machine-to-physical table for guests",
            ] {
                assert!(names.contains(&name), "{name}, from {from}: {names:?}");
            }
        }
        let names: Vec<String> = ram
            .discover()
            .layout
            .regions
            .iter()
            .map(|region| region.name.to_string())
            .collect();
        for name in ["Xen's image", "page-frame table", "direct map", "self-map"] {
            assert!(names.iter().any(|known| known == name), "{name}: {names:?}");
        }
        let let_pass = ram.let_pass();
        for name in [
            "private-area",
            "xen-guest-table",
            "xen-pv-pair",
            "xen-pv-page-table",
        ] {
            assert!(
                let_pass.iter().any(|met| met.0 == name),
                "{name}: {let_pass:?}"
            );
        }
    }
}

#[test]
fn what_xen_must_not_do_is_still_found() {
    let sound = machine(3);
    let rules = |change: &dyn Fn(&mut Machine)| {
        let mut machine = machine(3);
        change(&mut machine);
        let broken = machine.ram.broken();
        broken.into_iter().map(|(rule, _)| rule).collect::<Vec<_>>()
    };
    assert_eq!(sound.ram.broken(), []);
    // A root that lacks the direct map.
    let found = rules(&|machine| {
        let root = machine.pairs[1][0];
        machine.ram.memory.poke(root.pfn(), 262, Entry::ABSENT);
    });
    assert_eq!(found, ["kernel-mappings-equal"]);
    // The table for guests is writable.
    let found = rules(&|machine| {
        let root = machine.pairs[0][0];
        let flags = DATA | Entry::USER;
        let size = PageSize::Size2MiB;
        machine.ram.map(root, GUEST_TABLE, 0x300_0000, size, flags);
    });
    assert_eq!(found, ["kernel-not-user"]);
    // The guest can write a page table.
    let found = rules(&|machine| {
        let [root, user] = machine.pairs[0];
        let va = GUEST + 0x10_0000 + (user.get() & 0xf_f000);
        let size = PageSize::Size4KiB;
        machine.ram.map(root, va, user.get(), size, USER_DATA);
    });
    assert_eq!(found, ["tables-not-user-mapped"]);
    // Two processes have one table.
    let found = rules(&|machine| {
        let (one, other) = (machine.pairs[0], machine.pairs[1]);
        machine.ram.share(one[0], other[0], [0]);
        machine.ram.share(one[0], other[1], [0]);
    });
    assert_eq!(found, ["user-tables-private"]);
    // Xen's data is executable.
    let found = rules(&|machine| {
        let (root, flags) = (machine.xen, Entry::new(0x63));
        let size = PageSize::Size2MiB;
        machine.ram.map(root, TEXT + LARGE, 3 * LARGE, size, flags);
    });
    assert!(found.contains(&"write-xor-execute"), "{found:?}");
}

#[test]
fn before_xen_protects_itself_its_pages_are_let_pass_and_only_then() {
    let Machine { mut ram, xen, .. } = machine(0);
    let all = Entry::new(0x63);
    for page in 2..4 {
        let va = TEXT + (page - 2) * LARGE;
        ram.map(xen, va, page * LARGE, PageSize::Size2MiB, all);
    }
    assert_eq!(kinds(&ram.discover())[&xen], Kind::Kernel);
    assert_eq!(ram.broken(), []);
    let let_pass = ram.let_pass();
    assert!(let_pass.contains(&("xen-early-boot", 2)), "{let_pass:?}");
    ram.map(xen, TEXT, 2 * LARGE, PageSize::Size2MiB, CODE);
    let rules: Vec<_> = ram.broken().into_iter().map(|(rule, _)| rule).collect();
    assert!(rules.contains(&"write-xor-execute"), "{rules:?}");
}
