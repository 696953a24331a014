//! `heirloom bugs`: the deliberate bugs of the guest kernel, and the proof that each is caught.

use std::path::PathBuf;

use comfy_table::{Table, presets};
use heirloom_abi::bugs::{Bug, BugInfo};
use heirloom_harness::bugs::{self, BugResult};
use heirloom_inspect::rules::RuleInfo;
use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::kernel;
use crate::machine;
use crate::output::{self, Output};
use crate::progress::Progress;
use crate::sandbox::Sandbox;
use crate::text::wrap::wrapped;

/// Columns of what it prints.
const WIDTH: usize = 80;
/// How far the mistake stands below its bug's name.
const INDENT: usize = 4;

/// Options of `heirloom bugs`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Boots the guest once for each bug, and once for each strategy without one, and prints which
    /// rules caught what.
    #[arg(long)]
    run: bool,
    /// Only these bugs.
    #[arg(value_name = "BUG", value_parser = parse)]
    only: Vec<Bug>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    kernel: kernel::Options,
    /// Records every run to a file of its own in this directory; see `heirloom replay`.
    #[arg(long, value_name = "DIR", requires = "run")]
    record: Option<PathBuf>,
    #[command(flatten)]
    machine: machine::Options,
}

/// The bug of that name.
///
/// # Errors
/// There is none; the message says how to find one.
pub(crate) fn parse(name: &str) -> Result<Bug, String> {
    Bug::from_name(name).ok_or_else(|| "no such bug; `heirloom bugs` lists them".into())
}

/// Says on standard error that all holds although a mistake was to be made: `what_does` is "this run does" or such.
///
/// # Errors
/// The device is full, or such.
pub(crate) fn note_not_shown(what_does: &str, bug: Bug) -> Result<(), Failure> {
    let name = bug.info().name;
    output::note(&format!(
        "{what_does} not show the mistake of {name}; `heirloom bugs --run {name}` makes it where it shows"
    ))
}

/// Lists the bugs, or boots them all.
pub(crate) fn run(options: &Options) -> Result<Exit, Failure> {
    let mut output = Output::new()?;
    if !options.run {
        let chosen = bugs::chosen(&options.only);
        output.line(&if options.json {
            output::json(&list(&chosen))?
        } else {
            text(&chosen)
        })?;
        return Ok(Exit::Good);
    }
    let host = options.machine.platform()?;
    let recordings = output::recordings(options.record.as_deref())?;
    let sandbox =
        Sandbox::reading(options.kernel.inputs()).making_files_in(options.record.as_deref());
    options.machine.enter(&sandbox)?;
    let kernel = options.kernel.image()?;
    let mut rules: Vec<RuleInfo> = Vec::new();
    let mut rows = Vec::new();
    let kernels = bugs::kernels(&options.only);
    let progress = Progress::bar(kernels.len() as u64);
    for (strategy, info) in kernels {
        let bug = info.map_or("none", |info| info.name);
        progress.tell(|| format!("propagation={}, bug: {bug}", strategy.name()));
        let (row, judged) =
            bugs::judge(&host, kernel.as_ref(), strategy, info, recordings.as_ref())?;
        for rule in judged {
            if !rules.iter().any(|known| known.name == rule.name) {
                rules.push(rule);
            }
        }
        rows.push(row);
        progress.advance(1);
    }
    drop(progress);
    if options.json {
        output.line(&output::json(&rows)?)?;
    } else {
        output.report(&matrix(&rows, &rules))?;
    }
    recordings.map_or(Ok(()), |recordings| recordings.result())?;
    let all_right = rows.iter().all(|row| row.right);
    Ok(if all_right { Exit::Good } else { Exit::Broken })
}

#[derive(Serialize)]
struct Listed {
    name: &'static str,
    propagation: &'static str,
    rule: &'static str,
    mistake: &'static str,
}

fn list(bugs: &[&BugInfo]) -> Vec<Listed> {
    bugs.iter()
        .map(|info| Listed {
            name: info.name,
            propagation: info.strategy.name(),
            rule: info.rule,
            mistake: info.mistake,
        })
        .collect()
}

/// The bugs for people: the mistake below each name.
fn text(bugs: &[&BugInfo]) -> String {
    let lines = list(bugs).into_iter().map(|bug| {
        let Listed {
            name,
            propagation,
            rule,
            mistake,
        } = bug;
        let head = format!("{name} ({propagation}), caught by {rule}");
        let below = wrapped(mistake, WIDTH - INDENT, 0).into_iter();
        let below = below.map(|line| format!("{:INDENT$}{line}", ""));
        std::iter::once(head)
            .chain(below)
            .collect::<Vec<_>>()
            .join("\n")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Rules whose marks stand together without a gap.
const TOGETHER: usize = 5;

/// Marks of numbered rules, so that their numbers can be counted.
fn in_groups(marks: impl Iterator<Item = char>) -> String {
    let marks: Vec<char> = marks.collect();
    let groups = marks.chunks(TOGETHER).map(String::from_iter);
    groups.collect::<Vec<_>>().join(" ")
}

/// A row for each kernel, in it a mark for each rule.
fn matrix(rows: &[BugResult], rules: &[RuleInfo]) -> String {
    let mut table = Table::new();
    let numbers = (1..=rules.len()).map(|number| {
        let last = number % 10;
        char::from_digit(u32::try_from(last).unwrap_or(0), 10).unwrap_or(' ')
    });
    let header = ["bug", "propagation", &in_groups(numbers), ""].map(String::from);
    table.load_style(presets::NOTHING).set_header(header);
    for row in rows {
        let marks = rules.iter().map(|rule| {
            let broken = row.broken.contains(&rule.name);
            match (row.expected == Some(rule.name), broken) {
                _ if !row.untried.is_empty() => ' ',
                (true, true) => 'X',
                (true, false) => '?',
                (false, true) => 'x',
                (false, false) => '·',
            }
        });
        let verdict = match (row.right, row.bug) {
            _ if !row.untried.is_empty() => "not tried",
            (true, Some(_)) => "caught",
            (true, None) => "holds",
            (false, Some(_)) => "MISSED",
            (false, None) => "FALSE ALARM",
        };
        let name = row.bug.unwrap_or("(none)");
        table.add_row([name, row.propagation, &in_groups(marks), verdict]);
    }
    let names = rules.iter().zip(1..);
    let legend = legend(names.map(|(rule, number)| format!("{number} {}", rule.name)));
    let (tried, untried): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.untried.is_empty());
    let right = tried.iter().filter(|row| row.right).count();
    let untried = untried.iter().map(|row| {
        let (name, lacking) = (row.bug.unwrap_or("(none)"), row.untried.join(" and "));
        format!("\nNot tried: {name}, since the guest's CPU has no {lacking}.")
    });
    let untried: String = untried.collect();
    format!(
        "{}\n\nX the rule that the bug names, x another rule that it breaks as well\n{legend}\n\n\
         {right} of {} kernels judged as they should be.{untried}",
        table.trim_fmt(),
        tried.len()
    )
}

/// As many of these on each line as fit.
fn legend(entries: impl Iterator<Item = String>) -> String {
    const BETWEEN: &str = " · ";
    let mut lines: Vec<String> = Vec::new();
    for entry in entries {
        let wide = BETWEEN.chars().count() + entry.chars().count();
        match lines.last_mut() {
            Some(line) if line.chars().count() + wide <= WIDTH => {
                line.push_str(BETWEEN);
                line.push_str(&entry);
            }
            _ => lines.push(entry),
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use heirloom_inspect::check::Check;

    use super::*;

    #[test]
    fn the_list_fits_eighty_columns_whoever_reads_it_and_leaves_no_word_of_a_mistake_out() {
        let all = bugs::chosen(&[]);
        let text = text(&all);
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for info in all {
            assert!(words.contains(info.mistake), "{}", info.name);
        }
    }

    #[test]
    fn the_longest_names_and_all_rules_fit_eighty_columns_and_marks_stand_below_their_numbers() {
        let rules: Vec<RuleInfo> = Check::rules().collect();
        let longest = bugs::chosen(&[])
            .into_iter()
            .max_by_key(|info| info.name.len());
        let row = |bug, broken, right| BugResult {
            bug,
            propagation: "copy-all",
            expected: rules.get(10).map(|rule| rule.name),
            broken,
            right,
            untried: Vec::new(),
        };
        let all = rules.iter().map(|rule| rule.name).collect();
        let rows = [
            row(longest.map(|info| info.name), vec![rules[10].name], true),
            row(None, all, false),
        ];
        let text = matrix(&rows, &rules);
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
        let lines: Vec<Vec<char>> = text.lines().map(|line| line.chars().collect()).collect();
        let mark = lines[1].iter().position(|mark| *mark == 'X').unwrap();
        // The eleventh.
        assert_eq!(lines[0][mark], '1');
        assert!(
            text.contains("FALSE ALARM")
                && text.ends_with("1 of 2 kernels judged as they should be.")
        );
    }
}
