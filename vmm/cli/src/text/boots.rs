//! How two boots differ.

use std::fmt;

use comfy_table::{Table, presets};
use heirloom_inspect::Rights;
use heirloom_inspect::boots::{Extent, NameChanges};
use heirloom_inspect::report::BootsReport;

use super::Text;

/// Offsets and names that are listed.
const MAX_LISTED: usize = 16;

impl Text for BootsReport {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let boots = &self.boots;
        writeln!(f, "two boots: {} and {}", self.before.name, self.after.name)?;
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["area", "first boot", "second boot", "mapped"]);
        for area in &boots.areas {
            let at = |extent: Option<&Extent>| {
                let first = extent.map(|extent| extent.first.to_string());
                first.unwrap_or_else(|| "–".into())
            };
            let [before, after] = [&area.before, &area.after].map(|extent| mapped(extent.as_ref()));
            let mapped = if before == after {
                before
            } else {
                format!("{before} → {after}")
            };
            table.add_row([
                area.name.to_string(),
                at(area.before.as_ref()),
                at(area.after.as_ref()),
                mapped,
            ]);
        }
        writeln!(f, "{}", table.trim_fmt())?;
        if let Some(names) = &boots.names {
            write_names(f, names)?;
        }
        let offsets = &boots.offsets;
        if !offsets.is_empty() {
            writeln!(f, "mapped otherwise at the same offset: {}", offsets.len())?;
        }
        for change in offsets.iter().take(MAX_LISTED) {
            let symbol = change.symbol.as_deref().unwrap_or_default();
            writeln!(
                f,
                "  {} + {:#x}, {} KiB: {} → {} {symbol}",
                change.area,
                change.offset,
                change.bytes >> 10,
                shown(change.before),
                shown(change.after)
            )?;
        }
        write_more(f, offsets.len())?;
        if boots.is_cut {
            writeln!(f, "there is more than could be looked at")?;
        }
        f.write_str(if boots.is_same() {
            "SAME: each offset and each name may be used for the same in both"
        } else {
            "DIFFERENT"
        })
    }
}

fn write_names(f: &mut fmt::Formatter<'_>, names: &NameChanges) -> fmt::Result {
    writeln!(
        f,
        "functions and variables: {} in both, {} at another offset, {} only in the first, {} only in the second",
        names.both,
        names.moved,
        names.gone.len(),
        names.new.len()
    )?;
    for (name, before, after) in names.rights.iter().take(MAX_LISTED) {
        writeln!(f, "  {name}: {} → {}", shown(*before), shown(*after))?;
    }
    write_more(f, names.rights.len())
}

fn write_more(f: &mut fmt::Formatter<'_>, all: usize) -> fmt::Result {
    if all > MAX_LISTED {
        writeln!(f, "  … and {} more", all - MAX_LISTED)?;
    }
    Ok(())
}

fn shown(rights: Option<Rights>) -> String {
    rights.map_or_else(|| "not mapped".into(), |rights| rights.to_string())
}

fn mapped(extent: Option<&Extent>) -> String {
    let Some(extent) = extent else {
        return "nothing".into();
    };
    let parts = extent.bytes.iter();
    let parts: Vec<String> = parts
        .map(|(rights, bytes)| format!("{} KiB {rights}", bytes >> 10))
        .collect();
    parts.join(", ")
}
