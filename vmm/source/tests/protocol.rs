//! The QMP side against a fake QEMU: what goes wrong is told, and the guest runs on.

mod support;

use std::os::unix::net::UnixListener;

use serde_json::{Value, json};
use support::fake::{Fake, RAM, memory};
use support::{complaint, open, ram, read};

const FLAT_VIEW: &str = include_str!("../src/qemu/tests/flat_view.txt");

fn count(asked: &[String], question: &str) -> usize {
    asked.iter().filter(|one| *one == question).count()
}

#[test]
fn events_between_answers_do_not_disturb() {
    let fake = Fake {
        events: "{\"event\":\"STOP\",\"timestamp\":{\"seconds\":1}}\r\n{\"event\":\"NIC\",\"data\":{\"id\":1}}",
        ..Fake::default()
    }
    .serve();
    let target = open(&fake.spec).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(ram(&target), [(0, RAM as u64)]);
    assert_eq!(read(&target, 0x800, 8), 0x100_u64.to_le_bytes());
    assert_eq!(target.cpus.len(), 2);
    assert_eq!(target.phys_bits.unwrap().get(), 40);
    // 40 is no answer to whether there are 1 GiB pages.
    assert_eq!(target.gigabyte_pages, None);
    assert_eq!(count(&fake.asked.lock().unwrap(), "cont"), 0);
    drop(target);
    let asked = fake.asked();
    assert_eq!((count(&asked, "stop"), count(&asked, "cont")), (1, 1));
    assert_eq!(asked.last().unwrap(), "cont");
}

#[test]
fn a_guest_that_does_not_run_is_neither_stopped_nor_let_run() {
    let fake = Fake {
        running: false,
        ..Fake::default()
    }
    .serve();
    drop(open(&fake.spec).unwrap());
    let asked = fake.asked();
    assert_eq!((count(&asked, "stop"), count(&asked, "cont")), (0, 0));
}

#[test]
fn whatever_goes_wrong_behind_the_pause_is_told_and_the_guest_runs_on() {
    let error = r#"{"error":{"class":"GenericError","desc":"not today"},"id":ID}"#;
    let returns = |value: &str| format!("{{\"return\":{value},\"id\":ID}}");
    for (question, answer, words) in [
        (
            "query-cpus-fast",
            error.to_owned(),
            ["query-cpus-fast", "not today"],
        ),
        (
            "query-cpus-fast",
            returns("[]"),
            ["query-cpus-fast", "not known"],
        ),
        (
            "query-cpus-fast",
            returns("[{\"thread-id\":1}]"),
            ["qom-path", "not known"],
        ),
        (
            "info registers -a",
            returns("\"CPU#0\""),
            ["info registers", "no RIP"],
        ),
        (
            "info registers -a",
            returns("7"),
            ["info registers", "CPU#0"],
        ),
        (
            "info mtree -f",
            returns("\"\""),
            ["info mtree", "no address space"],
        ),
        (
            "info mtree -f",
            "nonsense".to_owned(),
            ["nonsense", "no QMP"],
        ),
        (
            "info mtree -f",
            "{\"id\":ID}".to_owned(),
            ["no QMP", "human-monitor-command"],
        ),
        ("stop", error.to_owned(), ["stop", "not today"]),
        // Another process's memory, or another offset.
        (
            "xp",
            returns("\"0: 0x0000000000000001 0x0000000000000002\""),
            ["process: what is read at 0x0", "monitor"],
        ),
        (
            "gpa2hva",
            returns("\"No memory is mapped\""),
            ["not known, or not QEMU", "pmemsave"],
        ),
    ] {
        let fake = Fake::default().instead(question, answer.clone()).serve();
        let message = complaint(&fake.spec);
        for word in words {
            assert!(
                message.contains(word),
                "{question} {answer}: no {word} in: {message}"
            );
        }
        let asked = fake.asked();
        assert_eq!(asked.last().unwrap(), "cont", "{question} {answer}");
        assert_eq!(count(&asked, "cont"), 1);
    }
}

#[test]
fn a_view_with_more_cpus_than_registers_is_refused() {
    let cpu = format!(
        "{{\"thread-id\":{},\"qom-path\":\"/cpu\"}}",
        std::process::id()
    );
    let answer = format!("{{\"return\":[{cpu},{cpu},{cpu}],\"id\":ID}}");
    let fake = Fake::default().instead("query-cpus-fast", answer).serve();
    let message = complaint(&fake.spec);
    assert!(message.contains("2 CPUs, not 3"), "{message}");
}

#[test]
fn ram_that_the_monitor_has_and_the_process_has_not_is_refused_with_every_way() {
    let answer = format!("{{\"return\":{},\"id\":ID}}", json!(FLAT_VIEW));
    let fake = Fake::default().instead("info mtree -f", answer).serve();
    let message = complaint(&fake.spec);
    for way in ["\n  file: ", "\n  process: ", "\n  pmemsave: "] {
        assert!(message.contains(way), "{message}");
    }
    assert_eq!(fake.asked().last().unwrap(), "cont");
}

#[test]
fn a_backends_file_is_used_where_the_process_is_not_seen() {
    use std::io::Write as _;

    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&[0; 0x1000]).unwrap();
    file.write_all(&memory()).unwrap();
    let returns = |value: Value| format!("{{\"return\":{value},\"id\":ID}}");
    let view = "FlatView #0\n AS \"memory\", root: system\n  0000000000000000-000000000000ffff \
                (prio 0, ram): node0 @0000000000001000\n";
    let fake = || {
        Fake::default()
            .instead("gpa2hva", returns(json!("No memory is mapped")))
            .instead("info mtree -f", returns(json!(view)))
            .instead("/objects/node0 mem-path", returns(json!(file.path())))
            .instead("/objects/node0 offset", returns(json!(0)))
    };
    let shared = fake()
        .instead("/objects/node0 share", returns(json!(true)))
        .serve();
    let target = open(&shared.spec).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(read(&target, 0x2000, 8), 0x400_u64.to_le_bytes());
    drop(target);

    let private = fake()
        .instead("/objects/node0 share", returns(json!(false)))
        .serve();
    assert!(complaint(&private.spec).contains("no shared mapping"));
    // The check finds a file that is another guest's.
    let other = fake()
        .instead("/objects/node0 share", returns(json!(true)))
        .instead("/objects/node0 offset", returns(json!(0x800)));
    std::fs::write(file.path(), vec![7; 0x20000]).unwrap();
    assert!(complaint(&other.serve().spec).contains("file: what is read at"));
}

#[test]
fn what_does_not_greet_as_qmp_is_told_what_it_is() {
    for (greeting, words) in [
        (
            "QEMU 9.2.0 monitor - type 'help' for more information\r\n(qemu) ",
            ["monitor for people", "-qmp"],
        ),
        ("SSH-2.0-OpenSSH_9.2\u{1b}[31m", ["`SSH-2.0", "QMP socket"]),
        ("{\"not\": \"QMP\"}", ["{\"not\"", "QMP socket"]),
        ("login: ", ["login:", "QMP"]),
    ] {
        let fake = Fake {
            greeting,
            ..Fake::default()
        }
        .serve();
        let message = complaint(&fake.spec);
        for word in words {
            assert!(message.contains(word), "no {word} in: {message}");
        }
        assert!(!message.contains('\u{1b}'));
    }
}

#[test]
fn a_connection_that_is_closed_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("qmp");
    let listener = UnixListener::bind(&path).unwrap();
    let thread = std::thread::spawn(move || drop(listener.accept().unwrap()));
    let message = complaint(&format!("qemu:{}", path.display()));
    assert!(message.contains("QEMU has ended"), "{message}");
    thread.join().unwrap();
}

#[test]
fn a_qemu_that_hangs_is_waited_for_with_an_end() {
    let fake = Fake::default().hang("query-cpus-fast").serve();
    let message = complaint(&fake.spec);
    assert!(
        message.contains("query-cpus-fast") && message.contains("10 s"),
        "{message}"
    );
    assert_eq!(fake.asked().last().unwrap(), "cont");
}

#[test]
fn a_socket_that_cannot_be_connected_to_is_named_with_the_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().display();
    std::fs::write(directory.path().join("file"), "").unwrap();
    drop(UnixListener::bind(directory.path().join("stale")).unwrap());
    let long = "d".repeat(120);
    std::fs::create_dir(directory.path().join(&long)).unwrap();
    let inside = directory.path().join(&long);
    let here = std::env::current_dir().unwrap();
    let deep = inside.join("s");
    // Too long to bind to by its name as well: bound by a short one, and moved.
    drop(UnixListener::bind(directory.path().join("s")).unwrap());
    std::fs::rename(directory.path().join("s"), &deep).unwrap();
    assert_eq!(here, std::env::current_dir().unwrap());
    for (path, words) in [
        (
            format!("{place}/missing"),
            ["missing does not exist", "-qmp unix:PATH"],
        ),
        (format!("{place}/file"), ["is no socket", "-qmp unix:PATH"]),
        (format!("{place}/stale"), ["refuses", "remove the file"]),
        (deep.display().to_string(), ["too long", "directory"]),
    ] {
        let message = complaint(&format!("qemu:{path}"));
        for word in words {
            assert!(message.contains(word), "no {word} in: {message}");
        }
    }
}
