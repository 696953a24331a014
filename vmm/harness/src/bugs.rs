//! The deliberate bugs of the guest kernel, and the proof that each is caught.
//!
//! A rule that no bug breaks, and a bug that no rule catches, are both defects. So the matrix has a row
//! for each bug, and one for each strategy without any, which must break nothing.

use heirloom_abi::bugs::{self, Bug, BugInfo};
use heirloom_abi::options::Strategy;
use heirloom_inspect::rules::{RuleInfo, Verdict};
use heirloom_machine::{CpuCount, KernelImage, Platform};
use serde::Serialize;

use crate::error::{Cause, RunError};
use crate::recorder::RecordingDirectory;
use crate::run::Run;

/// One row of the matrix.
#[derive(Serialize)]
pub struct BugResult {
    /// `None` for a kernel without a bug.
    pub bug: Option<&'static str>,
    /// The strategy that it was booted with.
    pub propagation: &'static str,
    /// The rule that must be broken.
    pub expected: Option<&'static str>,
    /// The rules that were.
    pub broken: Vec<&'static str>,
    /// Whether that is as it should be, as far as it was tried.
    pub right: bool,
    /// What the guest's CPU lacks for it, by CPUID's names: then it was not tried.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub untried: Vec<&'static str>,
}

/// The kernels that the matrix is made of: every strategy without a bug, unless bugs were chosen, and every
/// chosen bug under its own strategy.
pub fn kernels(only: &[Bug]) -> Vec<(Strategy, Option<BugInfo>)> {
    // `none` is itself a bug.
    let clean = Strategy::ALL
        .into_iter()
        .filter(|strategy| only.is_empty() && strategy.propagates())
        .map(|strategy| (strategy, None));
    let bugs = chosen(only)
        .into_iter()
        .map(|info| (info.strategy, Some(*info)));
    clean.chain(bugs).collect()
}

/// How many CPUs a guest has that makes this bug, unless more are wanted.
pub fn cpus(bug: Bug) -> CpuCount {
    CpuCount::new(bug.cpus()).unwrap_or(CpuCount::ONE)
}

/// The bugs with these names, or all.
pub fn chosen(only: &[Bug]) -> Vec<&'static BugInfo> {
    bugs::ALL
        .iter()
        .filter(|info| only.is_empty() || only.contains(&info.bug))
        .collect()
}

/// Boots one kernel, the embedded one unless it is another, and compares the rules that were broken with the one that its bug must break.
///
/// # Errors
/// [`RunError`]; a kernel with a bug may end early by it.
pub fn judge(
    host: &dyn Platform,
    kernel: Option<&KernelImage>,
    strategy: Strategy,
    info: Option<BugInfo>,
    recordings: Option<&RecordingDirectory>,
) -> Result<(BugResult, Vec<RuleInfo>), RunError> {
    let (verdicts, untried) = match verdicts(host, kernel, strategy, info, recordings) {
        Err(RunError::Untried { lacking, .. }) => (Vec::new(), lacking),
        judged => (judged?, Vec::new()),
    };
    let broken: Vec<_> = verdicts
        .iter()
        .filter(|verdict| verdict.violations > 0)
        .map(|verdict| verdict.rule.name)
        .collect();
    let expected = info.map(|info| info.rule);
    let right = match expected {
        Some(rule) => !untried.is_empty() || broken.contains(&rule),
        None => broken.is_empty(),
    };
    let row = BugResult {
        bug: info.map(|info| info.name),
        propagation: strategy.name(),
        expected,
        broken,
        right,
        untried,
    };
    Ok((row, verdicts.iter().map(|verdict| verdict.rule).collect()))
}

/// Boots the guest and lets it run as far as it gets: some bugs end it early.
fn verdicts(
    host: &dyn Platform,
    kernel: Option<&KernelImage>,
    strategy: Strategy,
    bug: Option<BugInfo>,
    recordings: Option<&RecordingDirectory>,
) -> Result<Vec<Verdict>, RunError> {
    let mut builder = Run::builder(host);
    if let Some(kernel) = kernel {
        builder = builder.kernel(kernel.clone());
    }
    if let Some(info) = bug {
        builder = builder.showing(info.bug);
    }
    let mut run = builder.strategy(strategy).start()?;
    if let Some(recordings) = recordings {
        let name = bug.map_or("clean", |bug| bug.name);
        recordings.record(&mut run, &format!("{}-{name}", strategy.name()));
    }
    let ended = run.to_end(|_| {});
    if let Some(recordings) = recordings {
        recordings.note(run.recorded());
    }
    match ended {
        Err(error) if error.cause() != Cause::Guest || bug.is_none() => Err(error),
        Ok(_) | Err(_) => Ok(run.judge().verdicts().to_vec()),
    }
}
