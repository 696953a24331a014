//! Recordings, and what a monitor says, that were sound and are changed: each is read or refused, and a live
//! guest runs on.

#[path = "../../../tests/common/mutator.rs"]
mod mutator;
mod support;

use std::path::Path;

use heirloom_source::recording::Recording;
use mutator::Mutator;
use support::sound;

const RECORDINGS: u64 = 4000;
/// Each is a connection, and a process that lets the guest run on.
const LINES: u64 = 40;

#[test]
fn recordings_that_were_changed_are_read_up_to_there_or_refused() {
    let sound = sound::recording();
    let (mut read, mut refused) = (0, 0);
    for seed in 0..RECORDINGS {
        let mutant = Mutator::new(seed).mutant(&sound);
        let Ok(recording) = Recording::from_bytes(Path::new("mutant"), mutant) else {
            refused += 1;
            continue;
        };
        for index in 0..recording.len() {
            match recording.moment(index) {
                Ok(_) => read += 1,
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    }
    assert!(read > 0 && refused > 0, "{read} read, {refused} refused");
}

#[test]
fn answers_of_a_monitor_that_were_changed_are_taken_or_refused_and_the_guest_runs_on() {
    for (command, answer) in sound::answers() {
        for seed in 0..LINES {
            let mutant = Mutator::new(seed).mutant(answer.as_bytes());
            sound::answered_with(command, &mutant);
        }
    }
}
