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
        let (rows, differing): (Vec<_>, Vec<_>) = lines
            .iter()
            .map(|space| {
                let user_root = user_roots.get(&Some(space.address)).copied();
                let places = differences(self, space, user_root);
                (row(space, user_root, &places), (space.address, places))
            })
            .unzip();
        writeln!(f, "{}", table(&rows).trim_fmt())?;
        write_differences(f, &differing)?;
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

/// `places`: where its kernel half differs.
fn row(space: &Space, user_root: Option<&Space>, places: &[String]) -> [String; COLUMNS.len()] {
    let mut cpus: Vec<String> = space.cpus.iter().map(ToString::to_string).collect();
    if let Some(user) = user_root {
        cpus.extend(user.cpus.iter().map(|cpu| format!("{cpu} (user root)")));
    }
    let address = match space.label {
        RootLabel::Found(address) => address.to_string(),
        label => format!("{label}: {}", space.address),
    };
    let half = match places {
        [] => format!("cluster {}", space.cluster),
        [place] => place.clone(),
        places => format!("differs at {} places", places.len()),
    };
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

/// Where the kernel half of a root, and of its user root, is not that of the others of its kind; neighbouring entries
/// of which the same is to be said are one place.
fn differences(roots: &Roots, space: &Space, user_root: Option<&Space>) -> Vec<String> {
    let of = |space: &Space| {
        let said = |found: &EntryDifference| {
            let area = roots.areas.get(&(space.address, found.index));
            (what(found), area.copied())
        };
        let groups = space
            .differences
            .chunk_by(|one, next| next.index == one.index + 1 && said(one) == said(next));
        let places = groups.map(|group| place(roots, group, said(&group[0])));
        places.collect::<Vec<_>>()
    };
    let own = of(space);
    let of_user_root = user_root.map_or_else(Vec::new, of);
    let (in_both, in_one): (Vec<_>, Vec<_>) = own
        .into_iter()
        .partition(|place| of_user_root.contains(place));
    let of_user_root = of_user_root
        .into_iter()
        .filter(|place| !in_both.contains(place))
        .map(|place| format!("user root: {place}"));
    let of_user_root: Vec<_> = of_user_root.collect();
    let in_both = in_both.iter().map(|place| format!("{place}, in both"));
    in_both.chain(in_one).chain(of_user_root).collect()
}

/// Where such a difference is, as in `LACKS {}`.
fn what(difference: &EntryDifference) -> [&'static str; 2] {
    match (difference.kind, difference.mappings) {
        (EntryDifferenceKind::OnlyLeft, _) => ["LACKS ", ""],
        (EntryDifferenceKind::OnlyRight, _) => ["", " of its own"],
        (EntryDifferenceKind::Flags, Mappings::Same) => ["other flags at ", ""],
        (_, Mappings::Same) => ["PRIVATE COPY at ", ""],
        _ => ["DIVERGES at ", ""],
    }
}

fn place(
    roots: &Roots,
    group: &[EntryDifference],
    ([before, after], area): ([&str; 2], Option<&str>),
) -> String {
    let [first, last] = [&group[0], &group[group.len() - 1]].map(|found| found.index);
    let indices = if first == last {
        format!("{first}")
    } else {
        format!("{first}–{last}")
    };
    let area = area.map_or_else(String::new, |name| format!(" ({name})"));
    let top = roots.target.mode.depth.root_name();
    format!("{before}{top}[{indices}]{area}{after}")
}

/// The places of those that have several, below the table.
fn write_differences(f: &mut fmt::Formatter<'_>, all: &[(PhysAddr, Vec<String>)]) -> fmt::Result {
    let all: Vec<_> = all.iter().filter(|(_, places)| places.len() > 1).collect();
    if all.is_empty() {
        return Ok(());
    }
    writeln!(f, "\nkernel halves that differ from the others")?;
    for (root, places) in all {
        writeln!(f, "  {root}: {}", places.join(", "))?;
    }
    Ok(())
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
