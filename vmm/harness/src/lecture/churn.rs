//! Claim 12: "processes and memory are dynamically created and destroyed".

use heirloom_abi::options::Strategy;
use heirloom_inspect::TableFrames;
use heirloom_inspect::rules::Verdict;

use super::Claim;
use super::proof::{ClaimError, Proof, missing};
use super::runner::{Experiment, Runner};
use crate::event::{Counters, EventKind};

pub(crate) const CLAIM: Claim = Claim {
    number: 12,
    statement: "Constraints: processes and memory are dynamically created and destroyed",
    experiment: "2,000 processes and 1,000 allocations come and go, all rules at every event",
    prove,
};

const PROCESSES: u64 = 2000;

/// What there is at one moment.
#[derive(Clone, Copy, Debug)]
struct Totals {
    counters: Counters,
    tables: TableFrames,
}

/// What came and went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Traffic {
    born: u64,
    ended: u64,
    mapped: u64,
    unmapped: u64,
    reads: u64,
    /// Reads that faulted.
    failed: u64,
    events: u64,
}

impl Traffic {
    fn count(&mut self, kind: &EventKind) {
        self.events += 1;
        match kind {
            EventKind::ProcessCreated { .. } => self.born += 1,
            EventKind::ProcessExited { .. } => self.ended += 1,
            EventKind::KernelMapped { .. } => self.mapped += 1,
            EventKind::KernelUnmapped { .. } => self.unmapped += 1,
            EventKind::KernelAccess { fault, .. } => {
                self.reads += 1;
                self.failed += u64::from(fault.is_some());
            }
            _ => {}
        }
    }
}

fn prove(runner: &mut Runner, proof: &mut Proof) -> Result<(), ClaimError> {
    let experiment = Experiment::new(Strategy::Prealloc, &["churn", &PROCESSES.to_string()]);
    let mut start = None;
    let mut end = None;
    let mut traffic = Traffic::default();
    let run = runner.watch(&experiment, |seen| {
        let place = match &seen.event.claim {
            EventKind::Checkpoint { text } if text == "start" => &mut start,
            EventKind::Checkpoint { text } if text == "end" => &mut end,
            claim => {
                if start.is_some() && end.is_none() {
                    traffic.count(claim);
                }
                return;
            }
        };
        *place = seen.snapshot().map(|snapshot| Totals {
            counters: seen.event.counters,
            tables: snapshot.table_frames(),
        });
    })?;
    let start = start.ok_or_else(|| missing("the run never reached the checkpoint `start`"))?;
    let end = end.ok_or_else(|| missing("the run never reached the checkpoint `end`"))?;
    judge(&start, &end, traffic, run.judge().verdicts(), proof);
    Ok(())
}

fn judge(start: &Totals, end: &Totals, traffic: Traffic, verdicts: &[Verdict], proof: &mut Proof) {
    proof.require_equal("processes created", &traffic.born, &PROCESSES);
    proof.require_equal("processes ended", &traffic.ended, &PROCESSES);
    proof.require_equal("kernel memory mapped", &traffic.mapped, &(PROCESSES / 2));
    proof.require_equal("kernel memory unmapped", &traffic.unmapped, &traffic.mapped);
    proof.require_equal("reads of it", &traffic.reads, &PROCESSES);
    proof.require_equal("reads that faulted", &traffic.failed, &0);
    let frames = |totals: &Totals| {
        let counters = totals.counters;
        [
            ("free", counters.frames_free),
            ("table", counters.frames_table),
            ("user", counters.frames_user),
            ("kernel", counters.frames_kernel),
            ("reserved", counters.frames_reserved),
        ]
    };
    for ((name, start), (_, end)) in frames(start).into_iter().zip(frames(end)) {
        proof.require(start == end, || {
            format!("frames counted as {name}: {start} at the start, {end} at the end")
        });
    }
    proof.require_equal("table frames in the tables", &end.tables, &start.tables);
    proof.require(!verdicts.is_empty(), || "no rule was judged".into());
    for verdict in verdicts {
        proof.require(verdict.violations == 0, || {
            format!(
                "rule {} is broken {} times",
                verdict.rule.name, verdict.violations
            )
        });
    }
    let checks: u64 = verdicts.iter().map(|verdict| verdict.checks).sum();
    proof.tables(format!(
        "{} table frames at the start, {} at the end; {} rules hold at all {} events ({checks} checks)",
        start.tables.total,
        end.tables.total,
        verdicts
            .iter()
            .filter(|verdict| verdict.violations == 0)
            .count(),
        traffic.events
    ));
    proof.cpu(format!(
        "{} processes created and ended, {} allocations made, read {} times and freed; frames free: {} \
         before, {} after",
        traffic.ended,
        traffic.unmapped,
        traffic.reads,
        start.counters.frames_free,
        end.counters.frames_free
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_frame_a_table_too_many_or_a_process_too_few_breaks_the_claim() {
        let totals = Totals {
            counters: Counters {
                frames_free: 100,
                frames_table: 10,
                ..Counters::default()
            },
            tables: TableFrames {
                total: 10,
                ..TableFrames::default()
            },
        };
        let traffic = Traffic {
            born: PROCESSES,
            ended: PROCESSES,
            mapped: PROCESSES / 2,
            unmapped: PROCESSES / 2,
            reads: PROCESSES,
            failed: 0,
            events: 1,
        };
        let objections = |end: &Totals, traffic| {
            let mut proof = Proof::default();
            judge(&totals, end, traffic, &[], &mut proof);
            proof.result(&CLAIM, false, 0.0).objected
        };
        // With no rule judged, that alone is objected to.
        assert_eq!(objections(&totals, traffic), 1);
        let mut end = totals;
        end.counters.frames_free -= 1;
        assert_eq!(objections(&end, traffic), 2);
        let mut end = totals;
        end.tables.total += 1;
        assert_eq!(objections(&end, traffic), 2);
        let fewer = Traffic {
            ended: PROCESSES - 1,
            ..traffic
        };
        assert_eq!(objections(&totals, fewer), 2);
    }
}
