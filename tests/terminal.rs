//! How the command looks on a terminal and where there is none: colours, progress, quiet; completions and
//! manual pages.

#[path = "common/terminal.rs"]
mod terminal;
#[path = "common/tiny.rs"]
mod tiny;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use tempfile::TempDir;
use terminal::{Screen, on_terminal};
use tiny::{BzImage, HALT, SPIN, code, print};

/// `ud2`, without an exception table: a triple fault.
const CRASH: &[u8] = &[0x0f, 0x0b];

/// Bold red, green and yellow.
const BAD: &str = "\x1b[1;31m";
const GOOD: &str = "\x1b[32m";
const OPEN: &str = "\x1b[33m";

fn heirloom(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heirloom"));
    command.args(arguments);
    // What the test's own terminal wants is not what is tested.
    for variable in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "RUST_LOG", "CI"] {
        command.env_remove(variable);
    }
    command.env("TERM", "xterm-256color");
    command
}

fn output(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert_ne!(output.status.code(), Some(3), "this needs a host with KVM");
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A bzImage: it has the tables with which it is entered, and so no kernel half that could be judged.
fn kernel(parts: &[&[u8]]) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kernel");
    fs::write(&path, BzImage::new(&code(parts)).bytes()).unwrap();
    (directory, path)
}

#[test]
fn what_is_for_programs_alone_is_not_written_to_a_terminal() {
    let screen = on_terminal(&mut heirloom(&["maps", "raw:x", "--format", "arrow"]));
    assert_eq!(screen.code, Some(2), "{}", screen.text);
    assert!(screen.text.contains("> rows.arrows"), "{}", screen.text);
}

#[test]
fn on_kvm_verdicts_have_a_colour_on_a_terminal_and_the_words_stay() {
    let screen = on_terminal(&mut heirloom(&["run"]));
    assert_eq!(screen.code, Some(0), "{}", screen.text);
    assert!(
        screen.text.contains(&format!("{GOOD}HOLDS\x1b[0m: with")),
        "{}",
        screen.text
    );
    let screen = on_terminal(&mut heirloom(&["run", "--propagation", "none", "-v"]));
    assert_eq!(screen.code, Some(1), "{}", screen.text);
    for words in [
        format!("{BAD}BROKEN\x1b[0m: with"),
        format!("propagated                 {BAD}BROKEN\x1b[0m"),
    ] {
        assert!(screen.text.contains(&words), "{}", screen.text);
    }
}

#[test]
fn on_kvm_without_its_colours_a_coloured_report_is_the_plain_one() {
    let (_directory, path) = kernel(&[HALT]);
    let arguments = ["boot", path.to_str().unwrap(), "--memory", "64M"];
    let plain = output(&mut heirloom(&arguments));
    let coloured = output(heirloom(&arguments).arg("--color=always"));
    assert!(text(&coloured.stdout).contains(OPEN));
    let stripped = text(&coloured.stdout)
        .replace(GOOD, "")
        .replace(OPEN, "")
        .replace("\x1b[2m", "")
        .replace("\x1b[0m", "");
    // How long it took is not the same.
    let without_time = |text: &str| -> Vec<String> {
        text.lines()
            .filter(|line| !line.contains(" after "))
            .map(String::from)
            .collect()
    };
    assert_eq!(without_time(&stripped), without_time(&text(&plain.stdout)));
}

#[test]
fn on_kvm_colours_are_off_where_there_is_no_terminal_or_none_are_wanted() {
    let (_directory, path) = kernel(&[HALT]);
    let path = path.to_str().unwrap();
    let piped = output(&mut heirloom(&["boot", path]));
    assert!(!text(&piped.stdout).contains('\x1b'));
    let wanted = |command: &mut Command| {
        let screen = on_terminal(command);
        assert_eq!(screen.code, Some(0), "{}", screen.text);
        screen.text.contains(OPEN)
    };
    assert!(wanted(&mut heirloom(&["boot", path])));
    assert!(!wanted(heirloom(&["boot", path]).env("NO_COLOR", "1")));
    assert!(!wanted(&mut heirloom(&["boot", path, "--color", "never"])));
    assert!(!wanted(heirloom(&["boot", path]).env("TERM", "dumb")));
    // Asked for by an option, NO_COLOR notwithstanding.
    assert!(wanted(
        heirloom(&["boot", path, "--color", "always"]).env("NO_COLOR", "1")
    ));
    // An empty one is none (https://no-color.org).
    assert!(wanted(heirloom(&["boot", path]).env("NO_COLOR", "")));
}

#[test]
fn on_kvm_failures_begin_in_colour_on_a_terminal_only() {
    let screen = on_terminal(&mut heirloom(&["boot", "/no/such/kernel"]));
    assert!(
        screen
            .text
            .contains(&format!("{BAD}heirloom:\x1b[0m there is no")),
        "{}",
        screen.text
    );
    let piped = output(&mut heirloom(&["boot", "/no/such/kernel"]));
    assert!(text(&piped.stderr).starts_with("heirloom: there is no"));
}

#[test]
fn on_kvm_json_is_never_in_colour() {
    let (_directory, path) = kernel(&[HALT]);
    let run = output(&mut heirloom(&[
        "boot",
        path.to_str().unwrap(),
        "--json",
        "--color",
        "always",
    ]));
    serde_json::from_slice::<serde_json::Value>(&run.stdout).unwrap();
}

#[test]
fn on_kvm_on_a_terminal_a_line_tells_events_and_processes_and_is_gone_at_the_end() {
    let screen = on_terminal(&mut heirloom(&[
        "run",
        "--timeout",
        "3600",
        "--processes",
        "200",
        "--memory",
        "256M",
    ]));
    assert_eq!(screen.code, Some(0), "{}", screen.text);
    assert!(
        screen.text.contains(" events judged, ") && screen.text.contains(" processes alive"),
        "{}",
        screen.text
    );
    let Screen { lines, .. } = screen;
    assert!(
        !lines.iter().any(|line| line.contains("events judged")),
        "the line is still there: {lines:?}"
    );
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("heirloom kernel: ")),
        "the console's own line is not there: {lines:?}"
    );
}

#[test]
fn on_kvm_a_guests_unfinished_line_is_not_lost_on_a_terminal() {
    // A kernel that prints half a line and dies.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kernel");
    let guest = code(&[&print(b"whole\r\nhalf"), CRASH]);
    fs::write(&path, tiny::Elf::new(&guest).bytes()).unwrap();
    let screen = on_terminal(&mut heirloom(&["run", "--kernel", path.to_str().unwrap()]));
    assert_eq!(screen.code, Some(4), "{}", screen.text);
    for line in ["whole", "half"] {
        assert!(
            screen.lines.iter().any(|shown| shown.starts_with(line)),
            "no `{line}` in {:?}",
            screen.lines
        );
    }
}

#[test]
fn on_kvm_elsewhere_a_run_that_takes_long_says_so_in_plain_lines_and_a_short_one_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kernel");
    fs::write(&path, tiny::Elf::new(SPIN).bytes()).unwrap();
    let path = path.to_str().unwrap();
    let run = output(&mut heirloom(&["run", "--timeout", "7", "--kernel", path]));
    let said = text(&run.stderr);
    // Five seconds in, or as soon after that as the machine has the time.
    let (when, _) = said.split_once(" s\n").unwrap();
    let seconds: u64 = when.strip_prefix("heirloom: ").unwrap().parse().unwrap();
    assert!(seconds >= 5, "{said}");
    assert!(!said.contains('\x1b') && !said.contains('\r'), "{said}");
    let run = output(&mut heirloom(&["run", "--timeout", "1", "--kernel", path]));
    let said = text(&run.stderr);
    assert!(
        said.starts_with("heirloom: the guest was not done"),
        "{said}"
    );
    // Those who want to follow every event, or nothing, are not told.
    for option in ["--verbose", "--quiet"] {
        let run = output(&mut heirloom(&[
            "run",
            option,
            "--timeout",
            "7",
            "--kernel",
            path,
        ]));
        let said = text(&run.stderr);
        let is_progress = |line: &str| line.starts_with("heirloom: ") && line.ends_with(" s");
        assert!(!said.lines().any(is_progress), "{said}");
    }
}

#[test]
fn on_kvm_quiet_leaves_of_a_run_its_verdict() {
    for (arguments, code, verdict) in [
        (&["run", "-q"][..], 0, "HOLDS: with propagation=prealloc"),
        (
            &["--quiet", "run", "--propagation", "none"],
            1,
            "BROKEN: with propagation=none",
        ),
        (
            &["lecture", "-q", "--claim", "9"],
            0,
            "HOLDS: 1 of 1 claims hold",
        ),
        (
            &["lab", "-q", "--processes", "1,2,4", "--strategies", "sync"],
            0,
            "HOLDS: guest and tables agree on all counts in 3 cells",
        ),
        (
            &["bugs", "--run", "-q", "child-misses-entry"],
            0,
            "1 of 1 kernels judged as they should be.",
        ),
    ] {
        let run = output(&mut heirloom(arguments));
        let (shown, said) = (text(&run.stdout), text(&run.stderr));
        assert_eq!(run.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(shown.starts_with(verdict), "{arguments:?}: {shown}");
        assert_eq!(shown.lines().count(), 1, "{arguments:?}: {shown}");
        assert_eq!(said, "", "{arguments:?}");
    }
}

#[test]
fn on_kvm_no_line_is_wider_than_the_terminal_and_no_address_is_broken() {
    let screen = on_terminal(&mut heirloom(&["run", "--propagation", "none"]));
    assert_eq!(screen.code, Some(1), "{}", screen.text);
    let shown = screen.lines.join("\n");
    for line in &screen.lines {
        assert!(line.chars().count() <= 120, "{line}");
    }
    // The statement of a broken rule has more than a line.
    let rule = "kernel-half-shared: every process has the kernel PGD entries";
    let at = screen.lines.iter().position(|line| line.starts_with(rule));
    let next = &screen.lines[at.unwrap_or_else(|| panic!("{shown}")) + 1];
    assert!(
        next.starts_with("  ") && next.contains("(isolated)"),
        "{shown}"
    );
    let piped = output(&mut heirloom(&["run", "--propagation", "none"]));
    let piped = text(&piped.stdout);
    assert!(
        piped
            .lines()
            .any(|line| line.starts_with(rule) && line.ends_with("(isolated)")),
        "{piped}"
    );
}

#[test]
fn on_kvm_quiet_leaves_of_a_boot_its_verdict_and_the_text_is_still_looked_for() {
    let (_directory, path) = kernel(&[&print(b"up and running\r\n"), SPIN]);
    let run = output(&mut heirloom(&[
        "boot",
        path.to_str().unwrap(),
        "--until",
        "running",
        "-q",
    ]));
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
    let shown = text(&run.stdout);
    assert!(shown.starts_with("NOTHING TO JUDGE: "), "{shown}");
    assert_eq!(shown.lines().count(), 1, "{shown}");
}

#[test]
fn on_kvm_a_failure_is_told_however_quiet() {
    let run = output(&mut heirloom(&[
        "run",
        "-q",
        "--program",
        "/no/such/program",
    ]));
    assert_eq!(run.status.code(), Some(2));
    assert!(text(&run.stderr).contains("/no/such/program"));
}

#[test]
fn quiet_and_verbose_together_are_wrong_usage() {
    let run = output(&mut heirloom(&["-q", "-v", "doctor"]));
    assert_eq!(run.status.code(), Some(2));
}

#[test]
fn every_shells_completions_know_the_subcommands_and_bash_reads_them() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let run = output(&mut heirloom(&["completions", shell]));
        assert_eq!(run.status.code(), Some(0), "{shell}");
        let script = text(&run.stdout);
        for word in ["heirloom", "run", "boot", "lecture", "propagation"] {
            assert!(script.contains(word), "{shell}: no {word}");
        }
    }
    let script = text(&output(&mut heirloom(&["completions", "bash"])).stdout);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("heirloom.bash");
    fs::write(&path, script).unwrap();
    // What bash does when a user types `heirloom le<tab>`, and `heirloom run --propagation=<tab>`.
    let complete = |words: &str, last: usize| {
        let ask = format!(
            "source {}; COMP_WORDS=({words}); COMP_CWORD={last}; \
             _heirloom heirloom \"${{COMP_WORDS[{last}]}}\" \"${{COMP_WORDS[$(({last} - 1))]}}\"; \
             echo \"${{COMPREPLY[@]}}\"",
            path.display()
        );
        let bash = Command::new("bash").args(["-c", &ask]).output().unwrap();
        assert_eq!(text(&bash.stderr), "");
        text(&bash.stdout).trim().to_owned()
    };
    assert_eq!(complete("heirloom le", 1), "lecture");
    assert_eq!(complete("heirloom run --propagation pre", 3), "prealloc");
    let wrong = output(&mut heirloom(&["completions", "sh"]));
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("fish"));
}

#[test]
fn the_manual_has_a_page_for_the_command_and_one_for_each_subcommand() {
    let run = output(&mut heirloom(&["man"]));
    assert_eq!(run.status.code(), Some(0));
    let page = text(&run.stdout);
    assert!(page.contains(".TH heirloom 1"), "{page}");
    assert!(page.contains("heirloom\\-run(1)"), "{page}");

    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("man1");
    let run = output(&mut heirloom(&["man", pages.to_str().unwrap()]));
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
    let help = text(&output(&mut heirloom(&["--help"])).stdout);
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        // What a command does may go on in lines that are set in further.
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|word| !word.is_empty() && *word != "help")
        .collect();
    assert!(commands.len() > 10, "{help}");
    for command in commands {
        let page = fs::read_to_string(pages.join(format!("heirloom-{command}.1")))
            .unwrap_or_else(|error| panic!("heirloom-{command}.1: {error}"));
        assert!(page.contains(".SH SYNOPSIS"), "{page}");
    }
    assert!(pages.join("heirloom.1").is_file());
    let run = output(&mut heirloom(&["man", "/proc/no"]));
    assert_eq!(run.status.code(), Some(2));
    assert!(text(&run.stderr).contains("/proc/no"));
}

#[test]
fn a_mistyped_command_is_answered_with_the_one_that_is_nearest_to_it() {
    for (typed, meant) in [
        ("rn", "run"),
        ("chek", "check"),
        ("rotos", "roots"),
        ("lecure", "lecture"),
    ] {
        let run = output(&mut heirloom(&[typed]));
        assert_eq!(run.status.code(), Some(2));
        let tip = format!("a similar subcommand exists: '{meant}'");
        assert!(text(&run.stderr).contains(&tip), "{}", text(&run.stderr));
    }
    let run = output(&mut heirloom(&["paginate"]));
    assert!(
        !text(&run.stderr).contains("similar"),
        "{}",
        text(&run.stderr)
    );
}
