//! RAM in blocks that the user has named: the memory of nodes (`-numa node,memdev=…`), or RAM and what was plugged in.

use std::cell::RefCell;
use std::cmp::Reverse;

use heirloom_inspect::CpuState;

use super::pages::{Pages, Reader};
use super::ram::{Block, OF_MACHINES};
use crate::dump::judge_by_tables;
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
    // How well its tables look; `None` if they tell nothing.
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
        let worth = match judge_by_tables(&read, length, cpu) {
            (Hole::Unknown, _) => None,
            (_, worth) => Some(worth),
        };
        (worth, code_of(&read, cpu))
    };
    let (as_plugged, _) = look(&pages, alone);
    let (input, blocks) = pages.into_parts();
    let all = length_of(&blocks);
    let largest = blocks.first().map(|block| block.name.clone());
    let mut blocks: Vec<Option<Block>> = blocks.into_iter().map(Some).collect();
    let sorted = order.iter().filter_map(|at| blocks[*at].take()).collect();
    let pages = Pages::new(input, sorted);
    let (as_nodes, code) = look(&pages, all);
    let (input, mut sorted) = pages.into_parts();
    // A few tables may be of another node than those of the CPU's root, or none but the code that it runs.
    let is_elsewhere = code.is_some_and(|code| (alone..all).contains(&code));
    if as_nodes > as_plugged || (as_nodes.is_some() && as_nodes == as_plugged && is_elsewhere) {
        return (input, sorted, Vec::new());
    }
    // Plugged in, or neither: one is taken to be there from the start, and its tables are judged for what they are.
    let is_first = |block: &Block| Some(&block.name) == largest.as_ref();
    sorted.sort_by_key(|block| match as_plugged {
        Some(_) => (!is_first(block), Reverse(0)),
        None => (false, Reverse(block.length)),
    });
    let others = sorted.split_off(count);
    (input, sorted, others)
}

/// Where the code is that a CPU runs, by its tables.
fn code_of(read: Read<'_>, cpu: &CpuState) -> Option<u64> {
    const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    const LA57: u64 = 1 << 12;
    let mut table = cpu.cr3.root().get();
    for level in (0..if cpu.cr4 & LA57 == 0 { 4 } else { 5 }).rev() {
        let shift = 12 + 9 * level;
        let index = usize::try_from(cpu.rip.get() >> shift & 511).ok()?;
        let words = read(table)?;
        let entry = u64::from_le_bytes(*words.get(8 * index..)?.first_chunk()?);
        if entry & 1 == 0 {
            return None;
        }
        table = entry & ADDRESS;
        if level == 0 || entry & 0x80 != 0 {
            let within = (1 << shift) - 1;
            return Some(table & !within | cpu.rip.get() & within);
        }
    }
    None
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
    use heirloom_inspect::{Cr3, VirtAddr};

    use super::super::ram::Pages as Places;
    use super::*;

    /// Pages of each block.
    const PAGES: u64 = 512;
    /// Tables below the CPU's root that are in the first block.
    const TABLES: u64 = 200;

    /// A stream of two blocks in one of whose pages the root is; `elsewhere` of its tables are in the other, which
    /// follows as the second node's memory does.
    fn blocks(elsewhere: u64) -> (Input, (Vec<Block>, Vec<Block>)) {
        let page = |number: u64| number << 12 | 0x67;
        let mut words = vec![0; 2 * 512 * 512];
        let mut put = |table: u64, index: u64, entry: u64| {
            words[usize::try_from(table * 512 + index).unwrap()] = entry;
        };
        put(1, 0, page(2));
        put(2, 0, page(3));
        // A page of 1 GiB that begins in front of the second block.
        put(2, 5, 0xe3);
        let tables = (10..10 + TABLES).chain(PAGES + 5..PAGES + 5 + elsewhere);
        for (index, table) in (0..).zip(tables) {
            put(3, index, page(table));
            put(table, 0, 0x1063);
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
            let (input, found) = blocks(elsewhere);
            let (_, first, others) = in_order(input, found, Some(&cpu));
            assert_eq!(
                (names(&first), names(&others)),
                (ram.to_vec(), plugged.to_vec())
            );
        }
        // All tables are in the first, but the code that the CPU runs is in the other.
        let (input, found) = blocks(0);
        let runs_there = CpuState {
            rip: VirtAddr::new(5 << 30 | PAGES << 12 | 0x123),
            ..cpu
        };
        let (_, first, others) = in_order(input, found, Some(&runs_there));
        assert_eq!((names(&first), names(&others)), (vec!["a", "b"], vec![]));
        // Without a CPU nothing tells.
        let (input, found) = blocks(3);
        let (_, first, others) = in_order(input, found, None);
        assert_eq!((names(&first), names(&others)), (vec!["a"], vec!["b"]));
    }
}
