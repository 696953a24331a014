//! What is said to do about files that are not read, done with the tools that are named.

mod support;

use std::path::Path;
use std::process::{Command, Stdio};

use support::elf::CoreBuilder;

/// Has the shell do `command` in `folder`; what asks questions gets no answers.
fn run(command: &str, folder: &Path) {
    let output = Command::new("timeout")
        .args(["60", "sh", "-c", command])
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{command}`: {said}");
}

/// The first command that stands in a complaint.
fn command_in(complaint: &str) -> String {
    complaint
        .split('`')
        .nth(1)
        .unwrap_or_else(|| panic!("{complaint}"))
        .to_owned()
}

#[test]
fn files_that_other_packers_made_are_read_once_they_are_unpacked_as_is_said() {
    let contents: Vec<u8> = (0..64_u8).flat_map(|page| [page; 4096]).collect();
    let mut core = CoreBuilder::default().load(0, &contents).build();
    // An E01 has whole sectors.
    core.resize(core.len().next_multiple_of(512), 0);
    for (make, packed, unpacked) in [
        ("lzop -o packed core.raw", "packed", "core"),
        ("zip -q packed.zip core.raw", "packed.zip", "core.raw"),
        (
            "ewfacquire -u -t packed ./core.raw",
            "packed.E01",
            "NAME.raw",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("core.raw"), &core).unwrap();
        run(make, folder.path());
        std::fs::remove_file(at("core.raw")).unwrap();
        let complaint = support::complaint(at(packed).to_str().unwrap());
        let command = command_in(&complaint).replace("FILE", packed);
        run(&command, folder.path());
        let target = support::open(at(unpacked).to_str().unwrap()).unwrap();
        assert_eq!(
            support::read(&target, 0, contents.len()),
            contents,
            "{command}"
        );
    }
}
