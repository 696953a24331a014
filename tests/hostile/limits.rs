//! Limits of the host: the command says which one, and ends with 2 or 3 before a guest is started.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::process::Command;
use std::time::Duration;

use crate::running::Running;

const AMPLE: Duration = Duration::from_secs(60);

#[test]
fn on_kvm_too_few_file_descriptors_are_named_and_the_guest_never_starts() {
    let mut refused = 0;
    for descriptors in 3..24 {
        let limits = format!("ulimit -n {descriptors}");
        let ended = Running::start_limited(&limits, &["run", "-q"]).ends_within(AMPLE);
        // The loader of a program that has none at all says so itself.
        if ended.code == Some(127) {
            continue;
        }
        assert!(
            matches!(ended.code, Some(0 | 2 | 3)),
            "{limits}: {:?}: {}",
            ended.code,
            ended.said()
        );
        if ended.code != Some(0) {
            refused += 1;
            let said = ended.said();
            assert!(
                said.contains("open files") || said.contains("ulimit -n"),
                "{limits}: {said}"
            );
        }
    }
    assert!(refused > 0);
}

#[test]
fn on_kvm_too_little_memory_is_named_and_the_guest_never_starts() {
    for kibibytes in [65_536, 131_072, 262_144] {
        let limits = format!("ulimit -v {kibibytes}");
        let ended =
            Running::start_limited(&limits, &["run", "-q", "--memory", "1G"]).ends_within(AMPLE);
        assert!(
            matches!(ended.code, Some(2 | 3)),
            "{limits}: {:?}: {}",
            ended.code,
            ended.said()
        );
        assert!(
            ended.said().contains("memory"),
            "{limits}: {}",
            ended.said()
        );
    }
}

#[test]
fn a_small_stack_is_no_abort() {
    for kibibytes in [64, 128, 256] {
        let limits = format!("ulimit -s {kibibytes}");
        let ended = Running::start_limited(&limits, &["run", "-q"]).ends_within(AMPLE);
        assert!(
            matches!(ended.code, Some(0 | 2 | 3)),
            "{limits}: {:?}: {}",
            ended.code,
            ended.said()
        );
    }
}

/// As root, whom the limit does not hold for, by a user that has no other process, with a copy of the command that
/// everybody may run.
#[test]
fn too_few_threads_are_named_or_the_search_goes_on_with_fewer() {
    let folder = tempfile::tempdir().unwrap();
    let [command, image] = ["heirloom", "guest"].map(|name| folder.path().join(name));
    fs::copy(env!("CARGO_BIN_EXE_heirloom"), &command).unwrap();
    // Data in several places: a search by several threads.
    let file = File::create(&image).unwrap();
    file.set_len(64 << 20).unwrap();
    for at in (0..64).map(|mebibyte| mebibyte << 20) {
        file.write_all_at(b"data", at).unwrap();
    }
    for path in [folder.path(), &command, &image] {
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let (mut refused, mut searched) = (0, 0);
    for threads in 1..8 {
        let mut limited = Command::new("env");
        if is_root {
            limited.args(["setpriv", "--reuid=61234", "--clear-groups"]);
        }
        limited
            .args(["prlimit", &format!("--nproc={threads}")])
            .arg(&command)
            .args(["check", &format!("raw:{}", image.display())]);
        let ended = Running::of(limited).ends_within(AMPLE);
        let said = ended.said();
        match ended.code {
            Some(3) => {
                refused += 1;
                assert!(said.contains("ulimit -u"), "{threads}: {said}");
            }
            code => {
                searched += 1;
                assert_eq!(code, Some(2), "{threads}: {said}");
                assert!(said.contains("no page tables found"), "{threads}: {said}");
            }
        }
    }
    assert!(refused > 0);
    assert!(searched > 0 || !is_root);
}

#[test]
fn a_device_that_is_a_folder_is_exit_code_three_and_named() {
    let ended = Running::start(&["run", "--device", "/tmp"]).ends_within(AMPLE);
    assert_eq!(ended.code, Some(3), "{}", ended.said());
    assert!(ended.said().contains("/tmp"), "{}", ended.said());
    assert!(
        ended.said().contains("not KVM's device"),
        "{}",
        ended.said()
    );
}
