//! What the tests of targets share.
#![allow(dead_code, reason = "each test file uses its own part of it")]

pub(crate) mod dumps;
pub(crate) mod elf;
pub(crate) mod fake;
pub(crate) mod guest;
pub(crate) mod qemu;
pub(crate) mod snapshots;
pub(crate) mod sound;

use std::time::Duration;

use heirloom_source::{Spec, Target, TargetError};

/// What this thread has used of the CPU, which does not depend on what else the machine does.
pub(crate) fn cpu_time() -> Duration {
    let clock = nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID;
    Duration::from(clock.now().unwrap())
}

/// Opens what a user writes.
pub(crate) fn open(spec: &str) -> Result<Target, TargetError> {
    spec.parse::<Spec>()?.open()
}

/// What a user reads who writes that.
pub(crate) fn complaint(spec: &str) -> String {
    match open(spec) {
        Ok(target) => panic!("{spec} opens: {target:?}"),
        Err(error) => error.to_string(),
    }
}

/// Guest memory that the target must have.
pub(crate) fn read(target: &Target, at: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0xff; length];
    target
        .memory
        .read_bytes(heirloom_inspect::PhysAddr::new(at), &mut bytes)
        .unwrap_or_else(|error| panic!("{error}"));
    bytes
}

/// Start and length of each range of RAM.
pub(crate) fn ram(target: &Target) -> Vec<(u64, u64)> {
    target
        .ram
        .iter()
        .map(|range| (range.start.get(), range.bytes))
        .collect()
}
