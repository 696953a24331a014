//! Page tables as such.

use heirloom_inspect::check::{Check, Strictness};
use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{
    Discovery, Entry, Level, MemoryError, PageSize, PhysAddr, PhysicalMemory, VirtAddr,
};

use super::{assert_breaks, assert_breaks_in};
use crate::scene::{
    ESPFIX, Guest, IMAGE_CONSTANTS, MIB, PAGE, Plan, UNUSED, USER_DATA, USER_TEXT, bits, broken,
    check, finding, findings, range,
};

/// An entry of the kernel half at each level, in tables that all address spaces share where it is not the
/// top: the level and an address.
fn kernel_entries(guest: &Guest) -> Vec<(Level, VirtAddr)> {
    vec![
        (Level::Pdpt, guest.vmalloc()),
        (Level::Pd, guest.vmalloc()),
        (Level::Pt, guest.vmalloc()),
        (Level::Pd, guest.image(IMAGE_CONSTANTS)),
    ]
}

#[test]
fn a_reserved_bit_is_found_at_each_level_once() {
    for guest in Guest::all() {
        for (level, va) in kernel_entries(&guest) {
            // Above the 40 bits that this CPU's addresses have; and of a large page, below its size.
            for bit in [45, 51] {
                let mut guest = guest.clone();
                guest.change(guest.init, va, level, |entry| entry | Entry::new(1 << bit));
                assert_eq!(broken(&guest), ["reserved-bits-clear"], "{level} {bit}");
                let finding = finding(&guest, "reserved-bits-clear");
                assert_eq!(finding.entry.unwrap().level, level);
                assert_eq!(
                    finding.place,
                    format!("{}[{}]", guest.plan.depth.name(level), va.index(level))
                );
                assert_eq!(finding.range.unwrap().first.index(level), va.index(level));
                let bits = Entry::new(1 << bit).to_string();
                assert!(finding.found.contains(&bits), "{finding:?}");
                // All that have the kernel half.
                assert!(finding.spaces.count > 5, "{finding:?}");
                assert!(finding.walks[0].1.to_string().contains("reserved bits"));
            }
        }
    }
    assert_breaks(&["reserved-bits-clear"], |guest| {
        let va = guest.image(IMAGE_CONSTANTS);
        guest.change(guest.init, va, Level::Pd, |entry| {
            entry | Entry::new(1 << 14)
        });
    });
}

#[test]
fn ps_in_a_top_entry_is_reserved() {
    assert_breaks(&["reserved-bits-clear"], |guest| {
        let root = guest.processes[1];
        for root in guest.pair(root) {
            let top = guest.top();
            guest.change(root, USER_TEXT, top, |entry| entry | Entry::LARGE);
        }
    });
    let five = Guest::all()
        .into_iter()
        .filter(|guest| guest.top() == Level::Pml5);
    assert_breaks_in(five.collect(), &["reserved-bits-clear"], |guest| {
        let root = guest.processes[1];
        guest.change(root, USER_TEXT, Level::Pml4, |entry| entry | Entry::LARGE);
    });
}

#[test]
fn bits_that_look_reserved_and_are_not_are_let_alone() {
    assert_breaks(&[], |guest| {
        // PAT: bit 7 in a PT, bit 12 in a large page. Protection keys and software's bits; NX on top.
        let root = guest.processes[1];
        guest.change(root, USER_DATA, Level::Pt, |entry| {
            entry | Entry::LARGE | Entry::new(0xf << 59)
        });
        let va = guest.image(IMAGE_CONSTANTS);
        guest.change(guest.init, va, Level::Pd, |entry| {
            entry | Entry::new(1 << 12)
        });
        guest.change(root, USER_TEXT, Level::Pd, |entry| {
            entry | Entry::new(0x7f << 52)
        });
    });
}

#[test]
fn a_table_beyond_ram_is_found_at_each_level() {
    for level in [Level::Pml4, Level::Pdpt, Level::Pd] {
        let beyond = |guest: &mut Guest| {
            let root = guest.processes[1];
            let va = VirtAddr::new(0x2345_6780_0000);
            let nowhere = Entry::pointing_to(PhysAddr::new(0x8_0000_0000), bits::TABLE);
            guest.table(root, va, level);
            guest.change(root, va, level, |_| nowhere);
            guest.mirror(root);
        };
        let guests = || {
            Guest::all()
                .into_iter()
                .filter(|guest| level >= guest.top())
        };
        assert_breaks_in(guests().collect(), &["tables-in-ram"], beyond);
        for mut guest in guests() {
            beyond(&mut guest);
            // A top entry stands in both roots of a pair.
            for finding in findings(&guest, "tables-in-ram") {
                assert_eq!(finding.entry.unwrap().level, level);
                assert!(
                    finding.found.contains("frame 0x800000 is not RAM"),
                    "{finding:?}"
                );
            }
        }
    }
}

#[test]
fn a_table_in_ram_that_cannot_be_read_is_said_to_be_so() {
    let mut guest = Guest::new(Plan::all().remove(0));
    let (root, va) = (guest.processes[1], VirtAddr::new(0x2345_6780_0000));
    guest.table(root, va, Level::Pd);
    guest.change(root, va, Level::Pd, |_| {
        Entry::pointing_to(UNUSED, bits::TABLE)
    });
    guest.mirror(root);
    assert_eq!(broken(&guest), ["tables-in-ram"]);
    let finding = finding(&guest, "tables-in-ram");
    assert!(finding.found.contains("cannot be read"), "{finding:?}");
}

#[test]
fn a_self_map_is_no_other_rules_business() {
    // Supervisor, and not executable: all that is wrong is the loop.
    for level in [Level::Pdpt, Level::Pd] {
        let self_map = |guest: &mut Guest| {
            let table = guest.table(guest.init, guest.vmalloc(), level);
            let entry = Entry::pointing_to(table.base(), bits::KERNEL_TABLE | bits::NX);
            guest.memory.poke(table, 400, entry);
        };
        assert_breaks(&["no-loop"], self_map);
        for mut guest in Guest::all() {
            self_map(&mut guest);
            let found = &findings(&guest, "no-loop")[0];
            assert_eq!(found.entry.unwrap().index, 400);
            assert_eq!(
                found.place,
                format!("{}[400]", guest.plan.depth.name(level))
            );
            assert!(found.found.contains("a self-map"), "{found:?}");
        }
    }
}

#[test]
fn a_loop_to_a_table_above_is_told_from_a_self_map() {
    let looped = |guest: &mut Guest| {
        let above = guest.table(guest.init, guest.vmalloc(), Level::Pdpt);
        let table = guest.table(guest.init, guest.vmalloc(), Level::Pd);
        let entry = Entry::pointing_to(above.base(), bits::KERNEL_TABLE | bits::NX);
        guest.memory.poke(table, 300, entry);
    };
    assert_breaks(&["no-loop"], looped);
    for mut guest in Guest::all() {
        looped(&mut guest);
        let found = &findings(&guest, "no-loop")[0];
        assert!(
            found.found.contains("a loop") && found.found.contains("the PDPT above"),
            "{found:?}"
        );
        assert_eq!(found.place, "PD[300]");
    }
}

#[test]
fn a_self_map_in_a_process_root_is_a_difference_too() {
    assert_breaks(&["kernel-mappings-equal", "no-loop"], |guest| {
        let root = guest.processes[0];
        let entry = Entry::pointing_to(root, bits::KERNEL_TABLE | bits::NX);
        guest.memory.poke(root.pfn(), 262, entry);
    });
}

#[test]
fn a_frame_that_is_a_table_of_two_levels_without_a_loop_is_found() {
    let change = |guest: &mut Guest| {
        // An empty page table of process 1 is a PD of process 2, too.
        let (one, two) = (guest.processes[1], guest.processes[2]);
        let frame = guest.table(one, VirtAddr::new(0x1111_0000_0000), Level::Pt);
        let va = VirtAddr::new(0x2222_0000_0000);
        guest.change(two, va, Level::Pdpt, |_| {
            Entry::pointing_to(frame.base(), bits::TABLE)
        });
        guest.mirror(one);
        guest.mirror(two);
    };
    assert_breaks(&["one-level-per-table"], change);
    for mut guest in Guest::all() {
        change(&mut guest);
        let finding = finding(&guest, "one-level-per-table");
        let levels = [&finding.expected, &finding.found]
            .map(|text| text[..5].trim_end_matches(',').to_owned());
        assert!(
            levels.contains(&"a PT".into()) || levels.contains(&"a PD".into()),
            "{finding:?}"
        );
        let frame = guest.table(
            guest.processes[1],
            VirtAddr::new(0x1111_0000_0000),
            Level::Pt,
        );
        assert_eq!(finding.place, format!("frame {frame}"));
    }
}

#[test]
fn a_second_level_is_found_though_the_frame_was_met_in_a_loop_first() {
    let mut guest = Guest::new(Plan::all().remove(0));
    let table = guest.table(guest.init, guest.vmalloc(), Level::Pd);
    let entry = Entry::pointing_to(table.base(), bits::KERNEL_TABLE | bits::NX);
    guest.memory.poke(table, 400, entry);
    // The same frame as a PDPT, by an entry that is in no loop.
    let index = guest.top_index(guest.vmalloc()) + 9;
    let roots: Vec<_> = guest
        .processes
        .iter()
        .copied()
        .chain([guest.init, guest.poking, crate::scene::TRAMPOLINE.base()])
        .collect();
    for root in roots {
        let entry = Entry::pointing_to(table.base(), bits::KERNEL_TABLE | bits::NX);
        guest.memory.poke(root.pfn(), index, entry);
    }
    let found = broken(&guest);
    assert!(found.contains(&"one-level-per-table"), "{found:?}");
    assert!(found.contains(&"no-loop"), "{found:?}");
}

#[test]
fn a_kernel_table_at_two_addresses_is_found() {
    let twice = |guest: &mut Guest| {
        let va = guest.vmalloc();
        let entry = guest.entry(guest.init, va, Level::Pd);
        let table = guest.table(guest.init, va, Level::Pd);
        guest.memory.poke(table, va.index(Level::Pd) + 7, entry);
    };
    assert_breaks(&["kernel-tables-once"], twice);
    for mut guest in Guest::all() {
        twice(&mut guest);
        let finding = finding(&guest, "kernel-tables-once");
        assert_eq!(finding.entry.unwrap().level, Level::Pd);
        let vas: Vec<_> = finding.walks.iter().map(|(_, walk)| walk.va).collect();
        let first = guest.vmalloc();
        assert_eq!(vas, [first.wrapping_add(14 * MIB), first]);
        assert!(finding.spaces.count > 5, "all that share the table");
    }
}

#[test]
fn stacks_of_espfix_are_at_many_addresses_on_purpose_and_only_there() {
    let espfix = |guest: &mut Guest, at: VirtAddr| {
        let page = guest.data_page();
        let table = guest.table(guest.init, at, Level::Pd);
        guest.map(guest.init, at, page, PageSize::Size4KiB, bits::CONSTANTS);
        let entry = guest.memory.peek(table, at.index(Level::Pd));
        for index in 1..16 {
            guest.memory.poke(table, at.index(Level::Pd) + index, entry);
        }
        // Linux makes the PGD's entry before it makes any process.
        let entry = guest.memory.peek(guest.init.pfn(), guest.top_index(at));
        let roots: Vec<_> = guest.processes.clone();
        for root in roots.into_iter().chain([guest.poking]) {
            guest.memory.poke(root.pfn(), guest.top_index(at), entry);
        }
        if guest.plan.kpti {
            let entry = guest.entry(guest.init, at, Level::Pml4);
            for kernel in [guest.init, guest.poking]
                .into_iter()
                .chain(guest.processes.clone())
            {
                let user = guest.user_root(kernel);
                let table = guest.table(user, at, Level::Pml4);
                guest.memory.poke(table, at.index(Level::Pml4), entry);
            }
        }
    };
    for mut guest in Guest::all() {
        espfix(&mut guest, ESPFIX);
        let check = check(&guest);
        assert!(check.holds, "{}: {:?}", guest.plan, broken(&guest));
        let once = check
            .rules
            .iter()
            .find(|rule| rule.rule.name == "kernel-tables-once")
            .unwrap();
        let met: Vec<_> = once
            .exceptions
            .iter()
            .map(|met| (met.exception.name, met.count))
            .collect();
        assert_eq!(met, [("espfix-clones", 15)], "{}", guest.plan);
        guest = Guest::new(guest.plan.clone());
        let beside = VirtAddr::new(ESPFIX.get() - (512 << 30));
        espfix(&mut guest, beside);
        assert!(
            broken(&guest).contains(&"kernel-tables-once"),
            "{}",
            guest.plan
        );
    }
}

#[test]
fn entries_without_p_break_nothing_whatever_else_they_hold() {
    assert_breaks(&[], |guest| {
        let table = guest.table(guest.processes[1], USER_DATA, Level::Pt);
        let root = guest.processes[1].pfn();
        for raw in [
            0x800f_ffff_efb5_9062,
            0x000f_ffff_e7cc_9960,
            !1,
            0x1610_0000_0000_0060,
        ] {
            guest.memory.poke(table, 77, Entry::new(raw));
            guest.memory.poke(root, 111, Entry::new(raw));
            assert_eq!(broken(guest), [""; 0]);
        }
    });
}

/// The guest's memory, and zeroes above it.
struct WithZeroes(FakeMemory);

const ZEROES: std::ops::Range<u64> = 0x2_0000_0000..0x4_0000_0000;

impl PhysicalMemory for WithZeroes {
    fn read_bytes(&self, at: PhysAddr, buffer: &mut [u8]) -> Result<(), MemoryError> {
        if ZEROES.contains(&at.get()) {
            buffer.fill(0);
            return Ok(());
        }
        self.0.read_bytes(at, buffer)
    }
}

#[test]
fn a_capture_that_is_cut_short_accuses_nobody() {
    let mut guest = Guest::new(Plan::all().remove(0));
    let (root, va) = (guest.processes[1], VirtAddr::new(0x3000_0000_0000));
    let pdpt = guest.table(root, va, Level::Pdpt);
    // More empty page tables than a capture holds.
    let mut next = ZEROES.start;
    for outer in 0..280 {
        let pd = guest.memory.frame();
        for inner in 0..512 {
            let entry = Entry::pointing_to(PhysAddr::new(next), bits::TABLE);
            guest.memory.poke(pd, inner, entry);
            next += PAGE;
        }
        let entry = Entry::pointing_to(pd.base(), bits::TABLE);
        guest.memory.poke(pdpt, outer, entry);
    }
    guest.mirror(root);
    let mut target = guest.target();
    target
        .ram
        .push(range(ZEROES.start, ZEROES.end - ZEROES.start));
    target.memory = Box::new(WithZeroes(guest.memory));
    let check = Check::of(&Discovery::of(&target).unwrap(), Strictness::default());
    assert!(check.holds, "{check:#?}");
    let notes = check.notes.join("\n");
    assert!(notes.contains("tables were left out"), "{notes}");
}
