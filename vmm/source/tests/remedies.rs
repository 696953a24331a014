//! What is said to do about files that are not read, done with the tools that are named.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use heirloom_inspect::Depth;
use serde_json::json;
use support::elf::CoreBuilder;
use support::qemu::Qemu;

/// Each command that is named where a file or a guest cannot be read, and the test that runs it.
const TRIED: [(&str, &str); 8] = [
    (
        "-S -loadvm NAME",
        "vmm/source/tests/migration.rs: a_guest_that_was_saved_into_a_disk_is_named_and_comes_out_as_is_said",
    ),
    (
        "-object memory-backend-memfd,id=ram,size=SIZE,share=on -machine memory-backend=ram",
        "vmm/source/tests/live.rs: a_shared_memfd_is_mapped",
    ),
    (
        "-qmp unix:PATH,server=on,wait=off",
        "vmm/source/tests/remedies.rs: a_guest_is_dumped_by_what_is_said_in_qemus_monitor",
    ),
    (
        "dump-guest-memory FILE",
        "vmm/source/tests/remedies.rs: a_guest_is_dumped_by_what_is_said_in_qemus_monitor",
    ),
    (
        "ewfexport -u -t NAME -f raw FILE",
        "vmm/source/tests/remedies.rs: files_that_other_packers_made_are_read_once_they_are_unpacked_as_is_said",
    ),
    (
        "lzop -dc FILE > core",
        "vmm/source/tests/remedies.rs: files_that_other_packers_made_are_read_once_they_are_unpacked_as_is_said",
    ),
    (
        "makedumpfile -R dump < FILE",
        "tests/files/makedumpfile.rs: flattened_dumps_are_read_as_they_are_and_put_together_alike",
    ),
    (
        "unzip FILE",
        "vmm/source/tests/remedies.rs: files_that_other_packers_made_are_read_once_they_are_unpacked_as_is_said",
    ),
];
/// Those that no test can run, and why.
const NOT_TRIED: [(&str, &str); 5] = [
    (
        "VBoxManage debugvm VM dumpvmcore --filename FILE",
        "VirtualBox needs a module of the host's kernel",
    ),
    (
        "avml-convert FILE image.lime",
        "no distribution has it, and the file is of more than 128 GiB",
    ),
    (
        "makedumpfile -E /proc/vmcore FILE",
        "it is for the kernel that dumps; cores that -E makes of files are read",
    ),
    (
        "virsh dump --memory-only DOMAIN FILE",
        "libvirt's daemon; it asks QEMU for what dump-guest-memory writes",
    ),
    (
        "vmss2core -M FILE.vmss FILE.vmem",
        "VMware's, which nobody may distribute",
    ),
];

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

#[test]
fn a_guest_is_dumped_by_what_is_said_in_qemus_monitor() {
    let mut qemu = Qemu::start_counting(Depth::Four, "-m 64");
    let nothing = qemu.path("nothing");
    fs::write(&nothing, "hello").unwrap();
    let complaint = support::complaint(&format!("core:{}", nothing.display()));
    let core = qemu.path("core");
    let line = command_in(&complaint).replace("FILE", core.to_str().unwrap());
    qemu.ask("human-monitor-command", json!({ "command-line": line }));
    let target = support::open(core.to_str().unwrap()).unwrap();
    assert_eq!(target.cpus[0].cr3.get(), support::guest::root(Depth::Four));
    // What is said where there is no socket is what this guest was started with.
    let complaint = support::complaint(&format!("qemu:{}", qemu.path("none").display()));
    let option = command_in(&complaint)
        .replace("unix:PATH", &format!("unix:{}", qemu.path("qmp").display()));
    let arguments = fs::read_to_string(format!("/proc/{}/cmdline", qemu.id())).unwrap();
    assert!(arguments.replace('\0', " ").contains(&option), "{option}");
    support::open(&qemu.spec("")).unwrap();
}

/// What stands between backticks, and is more than a word, in the texts of these sources: not in comments, nor in tests.
fn commands_in(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            commands_in(&path, found);
            continue;
        }
        let source = fs::read_to_string(&path).unwrap();
        let source = source.split("#[cfg(test)]\nmod ").next().unwrap();
        let is_comment = |line: &&str| line.trim_start().starts_with("//");
        let lines = source
            .lines()
            .filter(|line| !is_comment(line))
            .map(str::trim);
        // A text that goes on in the next line is one.
        let text = lines.collect::<Vec<_>>().join("\n").replace("\\\n", "");
        for line in text.lines() {
            let quoted = line.split('`').skip(1).step_by(2);
            let commands =
                quoted.filter(|quoted| quoted.contains(' ') && !quoted.contains(['{', ';']));
            found.extend(commands.map(str::to_owned));
        }
    }
}

#[test]
fn every_command_that_is_named_as_a_remedy_is_run_by_a_test() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut named = BTreeSet::new();
    for name in ["source", "inspect"] {
        commands_in(&crates.join(name).join("src"), &mut named);
    }
    // Limits are no commands that make a file readable.
    named.retain(|command| !command.starts_with("ulimit") && !command.starts_with(", "));
    let tried = TRIED.iter().chain(&NOT_TRIED);
    let known: BTreeSet<String> = tried.map(|(command, _)| (*command).to_owned()).collect();
    assert_eq!(named, known);
    for (command, test) in TRIED {
        let (file, name) = test.split_once(": ").unwrap();
        let source = fs::read_to_string(crates.join("..").join(file)).unwrap();
        assert!(
            source.contains(&format!("fn {name}()")),
            "{command}: {test}"
        );
    }
}
