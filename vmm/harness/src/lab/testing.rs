//! Made-up results, for tests.

use heirloom_abi::options::Strategy;

use super::cell::{Cell, Counted, Phase, TableFrames};
use super::plan::{CellName, Plan, Shard, StrategyName};
use super::results::Results;
use super::written::Written;

/// A cell of a mapping that costs `writes` entries, all counts agreeing.
pub fn cell(strategy: Strategy, processes: u64, writes: u64) -> Cell {
    let written = Written {
        entries: writes,
        pgd_entries: 0,
    };
    let phase = Phase {
        guest: Counted {
            written,
            ..Counted::default()
        },
        tables: written,
        nanoseconds: 1000,
    };
    Cell {
        name: CellName {
            strategy: StrategyName(strategy),
            processes,
        },
        map: phase,
        read: phase,
        map_new: phase,
        read_new: phase,
        unmap: phase,
        cr3_loads_per_system_call: 0,
        fastest_mapping_nanoseconds: 500,
        fastest_mapping_cycles: 1000,
        table_frames: TableFrames {
            guest: 9,
            tables: 9,
            kernel_half: 5,
        },
        reads_lost: 0,
        reads_lost_below_new_entry: 0,
    }
}

/// A small sweep: copy-all costs one more for each process, the others nothing more.
pub fn sweep(shard: Shard) -> Results {
    let plan = Plan::new(&Strategy::ALL.map(StrategyName), &[1, 2, 4], 1, 512, "");
    let cells = shard
        .cells(&plan)
        .into_iter()
        .map(|name| {
            let writes = match name.strategy.0 {
                Strategy::CopyAll => 1 + name.processes,
                _ => 1,
            };
            cell(name.strategy.0, name.processes, writes)
        })
        .collect();
    Results::new(plan, shard, cells)
}
