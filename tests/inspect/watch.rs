//! A guest that is waited for, and one that is looked at again and again.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::process::{Child, ChildStdout, Command, Stdio};

use heirloom_inspect::{Entry, Level, VirtAddr};
use serde_json::Value;

use crate::image::{Image, TEXT, assert_refused, bytes, heirloom};

/// The command while it runs, and what it prints line by line.
struct Watching {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Watching {
    fn start(arguments: &[&str]) -> Watching {
        let mut command = Command::new(env!("CARGO_BIN_EXE_heirloom"));
        command.args(arguments).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Watching { child, out }
    }

    /// The next line that says this.
    fn line(&mut self, word: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.out.read_line(&mut line).unwrap() > 0, "no `{word}`");
            if line.contains(word) {
                return line;
            }
        }
    }

    /// Interrupts it: its exit code and the rest of what it prints.
    fn interrupt(mut self) -> (Option<i32>, String) {
        let id = self.child.id().to_string();
        let mut kill = Command::new("kill");
        assert!(kill.args(["-s", "INT", &id]).status().unwrap().success());
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }
}

/// Replaces the image's file in one step, so that no look sees half of it.
fn put(image: &Image, name: &str) {
    let new = image.path("new");
    fs::write(&new, bytes(&image.memory)).unwrap();
    fs::rename(new, image.path(name)).unwrap();
}

fn json_lines(text: &str) -> Vec<Value> {
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn what_changed_is_a_line_and_the_worst_look_is_shown_at_the_end() {
    let mut image = Image::new();
    let target = image.target("guest");
    let mut watching = Watching::start(&["check", &target, "--every", "50ms"]);
    assert!(watching.line("holds").ends_with(" live roots\n"));
    assert!(watching.line("holds").ends_with("nothing changed\n"));
    let (process, index) = (
        image.processes[1].pfn(),
        VirtAddr::new(TEXT).index(Level::Pml4),
    );
    image.memory.poke(process, index, Entry::ABSENT);
    put(&image, "guest");
    let broken = watching.line("BROKEN");
    assert!(broken.contains("kernel-mappings-equal"), "{broken}");
    assert!(broken.contains("1 entry written"), "{broken}");
    put(&Image::new(), "guest");
    let (code, rest) = watching.interrupt();
    assert_eq!(code, Some(1), "{rest}");
    assert!(rest.contains("\nlook "), "{rest}");
    assert!(rest.contains("expected "), "{rest}");
    let verdict = rest.lines().last().unwrap();
    assert!(
        verdict.starts_with("BROKEN: kernel-mappings-equal in "),
        "{rest}"
    );
}

#[test]
fn each_look_is_a_line_of_json_and_the_last_line_sums_up() {
    let image = Image::new();
    let target = image.target("guest");
    let looks = ["check", &target, "--every", "1ms", "--for", "2ms"];
    for form in [&["--format", "json"][..], &["--json"]] {
        let said = heirloom(&[&looks[..], form].concat());
        assert_eq!(said.code, Some(0), "{}", said.err);
        let mut lines = json_lines(&said.out);
        let all = lines.pop().unwrap();
        assert_eq!(all["looks"], lines.len());
        assert_eq!(all["verdict"], "holds");
        assert!((1..=3).contains(&lines.len()), "{}", said.out);
        for (number, line) in (1..).zip(&lines) {
            assert_eq!(line["look"], number);
            assert_eq!(line["verdict"], "holds");
            assert_eq!(line["report"]["holds"], true);
            let changes = line["changes"].as_object();
            assert_eq!(changes.is_some(), number > 1, "{line}");
            let counts = changes.into_iter().flat_map(|changes| changes.values());
            assert!(counts.into_iter().all(|count| *count == 0), "{line}");
        }
    }
}

#[test]
fn a_form_for_machines_has_the_worst_look_alone() {
    let image = Image::new();
    let target = image.target("guest");
    let looks = ["check", &target, "--every", "1ms", "--for", "1ms"];
    let junit = heirloom(&[&looks[..], &["--format", "junit"]].concat());
    assert_eq!(junit.code, Some(0), "{}", junit.err);
    let document = roxmltree::Document::parse(&junit.out).unwrap();
    assert!(
        document.root_element().has_tag_name("testsuites"),
        "{}",
        junit.out
    );
    let file = image.path("report.md");
    let to_file = ["--format", "markdown", "--output", file.to_str().unwrap()];
    let said = heirloom(&[&looks[..], &to_file].concat());
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.out.contains(" s  holds "), "{}", said.out);
    assert!(
        said.out.ends_with(" looks.\n") || said.out.ends_with(" look.\n"),
        "{}",
        said.out
    );
    let markdown = fs::read_to_string(file).unwrap();
    assert!(markdown.contains("kernel-mappings-equal"), "{markdown}");
    let quiet = heirloom(&[&looks[..], &["-q"]].concat());
    assert_eq!(quiet.out.lines().count(), 1, "{}", quiet.out);
}

#[test]
fn a_file_without_page_tables_is_watched_in_vain() {
    let image = Image::new();
    let path = image.path("zeroes");
    fs::write(&path, vec![0; 1 << 20]).unwrap();
    let target = format!("raw:{}", path.display());
    let said = heirloom(&["check", &target, "--every", "1ms", "--for", "1ms"]);
    assert_eq!(said.code, Some(2), "{}", said.out);
    assert!(said.out.contains("not judged"), "{}", said.out);
    assert!(said.err.contains("no page tables found"), "{}", said.err);
    // A guest that is not there is no guest.
    let missing = format!("qemu:{}", image.path("missing").display());
    assert_refused(&["check", &missing, "--every", "1s"], &["missing"]);
}

#[test]
fn a_look_waits_for_a_text_on_the_console() {
    let image = Image::new();
    let (target, console) = (image.target("guest"), image.path("console"));
    let on_console = ["--console", console.to_str().unwrap()];
    let waiting = ["check", &target, "--wait", "login:"];
    let waits = [&waiting[..], &on_console].concat();

    // A file, which is not there yet when the command begins, and that gets its text in two pieces.
    let mut watching = Watching::start(&waits);
    fs::write(&console, "Booting... log").unwrap();
    let mut file = fs::OpenOptions::new().append(true).open(&console).unwrap();
    file.write_all(b"in: ").unwrap();
    watching.line("HOLDS");
    assert!(watching.child.wait().unwrap().success());
    fs::remove_file(&console).unwrap();

    // A socket.
    let listener = UnixListener::bind(&console).unwrap();
    let mut watching = Watching::start(&waits);
    listener
        .accept()
        .unwrap()
        .0
        .write_all(b"guest login: ")
        .unwrap();
    watching.line("HOLDS");
    assert!(watching.child.wait().unwrap().success());
    let mut watching = Watching::start(&waits);
    drop(listener.accept().unwrap());
    assert_eq!(watching.child.wait().unwrap().code(), Some(4));
}

#[test]
fn a_text_that_does_not_come_is_exit_code_four() {
    let image = Image::new();
    let (target, console) = (image.target("guest"), image.path("console"));
    let file = console.to_str().unwrap();
    let waits = [
        "check",
        &target,
        "--wait",
        "login:",
        "--console",
        file,
        "--timeout",
        "200ms",
    ];
    let none = heirloom(&waits);
    assert_eq!(none.code, Some(4));
    assert!(
        none.err.contains("did not come into being within 0.2 s"),
        "{}",
        none.err
    );
    fs::write(&console, "Kernel panic").unwrap();
    let other = heirloom(&waits);
    assert_eq!((other.code, other.out.as_str()), (Some(4), ""));
    assert!(other.err.contains("did not say `login:`"), "{}", other.err);
    // A time is one, and a text comes from somewhere.
    assert_refused(&["check", &target, "--every", "soon"], &["500ms"]);
    assert_refused(&["check", &target, "--wait", "x"], &["--console"]);
    let folder = image.folder.path().to_str().unwrap();
    let waits = ["check", &target, "--wait", "x", "--console", folder];
    assert_refused(&waits, &["neither a file nor a socket"]);
}
