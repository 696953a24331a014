//! What changed between two moments.

use std::fmt;

use heirloom_inspect::Entry;
use heirloom_inspect::difference::{Destination, Difference, RangeChange, entries_by_level};
use heirloom_inspect::discover::Space;
use heirloom_inspect::report::DifferenceReport;

use super::Text;

/// Entries and ranges that are listed.
const MAX_LISTED: usize = 32;
/// Address spaces that a line names.
const MAX_NAMED: usize = 4;

impl Text for DifferenceReport {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference {
            born,
            gone,
            tables_new,
            tables_gone,
            entries,
            ranges,
            ranges_cut,
        } = &self.difference;
        writeln!(f, "from {} to {}", self.before.name, self.after.name)?;
        if self.difference.is_empty() {
            return write!(f, "nothing changed but A and D bits, if those");
        }
        write_roots(f, "born", born)?;
        write_roots(f, "gone", gone)?;
        writeln!(f, "tables: {tables_new} new, {tables_gone} gone")?;
        let depth = self.after.mode.depth;
        let levels: Vec<String> = entries_by_level(entries)
            .into_iter()
            .map(|(level, count)| format!("{count} in {}s", depth.name(level)))
            .collect();
        writeln!(
            f,
            "entries written in tables that both have: {}{}{}",
            entries.len(),
            if levels.is_empty() { "" } else { ": " },
            levels.join(", ")
        )?;
        for change in entries.iter().take(MAX_LISTED) {
            writeln!(
                f,
                "  {}[{}] in frame {}: {} → {}",
                depth.name(change.level),
                change.index,
                change.table,
                shown(change.before),
                shown(change.after)
            )?;
        }
        write_more(f, entries.len())?;
        write!(f, "addresses that lead elsewhere: {}", ranges.len())?;
        for (change, area) in ranges.iter().zip(&self.areas).take(MAX_LISTED) {
            let area = area.map_or("", |area| self.after.name_of(area));
            write_range(f, change, area)?;
        }
        if ranges.len() > MAX_LISTED {
            write!(f, "\n  … and {} more", ranges.len() - MAX_LISTED)?;
        }
        if *ranges_cut {
            write!(f, "\n  … and more that were not looked for: too many")?;
        }
        Ok(())
    }
}

fn write_more(f: &mut fmt::Formatter<'_>, all: usize) -> fmt::Result {
    if all > MAX_LISTED {
        writeln!(f, "  … and {} more", all - MAX_LISTED)?;
    }
    Ok(())
}

fn write_roots(f: &mut fmt::Formatter<'_>, what: &str, spaces: &[Space]) -> fmt::Result {
    for space in spaces {
        writeln!(
            f,
            "{what}: {} at {}, {} ({})",
            space.label, space.address, space.kind, space.evidence
        )?;
    }
    Ok(())
}

fn write_range(f: &mut fmt::Formatter<'_>, change: &RangeChange, area: &str) -> fmt::Result {
    let named: Vec<String> = change
        .spaces
        .iter()
        .take(MAX_NAMED)
        .map(ToString::to_string)
        .collect();
    let more = change.spaces.len().saturating_sub(MAX_NAMED);
    write!(
        f,
        "\n  {} {:<14} {}: {} → {}, in {}",
        change.range,
        area,
        change.what(),
        leads(change.before),
        leads(change.after),
        named.join(", ")
    )?;
    if more > 0 {
        write!(f, " and {more} more")?;
    }
    Ok(())
}

fn leads(to: Option<Destination>) -> String {
    to.map_or_else(|| "nothing".into(), |to| format!("{} {}", to.pa, to.rights))
}

fn shown(entry: Entry) -> String {
    if entry.present() {
        format!("{entry} ({})", entry.flags())
    } else {
        "absent".into()
    }
}
