//! Claim 5: "a child process page table inherits the kernel mappings of the parent".

use std::collections::BTreeMap;

use crate::event::EventKind;
use heirloom_abi::event::KERNEL_PID;
use heirloom_abi::options::Strategy;
use heirloom_inspect::{Half, Root, RootLabel};

use super::Claim;
use super::proof::{ClaimError, Proof};
use super::propagation::{E1_CHECKPOINT, experiment};
use super::runner::Runner;
use super::trace::{Observation, Trace, readings};

pub(crate) const CLAIM: Claim = Claim {
    number: 5,
    statement: "A child process page table inherits the kernel mappings of the parent; the inheritance \
            tree is rooted at the first process",
    experiment: "each birth in a family of several generations, under prealloc",
    prove,
};

fn prove(runner: &mut Runner, proof: &mut Proof) -> Result<(), ClaimError> {
    let trace = runner.trace(&experiment(Strategy::Prealloc))?;
    judge(&trace, proof)
}

fn judge(trace: &Trace, proof: &mut Proof) -> Result<(), ClaimError> {
    let mut parents = BTreeMap::new();
    let mut inherited = Inherited::default();
    for moment in trace.observations() {
        let EventKind::ProcessCreated { child, parent, .. } = moment.event.claim else {
            continue;
        };
        parents.insert(child, parent);
        let child_root = moment.process(child)?;
        let parent_root = moment.root(match parent {
            KERNEL_PID => RootLabel::Kernel,
            _ => RootLabel::Process(parent),
        })?;
        proof.require(child_root.address != parent_root.address, || {
            format!("process {child} does not own its PGD: it is process {parent}'s")
        });
        judge_birth(moment, child_root, parent_root, &mut inherited, proof);
    }
    let depths: Vec<usize> = parents
        .keys()
        .filter_map(|pid| generation(*pid, &parents))
        .collect();
    let generations = depths.iter().max().copied().unwrap_or(0);
    proof.require(depths.len() == parents.len(), || {
        format!("not every line of parents leads to process 1: {parents:?}")
    });
    proof.require(generations >= 3, || {
        format!("{generations} generations are too few to speak of a tree")
    });
    let readings = readings(trace.section(E1_CHECKPOINT)?);
    proof.require(!readings.is_empty(), || {
        "no process read kernel memory".into()
    });
    for reading in &readings {
        proof.require(reading.result.is_ok(), || {
            format!("a read failed: {reading:?}")
        });
    }
    let Inherited { entries, same } = inherited;
    proof.tables(format!(
        "{} births in {generations} generations; of {entries} kernel PGD entries of parents {same} are the \
         child's: the very same table frames",
        parents.len(),
    ));
    proof.tables(format!(
        "{} of {} lines of parents lead to process 1",
        depths.len(),
        parents.len()
    ));
    proof.cpu(format!(
        "{} of {} others read kernel memory by their inherited entries",
        readings
            .iter()
            .filter(|reading| reading.result.is_ok())
            .count(),
        readings.len()
    ));
    Ok(())
}

/// Kernel PGD entries in use, over all births.
#[derive(Default)]
struct Inherited {
    /// Those of the parents.
    entries: usize,
    /// Those that are the child's as well.
    same: usize,
}

/// Compares each kernel PGD entry of a new process with its parent's.
fn judge_birth(
    moment: &Observation,
    child_root: &Root,
    parent_root: &Root,
    inherited: &mut Inherited,
    proof: &mut Proof,
) {
    let tables = (
        moment.snapshot.root_table(child_root.id),
        moment.snapshot.root_table(parent_root.id),
    );
    let (Some(own), Some(parents)) = tables else {
        proof.object(|| format!("the PGD of {} cannot be read", child_root.label));
        return;
    };
    for index in Half::Kernel.indices() {
        let (own, parents) = (own.entry(index), parents.entry(index));
        let same = proof.require(own.as_written() == parents.as_written(), || {
            format!(
                "PGD[{index}] of {} is {own}, of {} {parents}",
                child_root.label, parent_root.label
            )
        });
        inherited.entries += usize::from(parents.present());
        inherited.same += usize::from(parents.present() && same);
    }
}

/// 1 for process 1, one more for each parent in between; `None` if the line does not lead there.
fn generation(pid: u32, parents: &BTreeMap<u32, u32>) -> Option<usize> {
    let mut at = pid;
    (1..=parents.len()).find(|_| {
        let first = at == 1 && parents.get(&at) == Some(&KERNEL_PID);
        at = parents.get(&at).copied().unwrap_or(KERNEL_PID);
        first
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_parents_leads_to_process_1_or_nowhere() {
        let parents = BTreeMap::from([(1, 0), (2, 1), (3, 2), (7, 8), (8, 7), (9, 5)]);
        assert_eq!(generation(1, &parents), Some(1));
        assert_eq!(generation(3, &parents), Some(3));
        assert_eq!(generation(7, &parents), None);
        assert_eq!(generation(9, &parents), None);
    }
}
