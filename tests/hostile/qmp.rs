//! A monitor that answers too much or too late: the guest runs on, within the bound.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::Duration;

use crate::fake::Fake;
use crate::running::Running;

/// CPU time for any of this.
const BOUND: Duration = Duration::from_secs(10);
/// For how long a guest may be held, and for how long this monitor thinks before each answer.
const HELD: Duration = Duration::from_secs(30);
const THINKS: Duration = Duration::from_secs(3);

#[test]
fn a_line_of_60_mib_costs_no_memory_and_the_guest_runs_on() {
    for command in ["query-cpus-fast", "info"] {
        let line = format!(r#"{{"return": "{}", "id": ID}}"#, "x".repeat(60 << 20));
        let fake = Fake::default().instead(command, line).serve();
        // In KiB: a line may have one MiB, and the rest is the program itself.
        let limits = "ulimit -v 262144";
        let ended = Running::start_limited(limits, &["check", &fake.spec]).ends_within(BOUND);
        assert_eq!(ended.code, Some(2), "{}", ended.said());
        assert!(
            ended.said().contains("MiB"),
            "no bound in: {}",
            ended.said()
        );
        let asked = fake.asked();
        assert_eq!(asked.last().unwrap(), "cont", "{asked:?}");
    }
}

#[test]
fn lines_of_json_as_deep_as_they_are_long_are_refused_and_the_guest_runs_on() {
    let line = format!(r#"{{"return": {}, "id": ID}}"#, "[".repeat(900 << 10));
    let fake = Fake::default().instead("query-cpus-fast", line).serve();
    let ended = Running::start(&["check", &fake.spec]).ends_within(BOUND);
    assert_eq!(ended.code, Some(2), "{}", ended.said());
    assert_eq!(fake.asked().last().unwrap(), "cont");
}

/// Lines from one side to the other, each after a while.
fn forward(from: UnixStream, mut to: UnixStream, after: Duration) {
    for line in BufReader::new(from).lines() {
        let Ok(line) = line else { return };
        thread::sleep(after);
        if writeln!(to, "{line}").is_err() {
            return;
        }
    }
}

#[test]
fn a_monitor_that_takes_three_seconds_an_answer_holds_the_guest_for_no_longer_than_the_bound() {
    let fake = Fake::default().serve();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("slow");
    let listener = UnixListener::bind(&socket).unwrap();
    let behind = fake.spec.strip_prefix("qemu:").unwrap().to_owned();
    let proxy = thread::spawn(move || {
        let (client, _) = listener.accept().unwrap();
        let server = UnixStream::connect(behind).unwrap();
        let (client_too, server_too) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        let answers = thread::spawn(move || forward(server_too, client_too, THINKS));
        forward(client, server.try_clone().unwrap(), Duration::ZERO);
        let _ = server.shutdown(std::net::Shutdown::Both);
        answers.join().unwrap();
    });
    let ended =
        Running::start(&["check", &format!("qemu:{}", socket.display())]).ends_within(BOUND);
    proxy.join().unwrap();
    assert!(matches!(ended.code, Some(0..=2)), "{}", ended.said());
    let asked = fake.asked();
    let stopped = asked
        .iter()
        .position(|question| question == "stop")
        .unwrap();
    let resumed = asked
        .iter()
        .rposition(|question| question == "cont")
        .unwrap();
    // Each question in between has cost three seconds at least, however slow this machine is.
    let most = usize::try_from(HELD.as_secs() / THINKS.as_secs()).unwrap();
    assert!(
        resumed - stopped <= most,
        "{} questions: {asked:?}",
        resumed - stopped
    );
}
