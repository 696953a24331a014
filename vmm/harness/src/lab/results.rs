//! What a sweep found, as JSON: written by each shard, and joined into one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};

use super::cell::Cell;
use super::figure::Growth;
use super::plan::{CellName, Plan, Shard};

/// Version of the JSON.
const SCHEMA: u64 = 1;
/// Cells that a message names.
const MAX_NAMED: usize = 4;
/// Larger files are no results: a cell takes less than 2 KiB.
const FILE_LIMIT: u64 = 1 << 28;

/// The measured cells of a plan: all, or one shard's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Results {
    schema: u64,
    /// What was to be measured.
    pub plan: Plan,
    /// Which part of it was.
    pub shard: Shard,
    /// What came of it.
    pub cells: Vec<Cell>,
}

/// The JSON: the results, and what follows from them.
#[derive(Serialize)]
pub struct Document<'a> {
    #[serde(flatten)]
    results: &'a Results,
    /// Empty for a shard: a law needs all sizes.
    growth: Vec<Growth>,
    /// What does not hold; see [`Results::complaints`].
    complaints: Vec<String>,
}

/// Why files of shards cannot be joined.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// The system does not let the file be read.
    #[error("could not read {}: {error}; give the JSON files that the shards printed", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It holds something else.
    #[error("{} is not the JSON of a shard: {error}; run that shard again", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        error: serde_json::Error,
    },
    /// Another version of heirloom wrote it.
    #[error(
        "{} has version {found} of the lab's JSON, this heirloom reads version {SCHEMA}; run all shards with one heirloom",
        path.display()
    )]
    Schema {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// Two files do not belong together.
    #[error(
        "{} and {} are shards of different sweeps; run all shards with the same options but for the shard",
        first.display(),
        other.display()
    )]
    Plan {
        /// One file.
        first: PathBuf,
        /// The other.
        other: PathBuf,
    },
    /// A file holds a cell that its plan has not.
    #[error("{} holds {cell}, which is not in its own plan; run that shard again", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The cell.
        cell: CellName,
    },
    /// A cell was measured by two shards.
    #[error("{cell} is in {} and in {}; give each shard once", first.display(), other.display())]
    Twice {
        /// The cell.
        cell: CellName,
        /// One file.
        first: PathBuf,
        /// The other.
        other: PathBuf,
    },
    /// Cells of the plan are in no file.
    #[error("{count} of {of} cells are missing: {named}; give the JSON of every shard")]
    Missing {
        /// How many.
        count: usize,
        /// Of how many.
        of: usize,
        /// The first of them.
        named: String,
    },
    /// No file was given.
    #[error("there is nothing to join; give the JSON files of all shards")]
    Nothing,
}

impl Results {
    /// The results of a shard of `plan`.
    pub fn new(plan: Plan, shard: Shard, cells: Vec<Cell>) -> Results {
        Results {
            schema: SCHEMA,
            plan,
            shard,
            cells,
        }
    }

    /// The laws of each strategy.
    pub fn growth(&self) -> Vec<Growth> {
        let Plan {
            strategies,
            allocations,
            ..
        } = &self.plan;
        strategies
            .iter()
            .map(|strategy| Growth::of(strategy.0, &self.cells, *allocations))
            .collect()
    }

    /// Where guest and tables disagree, and where a mapping did not come to a process that must have
    /// it. Empty if all is well.
    pub fn complaints(&self) -> Vec<String> {
        self.cells
            .iter()
            .flat_map(|cell| {
                let lost = cell.has_lost_reads().then(|| {
                    format!(
                        "{}: {} processes did not read what the first one wrote, and {} below the new \
                         PGD entry",
                        cell.name, cell.reads_lost, cell.reads_lost_below_new_entry
                    )
                });
                let differing = cell.disagreements().into_iter();
                differing.map(|differing| differing.to_string()).chain(lost)
            })
            .collect()
    }

    /// As JSON.
    pub fn document(&self) -> Document<'_> {
        Document {
            results: self,
            growth: if self.shard == Shard::WHOLE {
                self.growth()
            } else {
                Vec::new()
            },
            complaints: self.complaints(),
        }
    }

    /// Joins the files of all shards of one sweep.
    ///
    /// # Errors
    /// [`MergeError`] unless every cell of the plan is there exactly once.
    pub fn merge(files: &[PathBuf]) -> Result<Results, MergeError> {
        let parts = files
            .iter()
            .map(|path| Ok((path.as_path(), read(path)?)))
            .collect::<Result<Vec<_>, MergeError>>()?;
        join(parts)
    }
}

fn read(path: &Path) -> Result<Results, MergeError> {
    /// What every version has.
    #[derive(Deserialize)]
    struct Versioned {
        schema: u64,
    }
    let unreadable = |error| MergeError::Read {
        path: path.into(),
        error,
    };
    let kind = fs::metadata(path).map_err(unreadable)?;
    if !kind.is_file() || kind.len() > FILE_LIMIT {
        let error = io::Error::other("it is not a file of results");
        return Err(unreadable(error));
    }
    let text = fs::read(path).map_err(unreadable)?;
    let no_results = |error| MergeError::Json {
        path: path.into(),
        error,
    };
    let Versioned { schema } = serde_json::from_slice(&text).map_err(no_results)?;
    if schema != SCHEMA {
        return Err(MergeError::Schema {
            path: path.into(),
            found: schema,
        });
    }
    serde_json::from_slice(&text).map_err(no_results)
}

fn join(parts: Vec<(&Path, Results)>) -> Result<Results, MergeError> {
    let Some((first, plan)) = parts
        .first()
        .map(|(path, results)| (*path, results.plan.clone()))
    else {
        return Err(MergeError::Nothing);
    };
    let mut found: HashMap<CellName, (Cell, &Path)> = HashMap::new();
    for (path, results) in parts {
        if results.plan != plan {
            return Err(MergeError::Plan {
                first: first.into(),
                other: path.into(),
            });
        }
        for cell in results.cells {
            let name = cell.name;
            if !plan.strategies.contains(&name.strategy)
                || !plan.processes.contains(&name.processes)
            {
                return Err(MergeError::Foreign {
                    path: path.into(),
                    cell: name,
                });
            }
            if let Some((_, before)) = found.insert(name, (cell, path)) {
                return Err(MergeError::Twice {
                    cell: name,
                    first: before.into(),
                    other: path.into(),
                });
            }
        }
    }
    let wanted: Vec<CellName> = plan.cells().collect();
    let (cells, missing): (Vec<_>, Vec<_>) = wanted
        .iter()
        .map(|name| found.remove(name).map(|(cell, _)| cell).ok_or(*name))
        .partition(Result::is_ok);
    let missing: Vec<CellName> = missing.into_iter().filter_map(Result::err).collect();
    if !missing.is_empty() {
        let mut named: Vec<String> = missing.iter().map(CellName::to_string).collect();
        named.truncate(MAX_NAMED);
        if missing.len() > MAX_NAMED {
            named.push("…".into());
        }
        return Err(MergeError::Missing {
            count: missing.len(),
            of: wanted.len(),
            named: named.join(", "),
        });
    }
    let cells = cells.into_iter().flatten().collect();
    Ok(Results::new(plan, Shard::WHOLE, cells))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::testing::sweep;

    /// The shards as files, and the folder that they are in.
    fn files(shards: &[Results]) -> (tempfile::TempDir, Vec<PathBuf>) {
        let folder = tempfile::tempdir().unwrap();
        let paths = shards
            .iter()
            .enumerate()
            .map(|(number, shard)| {
                let path = folder.path().join(format!("{number}.json"));
                fs::write(&path, serde_json::to_string(&shard.document()).unwrap()).unwrap();
                path
            })
            .collect();
        (folder, paths)
    }

    fn shards(of: usize) -> Vec<Results> {
        (0..of).map(|index| sweep(Shard { index, of })).collect()
    }

    fn refused(shards: &[Results]) -> String {
        let (_folder, paths) = files(shards);
        Results::merge(&paths).unwrap_err().to_string()
    }

    #[test]
    fn the_shards_joined_in_any_order_are_the_whole() {
        for of in [1, 2, 5] {
            let mut shards = shards(of);
            shards.reverse();
            let (_folder, paths) = files(&shards);
            assert_eq!(Results::merge(&paths).unwrap(), sweep(Shard::WHOLE));
        }
    }

    #[test]
    fn a_missing_shard_is_said_with_the_cells_it_would_have_held() {
        let message = refused(&shards(3)[..2]);
        assert!(
            message.starts_with("6 of 18 cells are missing"),
            "{message}"
        );
        assert!(message.contains("sync with 1 process,"), "{message}");
    }

    #[test]
    fn a_shard_given_twice_is_said_with_both_files() {
        let mut twice = shards(2);
        twice.push(twice[1].clone());
        let message = refused(&twice);
        assert!(message.contains("1.json and in"), "{message}");
        assert!(
            message.contains("2.json; give each shard once"),
            "{message}"
        );
    }

    #[test]
    fn shards_of_different_sweeps_are_not_joined() {
        let mut mixed = shards(2);
        mixed[1].plan.allocations = 7;
        assert!(refused(&mixed).contains("different sweeps"));
    }

    #[test]
    fn a_cell_that_no_plan_has_is_refused() {
        let mut foreign = shards(1);
        foreign[0].cells[0].name.processes = 3;
        let message = refused(&foreign);
        assert!(message.contains("not in its own plan"), "{message}");
    }

    #[test]
    fn what_is_no_shard_is_refused_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        let mut newer = sweep(Shard::WHOLE);
        newer.schema = 2;
        for (text, said) in [
            ("not JSON", "is not the JSON"),
            ("{}", "is not the JSON"),
            ("{\"schema\": 1}", "is not the JSON"),
            (&*serde_json::to_string(&newer).unwrap(), "has version 2"),
        ] {
            fs::write(&path, text).unwrap();
            let message = Results::merge(std::slice::from_ref(&path))
                .unwrap_err()
                .to_string();
            assert!(message.contains(said), "{message}");
            assert!(message.contains("x.json"), "{message}");
        }
        for missing in [folder.path().join("y.json"), folder.path().into()] {
            let message = Results::merge(&[missing]).unwrap_err().to_string();
            assert!(message.starts_with("could not read"), "{message}");
        }
        assert!(matches!(Results::merge(&[]), Err(MergeError::Nothing)));
    }

    #[test]
    fn absurd_counts_from_a_file_are_no_panic() {
        let mut absurd = sweep(Shard::WHOLE);
        for cell in &mut absurd.cells {
            for phase in [&mut cell.map_new, &mut cell.read_new] {
                phase.guest.written.entries = u64::MAX;
                phase.nanoseconds = u64::MAX;
            }
        }
        absurd.plan.allocations = 0;
        assert_eq!(absurd.complaints().len(), 2 * absurd.cells.len());
        assert_eq!(absurd.growth().len(), 6);
    }
}
