//! Kernels that would cheat, hide or hang; and files that are no kernels and no assignments.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::Grade;
use crate::common::heirloom;
use crate::kernels::{built, top};
use crate::tiny::{Elf, HALT, SPIN, code};

const SHORT: &str = "propagation = [\"prealloc\", \"sync\"]\nseconds = 1\nscenario = 50\n[claims]\n3 = 25\n12 = 25\n";

fn in_folder(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn on_kvm_a_kernel_that_hangs_or_halts_gets_nothing_and_no_more_time_than_its_runs() {
    let folder = tempfile::tempdir().unwrap();
    let assignment = in_folder(folder.path(), "assignment.toml", SHORT.as_bytes());
    for (name, instructions) in [("spins", SPIN), ("halts", HALT)] {
        let kernel = Elf::new(&code(&[instructions])).bytes();
        let kernel = in_folder(folder.path(), name, &kernel);
        let start = Instant::now();
        let grade = Grade::of(&kernel, &assignment);
        assert_eq!(grade.points(), 0, "{name}: {:#}", grade.0);
        // Two runs of a second each: what comes on top is the host's.
        let took = start.elapsed();
        assert!(took < Duration::from_secs(60), "{name}: {took:?}");
        let runs = grade.0["runs"].as_array().unwrap();
        assert!(
            runs.iter().all(|run| run["broken_off"].is_string()),
            "{runs:?}"
        );
    }
}

/// Copies a folder of sources.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if !entry.file_type().unwrap().is_dir() {
            fs::copy(entry.path(), to).unwrap();
        } else if entry.file_name() != "target" {
            copy(&entry.path(), &to);
        }
    }
}

/// Changes a source file; the text must be there once.
fn change(file: &Path, text: &str, to: &str) {
    let source = fs::read_to_string(file).unwrap();
    assert_eq!(source.matches(text).count(), 1, "{}", file.display());
    fs::write(file, source.replace(text, to)).unwrap();
}

#[test]
fn on_kvm_a_kernel_whose_tables_are_right_at_events_alone_is_seen_between_them() {
    let folder = tempfile::tempdir().unwrap();
    let top = top().canonicalize().unwrap();
    let guest = folder.path().join("guest");
    copy(&top.join("guest"), &guest);
    for shared in ["vmm", "Cargo.toml", "rust-toolchain.toml"] {
        std::os::unix::fs::symlink(top.join(shared), folder.path().join(shared)).unwrap();
    }
    let source = guest.join("kernel/src");
    // Nothing is mapped below the last entry of the vmalloc area, so the kernel runs on without it.
    change(
        &source.join("mm/kernel_space.rs"),
        "    fn spaces<'a>(",
        "    pub fn pose(&self, right: bool) {
        for frame in self.processes.iter() {
            let index = propagation::vmalloc_entries().last;
            // SAFETY: the roots of living processes.
            unsafe {
                let root = Root::new(frame);
                match right {
                    true => self.root.share_entry(index, root),
                    false => root.half().set(index, Entry::ABSENT),
                }
            }
        }
    }

    fn spaces<'a>(",
    );
    change(
        &source.join("probe.rs"),
        "            ring(pid, payload, list, Some(self.counters()));",
        "            self.space.pose(true);
            ring(pid, payload, list, Some(self.counters()));
            self.space.pose(false);",
    );
    let kernel = built("poses", &guest, None);
    let judged_at_events = heirloom(&["-q", "run", "--kernel", kernel.to_str().unwrap()]);
    assert_eq!(
        judged_at_events.code,
        Some(0),
        "{}",
        judged_at_events.stdout
    );
    let grade = Grade::of(
        &kernel,
        &top.join("guest/assignments/share/assignment.toml"),
    );
    assert_ne!(grade.0["runs"][0]["looks"], 0);
    let lost = grade.lost();
    assert!(lost.contains(&"kernel-half-shared"), "{:#}", grade.0);
}

#[test]
fn on_kvm_what_is_no_kernel_or_no_assignment_is_wrong_usage_and_says_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| in_folder(folder.path(), name, bytes);
    let kernel = file("kernel", &Elf::new(&code(&[HALT])).bytes());
    for (kernel, assignment, said) in [
        (&file("text", b"a text"), SHORT, "text"),
        (&folder.path().join("missing"), SHORT, "missing"),
        (&kernel, "seconds = ", "could not use the assignment"),
        (&kernel, "point = 1", "unknown field"),
        (
            &kernel,
            "propagation = [\"magic\"]\nscenario = 1",
            "no strategy is called `magic`",
        ),
        (
            &kernel,
            "[rules]\nrevoked = 1",
            "`propagation` names no strategy",
        ),
        (&kernel, "[claims]\n14 = 1", "no claim `14`"),
        (&kernel, "", "nothing in it has points"),
    ] {
        let assignment = file("assignment.toml", assignment.as_bytes());
        let run = heirloom(&[
            "grade",
            kernel.to_str().unwrap(),
            "--assignment",
            assignment.to_str().unwrap(),
        ]);
        assert_eq!(run.code, Some(2), "{said}: {}", run.stderr);
        assert!(run.stderr.contains(said), "{said}: {}", run.stderr);
    }
}
