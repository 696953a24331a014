//! The report of a run.

use std::collections::BTreeMap;
use std::fmt;

use comfy_table::{CellAlignment, Table, presets};
use heirloom_harness::report::{AddressSpace, EntryGroup, KernelHalf, Report};
use heirloom_inspect::RootLabel;
use heirloom_inspect::history::{Life, ProcessRecord};
use heirloom_inspect::rules::{Finding, Verdict};

use super::rules::Rules;
use super::{Shown, Text};

/// Lines of the family tree before it is cut.
const MAX_TREE_LINES: usize = 24;
/// Address spaces that are listed one by one; beyond, those that are as they should be are counted.
const MAX_ROWS: usize = 16;
/// Findings of one rule that are shown with their walks.
const MAX_FINDINGS: usize = 2;

impl Text for Report {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "family ({} processes, by parent)", self.processes.len())?;
        write_tree(f, &self.processes)?;
        writeln!(
            f,
            "\naddress spaces at event {}: {}",
            self.shown_event, self.shown_event_text
        )?;
        writeln!(
            f,
            "{}",
            address_space_table(&self.address_spaces, &self.processes)
        )?;
        writeln!(f, "\nkernel PGD entries in use then")?;
        writeln!(f, "{}", entry_table(&self.kernel_entries))?;
        let tables = &self.table_frames;
        writeln!(
            f,
            "page-table frames: {} roots, {} below kernel halves, {} below user halves",
            tables.roots, tables.kernel_half, tables.user_half
        )?;
        if self.cpus.len() > 1 {
            write_cpus(f, self)?;
        }
        writeln!(f, "\nrules over {} events", self.events)?;
        write!(f, "{}", Rules::new(&self.rules, "since event", since))?;
        for verdict in self.rules.iter().filter(|verdict| verdict.violations > 0) {
            write_findings(f, verdict)?;
        }
        write!(f, "\n{}", self.verdict())
    }
}

/// What the CPUs did, and had to do for each other.
fn write_cpus(f: &mut fmt::Formatter<'_>, report: &Report) -> fmt::Result {
    let events = report.cpus.iter().map(|cpu| cpu.events.to_string());
    let events: Vec<String> = events.collect();
    writeln!(
        f,
        "\n{} CPUs told {} events; {} processes told some on more than one",
        events.len(),
        events.join(" + "),
        report.migrated
    )?;
    writeln!(
        f,
        "CPUs dropped translations for each other {} times; {} interrupts asked for it",
        report.counters.remote_flushes, report.counters.shootdown_interrupts
    )
}

/// Parents above their children, indented by generation.
fn write_tree(f: &mut fmt::Formatter<'_>, processes: &[ProcessRecord]) -> fmt::Result {
    let mut children: BTreeMap<u32, Vec<&ProcessRecord>> = BTreeMap::new();
    for process in processes {
        children.entry(process.parent).or_default().push(process);
    }
    let mut pending: Vec<(&ProcessRecord, usize)> = Vec::new();
    let push = |pending: &mut Vec<_>, parent: u32, depth: usize| {
        for child in children.get(&parent).into_iter().flatten().rev() {
            pending.push((*child, depth));
        }
    };
    push(&mut pending, heirloom_abi::event::KERNEL_PID, 0);
    let mut lines = 0;
    while let Some((process, depth)) = pending.pop() {
        // A damaged family may have loops; every process is shown once at most.
        if lines == MAX_TREE_LINES.min(processes.len()) {
            writeln!(f, "  … and {} more", processes.len() - lines)?;
            break;
        }
        lines += 1;
        let end = match process.life {
            Life::Live => String::new(),
            Life::Ended { status: 0 } => "  ended".into(),
            Life::Ended { status } if status < 128 => format!("  killed ({})", signal(status)),
            Life::Ended { status } => format!("  ended with {}", status >> 8),
        };
        writeln!(f, "  {}{}{end}", "  ".repeat(depth), process.pid)?;
        push(&mut pending, process.pid, depth + 1);
    }
    Ok(())
}

/// The name of the signal that Linux would have sent.
fn signal(number: u64) -> String {
    match number {
        4 => "SIGILL".into(),
        5 => "SIGTRAP".into(),
        8 => "SIGFPE".into(),
        9 => "SIGKILL".into(),
        11 => "SIGSEGV".into(),
        _ => format!("signal {number}"),
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(header.to_vec());
    table
}

fn align_right(table: &mut Table, columns: &[usize]) {
    for column in columns {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

fn address_space_table(spaces: &[AddressSpace], processes: &[ProcessRecord]) -> Table {
    let mut rows = table(&[
        "address space",
        "parent",
        "generation",
        "root (CR3)",
        "kernel half",
    ]);
    let mut left_out = 0;
    for (number, space) in spaces.iter().enumerate() {
        let sound = matches!(space.kernel_half, KernelHalf::Same { .. });
        if number >= MAX_ROWS && (sound || number >= 2 * MAX_ROWS) {
            left_out += 1;
            continue;
        }
        let process = match space.whose {
            RootLabel::Process(pid) => processes.iter().find(|process| process.pid == pid),
            _ => None,
        };
        let of = |value: fn(&ProcessRecord) -> u32| {
            process.map_or("–".into(), |process| value(process).to_string())
        };
        rows.add_row([
            space.whose.to_string(),
            of(|process| process.parent),
            of(|process| process.generation),
            space.root.to_string(),
            Shown(&space.kernel_half).to_string(),
        ]);
    }
    if left_out > 0 {
        let differing = spaces
            .iter()
            .filter(|space| {
                matches!(
                    space.kernel_half,
                    KernelHalf::Differs { .. } | KernelHalf::NotCompared { .. }
                )
            })
            .count();
        rows.add_row([
            format!("… {left_out} more"),
            String::new(),
            String::new(),
            String::new(),
            format!("{differing} of all {} differ", spaces.len()),
        ]);
    }
    align_right(&mut rows, &[1, 2, 3]);
    rows
}

fn entry_table(groups: &[EntryGroup]) -> Table {
    let mut rows = table(&["entries", "from", "region", "shared by", "pages below"]);
    for group in groups {
        let entries = if group.first == group.last {
            format!("PGD[{}]", group.first)
        } else {
            format!("PGD[{}–{}]", group.first, group.last)
        };
        let shared = if group.shared_by == group.of && group.versions == 1 {
            format!("all {}", group.of)
        } else if group.versions > 1 {
            format!(
                "{} of {}, in {} versions",
                group.shared_by, group.of, group.versions
            )
        } else {
            format!("{} of {} only", group.shared_by, group.of)
        };
        rows.add_row([
            entries,
            group.range.first.to_string(),
            group.region.as_deref().unwrap_or("no region").to_owned(),
            shared,
            format!("{} ({} KiB)", group.pages, group.bytes / 1024),
        ]);
    }
    rows
}

/// The event at which a rule was broken first.
fn since(verdict: &Verdict) -> String {
    let first = verdict.findings.first();
    let seen = first.and_then(|first| first.seen);
    seen.map_or_else(String::new, |seen| seen.first_event.to_string())
}

fn write_findings(f: &mut fmt::Formatter<'_>, verdict: &Verdict) -> fmt::Result {
    writeln!(f, "\n{}: {}", verdict.rule.name, verdict.rule.statement)?;
    for finding in verdict.findings.iter().take(MAX_FINDINGS) {
        let Finding {
            whose,
            place,
            address,
            expected,
            found,
            walks,
            seen,
            ..
        } = finding;
        if let Some(seen) = seen {
            write!(f, "  event {}: ", seen.first_event)?;
        }
        if let Some(whose) = whose {
            write!(f, "{whose}, ")?;
        }
        write!(f, "{place}")?;
        if let Some(address) = address {
            write!(f, ", address {address}")?;
        }
        writeln!(f, "\n    expected  {expected}\n    found     {found}")?;
        for (label, walk) in walks {
            let text = format!("{label}: {walk}");
            for line in text.lines() {
                writeln!(f, "    {line}")?;
            }
        }
    }
    let more = verdict.findings.len().saturating_sub(MAX_FINDINGS);
    if more > 0 {
        writeln!(f, "  … and {more} more places; --json has them all")?;
    }
    Ok(())
}

impl Text for KernelHalf {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KernelHalf::Reference { entries } => write!(f, "{entries} entries: the reference"),
            KernelHalf::Same { entries } => {
                write!(f, "same {entries} entries, same tables")
            }
            KernelHalf::Differs {
                entries,
                mapped_differently,
            } => {
                write!(f, "DIFFERS at {}", Indices(entries))?;
                if *mapped_differently == 0 {
                    write!(f, ": maps the same")
                } else {
                    write!(f, ": other memory")
                }
            }
            KernelHalf::Lacks { entries } => write!(f, "lacks {}", Indices(entries)),
            KernelHalf::Copies { entries } => {
                write!(
                    f,
                    "tables of its own at {}, maps the same",
                    Indices(entries)
                )
            }
            KernelHalf::NotCompared { entries } => {
                write!(f, "DIFFERS at {}, not compared further", Indices(entries))
            }
            KernelHalf::Unreadable => write!(f, "UNREADABLE: the root is outside RAM"),
        }
    }
}

/// PGD indices as people write them: `PGD[402–465], PGD[511]`.
struct Indices<'a>(&'a [u16]);

impl fmt::Display for Indices<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        let mut separator = "";
        while let Some((first, _)) = rest.split_first() {
            let run = rest
                .iter()
                .zip(*first..)
                .take_while(|(index, next)| *index == next)
                .count();
            let last = rest[run - 1];
            write!(f, "{separator}PGD[{first}")?;
            if last > *first {
                write!(f, "–{last}")?;
            }
            write!(f, "]")?;
            separator = ", ";
            rest = &rest[run..];
        }
        Ok(())
    }
}
