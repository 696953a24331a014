//! `heirloom bugs`: the deliberate bugs of the guest kernel, and the proof that each is caught.
//!
//! A rule that no bug breaks, and a bug that no rule catches, are both defects. So the matrix has a row
//! for each bug, and one for each strategy without any, which must break nothing.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use heirloom_abi::bugs::{self, Bug, BugInfo};
use heirloom_abi::options::{BUG, Strategy};
use heirloom_inspect::judge::{RuleInfo, Verdict};
use heirloom_machine::kvm::DEVICE;
use heirloom_machine::{Host, MemorySize};
use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::guest;
use crate::output::{self, Output};
use crate::progress::Progress;
use crate::run::FIRST_PROGRAM;
use crate::session::{Session, Setup};
use crate::tape::Tapes;

const PROCESSES: u64 = 8;
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// What `heirloom bugs` is told.
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
    /// Records every run to a file of its own in this directory; see `heirloom replay`.
    #[arg(long, value_name = "DIR", requires = "run")]
    record: Option<PathBuf>,
    /// KVM's device, where it is not in its usual place.
    #[arg(long, value_name = "PATH", default_value = DEVICE)]
    device: PathBuf,
}

/// The bug of that name.
///
/// # Errors
/// There is none; the message says how to find one.
pub(crate) fn parse(name: &str) -> Result<Bug, String> {
    Bug::from_name(name).ok_or_else(|| "no such bug; `heirloom bugs` lists them".into())
}

/// One row of the matrix.
#[derive(Serialize)]
struct Row {
    /// `None` for a kernel without a bug.
    bug: Option<&'static str>,
    propagation: &'static str,
    /// The rule that must be broken.
    expected: Option<&'static str>,
    /// The rules that were.
    broken: Vec<&'static str>,
    /// Whether that is as it should be.
    right: bool,
}

/// Lists the bugs, or boots them all.
pub(crate) fn run(options: &Options) -> Result<Exit, Failure> {
    let chosen: Vec<&BugInfo> = bugs::ALL
        .iter()
        .filter(|info| options.only.is_empty() || options.only.contains(&info.bug))
        .collect();
    let mut output = Output::new()?;
    if !options.run {
        output.line(&if options.json {
            output::json(&list(&chosen))?
        } else {
            table(&chosen).to_string()
        })?;
        return Ok(Exit::Good);
    }
    let host = Host::open_at(&options.device)?;
    let tapes = options.record.as_deref().map(Tapes::new).transpose()?;
    let mut rules: Vec<RuleInfo> = Vec::new();
    let mut rows = Vec::new();
    // Without a choice of bugs, kernels without one are part of the proof; `none` is itself a bug.
    let clean = Strategy::ALL
        .into_iter()
        .filter(|strategy| *strategy != Strategy::None);
    let clean = clean
        .filter(|_| options.only.is_empty())
        .map(|strategy| (strategy, None));
    let bugs = chosen.iter().map(|info| (info.strategy, Some(**info)));
    let kernels: Vec<_> = clean.chain(bugs).collect();
    let progress = Progress::bar(kernels.len() as u64);
    for (strategy, info) in kernels {
        let bug = info.map_or("none", |info| info.name);
        progress.tell(|| format!("propagation={}, bug: {bug}", strategy.name()));
        let verdicts = verdicts(&host, strategy, info, tapes.as_ref())?;
        for verdict in &verdicts {
            if !rules.iter().any(|known| known.name == verdict.rule.name) {
                rules.push(verdict.rule);
            }
        }
        let broken: Vec<_> = verdicts
            .iter()
            .filter(|verdict| verdict.violations > 0)
            .map(|verdict| verdict.rule.name)
            .collect();
        let expected = info.map(|info| info.rule);
        let right = match expected {
            Some(rule) => broken.contains(&rule),
            None => broken.is_empty(),
        };
        let bug = info.map(|info| info.name);
        rows.push(Row {
            bug,
            propagation: strategy.name(),
            expected,
            broken,
            right,
        });
        progress.advance(1);
    }
    drop(progress);
    if options.json {
        output.line(&output::json(&rows)?)?;
    } else {
        output.report(&matrix(&rows, &rules))?;
    }
    tapes.map_or(Ok(()), |tapes| tapes.result())?;
    let all_right = rows.iter().all(|row| row.right);
    Ok(if all_right { Exit::Good } else { Exit::Broken })
}

/// Boots the guest and lets it run as far as it gets: some bugs end it early.
fn verdicts(
    host: &Host,
    strategy: Strategy,
    bug: Option<BugInfo>,
    tapes: Option<&Tapes>,
) -> Result<Vec<Verdict>, Failure> {
    let setup = Setup {
        memory: MemorySize::MINIMUM,
        kernel: guest::kernel().map_err(|error| Failure::new(Exit::Usage, error))?,
        program: None,
        first: FIRST_PROGRAM.into(),
        arguments: vec![PROCESSES.to_string()],
        strategy,
        more_words: bug.map_or_else(String::new, |bug| format!("{BUG}={}", bug.name)),
        console: Box::new(io::sink()),
        time_limit: TIME_LIMIT,
    };
    let mut session = Session::new(host, setup)?;
    if let Some(tapes) = tapes {
        let name = bug.map_or("clean", |bug| bug.name);
        let name = format!("{}-{name}", strategy.name());
        tapes.record(&mut session, &name, bug.map(|bug| bug.bug));
    }
    let ended = session.run(|_| {});
    if let Some(tapes) = tapes {
        tapes.note(session.recorded());
    }
    match ended {
        Err(failure) if failure.exit != Exit::Guest || bug.is_none() => Err(failure),
        Ok(_) | Err(_) => Ok(session.judge().verdicts().to_vec()),
    }
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

fn table(bugs: &[&BugInfo]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "bug",
        "propagation",
        "caught by",
        "the mistake",
    ]);
    for Listed {
        name,
        propagation,
        rule,
        mistake,
    } in list(bugs)
    {
        table.add_row([name, propagation, rule, mistake]);
    }
    table
}

/// A row for each kernel, a numbered column for each rule.
fn matrix(rows: &[Row], rules: &[RuleInfo]) -> String {
    let mut table = Table::new();
    let numbers = (1..=rules.len()).map(|number| number.to_string());
    let header = ["bug", "propagation"]
        .map(String::from)
        .into_iter()
        .chain(numbers);
    table
        .load_style(presets::NOTHING)
        .set_header(header.chain([String::new()]));
    for row in rows {
        let marks = rules.iter().map(|rule| {
            let broken = row.broken.contains(&rule.name);
            match (row.expected == Some(rule.name), broken) {
                (true, true) => "X",
                (true, false) => "?",
                (false, true) => "x",
                (false, false) => "·",
            }
        });
        let verdict = match (row.right, row.bug) {
            (true, Some(_)) => "caught",
            (true, None) => "holds",
            (false, Some(_)) => "MISSED",
            (false, None) => "FALSE ALARM",
        };
        let name = [row.bug.unwrap_or("(none)"), row.propagation];
        table.add_row(name.into_iter().chain(marks).chain([verdict]));
    }
    for column in 2..2 + rules.len() {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
            column.set_padding((0, 1));
        }
    }
    let legend: Vec<String> = rules
        .iter()
        .zip(1..)
        .map(|(rule, number)| format!("{number} {}", rule.name))
        .collect();
    let right = rows.iter().filter(|row| row.right).count();
    format!(
        "{table}\n\nX the rule that the bug names, x another rule that it breaks as well\n{}\n\n\
         {right} of {} kernels judged as they should be.",
        legend.join(" · "),
        rows.len()
    )
}
