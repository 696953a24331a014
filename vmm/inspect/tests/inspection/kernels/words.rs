//! What a finding says: of whom it is true, and what is there.

use heirloom_inspect::{Depth, Entry, PhysAddr};

use super::ram::{Ram, TABLE};

const IMAGE: u64 = 0xffff_ffff_8000_0000;

/// A kernel and three processes, of which the first is on the CPU.
fn guest() -> (Ram, PhysAddr, [PhysAddr; 3]) {
    let mut ram = Ram::new(32, Depth::Four);
    let kernel = ram.root();
    ram.image(kernel, IMAGE);
    let processes = [0, 1, 2].map(|number| {
        let root = ram.root();
        ram.share(kernel, root, 256..512);
        ram.user(root, 0x40_0000, 0x60_0000 + number * 0x1_0000);
        root
    });
    ram.run(processes[0]);
    (ram, kernel, processes)
}

#[test]
fn a_page_for_ring_3_is_told_of_those_whose_own_entry_lets_ring_3_through() {
    let (mut ram, kernel, processes) = guest();
    // The tables that all share let ring 3 through; of the roots only one does.
    let mut table = ram.memory.peek(kernel.pfn(), 511).address().pfn();
    for index in [510, 0] {
        let entry = ram.memory.peek(table, index) | Entry::USER;
        ram.memory.poke(table, index, entry);
        table = entry.address().pfn();
    }
    let entry = ram.memory.peek(processes[1].pfn(), 511) | Entry::USER;
    ram.memory.poke(processes[1].pfn(), 511, entry);
    let found = ram.findings("kernel-not-user");
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].spaces.roots, [processes[1]]);
    assert_eq!(found[0].spaces.of, 4);
}

#[test]
fn a_table_that_is_empty_yet_is_no_copy_that_maps_the_same() {
    for lacking in [true, false] {
        let (mut ram, kernel, processes) = guest();
        let below = ram.memory.frame();
        let entry = Entry::pointing_to(below.base(), TABLE);
        let [one, two, three] = processes;
        let having = if lacking {
            vec![kernel, one, two]
        } else {
            vec![three]
        };
        for root in having {
            ram.memory.poke(root.pfn(), 300, entry);
        }
        let found = ram.findings("kernel-tables-shared");
        let words: Vec<&str> = found.iter().map(|finding| finding.found.as_str()).collect();
        let wanted = if lacking {
            "absent; nothing is mapped there yet, and what will be is missing here"
        } else {
            "; a table of its own, where nothing is mapped yet"
        };
        assert!(
            words.iter().any(|found| found.ends_with(wanted)),
            "{words:?}"
        );
        assert!(
            !words.iter().any(|found| found.contains("copy")),
            "{words:?}"
        );
    }
}
