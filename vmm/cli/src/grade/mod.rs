//! `heirloom grade`: a guest kernel that a student wrote, judged from outside and graded.

mod show;

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use heirloom_harness::cancel::CancelToken;
use heirloom_harness::grade::{self, Assignment, AssignmentFile, Grade};
use heirloom_machine::KernelImage;

use crate::exit::{Exit, Failure};
use crate::machine;
use crate::output::{self, Output};
use crate::progress::Progress;
use crate::sandbox::Sandbox;
use crate::signals;

/// Bytes that an assignment may have.
const MAX_BYTES: u64 = 1 << 20;

/// Options of `heirloom grade`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The kernel: an ELF with a PVH note.
    #[arg(value_name = "KERNEL")]
    kernel: PathBuf,
    /// What there are points for, such as guest/assignments/share/assignment.toml; the whole lecture without it.
    #[arg(long, value_name = "FILE")]
    assignment: Option<PathBuf>,
    /// The form of the report.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
    #[command(flatten)]
    machine: machine::Options,
}

/// The form in which a grade is printed.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// For a comment or a job's summary.
    Markdown,
}

/// Grades the kernel. The exit code is 0 if it gets all points.
pub(crate) fn run(options: &Options) -> Result<Exit, Failure> {
    let host = options.machine.platform()?;
    let files = options.assignment.iter().chain([&options.kernel]);
    options.machine.enter(&Sandbox::reading(files))?;
    let assignment = match &options.assignment {
        Some(path) => read(path)?,
        None => Assignment::everything(),
    };
    let kernel = KernelImage::read(&options.kernel).and_then(KernelImage::require_pvh);
    let kernel = kernel.map_err(|error| Failure::new(Exit::Usage, error))?;
    let cancel = CancelToken::new();
    let cancelled = cancel.clone();
    signals::stop_by(move || cancelled.cancel())?;
    let progress = Progress::bar(assignment.steps() as u64);
    let mut steps = 0;
    let grade = grade::grade(host, &kernel, &assignment, &cancel, |what| {
        if steps > 0 {
            progress.advance(1);
        }
        steps += 1;
        progress.tell(|| what.to_owned());
    })?;
    drop(progress);
    let mut output = Output::new()?;
    match options.format {
        Format::Text => output.report(&show::Text(&grade))?,
        Format::Json => output.line(&output::json(&grade)?)?,
        Format::Markdown => output.line(show::Markdown(&grade).to_string().trim_end())?,
    }
    Ok(exit(&grade))
}

fn exit(grade: &Grade) -> Exit {
    if grade.points == grade.of {
        Exit::Good
    } else {
        Exit::Broken
    }
}

/// Reads an assignment.
fn read(path: &Path) -> Result<Assignment, Failure> {
    let unusable = |why: &dyn std::fmt::Display| {
        let what = format!("could not use the assignment {}: {why}", path.display());
        Failure::new(Exit::Usage, what)
    };
    let bytes = heirloom_harness::file::read(path, 1).map_err(|problem| unusable(&problem))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(unusable(&"it is larger than 1 MiB"));
    }
    let text = String::from_utf8(bytes).map_err(|_| unusable(&"it is no text"))?;
    let file: AssignmentFile = toml::from_str(&text).map_err(|error| unusable(&error))?;
    Assignment::new(file).map_err(|error| unusable(&error))
}
