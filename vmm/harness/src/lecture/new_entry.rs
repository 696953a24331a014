//! Claim 8: "so we are at peace! Not really": what each strategy does about a mapping that needs a new PGD
//! entry.

use heirloom_abi::options::Strategy;

use super::Claim;
use super::proof::{ClaimError, Proof, missing};
use super::propagation::{NEW_ENTRY_CHECKPOINT, experiment};
use super::runner::Runner;
use super::trace::{Trace, grown, readings};

pub(crate) const CLAIM: Claim = Claim {
    number: 8,
    statement: "So we are at peace! Not really: a mapping that needs a new PGD entry",
    experiment: "16 pages across a 512 GiB boundary (256 TiB with 5 levels): none, fault, sync, prealloc",
    prove,
};

/// The program's last checkpoint.
const LATE_CHECKPOINT: &str = "a late child";

/// What a strategy does about a new PGD entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outcome {
    /// Roots, the kernel's own included, that got the entry with the mapping.
    roots_written: usize,
    /// Processes that have the mapping at once.
    at_once: usize,
    /// Page faults that brought the entry, the maker's own included.
    faults: u64,
    /// Other processes that read what was written …
    read: usize,
    /// … and those that faulted instead.
    failed: usize,
    /// Whether a child that process 2 had later reads it.
    late_child_reads: bool,
}

impl Outcome {
    /// What `strategy` promises with `processes` processes; none for those that are not compared.
    fn expected(strategy: Strategy, processes: usize) -> Option<Outcome> {
        let shared = Outcome {
            roots_written: 0,
            at_once: processes,
            faults: 0,
            read: processes.saturating_sub(1),
            failed: 0,
            late_child_reads: true,
        };
        Some(match strategy {
            Strategy::Prealloc => shared,
            Strategy::Sync => Outcome {
                roots_written: processes + 1,
                ..shared
            },
            Strategy::Fault => Outcome {
                roots_written: 1,
                at_once: 0,
                faults: processes as u64,
                ..shared
            },
            Strategy::None => Outcome {
                roots_written: 1,
                at_once: 1,
                read: 0,
                failed: processes.saturating_sub(1),
                late_child_reads: false,
                ..shared
            },
            _ => return None,
        })
    }

    fn seen(trace: &Trace) -> Result<Outcome, ClaimError> {
        let mapping = trace.mapping(NEW_ENTRY_CHECKPOINT)?;
        let page = mapping.last_page();
        let root = mapping.made.depth().top();
        let index = page.index(root);
        let roots_written = mapping
            .made
            .written_since(mapping.before)
            .iter()
            .filter(|change| change.level == root && change.index == index)
            .count();
        let late = trace.section(LATE_CHECKPOINT)?;
        let [late_start, ..] = late else {
            return Err(missing("a late child"));
        };
        let value = mapping.written()?;
        let readings_then = mapping.readings();
        let read = readings_then
            .iter()
            .filter(|reading| reading.result == Ok(value))
            .count();
        let known: Vec<u32> = readings_then.iter().map(|reading| reading.pid).collect();
        let newborn = readings(late)
            .into_iter()
            .find(|reading| !known.contains(&reading.pid))
            .ok_or_else(|| missing("the late child's reading"))?;
        Ok(Outcome {
            roots_written,
            at_once: mapping.made.translating(page).len(),
            faults: grown(mapping.before, late_start, |counters| {
                counters.kernel_faults
            }),
            read,
            failed: readings_then.len() - read,
            late_child_reads: newborn.result == Ok(value),
        })
    }
}

fn prove(runner: &mut Runner, proof: &mut Proof) -> Result<(), ClaimError> {
    for strategy in [
        Strategy::None,
        Strategy::Fault,
        Strategy::Sync,
        Strategy::Prealloc,
    ] {
        let trace = runner.trace(&experiment(strategy))?;
        let processes = trace
            .mapping(NEW_ENTRY_CHECKPOINT)?
            .made
            .processes()
            .count();
        let seen = Outcome::seen(&trace)?;
        let expected = Outcome::expected(strategy, processes);
        let name = strategy.name();
        proof.require(Some(seen) == expected, || {
            format!("{name}: expected {expected:?}, found {seen:?}")
        });
        proof.tables(format!(
            "{name}: written to {} of {} roots, {} of {processes} processes have it at once",
            seen.roots_written,
            processes + 1,
            seen.at_once
        ));
        proof.cpu(format!(
            "{name}: {} faults bring it, {} of {} others read it, {}",
            seen.faults,
            seen.read,
            processes.saturating_sub(1),
            if seen.late_child_reads {
                "a late child too"
            } else {
                "a late child does not"
            }
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_strategies_promise_four_different_things() {
        let strategies = [
            Strategy::None,
            Strategy::Fault,
            Strategy::Sync,
            Strategy::Prealloc,
        ];
        let promises = strategies.map(|strategy| Outcome::expected(strategy, 6));
        for (number, promise) in promises.iter().enumerate() {
            assert!(promise.is_some());
            assert!(!promises[..number].contains(promise), "{promise:?}");
        }
    }
}
