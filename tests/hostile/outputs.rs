//! Files that are written: nothing is overwritten, nothing is half there under its final name.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use crate::common::kvm::need_kvm;
use crate::elf::{CoreBuilder, qemu_note};
use crate::running::{Running, names};
use crate::tiny::{BzImage, HALT};

const AMPLE: Duration = Duration::from_secs(60);

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Commands that write `output`, given a folder with the files that they need.
fn writers(folder: &Path, output: &Path) -> Vec<Vec<String>> {
    let kernel = folder.join("kernel");
    fs::write(&kernel, BzImage::new(HALT).bytes()).unwrap();
    let core = folder.join("core");
    let memory = CoreBuilder::default()
        .note("QEMU", &qemu_note(0x1000, 0x6b0, 0x10))
        .load(0, &[0; 4 * 4096]);
    fs::write(&core, memory.build()).unwrap();
    let core = format!("core:{}", core.display());
    [
        vec!["run", "--html", text(output)],
        vec!["run", "--record", text(output)],
        vec!["boot", text(&kernel), "--core", text(output)],
        vec!["boot", text(&kernel), "--record", text(output)],
        vec!["explore", &core, "--html", text(output)],
        vec![
            "lab",
            "--strategies",
            "sync",
            "--processes",
            "1",
            "--memory",
            "64M",
            "--svg",
            text(output),
        ],
    ]
    .map(|words| words.into_iter().map(str::to_owned).collect())
    .to_vec()
}

fn start(command: &[String]) -> Running {
    Running::start(&command.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn on_kvm_a_file_that_exists_is_kept_unless_it_is_to_be_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("output");
    for command in writers(folder.path(), &output) {
        fs::write(&output, "precious").unwrap();
        let ended = start(&command).ends_within(AMPLE);
        assert_eq!(fs::read(&output).unwrap(), b"precious", "{command:?}");
        assert_eq!(ended.code, Some(2), "{command:?}: {}", ended.said());
        assert!(
            ended.said().contains("--force"),
            "{command:?}: {}",
            ended.said()
        );
        let forced = [&command[..], &["--force".to_owned()]].concat();
        let ended = start(&forced).ends_within(AMPLE);
        assert!(
            matches!(ended.code, Some(0 | 1)),
            "{command:?}: {}",
            ended.said()
        );
        assert_ne!(fs::read(&output).unwrap(), b"precious", "{command:?}");
        assert_eq!(
            names(folder.path()),
            ["core", "kernel", "output"],
            "{command:?}"
        );
    }
}

#[test]
fn what_a_symbolic_link_points_to_is_never_written() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("output");
    let precious = folder.path().join("precious");
    for command in writers(folder.path(), &output) {
        for force in [false, true] {
            fs::write(&precious, "precious").unwrap();
            let _ = fs::remove_file(&output);
            symlink(&precious, &output).unwrap();
            let mut command = command.clone();
            command.extend(force.then(|| "--force".to_owned()));
            let ended = start(&command).ends_within(AMPLE);
            assert!(ended.code.is_some(), "{command:?}");
            assert_eq!(fs::read(&precious).unwrap(), b"precious", "{command:?}");
        }
    }
}

#[test]
fn an_output_that_is_the_input_is_refused_even_by_force() {
    let folder = tempfile::tempdir().unwrap();
    let core = folder.path().join("core");
    let bytes = CoreBuilder::default()
        .note("QEMU", &qemu_note(0x1000, 0x6b0, 0x10))
        .load(0, &[0; 4 * 4096])
        .build();
    let kernel = folder.path().join("kernel");
    let link = folder.path().join("link");
    fs::write(&kernel, BzImage::new(HALT).bytes()).unwrap();
    fs::write(&core, &bytes).unwrap();
    fs::hard_link(&core, &link).unwrap();
    let target = format!("core:{}", core.display());
    for arguments in [
        ["explore", &target, "--html", text(&core)],
        ["explore", &target, "--html", text(&link)],
        ["boot", text(&kernel), "--core", text(&kernel)],
    ] {
        for more in [&[][..], &["--force"]] {
            let arguments = [&arguments[..], more].concat();
            let ended = Running::start(&arguments).ends_within(AMPLE);
            assert_eq!(ended.code, Some(2), "{arguments:?}: {}", ended.said());
            assert_eq!(fs::read(&core).unwrap(), bytes, "{arguments:?}");
            assert_eq!(fs::read(&kernel).unwrap(), BzImage::new(HALT).bytes());
        }
    }
}

#[test]
fn on_kvm_where_a_file_gets_too_large_nothing_is_left_and_the_limit_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("output");
    for command in writers(folder.path(), &output) {
        // In units of 512 or 1024 bytes, as the shell has it.
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let ended = Running::start_limited("ulimit -f 2", &command).ends_within(AMPLE);
        assert_eq!(ended.code, Some(2), "{command:?}: {}", ended.said());
        assert!(
            ended.said().contains("output"),
            "{command:?}: {}",
            ended.said()
        );
        assert_eq!(names(folder.path()), ["core", "kernel"], "{command:?}");
    }
}

#[test]
fn on_kvm_a_full_device_is_exit_code_two_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let full = Path::new("/dev/full");
    for command in writers(folder.path(), full) {
        let ended = start(&command).ends_within(AMPLE);
        assert_eq!(ended.code, Some(2), "{command:?}: {}", ended.said());
        assert!(
            ended.said().contains("/dev/full"),
            "{command:?}: {}",
            ended.said()
        );
    }
}

#[test]
fn on_kvm_a_page_is_there_as_a_whole_or_not_at_all_whenever_the_command_is_killed() {
    need_kvm();
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("output");
    let mut killed = 0;
    for bytes in (0..8).map(|step| step * 25_000) {
        let arguments = ["run", "-q", "--html", text(&output)];
        let mut running = Running::start(&arguments);
        // As much of the page is written, under whatever name.
        running.until_ended_or(|| {
            let names = names(folder.path()).into_iter();
            let length = |name| fs::metadata(folder.path().join(name)).map_or(0, |it| it.len());
            names.map(length).any(|length| length > bytes)
        });
        running.signal("KILL");
        let ended = running.ends_within(AMPLE);
        killed += u32::from(ended.code.is_none());
        if let Ok(page) = fs::read_to_string(&output) {
            let is_whole = page.trim_end().ends_with("</html>");
            assert!(is_whole, "half a page of {} bytes", page.len());
        }
        for left in names(folder.path()) {
            fs::remove_file(folder.path().join(left)).unwrap();
        }
    }
    assert!(killed > 0, "it was never in time");
}
