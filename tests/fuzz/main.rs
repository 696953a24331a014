//! Everything that reads what others write, given bytes of any kind: nothing panics, and what is computed in two ways is
//! the same.
//!
//! In `make test` each target gets a fixed number of inputs, which are changes of sound ones. For longer, with the
//! program's own coverage as the guide, see `tests/README.md`.

#[path = "../../vmm/source/tests/support/dumps.rs"]
#[allow(dead_code, reason = "these tests use a part of it")]
mod dumps;
#[path = "../../vmm/source/tests/support/elf.rs"]
#[allow(dead_code, reason = "these tests use a part of it")]
mod elf;
#[path = "../../vmm/source/tests/support/fake.rs"]
#[allow(dead_code, reason = "these tests use a part of it")]
mod fake;
#[path = "../../vmm/machine/tests/common/mod.rs"]
mod machine;
#[path = "../common/mutator.rs"]
mod mutator;
#[path = "../../vmm/source/tests/support/snapshots.rs"]
#[allow(dead_code, reason = "these tests use a part of it")]
mod snapshots;
#[path = "../../vmm/source/tests/support/sound.rs"]
mod sound;

mod coverage;
mod engine;
mod files;
mod judge;
mod tables;
mod texts;

use engine::{Target, fuzz};

/// All targets, by name.
fn targets() -> Vec<Target> {
    vec![
        tables::target(),
        judge::of_tables(),
        judge::of_events(),
        files::kernels(),
        files::dumps(),
        files::recordings(),
        files::monitor(),
        texts::profiles(),
        texts::baselines(),
        texts::symbols(),
        texts::specs(),
    ]
}

/// Small numbers, in the order of [`targets`]: of the monitor's answers each takes a connection and a process.
const RUNS: [u64; 11] = [1500, 600, 3000, 600, 1500, 1500, 30, 2000, 2000, 500, 3000];

#[test]
fn no_bytes_make_any_reader_panic_and_what_is_computed_twice_is_the_same() {
    let seconds = std::env::var("HEIRLOOM_FUZZ").ok();
    let seconds = seconds.map(|seconds| seconds.parse::<u64>().unwrap());
    let only = std::env::var("HEIRLOOM_FUZZ_TARGET").ok();
    let again = std::env::var_os("HEIRLOOM_FUZZ_INPUT").map(|file| std::fs::read(file).unwrap());
    for (target, runs) in targets().into_iter().zip(RUNS) {
        if only.as_ref().is_none_or(|only| *only == target.name) {
            match &again {
                Some(input) => (target.read)(input),
                None => println!("{}", fuzz(&target, seconds, runs)),
            }
        }
    }
    if let Some(told) = coverage::told() {
        println!("{told}");
    }
}
