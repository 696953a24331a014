//! Reports about a target, as data: what was found, under a head that says what it is about. Whoever shows
//! them decides how.

mod boots;
mod check;
mod difference;
mod layout;
mod maps;
mod reverse;
mod roots;
mod row;
mod subject;
mod translate;

pub use boots::BootsReport;
pub use check::CheckReport;
pub use difference::DifferenceReport;
pub use layout::LayoutReport;
pub use maps::NamedRange;
pub use reverse::{ReachedBy, ReverseReport, UsedAsTable};
pub use roots::{Cluster, Roots};
pub use row::{Column, Kind, Row, Value};
pub use subject::{INSPECTION_VERSION, Subject};
pub use translate::{Index, TranslateReport};
