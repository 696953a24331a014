//! What a sweep measures: one cell for each strategy and number of processes, and how the cells are
//! shared out among machines.

use std::fmt;
use std::str::FromStr;

use heirloom_abi::options::Strategy;
use serde::{Deserialize, Serialize};

/// A strategy, in JSON by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "&'static str", try_from = "String")]
pub struct StrategyName(
    /// Which one.
    pub Strategy,
);

impl From<StrategyName> for &'static str {
    fn from(StrategyName(strategy): StrategyName) -> &'static str {
        strategy.name()
    }
}

impl TryFrom<String> for StrategyName {
    type Error = String;

    fn try_from(name: String) -> Result<StrategyName, String> {
        name.parse()
    }
}

impl FromStr for StrategyName {
    type Err = String;

    fn from_str(name: &str) -> Result<StrategyName, String> {
        Strategy::from_name(name).map(StrategyName).ok_or_else(|| {
            let names = Strategy::ALL.map(Strategy::name).join(", ");
            format!("no strategy is called `{name}`; there are {names}")
        })
    }
}

impl fmt::Display for StrategyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0.name())
    }
}

/// One experiment: a machine of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CellName {
    /// How a kernel mapping reaches every process.
    pub strategy: StrategyName,
    /// Processes that live while kernel memory is mapped.
    pub processes: u64,
}

impl fmt::Display for CellName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CellName {
            strategy,
            processes,
        } = self;
        let plural = if *processes == 1 { "" } else { "es" };
        write!(f, "{strategy} with {processes} process{plural}")
    }
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The strategies, each once.
    pub strategies: Vec<StrategyName>,
    /// The numbers of processes, ascending.
    pub processes: Vec<u64>,
    /// Mappings made, one page each, below a PGD entry that everybody has.
    pub allocations: u64,
    /// The guest's memory in MiB.
    pub memory_mib: u64,
    /// More words of the guest kernel's command line.
    pub cmdline: String,
}

impl Plan {
    /// Every strategy with every number of processes; each list in its own order, nothing twice.
    pub fn new(
        strategies: &[StrategyName],
        processes: &[u64],
        allocations: u64,
        memory_mib: u64,
        cmdline: &str,
    ) -> Plan {
        let mut processes = processes.to_vec();
        processes.sort_unstable();
        processes.dedup();
        Plan {
            strategies: Strategy::ALL
                .map(StrategyName)
                .into_iter()
                .filter(|strategy| strategies.contains(strategy))
                .collect(),
            processes,
            allocations,
            memory_mib,
            cmdline: cmdline.into(),
        }
    }

    /// All cells, the small ones first, so that each shard gets some of every size.
    pub fn cells(&self) -> impl Iterator<Item = CellName> {
        self.processes.iter().flat_map(|processes| {
            self.strategies.iter().map(|strategy| CellName {
                strategy: *strategy,
                processes: *processes,
            })
        })
    }
}

/// One part of a sweep: every `of`-th cell from number `index` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// From 0.
    pub index: usize,
    /// How many parts there are.
    pub of: usize,
}

impl Shard {
    /// The whole sweep.
    pub const WHOLE: Shard = Shard { index: 0, of: 1 };

    /// Its cells.
    pub fn cells(self, plan: &Plan) -> Vec<CellName> {
        plan.cells()
            .skip(self.index)
            .step_by(self.of.max(1))
            .collect()
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Shard, String> {
        let parts = text.split_once('/');
        let numbers = parts.and_then(|(index, of)| Some((index.parse().ok()?, of.parse().ok()?)));
        match numbers {
            Some((index, of)) if index < of => Ok(Shard { index, of }),
            _ => Err(format!(
                "`{text}` is no shard: write INDEX/COUNT with INDEX from 0, such as 0/4 to 3/4"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan::new(&Strategy::ALL.map(StrategyName), &[4, 1, 2, 1], 16, 512, "")
    }

    #[test]
    fn nothing_is_measured_twice() {
        let plan = plan();
        assert_eq!(plan.processes, [1, 2, 4]);
        assert_eq!(plan.cells().count(), 18);
    }

    #[test]
    fn the_shards_of_any_count_are_the_whole_and_share_nothing() {
        let plan = plan();
        let whole: Vec<CellName> = plan.cells().collect();
        for of in 1..=20 {
            let mut parts: Vec<CellName> = (0..of)
                .flat_map(|index| Shard { index, of }.cells(&plan))
                .collect();
            assert_eq!(parts.len(), whole.len());
            parts.sort_by_key(|cell| whole.iter().position(|other| other == cell));
            assert_eq!(parts, whole);
        }
    }

    #[test]
    fn a_shard_is_an_index_below_its_count() {
        assert_eq!("2/3".parse(), Ok(Shard { index: 2, of: 3 }));
        for text in ["3/3", "0/0", "1", "/", "a/b", "-1/2"] {
            assert!(text.parse::<Shard>().unwrap_err().contains(text));
        }
    }
}
