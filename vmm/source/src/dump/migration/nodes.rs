//! RAM in blocks that the user has named: the memory of nodes (`-numa node,memdev=…`), or RAM and what was plugged in.

use std::cell::RefCell;
use std::cmp::Reverse;

use heirloom_inspect::CpuState;

use super::pages::{Pages, Reader};
use super::ram::{Block, OF_MACHINES};
use crate::dump::hole_by_tables;
use crate::input::Input;
use crate::memory::{Format, Found, PAGE};
use crate::raw::hole::Hole;

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
    let is_told = |pages: &Pages, length: u64| {
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
        !matches!(hole_by_tables(&read, length, cpu), Hole::Unknown)
    };
    if is_told(&pages, alone) {
        let (input, mut first) = pages.into_parts();
        let others = first.split_off(count);
        return (input, first, others);
    }
    let (input, blocks) = pages.into_parts();
    let all = length_of(&blocks);
    let mut blocks: Vec<Option<Block>> = blocks.into_iter().map(Some).collect();
    let sorted = order.iter().filter_map(|at| blocks[*at].take()).collect();
    let pages = Pages::new(input, sorted);
    let is_of_nodes = is_told(&pages, all);
    let (input, mut sorted) = pages.into_parts();
    if is_of_nodes {
        return (input, sorted, Vec::new());
    }
    // Neither: the largest is taken to be there from the start, and its tables are judged for what they are.
    sorted.sort_by_key(|block| Reverse(block.length));
    let others = sorted.split_off(count);
    (input, sorted, others)
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
