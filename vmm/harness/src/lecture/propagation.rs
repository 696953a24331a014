//! Claims 3 and 7: which processes see a mapping that was made during a system call.

use std::collections::BTreeSet;

use heirloom_abi::layout::pgd_index;
use heirloom_abi::options::Strategy;
use heirloom_inspect::{Fault, RootLabel, Walk};

use super::Claim;
use super::proof::{ClaimError, Proof};
use super::runner::{Experiment, Runner};
use super::trace::{Mapping, Reading, Trace, grown};

/// Claim 3.
pub(crate) const SEEN_BY_ALL: Claim = Claim {
    number: 3,
    statement: "If the kernel allocates memory while serving a system call of process 1, process 2 in \
            kernel mode should see it",
    experiment: "process 1 allocates 16 pages, everyone reads them: prealloc, and none",
    prove: seen_by_all,
};

/// Claim 7.
pub(crate) const BELOW_E1: Claim = Claim {
    number: 7,
    statement: "All updates to E1 are visible across all the processes",
    experiment: "2 pages below the shared entry E1, under prealloc",
    prove: below_e1,
};

/// Checkpoints of the program.
pub(crate) const E1_CHECKPOINT: &str = "below E1";
pub(crate) const NEW_ENTRY_CHECKPOINT: &str = "a new entry";

/// A family in which process 1 allocates kernel memory, under `strategy`.
pub(crate) fn experiment(strategy: Strategy) -> Experiment {
    Experiment::new(strategy, &["share", "6"])
}

fn seen_by_all(runner: &mut Runner, proof: &mut Proof) -> Result<(), ClaimError> {
    let trace = runner.trace(&experiment(Strategy::Prealloc))?;
    judge_seen(Strategy::Prealloc, &trace, proof)?;
    let trace = runner.trace(&experiment(Strategy::None))?;
    judge_unseen(&trace, proof)
}

/// Every process has every page on the frame that process 1 has it on, and reads what was written.
pub(crate) fn judge_seen(
    strategy: Strategy,
    trace: &Trace,
    proof: &mut Proof,
) -> Result<(), ClaimError> {
    let name = strategy.name();
    let mapping = trace.mapping(NEW_ENTRY_CHECKPOINT)?;
    let maker = mapping.made.process(1)?;
    let mut same = 0;
    for page in mapping.each_page() {
        let wanted = mapping.made.walk(maker, page);
        for root in mapping.made.processes() {
            let walk = mapping.made.walk(root, page);
            same += u64::from(proof.require(lead_to_the_same(&walk, &wanted), || {
                format!(
                    "{name}: {} has {page} as {walk}, process 1 as {wanted}",
                    root.label
                )
            }));
        }
    }
    let others = others(&mapping);
    let value = mapping.written()?;
    let read = judge_readings(name, &mapping.readings(), &others, &Ok(value), proof);
    let processes = others.len() + 1;
    proof.tables(format!(
        "{name}: {same} of {processes} × {} pages are on the frames that process 1 has",
        mapping.pages
    ));
    proof.cpu(format!(
        "{name}: {read} of {} others read {value:#x}",
        others.len()
    ));
    Ok(())
}

/// Whether two walks end at the same byte of a page with the same rights. A and D may differ.
pub(crate) fn lead_to_the_same(one: &Walk, other: &Walk) -> bool {
    let end = |walk: &Walk| {
        let found = walk.translation()?;
        Some((found.pa, found.size, found.rights))
    };
    end(one).is_some() && end(one) == end(other)
}

/// Process 1 alone has the part that needed a new PGD entry; everybody else faults on it.
fn judge_unseen(trace: &Trace, proof: &mut Proof) -> Result<(), ClaimError> {
    let mapping = trace.mapping(NEW_ENTRY_CHECKPOINT)?;
    let page = mapping.last_page();
    let maker = mapping.made.process(1)?;
    let walk = mapping.made.walk(maker, page);
    proof.require(walk.translation().is_some(), || {
        format!("none: process 1 does not have its own mapping: {walk}")
    });
    let mut without = 0;
    for root in mapping.made.processes().filter(|root| root.id != maker.id) {
        let walk = mapping.made.walk(root, page);
        let expected = Err(Fault::NotPresent {
            level: walk.depth.top(),
        });
        without += u64::from(proof.require(walk.result == expected, || {
            format!("none: {} should lack the PGD entry: {walk}", root.label)
        }));
    }
    let others = others(&mapping);
    // A read in the kernel of what is not present: no bit of the error code is set.
    let faulted = judge_readings("none", &mapping.readings(), &others, &Err(0), proof);
    proof.tables(format!(
        "none: process 1 has PGD[{}], {without} of {} others do not",
        pgd_index(page.get(), mapping.made.depth()),
        others.len()
    ));
    proof.cpu(format!(
        "none: {faulted} of {} others page-fault",
        others.len()
    ));
    Ok(())
}

/// The processes but process 1.
fn others(mapping: &Mapping<'_>) -> Vec<u32> {
    mapping
        .made
        .processes()
        .filter_map(|root| match root.label {
            RootLabel::Process(pid) if pid != 1 => Some(pid),
            _ => None,
        })
        .collect()
}

/// Each of `pids` read once, with this result. How many did.
fn judge_readings(
    strategy: &str,
    readings: &[Reading],
    pids: &[u32],
    expected: &Result<u64, u64>,
    proof: &mut Proof,
) -> usize {
    proof.require(!pids.is_empty(), || {
        format!("{strategy}: there are no other processes")
    });
    let as_expected = pids.iter().filter(|pid| {
        let results: Vec<_> = readings
            .iter()
            .filter(|reading| reading.pid == **pid)
            .map(|reading| reading.result)
            .collect();
        proof.require(results == [*expected], || {
            format!(
                "{strategy}: process {pid} should read {expected:x?} once (or fault with that code), \
                 found {results:x?}"
            )
        })
    });
    as_expected.count()
}

fn below_e1(runner: &mut Runner, proof: &mut Proof) -> Result<(), ClaimError> {
    let trace = runner.trace(&experiment(Strategy::Prealloc))?;
    judge_below_e1(&trace, proof)
}

/// One write for each page, in tables below the shared entry, and none to any root or user half.
fn judge_below_e1(trace: &Trace, proof: &mut Proof) -> Result<(), ClaimError> {
    let mapping = trace.mapping(E1_CHECKPOINT)?;
    let made = mapping.made;
    let kernel = made.root(RootLabel::Kernel)?;
    let mut expected: Vec<_> = mapping
        .each_page()
        .filter_map(|page| {
            let walk = made.walk(kernel, page);
            let step = walk.steps().last()?;
            Some((step.level, step.table, step.index))
        })
        .collect();
    let changes = made.written_since(mapping.before);
    let mut written: Vec<_> = changes
        .iter()
        .map(|change| (change.level, change.table, change.index))
        .collect();
    expected.sort_unstable();
    written.sort_unstable();
    proof.require(written == expected, || {
        format!("entries written: expected the leaves {expected:?}, found {written:?}")
    });
    let new = made.new_tables_since(mapping.before);
    proof.require(new.is_empty(), || format!("new tables: {new:?}"));
    let counted = |total| grown(mapping.before, made, total);
    proof.require_equal(
        "PGD writes counted by the guest",
        &counted(|counters| counters.kernel_pgd_writes),
        &0,
    );
    proof.require_equal(
        "entry writes counted by the guest",
        &counted(|counters| counters.kernel_entry_writes),
        &mapping.pages,
    );
    let index = pgd_index(mapping.address.get(), made.depth());
    let others = others(&mapping);
    let value = mapping.written()?;
    let read = judge_readings("prealloc", &mapping.readings(), &others, &Ok(value), proof);
    let translating = made.translating(mapping.last_page());
    proof.require_equal(
        "processes that have the mapping",
        &translating.len(),
        &(others.len() + 1),
    );
    let roots: BTreeSet<_> = made
        .snapshot
        .roots()
        .iter()
        .map(|root| root.address.pfn())
        .collect();
    let to_roots = written.iter().filter(|(_, table, _)| roots.contains(table));
    let below = written.iter().filter(|place| expected.contains(place));
    proof.tables(format!(
        "E1 is PGD[{index}]: of {} entries written {} are leaves in the page table below it, {} in one of \
         the {} roots",
        written.len(),
        below.count(),
        to_roots.count(),
        roots.len()
    ));
    proof.cpu(format!("{read} of {} others read {value:#x}", others.len()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_reader_that_read_something_else_or_not_at_all_breaks_the_claim() {
        let reading = |pid, result| Reading { pid, result };
        let good = [reading(2, Ok(7)), reading(3, Ok(7))];
        for (readings, holds) in [
            (good, true),
            ([good[0], reading(3, Ok(8))], false),
            ([good[0], reading(3, Err(0))], false),
            ([good[0], good[0]], false),
        ] {
            let mut proof = Proof::default();
            judge_readings("prealloc", &readings, &[2, 3], &Ok(7), &mut proof);
            assert_eq!(proof.holds(), holds, "{readings:?}");
        }
    }
}
