//! Every root of a guest, and what it is.

use std::collections::BTreeMap;
use std::fmt;

use comfy_table::{CellAlignment, Table, presets};
use heirloom_inspect::compare::{EntryDifference, EntryDifferenceKind, Mappings};
use heirloom_inspect::discover::{Kind, Space};
use heirloom_inspect::report::Roots;
use heirloom_inspect::{PhysAddr, RootLabel};

use super::{Shown, Text};
use crate::ui;

impl Text for Roots {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", Shown(&self.target))?;
        let roots = if self.roots.len() == 1 {
            "root"
        } else {
            "roots"
        };
        writeln!(f, "{} {roots}: {}", self.roots.len(), counts(&self.kinds))?;
        // A user root stands in its kernel root's line.
        let (seconds, lines): (Vec<&Space>, Vec<&Space>) = self
            .roots
            .iter()
            .partition(|space| is_second_of_a_pair(space));
        let user_roots: BTreeMap<Option<PhysAddr>, &Space> = seconds
            .into_iter()
            .map(|space| (space.partner, space))
            .collect();
        let rows = lines.iter().map(|space| {
            let user_root = user_roots.get(&Some(space.address)).copied();
            row(self, space, user_root)
        });
        let rows: Vec<_> = rows.collect();
        writeln!(f, "{}", table(&rows).trim_fmt())?;
        write_reasons(f, &lines)?;
        write!(f, "\nclusters of equal kernel halves")?;
        for cluster in &self.clusters {
            write!(
                f,
                "\n  {}: {} {}, {} {}: {}",
                cluster.number,
                cluster.kernel_entries,
                if cluster.kernel_entries == 1 {
                    "entry"
                } else {
                    "entries"
                },
                cluster.roots,
                if cluster.roots == 1 { "root" } else { "roots" },
                counts(&cluster.kinds)
            )?;
        }
        Ok(())
    }
}

/// The columns, and whether numbers stand in them.
const COLUMNS: [(&str, bool); 7] = [
    ("root", true),
    ("kind", false),
    ("whose", false),
    ("user root", true),
    ("CPU", false),
    ("kernel half", false),
    ("user pages", true),
];

/// The rows, without columns in which nothing stands.
fn table(rows: &[[String; COLUMNS.len()]]) -> Table {
    let is_used = |at: usize| rows.iter().any(|row| !row[at].is_empty());
    let used: Vec<usize> = (0..COLUMNS.len()).filter(|at| is_used(*at)).collect();
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(used.iter().map(|at| COLUMNS[*at].0));
    for row in rows {
        table.add_row(used.iter().map(|at| &row[*at]));
    }
    for (column, at) in table.column_iter_mut().zip(&used) {
        if COLUMNS[*at].1 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn row(roots: &Roots, space: &Space, user_root: Option<&Space>) -> [String; COLUMNS.len()] {
    let mut cpus: Vec<String> = space.cpus.iter().map(ToString::to_string).collect();
    if let Some(user) = user_root {
        cpus.extend(user.cpus.iter().map(|cpu| format!("{cpu} (user root)")));
    }
    let address = match space.label {
        RootLabel::Found(address) => address.to_string(),
        label => format!("{label}: {}", space.address),
    };
    let mut half = kernel_half(roots, space);
    if let Some(user) = user_root.filter(|user| !user.differences.is_empty()) {
        half = format!("{half}; user root: {}", kernel_half(roots, user));
    }
    [
        address,
        space.kind.to_string(),
        whose(space),
        user_root.map_or_else(String::new, |user| user.address.to_string()),
        cpus.join(", "),
        half,
        space.user_pages.to_string(),
    ]
}

/// Why roots are taken for what they are said to be: each reason once.
fn write_reasons(f: &mut fmt::Formatter<'_>, spaces: &[&Space]) -> fmt::Result {
    /// Of one kind, unless all are wanted.
    const MAX: usize = 4;
    let mut reasons: BTreeMap<Kind, BTreeMap<&str, Vec<PhysAddr>>> = BTreeMap::new();
    for space in spaces {
        let of_kind = reasons.entry(space.kind).or_default();
        let roots = of_kind.entry(&space.evidence).or_default();
        roots.push(space.address);
    }
    writeln!(f, "\nwhy")?;
    for (kind, reasons) in &reasons {
        let shown = if ui::verbose() { reasons.len() } else { MAX };
        for (reason, roots) in reasons.iter().take(shown) {
            let more = roots.len() - 1;
            match (reasons.len(), more) {
                (1, _) => writeln!(f, "  {kind}: {reason}")?,
                (_, 0) => writeln!(f, "  {kind} {}: {reason}", roots[0])?,
                _ => writeln!(f, "  {kind} {} and {more} more: {reason}", roots[0])?,
            }
        }
        let left = reasons.len().saturating_sub(shown);
        if left > 0 {
            writeln!(f, "  {kind}: {left} more reasons; -v has them all")?;
        }
    }
    Ok(())
}

/// The processes, or the kernel's own variable, that have it.
fn whose(space: &Space) -> String {
    const MAX: usize = 3;
    let mut names: Vec<String> = space
        .owners
        .iter()
        .take(MAX)
        .map(ToString::to_string)
        .collect();
    let more = space.owners.len().saturating_sub(MAX);
    if more > 0 {
        names.push(format!("{more} more"));
    }
    names.join(", ")
}

fn kernel_half(roots: &Roots, space: &Space) -> String {
    if space.differences.is_empty() {
        return format!("cluster {}", space.cluster);
    }
    let shown: Vec<String> = space
        .differences
        .iter()
        .take(4)
        .map(|found| difference(roots, space, found))
        .collect();
    let more = space.differences.len().saturating_sub(4);
    let rest = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!("{}{rest}", shown.join(", "))
}

fn difference(roots: &Roots, space: &Space, difference: &EntryDifference) -> String {
    let EntryDifference {
        index,
        kind,
        mappings,
        ..
    } = difference;
    let place = format!("{}[{index}]", roots.target.mode.depth.root_name());
    let name = roots
        .areas
        .get(&(space.address, *index))
        .map_or_else(String::new, |name| format!(" ({name})"));
    match (kind, mappings) {
        (EntryDifferenceKind::OnlyLeft, _) => format!("LACKS {place}{name}"),
        (EntryDifferenceKind::OnlyRight, _) => format!("{place}{name} of its own"),
        (EntryDifferenceKind::Flags, Mappings::Same) => format!("other flags at {place}{name}"),
        (_, Mappings::Same) => format!("PRIVATE COPY at {place}{name}"),
        _ => format!("DIVERGES at {place}{name}"),
    }
}

fn is_second_of_a_pair(space: &Space) -> bool {
    space.partner.is_some_and(|partner| partner < space.address)
}

/// `63 process, 1 kernel`.
fn counts(kinds: &BTreeMap<Kind, usize>) -> String {
    let counts: Vec<String> = kinds
        .iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    counts.join(", ")
}
