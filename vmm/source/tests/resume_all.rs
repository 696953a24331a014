//! Ctrl-C while a guest is looked at. A test program of its own, with one test: it lets all guests of
//! the process run.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use heirloom_inspect::Depth;
use heirloom_source::resume_all;
use serde_json::Value;
use support::qemu::Qemu;
use support::{guest, open};

/// How often the guest must have been found paused, and how often it is looked for.
const PAUSES: u32 = 5;
const ROUNDS: u32 = 100;
/// So that nothing hangs.
const MINUTES: Duration = Duration::from_secs(300);

#[test]
fn every_paused_guest_runs_on_at_once_whatever_another_thread_is_doing_to_it() {
    let arguments = "-accel tcg -cpu max -m 64M";
    let mut looked_at = Qemu::start_counting(Depth::Four, arguments);
    let mut opened = Qemu::start_counting(Depth::Four, arguments);
    let mut paused = Qemu::start_counting(Depth::Four, arguments);
    paused.ask("stop", Value::Null);

    let target = open(&looked_at.spec("")).unwrap();
    let other = open(&paused.spec("")).unwrap();
    // This thread opens and drops targets all the time, so that it is somewhere in between.
    let spec = opened.spec("");
    let enough = Arc::new(AtomicBool::new(false));
    let enough_seen = enough.clone();
    let busy = std::thread::spawn(move || {
        let mut opened = 0;
        let begin = Instant::now();
        // The last time undisturbed, however often it was disturbed before.
        while !enough_seen.load(Ordering::Relaxed) || opened == 0 {
            assert!(begin.elapsed() < MINUTES, "it never opens");
            opened += usize::from(open(&spec).is_ok());
        }
    });
    let (mut pauses_seen, mut rounds) = (0, 0);
    let begin = Instant::now();
    while pauses_seen < PAUSES || rounds < ROUNDS {
        assert!(begin.elapsed() < MINUTES, "{pauses_seen} of {rounds}");
        pauses_seen += u32::from(!opened.is_running());
        rounds += 1;
        resume_all();
        std::thread::sleep(Duration::from_millis(7));
    }
    enough.store(true, Ordering::Relaxed);
    assert!(looked_at.is_running(), "while its target is still open");
    assert!(!paused.is_running(), "it did not run before");
    busy.join().unwrap();
    assert!(opened.is_running());
    resume_all();
    drop((target, other));
    assert!(looked_at.is_running() && opened.is_running() && !paused.is_running());
    let counter = opened.word(guest::COUNTER);
    let begin = Instant::now();
    while opened.word(guest::COUNTER) == counter {
        assert!(begin.elapsed() < MINUTES, "it does not count");
    }
}
