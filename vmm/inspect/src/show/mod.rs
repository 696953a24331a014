//! Showing: what was judged, as data for JSON and as tables for people. It decides nothing.

mod address_spaces;
mod exhibit;
mod report;
mod terminal;

pub use address_spaces::{AddressSpace, EntryGroup, KernelHalf};
pub use exhibit::Exhibit;
pub use report::{REPORT_VERSION, Report};
