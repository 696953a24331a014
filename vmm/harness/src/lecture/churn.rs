//! Claim 12: "processes and memory are dynamically created and destroyed".

use heirloom_abi::options::Strategy;
use heirloom_inspect::TableFrames;
use heirloom_inspect::judge::{Claim as Told, Counters, Verdict};

use super::Claim;
use super::proof::{Proof, Trouble, missing};
use super::stage::{Experiment, Stage};

pub(crate) const CLAIM: Claim = Claim {
    words: "Constraints: processes and memory are dynamically created and destroyed",
    experiment: "2,000 processes and 1,000 allocations come and go, all rules at every event",
    prove,
};

const PROCESSES: u64 = 2000;

/// What there is at one moment.
#[derive(Clone, Copy, Debug)]
struct Stock {
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
    fn count(&mut self, claim: &Told) {
        self.events += 1;
        match claim {
            Told::ProcessCreated { .. } => self.born += 1,
            Told::ProcessExited { .. } => self.ended += 1,
            Told::KernelMapped { .. } => self.mapped += 1,
            Told::KernelUnmapped { .. } => self.unmapped += 1,
            Told::KernelAccess { fault, .. } => {
                self.reads += 1;
                self.failed += u64::from(fault.is_some());
            }
            _ => {}
        }
    }
}

fn prove(stage: &mut Stage, proof: &mut Proof) -> Result<(), Trouble> {
    let experiment = Experiment::new(Strategy::Prealloc, &["churn", &PROCESSES.to_string()]);
    let mut start = None;
    let mut end = None;
    let mut traffic = Traffic::default();
    let session = stage.watch(&experiment, |seen| {
        let place = match &seen.told.claim {
            Told::Checkpoint { text } if text == "start" => &mut start,
            Told::Checkpoint { text } if text == "end" => &mut end,
            claim => {
                if start.is_some() && end.is_none() {
                    traffic.count(claim);
                }
                return;
            }
        };
        *place = seen.judge.snapshot().map(|snapshot| Stock {
            counters: seen.told.counters,
            tables: snapshot.table_frames(),
        });
    })?;
    let start = start.ok_or_else(|| missing("the run never came to `start`"))?;
    let end = end.ok_or_else(|| missing("the run never came to `end`"))?;
    judge(&start, &end, traffic, session.judge().verdicts(), proof);
    Ok(())
}

fn judge(start: &Stock, end: &Stock, traffic: Traffic, verdicts: &[Verdict], proof: &mut Proof) {
    proof.require_equal("processes born", &traffic.born, &PROCESSES);
    proof.require_equal("processes ended", &traffic.ended, &PROCESSES);
    proof.require_equal("kernel memory mapped", &traffic.mapped, &(PROCESSES / 2));
    proof.require_equal("kernel memory unmapped", &traffic.unmapped, &traffic.mapped);
    proof.require_equal("reads of it", &traffic.reads, &PROCESSES);
    proof.require_equal("reads that faulted", &traffic.failed, &0);
    let frames = |stock: &Stock| {
        let counters = stock.counters;
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
        "{} processes born and ended, {} allocations made, read {} times and freed; frames free: {} \
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
        let stock = Stock {
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
        let objections = |end: &Stock, traffic| {
            let mut proof = Proof::default();
            judge(&stock, end, traffic, &[], &mut proof);
            super::super::proof::Row::new(12, "", "", proof, 0.0).objected
        };
        // With no rule judged, that alone is objected to.
        assert_eq!(objections(&stock, traffic), 1);
        let mut end = stock;
        end.counters.frames_free -= 1;
        assert_eq!(objections(&end, traffic), 2);
        let mut end = stock;
        end.tables.total += 1;
        assert_eq!(objections(&end, traffic), 2);
        let fewer = Traffic {
            ended: PROCESSES - 1,
            ..traffic
        };
        assert_eq!(objections(&stock, fewer), 2);
    }
}
