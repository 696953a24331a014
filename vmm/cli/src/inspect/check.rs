//! `heirloom check`: the generic rules over all address spaces of a guest.

use std::fmt::Write as _;

use heirloom_inspect::check::{Check, EXCEPTIONS, RuleInfo, Strictness, UnknownRule};
use heirloom_inspect::discover::{Discovery, Kind};
use heirloom_inspect::report::CheckReport;

use crate::exit::{Exit, Failure};

/// Options of `heirloom check`.
#[derive(clap::Args)]
#[command(after_help = super::TARGETS, after_long_help = long_help())]
pub(crate) struct Options {
    #[command(flatten)]
    common: super::Options,
    /// Counts pages of processes that are writable and executable as a fault.
    #[arg(long)]
    strict_user: bool,
    /// Counts what a root lacks that is idle or freed, memory does not tell which, as a fault.
    #[arg(long)]
    strict_idle: bool,
    /// Demands that a rule has something to be held against: not tried is a fault, too. May be repeated.
    #[arg(long, value_name = "RULE")]
    require: Vec<String>,
}

/// Targets, rules, and what is let pass by name.
fn long_help() -> String {
    let mut text = format!("{}\n\nRules:\n", super::TARGETS);
    for rule in Check::rules() {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "  {}\n      {}\n      ({})",
            rule.name, rule.statement, rule.source
        );
    }
    text.push_str("\nLet pass by name, and counted in the report:\n");
    for exception in EXCEPTIONS {
        let _ = writeln!(
            text,
            "  {}\n      {}\n      ({})",
            exception.name, exception.what, exception.source
        );
    }
    text
}

/// Holds the rules against the target.
pub(crate) fn run(options: &Options) -> Result<Exit, Failure> {
    let required: Result<Vec<RuleInfo>, UnknownRule> = options
        .require
        .iter()
        .map(|name| Check::rule(name))
        .collect();
    let required = required.map_err(|error| Failure::new(Exit::Usage, error))?;
    let (name, discovery) = options.common.discover()?;
    let strictness = Strictness {
        user: options.strict_user,
        idle: options.strict_idle,
    };
    let mut check = Check::of(&discovery, strictness);
    check.require(&required);
    let report = CheckReport::new(&name, &discovery, check);
    options.common.print_verdict(&report)?;
    if report.check.holds && report.check.required_not_tried.is_empty() {
        super::conclusive(&name, &discovery)?;
        if !report.check.has_kernel_half {
            let what = match only_identity(&discovery) {
                true => format!(
                    "{name}: there is no kernel half to judge: every root maps memory at its own address, as \
                     firmware, loaders and memory tests do"
                ),
                false => format!(
                    "{name}: no root has a kernel half; is CR3 right? --blind looks for roots without it"
                ),
            };
            return Err(Failure::new(Exit::Usage, what));
        }
    }
    Ok(
        if report.check.holds && report.check.required_not_tried.is_empty() {
            Exit::Good
        } else {
            Exit::Broken
        },
    )
}

/// Whether firmware, a loader or a memory test runs, and no kernel.
fn only_identity(discovery: &Discovery) -> bool {
    let mut spaces = discovery.spaces.iter();
    spaces.all(|space| space.kind == Kind::Identity)
}
