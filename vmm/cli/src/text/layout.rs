//! What lies where.

use std::fmt;

use comfy_table::{Table, presets};
use heirloom_inspect::report::LayoutReport;

use super::{Shown, Text};

impl Text for LayoutReport {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", Shown(&self.target))?;
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["addresses", "area", "evidence"]);
        for region in &self.layout.regions {
            table.add_row([
                region.range.to_string(),
                region.name.to_string(),
                region.evidence.clone(),
            ]);
        }
        write!(f, "{}", table.trim_fmt())
    }
}
