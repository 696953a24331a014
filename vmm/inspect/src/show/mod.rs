//! Showing: what was judged, as data for JSON and as tables for people. It decides nothing.

mod address_spaces;
mod check;
mod difference;
mod exhibit;
mod layout;
mod maps;
mod report;
mod reverse;
mod roots;
mod subject;
mod terminal;
mod translate;

pub use address_spaces::{AddressSpace, EntryGroup, KernelHalf};
pub use check::CheckReport;
pub use difference::DifferenceReport;
pub use exhibit::{Exhibit, describe};
pub use layout::LayoutReport;
pub use maps::NamedRange;
pub use report::{REPORT_VERSION, Report};
pub use reverse::ReverseReport;
pub use roots::{Cluster, Roots};
pub use subject::{INSPECTION_VERSION, Subject};
pub use translate::TranslateReport;
