//! What lies where, for people.

use std::fmt;

use comfy_table::{Table, presets};
use serde::Serialize;

use super::roots::trimmed;
use super::subject::Subject;
use crate::discover::Discovery;
use crate::layout::Layout;

/// What `heirloom layout` found.
#[derive(Clone, Debug, Serialize)]
pub struct LayoutReport {
    pub version: u32,
    pub target: Subject,
    #[serde(flatten)]
    pub layout: Layout,
}

impl LayoutReport {
    /// The layout of `discovery`, which is of the target called `name`.
    pub fn new(name: &str, discovery: &Discovery) -> LayoutReport {
        LayoutReport {
            version: super::INSPECTION_VERSION,
            target: Subject::new(name, discovery),
            layout: discovery.layout.clone(),
        }
    }
}

impl fmt::Display for LayoutReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.target)?;
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["addresses", "area", "evidence"]);
        for region in &self.layout.regions {
            table.add_row([
                region.range.to_string(),
                region.area.name().to_owned(),
                region.evidence.clone(),
            ]);
        }
        write!(f, "{}", trimmed(&table))
    }
}
