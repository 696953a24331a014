//! Files that a tool packed, and what comes through a pipe: read as what is inside, and nothing stays behind.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::answers::{Answers, named, notes};
use crate::guest::Stopped;

/// Runs `heirloom ARGUMENTS` with what `command` writes as its standard input, and its files in `folder`: exit
/// code, standard output, standard error.
fn piped(command: &str, arguments: &str, folder: &Path) -> (Option<i32>, String, String) {
    let heirloom = env!("CARGO_BIN_EXE_heirloom");
    let output = Command::new("sh")
        .args(["-c", &format!("{command} | '{heirloom}' {arguments}")])
        .env("TMPDIR", folder)
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn a_packed_core_answers_as_it_does_unpacked() {
    let stopped = Stopped::get();
    let packed = stopped.path("packed");
    let status = Command::new("zstd")
        .args([
            "-q",
            "-f",
            "-3",
            &named(&stopped.core),
            "-o",
            &named(&packed),
        ])
        .status()
        .expect("this test needs zstd, which `make dump-tools` installs");
    assert!(status.success());
    assert_eq!(Answers::of(&named(&packed)), stopped.answers);
    let said = notes(&named(&packed)).join("\n");
    assert!(
        said.contains("compressed by zstd") && said.contains("an ELF core"),
        "{said}"
    );
}

#[test]
fn standard_input_is_a_file_as_any_other() {
    let stopped = Stopped::get();
    let dump = named(&stopped.core);
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for command in ["cat", "gzip -1 -c", "zstd -q -c"] {
        for target in ["-", "core:-"] {
            let (code, out, err) = piped(
                &format!("{command} '{dump}'"),
                &format!("check {target}"),
                at,
            );
            assert_eq!(code, Some(0), "{command}: {out}{err}");
            assert!(out.contains("HOLDS"), "{out}");
        }
    }
    // One that a shell opens is not copied.
    let (code, out, err) = piped("true", &format!("check - < '{dump}'"), at);
    assert_eq!(code, Some(0), "{out}{err}");
    let (code, _, err) = piped("true", "check -", at);
    assert_eq!(code, Some(2));
    assert!(
        err.contains("nothing comes through standard input"),
        "{err}"
    );
    let (code, _, err) = piped(&format!("cat '{dump}'"), "check /dev/stdin,unpack=1M", at);
    assert_eq!(code, Some(2));
    assert!(err.contains("unpacks to more than 1048576 bytes"), "{err}");
    assert_eq!(std::fs::read_dir(at).unwrap().count(), 0);
}

#[test]
fn however_it_ends_no_temporary_file_stays() {
    let stopped = Stopped::get();
    let folder = tempfile::tempdir().unwrap();
    let mut feeder = Command::new("sh")
        .args([
            "-c",
            &format!("cat '{}'; exec sleep 60", named(&stopped.core)),
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_heirloom"))
        .args(["check", "-"])
        .env("TMPDIR", folder.path())
        .stdin(feeder.stdout.take().unwrap())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // It has its temporary file open, without a name.
    let open = format!("/proc/{}/fd", command.id());
    let begins = named(folder.path());
    let deadline = std::time::Instant::now() + crate::common::AMPLE;
    loop {
        let links = std::fs::read_dir(&open).unwrap();
        let mut links = links.filter_map(|link| std::fs::read_link(link.ok()?.path()).ok());
        if links.any(|link| link.starts_with(&begins)) {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "no file in {begins}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    command.kill().unwrap();
    command.wait().unwrap();
    feeder.kill().unwrap();
    feeder.wait().unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
