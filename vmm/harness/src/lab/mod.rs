//! What a kernel mapping costs under each strategy, from one process to a thousand, and from one CPU to eight.
//!
//! Each cell of the sweep, a strategy with a number of processes, is a machine of its own. The guest's
//! counters are held against what its tables show.

pub mod cell;
mod console;
pub mod cpus;
pub mod figure;
pub mod law;
pub mod measure;
mod observer;
pub mod plan;
pub mod results;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod written;
