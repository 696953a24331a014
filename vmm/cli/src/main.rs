//! The `heirloom` command: reads the command line, hands over to a subcommand, and turns what it
//! returns into an exit code.

mod boot;
mod bugs;
mod completions;
mod debugger;
mod doctor;
#[cfg(test)]
mod documentation;
mod escape;
mod exit;
mod explore;
mod extract;
mod gdb;
mod grade;
mod inspect;
mod kernel;
mod lab;
mod lecture;
mod machine;
mod man;
mod output;
mod paint;
mod progress;
mod replay;
mod run;
mod sandbox;
mod signals;
mod text;
mod ui;

use std::io::Write;
use std::{process, thread};

use exit::{Exit, Failure};

use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, Parser, Subcommand};

/// What the command is called.
const NAME: &str = "heirloom";

/// Boots a guest kernel on KVM and proves from outside that kernel mappings propagate to every
/// process.
#[derive(Parser)]
#[command(version, after_help = exit::HELP, max_term_width = 80)]
struct Cli {
    #[command(flatten)]
    ui: ui::Options,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boots the guest kernel and runs its programs.
    Run(run::Options),
    /// Lists the deliberate bugs of the guest kernel, and proves that each is caught.
    Bugs(bugs::Options),
    /// Measures what a kernel mapping costs under each strategy, as processes get many.
    Lab(lab::Options),
    /// Makes every claim of the lecture an experiment on KVM, and judges it.
    Lecture(lecture::Options),
    /// Grades a guest kernel that a student wrote.
    Grade(grade::Options),
    /// Boots any x86-64 kernel, stops it at a moment, and inspects its address spaces.
    Boot(boot::Options),
    /// Finds every address space of a guest: ours, a live QEMU, a core dump, a raw image.
    Roots(inspect::roots::Options),
    /// Holds the generic rules against all address spaces of a guest.
    Check(inspect::check::Options),
    /// Lists what an address space maps.
    Maps(inspect::maps::Options),
    /// Infers what a kernel has where: direct map, image, vmalloc and more.
    Layout(inspect::layout::Options),
    /// Prints a file that says what is known of a guest's kernel, to begin with.
    Profile(inspect::profile::Options),
    /// Walks the tables for one virtual address.
    Translate(inspect::translate::Options),
    /// Finds every virtual address that reaches a physical one.
    Reverse(inspect::reverse::Options),
    /// Says what changed between two moments.
    Diff(inspect::diff::Options),
    /// Prints commands for gdb, to ask about the guest that it debugs.
    Gdb(gdb::Options),
    /// Writes one HTML file to explore page tables with, in a browser.
    Explore(explore::Options),
    /// Lists the events of a recording, and judges it again.
    Replay(replay::Options),
    /// Says whether this host can run heirloom, and how to fix what is missing.
    Doctor(doctor::Options),
    /// Writes the embedded guest to files, to boot it elsewhere.
    Extract(extract::Options),
    /// Prints a script by which a shell completes the command's words.
    Completions(completions::Options),
    /// Prints the manual page, or writes one for each subcommand.
    Man(man::Options),
}

/// The command line, as clap knows it.
fn command() -> clap::Command {
    Cli::command()
}

/// The error about a subcommand that does not exist, with the one that its letters are nearest to: `run` for `rn`.
fn with_nearest(mut error: clap::Error) -> clap::Error {
    if let Some(ContextValue::String(text)) = error.get(ContextKind::InvalidSubcommand) {
        let command = command();
        let names = command.get_subcommands().map(clap::Command::get_name);
        let distance = |name: &&str| strsim::damerau_levenshtein(text, name);
        let nearest = names
            .min_by_key(distance)
            .filter(|name| distance(name) <= 2);
        let tip = nearest.map_or(ContextValue::None, |name| {
            ContextValue::Strings(vec![name.to_owned()])
        });
        error.insert(ContextKind::SuggestedSubcommand, tip);
    }
    error
}

/// The command line. It is taken apart on a stack of its own: clap's description of all options needs more than the first
/// thread has under a small `ulimit -s`.
fn parse() -> Cli {
    const STACK: usize = 1 << 20;
    let parse = || Cli::try_parse().map_err(with_nearest);
    let thread = thread::Builder::new().stack_size(STACK).spawn(parse);
    let parsed = thread.ok().and_then(|thread| thread.join().ok());
    // Where there can be no more threads, the first one's stack has to do.
    let parsed = parsed.unwrap_or_else(parse);
    parsed.unwrap_or_else(|error| error.exit())
}

/// Where nothing is unwound, a panic ends the command as it does else: with its message and this code, and by no signal.
#[cfg(panic = "abort")]
fn end_by_code() {
    const PANICKED: i32 = 101;
    let say = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        say(info);
        process::exit(PANICKED);
    }));
}

fn main() -> process::ExitCode {
    #[cfg(panic = "abort")]
    end_by_code();
    let cli = parse();
    cli.ui.apply();
    start_log(cli.ui.verbose);
    signals::files_may_get_too_large();
    let result = match cli.command {
        Command::Run(options) => run::run(&options),
        Command::Bugs(options) => bugs::run(&options),
        Command::Lab(options) => lab::run(&options),
        Command::Lecture(options) => lecture::run(&options),
        Command::Grade(options) => grade::run(&options),
        Command::Boot(options) => boot::run(&options),
        Command::Roots(options) => inspect::roots::run(&options),
        Command::Check(options) => inspect::check::run(&options),
        Command::Maps(options) => inspect::maps::run(&options),
        Command::Layout(options) => inspect::layout::run(&options),
        Command::Profile(options) => inspect::profile::run(&options),
        Command::Translate(options) => inspect::translate::run(&options),
        Command::Reverse(options) => inspect::reverse::run(&options),
        Command::Diff(options) => inspect::diff::run(&options),
        Command::Gdb(options) => gdb::run(&options),
        Command::Explore(options) => explore::run(&options),
        Command::Replay(options) => replay::run(&options),
        Command::Doctor(options) => doctor::run(&options),
        Command::Extract(options) => extract::run(&options),
        Command::Completions(options) => completions::run(&options),
        Command::Man(options) => man::run(&options),
    };
    let exit = match result {
        Ok(exit) => exit,
        // What it could not do, it could not do because it was told to end.
        Err(failure) if signals::is_ending() && failure.exit != Exit::Guest => {
            output::complain(&Failure::new(Exit::Guest, "interrupted"));
            Exit::Guest
        }
        Err(failure) => {
            output::complain(&failure);
            failure.exit
        }
    };
    match heirloom_source::left_paused() {
        None => exit.into(),
        Some(why) => {
            output::complain(&Failure::new(Exit::Guest, why));
            Exit::Guest.into()
        }
    }
}

/// `-v` shows events, `-vv` also what the host does; `RUST_LOG` overrides both.
fn start_log(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level))
        .format(|out, record| {
            let (level, style) = (record.level(), out.default_level_style(record.level()));
            let message = record.args().to_string();
            writeln!(
                out,
                "[{style}{level:<5}{style:#}] {}",
                escape::text(&message)
            )
        })
        .init();
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_has_no_contradictions() {
        super::Cli::command().debug_assert();
    }
}
