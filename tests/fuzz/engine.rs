//! Inputs, one after the other: changes of those that are known, which are kept if they reach something new.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use crate::coverage;
use crate::mutator::Mutator;

/// Inputs that are kept at most.
const KEPT: usize = 4096;

/// Panics if anything is wrong.
type Read = dyn Fn(&[u8]);

/// Something that reads bytes.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    /// Sound inputs.
    pub(crate) seeds: Vec<Vec<u8>>,
    pub(crate) read: Box<Read>,
}

impl Target {
    pub(crate) fn new(
        name: &'static str,
        seeds: Vec<Vec<u8>>,
        read: impl Fn(&[u8]) + 'static,
    ) -> Target {
        Target {
            name,
            seeds,
            read: Box::new(read),
        }
    }
}

/// What was done.
pub(crate) struct Figures {
    name: &'static str,
    runs: u64,
    kept: usize,
    took: Duration,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures {
            name,
            runs,
            kept,
            took,
        } = self;
        let seconds = took.as_secs();
        write!(f, "{name}: {runs} inputs in {seconds} s, {kept} kept")
    }
}

/// Gives the target so many inputs, or inputs for so many seconds.
pub(crate) fn fuzz(target: &Target, seconds: Option<u64>, runs: u64) -> Figures {
    let seed = std::env::var("HEIRLOOM_SEED").map_or(0, |seed| seed.parse().unwrap());
    let start = Instant::now();
    let mut known = target.seeds.clone();
    for sound in &target.seeds {
        read(target, sound);
    }
    let mut run = 0;
    loop {
        let is_over = match seconds {
            Some(seconds) => start.elapsed() >= Duration::from_secs(seconds),
            None => run == runs,
        };
        if is_over {
            break;
        }
        let mut mutator = Mutator::new((seed << 40) + run);
        let index = mutator.below(known.len());
        let mut input = mutator.mutant(&known[index]);
        if known.len() > 1 && mutator.below(8) == 0 {
            // The beginning of one and the end of another.
            let other = &known[mutator.below(known.len())];
            let at = mutator.below(input.len().min(other.len()) + 1);
            input.truncate(at);
            input.extend(&other[at..]);
        }
        if read(target, &input) && known.len() < KEPT {
            known.push(input);
        }
        run += 1;
    }
    Figures {
        name: target.name,
        runs: run,
        kept: known.len(),
        took: start.elapsed(),
    }
}

/// Whether the input reached something new. One that makes the target panic is left in a file.
fn read(target: &Target, input: &[u8]) -> bool {
    let read = AssertUnwindSafe(|| coverage::is_new(|| (target.read)(input)));
    catch_unwind(read).unwrap_or_else(|panic| {
        let path = std::env::temp_dir().join(format!("heirloom-fuzz-{}", target.name));
        std::fs::write(&path, input).unwrap();
        eprintln!("{}: the input is in {}", target.name, path.display());
        resume_unwind(panic)
    })
}
