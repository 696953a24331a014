//! RAM in blocks that the user has named: the memory of nodes (`-numa node,memdev=…`), or RAM and what was plugged in.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::HashSet;
use std::ops::Range;

use heirloom_inspect::{CpuState, Entry, Level};

use super::pages::{Pages, Reader};
use super::ram::{Block, OF_MACHINES};
use crate::dump::{depth_of, judge_by_tables};
use crate::input::Input;
use crate::memory::{Format, Found, PAGE};
use crate::raw::hole::{Hole, Read};

/// Bytes of all of them.
pub(super) fn length_of(blocks: &[Block]) -> u64 {
    blocks.iter().map(|block| block.length).sum()
}

/// The blocks that are the guest's RAM, in order, and those that were plugged in. Where the user has named all of them,
/// only the tables that a CPU runs on tell whether they are the memory of nodes.
pub(super) fn in_order(
    input: Input,
    (first, others): (Vec<Block>, Vec<Block>),
    cpu: Option<&CpuState>,
) -> (Input, Vec<Block>, Vec<Block>) {
    let (Some(order), Some(cpu)) = (as_nodes(&first, &others), cpu) else {
        return (input, first, others);
    };
    let count = first.len();
    let alone = length_of(&first);
    let pages = Pages::new(input, first.into_iter().chain(others).collect());
    // Whether its tables tell anything for certain, how well they look, and whether they map a page of the others.
    let look = |pages: &Pages, length: u64| {
        let reader = RefCell::new(Reader::default());
        let read = |offset: u64| {
            let mut page = [0; PAGE];
            let number = offset / PAGE as u64;
            match pages.unpack(&mut reader.borrow_mut(), number, &mut page) {
                Found::Here => Some(page.to_vec()),
                Found::Zero => Some(vec![0; PAGE]),
                Found::LeftOut | Found::Damaged => None,
            }
        };
        let (hole, worth) = judge_by_tables(&read, length, cpu);
        let tells = !matches!(hole, Hole::Unknown);
        (tells, worth, is_mapped(&read, cpu, &(alone..length)))
    };
    let (tells, as_plugged, _) = look(&pages, alone);
    let (input, blocks) = pages.into_parts();
    let all = length_of(&blocks);
    let largest = blocks.first().map(|block| block.name.clone());
    let mut blocks: Vec<Option<Block>> = blocks.into_iter().map(Some).collect();
    let sorted = order.iter().filter_map(|at| blocks[*at].take()).collect();
    let pages = Pages::new(input, sorted);
    let (_, as_nodes, is_mapped) = look(&pages, all);
    let (input, mut sorted) = pages.into_parts();
    // A few tables may be of another node than those of the CPU's root, or none but pages that they map.
    if as_nodes > as_plugged || (as_nodes == as_plugged && is_mapped) {
        return (input, sorted, Vec::new());
    }
    // Plugged in, or neither: one is taken to be there from the start, and its tables are judged for what they are.
    let is_first = |block: &Block| Some(&block.name) == largest.as_ref();
    sorted.sort_by_key(|block| {
        if tells {
            (!is_first(block), Reverse(0))
        } else {
            (false, Reverse(block.length))
        }
    });
    let others = sorted.split_off(count);
    (input, sorted, others)
}

/// Whether the tables that a CPU runs on map a page there, of 4 KiB or 2 MiB: firmware maps larger ones wherever there
/// might be RAM.
fn is_mapped(read: Read<'_>, cpu: &CpuState, there: &Range<u64>) -> bool {
    /// Tables that are looked at.
    const TABLES: usize = 4096;
    let depth = depth_of(cpu);
    let mut seen = HashSet::new();
    let mut pending = vec![(cpu.cr3.root().get(), depth.top())];
    while let Some((table, level)) = pending.pop() {
        if seen.len() == TABLES || !seen.insert((table, level)) {
            continue;
        }
        let words = read(table).unwrap_or_default();
        for word in words.chunks_exact(8) {
            let entry = Entry::new(u64::from_le_bytes(word.try_into().unwrap_or_default()));
            if !entry.present() {
                continue;
            }
            let address = entry.address().get();
            match level.next() {
                Some(below) if !entry.is_leaf(level) => pending.push((address, below)),
                _ if matches!(level, Level::Pd | Level::Pt) && there.contains(&address) => {
                    return true;
                }
                _ => {}
            }
        }
    }
    false
}

/// All blocks as the memory of nodes, whose order their names tell; `None` if the names say already what they are.
fn as_nodes(first: &[Block], others: &[Block]) -> Option<Vec<usize>> {
    let [alone] = first else {
        return None;
    };
    if others.is_empty() || OF_MACHINES.contains(&&*alone.name) || alone.name.contains("node") {
        return None;
    }
    let all: Vec<&Block> = first.iter().chain(others).collect();
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by_key(|at| (all[*at].name.len(), &all[*at].name));
    Some(order)
}

#[cfg(test)]
mod tests {
    use heirloom_inspect::Cr3;

    use super::super::ram::Pages as Places;
    use super::*;

    /// Pages of each block.
    const PAGES: u64 = 512;
    /// Tables below the CPU's root that are in the first block.
    const TABLES: u64 = 200;

    /// A stream of two blocks in one of whose pages the root is; `elsewhere` of its tables, and the page `shown`, are
    /// in the other, which follows as the second node's memory does.
    fn blocks(elsewhere: u64, shown: u64) -> (Input, (Vec<Block>, Vec<Block>)) {
        let page = |number: u64| number << 12 | 0x67;
        let mut words = vec![0; 2 * 512 * 512];
        let mut put = |table: u64, index: u64, entry: u64| {
            words[usize::try_from(table * 512 + index).unwrap()] = entry;
        };
        put(1, 0, page(2));
        put(2, 0, page(3));
        // Firmware maps 1 GiB wherever there might be RAM.
        put(2, 5, 0xe3);
        let tables = (10..10 + TABLES).chain(PAGES + 5..PAGES + 5 + elsewhere);
        for (index, table) in (0..).zip(tables) {
            put(3, index, page(table));
            put(table, 0, page(shown));
        }
        // A bit for each page, and the pages behind them.
        let mut file = vec![0xff; PAGE];
        file.extend(words.into_iter().flat_map(u64::to_le_bytes));
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), &file).unwrap();
        let input = Input::of(path.reopen().unwrap(), file.len() as u64);
        let block = |name: &str, first: u64| Block {
            name: name.into(),
            length: PAGES * PAGE as u64,
            pages: Places::Mapped {
                bitmap: 0,
                pages: (1 + first) * PAGE as u64,
            },
        };
        (input, (vec![block("a", 0)], vec![block("b", PAGES)]))
    }

    fn names(blocks: &[Block]) -> Vec<&str> {
        blocks.iter().map(|block| block.name.as_str()).collect()
    }

    #[test]
    fn a_few_tables_in_another_block_tell_the_memory_of_nodes_from_what_was_plugged_in() {
        let cpu = CpuState {
            cr3: Cr3::new(0x1000),
            ..CpuState::default()
        };
        for (elsewhere, ram, plugged) in [(3, &["a", "b"][..], &[][..]), (0, &["a"], &["b"])] {
            let (input, found) = blocks(elsewhere, 1);
            let (_, first, others) = in_order(input, found, Some(&cpu));
            assert_eq!(
                (names(&first), names(&others)),
                (ram.to_vec(), plugged.to_vec())
            );
        }
        // All tables are in the first, but a page that they map is in the other.
        let (input, found) = blocks(0, PAGES + 7);
        let (_, first, others) = in_order(input, found, Some(&cpu));
        assert_eq!((names(&first), names(&others)), (vec!["a", "b"], vec![]));
        // Without a CPU nothing tells.
        let (input, found) = blocks(3, 1);
        let (_, first, others) = in_order(input, found, None);
        assert_eq!((names(&first), names(&others)), (vec!["a"], vec!["b"]));
    }
}
