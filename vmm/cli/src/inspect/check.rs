//! `heirloom check`: the generic rules over all address spaces of a guest.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::{Path, PathBuf};

use heirloom_inspect::Target;
use heirloom_inspect::check::{
    Allowance, Baseline, Check, EXCEPTIONS, RuleInfo, Strictness, UnknownRule,
};
use heirloom_inspect::discover::{Discovery, Kind};
use heirloom_inspect::report::CheckReport;
use heirloom_source::OutputFile;

use super::{awaited, number, watch};
use crate::escape;
use crate::exit::{Exit, Failure};
use crate::output::{self, Output};
use crate::sandbox::Sandbox;
use crate::text::{Shown, ci};

/// Options of `heirloom check`.
#[derive(clap::Args)]
#[command(after_help = super::TARGETS, after_long_help = long_help())]
pub(crate) struct Options {
    #[command(flatten)]
    pub(super) common: super::Options,
    /// The form of the report: text for people, which it has without this; junit and sarif for CI systems, github
    /// for annotations in a workflow, markdown for a summary, json as --json.
    #[arg(long, value_enum, conflicts_with = "json")]
    format: Option<Format>,
    /// Writes the report to this file, in whatever form, and prints the verdict alone.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    force: output::Force,
    /// Counts pages of processes that are writable and executable as a fault.
    #[arg(long)]
    strict_user: bool,
    /// Counts what a root lacks that is idle or freed, memory does not tell which, as a fault.
    #[arg(long)]
    strict_idle: bool,
    /// Demands that a rule has something to be held against: not tried is a fault, too. May be repeated.
    #[arg(long, value_name = "RULE")]
    require: Vec<String>,
    /// Lets findings of a rule pass, all of them or those in a range of addresses:
    /// user-write-xor-execute@0x400000-0x4fffff. May be repeated.
    #[arg(long, value_name = "RULE[@FIRST-LAST]")]
    allow: Vec<String>,
    /// Lets the findings pass that this file has; new ones are faults, and gone ones are counted.
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// Writes what was found to a file, for --baseline of later checks.
    #[arg(long, value_name = "FILE")]
    write_baseline: Option<PathBuf>,
    #[command(flatten)]
    awaited: awaited::Options,
    #[command(flatten)]
    pub(super) watch: watch::Options,
}

/// What each look at the target is held against.
pub(super) struct Terms {
    required: Vec<RuleInfo>,
    allowed: Vec<Allowance>,
    known: Option<Baseline>,
}

/// A look at the target.
pub(super) struct Look {
    name: String,
    pub(super) discovery: Discovery,
    pub(super) report: CheckReport,
}

/// A form of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// Tables for people.
    Text,
    /// JUnit's XML: a test case for each rule.
    Junit,
    /// SARIF 2.1.0: a result for each finding.
    Sarif,
    /// Workflow commands of GitHub Actions: an annotation for each finding.
    Github,
    /// Markdown: a table of the rules, and the findings.
    Markdown,
    /// JSON.
    Json,
}

impl Format {
    fn of(self, report: &CheckReport) -> Result<String, Failure> {
        Ok(match self {
            Format::Text => escape::text(&Shown(report).to_string()).into_owned(),
            Format::Junit => ci::junit(report),
            Format::Sarif => output::json(&ci::sarif(report))?,
            Format::Github => ci::github(report),
            Format::Markdown => ci::markdown(report),
            Format::Json => output::json(report)?,
        }
        .trim_end()
        .to_owned())
    }
}

/// Bytes that a baseline has at most.
const LONGEST: u64 = 64 << 20;

/// What `--allow` says.
fn allowance(text: &str) -> Result<Allowance, Failure> {
    let (rule, range) = match text.split_once('@') {
        Some((rule, range)) => (rule, Some(range)),
        None => (text, None),
    };
    let rule = Check::rule(rule).map_err(|error| Failure::new(Exit::Usage, error))?;
    let range = range
        .map(number::range)
        .transpose()
        .map_err(|error| Failure::new(Exit::Usage, format!("--allow {text}: {error}")))?;
    Ok(Allowance { rule, range })
}

fn read_baseline(path: &Path) -> Result<Baseline, Failure> {
    let refused =
        |why: String| Failure::new(Exit::Usage, format!("baseline {}: {why}", path.display()));
    let file = File::open(path).map_err(|error| refused(error.to_string()))?;
    let baseline: Baseline = serde_json::from_reader(BufReader::new(file.take(LONGEST)))
        .map_err(|error| refused(format!("{error}; --write-baseline writes such files")))?;
    baseline.valid().map_err(|error| refused(error.to_string()))
}

fn write_baseline(path: &Path, baseline: &Baseline) -> Result<(), Failure> {
    let text = output::json(baseline)?;
    // A baseline is brought up to date.
    let file = OutputFile::at("the baseline", path, true, &[])?;
    Ok(file.write(format!("{text}\n").as_bytes())?)
}

/// Targets, rules, and exceptions from them.
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
    text.push_str("\nExceptions, counted in the report:\n");
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
    let terms = options.terms()?;
    let file = options.output.as_deref().map(|path| {
        let inputs = [options.common.target.file()];
        options.force.file("the report", path, &inputs)
    });
    let file = file.transpose()?;
    options.awaited.wait()?;
    let moment = options.awaited.reached(&options.common)?;
    if let Some(every) = options.watch.every {
        return watch::run(options, &terms, every, file.as_ref(), moment);
    }
    let target = options.common.open_in(&options.sandbox())?;
    let look = options.look(target, &terms)?;
    drop(moment);
    options.show(&look.report, file.as_ref())?;
    look.conclude()
}

impl Options {
    /// The form that is wanted.
    pub(super) fn format(&self) -> Format {
        let default = if self.common.json {
            Format::Json
        } else {
            Format::Text
        };
        self.format.unwrap_or(default)
    }

    /// What a look needs.
    pub(super) fn sandbox(&self) -> Sandbox {
        let sandbox = self.common.sandbox();
        sandbox.writing(self.output.iter().chain(&self.write_baseline))
    }

    /// Reads what the command line says of rules and of a baseline.
    fn terms(&self) -> Result<Terms, Failure> {
        let required: Result<Vec<RuleInfo>, UnknownRule> =
            self.require.iter().map(|name| Check::rule(name)).collect();
        let allowed: Result<Vec<Allowance>, Failure> =
            self.allow.iter().map(|text| allowance(text)).collect();
        Ok(Terms {
            required: required.map_err(|error| Failure::new(Exit::Usage, error))?,
            allowed: allowed?,
            known: self.baseline.as_deref().map(read_baseline).transpose()?,
        })
    }

    /// Finds the address spaces, and judges them. A live guest runs on.
    pub(super) fn look(&self, target: Target, terms: &Terms) -> Result<Look, Failure> {
        let progress = self.common.progress();
        let (name, mut discovery) = self.common.discover_in(&target)?;
        drop(progress);
        if self.common.symbols.is_some() {
            self.common.name(&target, &mut discovery)?;
        }
        let strictness = Strictness {
            user: self.strict_user,
            idle: self.strict_idle,
        };
        let mut check = Check::of(&discovery, strictness);
        if !check.holds && self.common.symbols.is_none() {
            // What is broken is named; whoever looks at a sound guest does not wait for that. And names may tell that
            // a root is nobody's.
            let judged = discovery.judged().count();
            discovery.read_names(&target);
            if discovery.judged().count() < judged {
                check = Check::of(&discovery, strictness);
            }
        }
        drop(target);
        check.allow(&terms.allowed);
        let found = check.baseline();
        if let Some(known) = &terms.known {
            check.compare(known);
        }
        check.require(&terms.required);
        if let Some(path) = &self.write_baseline {
            write_baseline(path, &found)?;
        }
        let report = CheckReport::new(&name, &discovery, check);
        Ok(Look {
            name,
            discovery,
            report,
        })
    }

    /// Prints the report, or writes it to the file.
    pub(super) fn show(
        &self,
        report: &CheckReport,
        file: Option<&OutputFile>,
    ) -> Result<(), Failure> {
        match (file, self.format()) {
            (Some(file), format) => {
                file.write(format!("{}\n", format.of(report)?).as_bytes())?;
                let text = Shown(report).to_string();
                Output::new()?.report(&text.lines().last().unwrap_or_default())
            }
            (None, Format::Text) => Output::new()?.report(&Shown(report)),
            (None, format) => Output::new()?.line(&format.of(report)?),
        }
    }
}

impl Look {
    /// What the look comes to.
    ///
    /// # Errors
    /// No rule is broken, but there is nothing to judge, or not all could be tried.
    pub(super) fn conclude(&self) -> Result<Exit, Failure> {
        let (name, check) = (&self.name, &self.report.check);
        if check.holds && check.required_not_tried.is_empty() {
            super::conclusive(name, &self.discovery)?;
            if !check.has_kernel_half {
                let what = if only_identity(&self.discovery) {
                    format!(
                        "{name}: there is no kernel half to judge: every root maps memory at its own address, as \
                         firmware, loaders and memory tests do"
                    )
                } else {
                    format!(
                        "{name}: no root has a kernel half; is CR3 right? --blind looks for roots without it"
                    )
                };
                return Err(Failure::new(Exit::Usage, what));
            }
        }
        super::verdict(name, check)
    }
}

/// Whether firmware, a loader or a memory test runs, and no kernel.
fn only_identity(discovery: &Discovery) -> bool {
    let mut spaces = discovery.spaces.iter();
    spaces.all(|space| space.kind == Kind::Identity)
}
