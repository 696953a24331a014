//! Claim 4: "mapping changes → update mapping in every process? Does not look good!"

use std::collections::BTreeSet;

use crate::event::EventKind;
use heirloom_abi::options::Strategy;
use heirloom_inspect::{Level, Pfn, RootLabel};

use super::Claim;
use super::proof::{ClaimError, Proof, missing};
use super::propagation::{self, lead_to_the_same};
use super::runner::{Experiment, Runner};
use super::trace::{Mapping, Observation, Trace, grown, mapping_at};

pub(crate) const CLAIM: Claim = Claim {
    number: 4,
    statement: "Mapping changes → update mapping in every process? Does not look good!",
    experiment: "one page mapped and unmapped with 1, 2, 4, 8 processes: copy-all, prealloc; and read by \
                 all: copy-all",
    prove,
};

/// How many processes there are when kernel memory is mapped.
const PROCESSES: [usize; 4] = [1, 2, 4, 8];
const CHECKPOINT: &str = "one mapping";

fn prove(runner: &mut Runner, proof: &mut Proof) -> Result<(), ClaimError> {
    for strategy in [Strategy::CopyAll, Strategy::Prealloc] {
        let experiment = Experiment::new(strategy, &["cost", "1", "2", "4", "8"]);
        let trace = runner.trace(&experiment)?;
        judge(strategy, &trace, proof)?;
    }
    let family = runner.trace(&propagation::experiment(Strategy::CopyAll))?;
    propagation::judge_seen(Strategy::CopyAll, &family, proof)
}

fn judge(strategy: Strategy, trace: &Trace, proof: &mut Proof) -> Result<(), ClaimError> {
    let name = strategy.name();
    let mut writes = Vec::new();
    let mut counted = Vec::new();
    let starts = trace
        .observations()
        .iter()
        .enumerate()
        .filter(|(_, moment)| moment.is_checkpoint(CHECKPOINT));
    for (start, processes) in starts.map(|(start, _)| start).zip(PROCESSES) {
        let section = &trace.observations()[start..];
        let mapping = mapping_at(section).ok_or_else(|| missing("the mapping of one page"))?;
        let unmapped = mapping
            .after
            .first()
            .filter(|moment| matches!(moment.event.claim, EventKind::KernelUnmapped { .. }))
            .ok_or_else(|| missing("the unmapping of one page"))?;
        proof.require_equal(
            "processes at the mapping",
            &mapping.made.processes().count(),
            &processes,
        );
        // Private tables: one in each address space, the kernel's own included.
        let tables = match strategy {
            Strategy::CopyAll => processes + 1,
            _ => 1,
        };
        let leaves = leaves(name, &mapping, proof)?;
        proof.require_equal(
            &format!("{name}: page tables that map it"),
            &leaves.len(),
            &tables,
        );
        for (before, after) in [(mapping.before, mapping.made), (mapping.made, unmapped)] {
            judge_step(name, before, after, &leaves, proof);
        }
        writes.push(mapping.made.written_since(mapping.before).len());
        counted.push(entry_writes(mapping.before, mapping.made));
    }
    proof.require_equal(
        &format!("{name}: families that were seen"),
        &writes.len(),
        &PROCESSES.len(),
    );
    proof.tables(format!(
        "{name}: {} entries written with {} processes",
        listed(&writes),
        listed(&PROCESSES)
    ));
    proof.cpu(format!(
        "{name}: the guest counted {} writes",
        listed(&counted)
    ));
    Ok(())
}

/// The leaf entries of the mapping, one for each table that an address space has there.
fn leaves(
    name: &str,
    mapping: &Mapping<'_>,
    proof: &mut Proof,
) -> Result<BTreeSet<(Pfn, u16)>, ClaimError> {
    let kernel = mapping.made.root(RootLabel::Kernel)?;
    let wanted = mapping.made.walk(kernel, mapping.address);
    let mut leaves = BTreeSet::new();
    for root in mapping.made.snapshot.roots() {
        let walk = mapping.made.walk(root, mapping.address);
        proof.require(lead_to_the_same(&walk, &wanted), || {
            format!(
                "{name}: {} has the page as {walk}, the kernel as {wanted}",
                root.label
            )
        });
        leaves.extend(walk.steps().last().map(|step| (step.table, step.index)));
    }
    Ok(leaves)
}

/// From one moment to the next exactly these leaf entries were written, and as many were counted.
fn judge_step(
    name: &str,
    before: &Observation,
    after: &Observation,
    leaves: &BTreeSet<(Pfn, u16)>,
    proof: &mut Proof,
) {
    let written = after.written_since(before);
    let places: BTreeSet<_> = written
        .iter()
        .filter(|change| change.level == Level::Pt)
        .map(|change| (change.table, change.index))
        .collect();
    proof.require(places == *leaves && written.len() == leaves.len(), || {
        format!(
            "{name}: the leaves written are {places:?} ({} writes), the mapping's {leaves:?}",
            written.len()
        )
    });
    let new = after.new_tables_since(before);
    proof.require(new.is_empty(), || format!("{name}: new tables {new:?}"));
    let counted = entry_writes(before, after);
    proof.require(counted == leaves.len() as u64, || {
        format!(
            "{name}: the guest counted {counted} writes, the tables show {}",
            leaves.len()
        )
    });
}

fn entry_writes(before: &Observation, after: &Observation) -> u64 {
    grown(before, after, |counters| counters.kernel_entry_writes)
}

fn listed(numbers: &[impl ToString]) -> String {
    let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    numbers.join(", ")
}
