//! The dumps that makedumpfile makes of a guest's core.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::answers::{Answers, named, notes};
use crate::guest::Stopped;
use crate::vmcore;

/// Runs makedumpfile: what it wrote to standard output, and whether it can do what it was told.
pub(crate) fn makedumpfile(arguments: &[&str]) -> (Vec<u8>, bool) {
    let output = Command::new("makedumpfile")
        .args(arguments)
        .output()
        .expect("this test needs makedumpfile, which `make dump-tools` installs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    let all = [&output.stdout[..], &output.stderr].concat();
    let disabled = String::from_utf8_lossy(&all).contains("option is disabled");
    (output.stdout, !disabled)
}

/// Has makedumpfile make a dump of `core`: its path, and whether it was made as it was told.
pub(crate) fn dump(stopped: &Stopped, core: &Path, options: &str) -> (PathBuf, bool) {
    let file = stopped.path(&format!("dump{}", options.replace(' ', "")));
    let _ = std::fs::remove_file(&file);
    let mut arguments: Vec<&str> = options.split_whitespace().collect();
    let ends = [named(core), named(&file)];
    arguments.extend(ends.iter().map(String::as_str));
    let (_, as_told) = makedumpfile(&arguments);
    (file, as_told)
}

#[test]
fn dumps_of_every_packing_and_level_answer_as_the_core_does() {
    let stopped = Stopped::get();
    let core = vmcore::whole(stopped);
    let of_core = Answers::of(&named(&core));
    let mut made = 0;
    for options in [
        "-d 0", "-c -d 1", "-l -d 16", "-p -d 31", "-z -d 31", "-l -d 31", "-c -d 31",
    ] {
        // A distribution's makedumpfile need not have all packings; it then packs nothing.
        let (file, as_told) = dump(stopped, &core, options);
        made += u32::from(as_told);
        let target = named(&file);
        let of_dump = Answers::of(&target);
        assert_eq!(of_dump.spaces(), of_core.spaces(), "{options}");
        assert_eq!(of_dump.maps(), of_core.maps(), "{options}");
        assert_eq!(of_dump.translations(), of_core.translations(), "{options}");
        let said = notes(&target).join("\n");
        assert!(
            said.contains("kdump-compressed dump (header version 6"),
            "{said}"
        );
        if options.ends_with("-d 31") {
            assert!(
                said.contains("dump level 31") && said.contains("what they hold is unknown"),
                "{said}"
            );
        }
        std::fs::remove_file(file).unwrap();
    }
    assert!(made >= 5, "{made}");
}

#[test]
fn cores_that_makedumpfile_left_pages_out_of_hold() {
    let stopped = Stopped::get();
    let core = vmcore::whole(stopped);
    let of_core = Answers::of(&named(&core));
    for options in ["-E -d 0", "-E -d 31"] {
        let (file, _) = dump(stopped, &core, options);
        let of_dump = Answers::of(&named(&file));
        assert_eq!(of_dump.spaces(), of_core.spaces(), "{options}");
        assert_eq!(of_dump.maps(), of_core.maps(), "{options}");
        assert_eq!(of_dump.translations(), of_core.translations(), "{options}");
    }
}

#[test]
fn flattened_dumps_are_read_as_they_are_and_put_together_alike() {
    let stopped = Stopped::get();
    let core = named(&vmcore::whole(stopped));
    for (name, options) in [
        ("flat-kdump", &["-F", "-c", "-d", "31"][..]),
        ("flat-core", &["-F", "-E", "-d", "31"]),
    ] {
        let (bytes, _) = makedumpfile(&[options, &[&core]].concat());
        let flat = stopped.path(name);
        std::fs::write(&flat, bytes).unwrap();
        let flat = named(&flat);
        // The remedy that is said where the form is forced to be another works, too.
        let whole = named(&stopped.path(&format!("{name}-whole")));
        let _ = std::fs::remove_file(&whole);
        let status = Command::new("sh")
            .args([
                "-c",
                &format!("makedumpfile -R '{whole}' < '{flat}' > /dev/null 2>&1"),
            ])
            .status()
            .unwrap();
        assert!(status.success());
        assert_eq!(Answers::of(&flat), Answers::of(&whole), "{name}");
    }
}

#[test]
fn a_split_dump_answers_as_the_core_does_when_all_of_its_files_are_given() {
    let stopped = Stopped::get();
    let core = vmcore::whole(stopped);
    let parts = ["part1", "part2", "part3"].map(|name| named(&stopped.path(name)));
    for part in &parts {
        let _ = std::fs::remove_file(part);
    }
    let core = named(&core);
    let words = ["--split", "-c", "-d", "1", &core];
    let files: Vec<&str> = parts.iter().map(String::as_str).collect();
    makedumpfile(&[&words[..], &files].concat());
    let [one, two, three] = &parts;
    let of_parts = Answers::of(&format!("{two},part={three},part={one}"));
    let of_core = Answers::of(&core);
    assert_eq!(of_parts.spaces(), of_core.spaces());
    assert_eq!(of_parts.translations(), of_core.translations());
}

#[test]
fn what_is_said_of_a_dump_behind_the_wrong_prefix_helps() {
    let stopped = Stopped::get();
    let core = vmcore::whole(stopped);
    let (packed, _) = dump(stopped, &core, "-c -d 31");
    let run = crate::common::heirloom(&["check", &format!("core:{}", named(&packed))]);
    assert_eq!(run.code, Some(2));
    for word in ["leave out the prefix", "makedumpfile -E /proc/vmcore FILE"] {
        assert!(run.stderr.contains(word), "{}", run.stderr);
    }
    // Both are tried above.
}
