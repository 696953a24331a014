//! Runs a machine to the moment at which its guest is to be looked at.

use std::fmt;
use std::time::{Duration, Instant};

use heirloom_machine::{Stop, VirtualMachine};

use super::console::Seen;
use crate::exit::Failure;
use crate::progress::Progress;

/// How long the guest runs before the host looks whether it can still go on. What it prints without
/// ending the line is seen then, too.
const SLICE: Duration = Duration::from_millis(100);

/// Which moment that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// When it prints this.
    Text(String),
    /// When it has run so long.
    After,
    /// When it ends by itself.
    End,
}

/// How the guest came to stand still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// It printed the text.
    Text,
    /// Its time is over.
    Time,
    /// It halted with interrupts off.
    Halted,
    /// The user stopped it.
    Interrupted,
    /// It reset its machine, crashed, or KVM could not go on.
    Stopped(Stop),
}

impl Ending {
    /// Whether it is what the user wanted to see. A CPU that has halted for good stands as it would after
    /// any time.
    pub(super) fn is(&self, moment: &Moment) -> bool {
        matches!(
            (self, moment),
            (Ending::Text, Moment::Text(_))
                | (Ending::Time | Ending::Halted, Moment::After)
                | (
                    Ending::Halted | Ending::Stopped(Stop::Reset | Stop::ResetOrTripleFault),
                    Moment::End
                )
        )
    }
}

/// In words that go on behind "the guest".
impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ending::Text => "printed the text",
            Ending::Time => "was stopped as its time was over",
            Ending::Halted => "halted with interrupts off",
            Ending::Interrupted => "was interrupted",
            Ending::Stopped(Stop::Reset) => "reset its machine",
            Ending::Stopped(Stop::Shutdown) => "crashed (triple fault)",
            Ending::Stopped(Stop::ResetOrTripleFault) => {
                "reset its machine, or crashed (triple fault)"
            }
            Ending::Stopped(Stop::Paused { .. }) => "was paused by QEMU",
            Ending::Stopped(Stop::InternalError { .. }) => "could not be run on by KVM",
            Ending::Stopped(Stop::Killed) => "was ended by gdb",
            Ending::Stopped(_) => "was stopped by KVM",
        })
    }
}

/// Runs the guest until it prints the text, ends, or `limit` is over.
///
/// # Errors
/// KVM fails, or the console.
pub(super) fn wait(
    machine: &mut dyn VirtualMachine,
    limit: Duration,
    seen: &Seen,
    progress: &Progress,
) -> Result<Ending, Failure> {
    let start = Instant::now();
    loop {
        // What a debugger holds the guest for is not its time.
        let deadline = start + limit + machine.held();
        let stop = machine.run(deadline.min(Instant::now() + SLICE))?;
        if seen.found() {
            return Ok(Ending::Text);
        }
        match stop {
            Stop::TimeLimit => {}
            Stop::Interrupted => return Ok(Ending::Interrupted),
            stop => return Ok(Ending::Stopped(stop)),
        }
        if machine.halted_for_good()? {
            return Ok(Ending::Halted);
        }
        if Instant::now() >= start + limit + machine.held() {
            return Ok(Ending::Time);
        }
        let registers = machine.registers()?;
        progress.tell(|| {
            format!(
                "the guest runs: ring {}, RIP {:#x}, {} bytes printed",
                registers.cpl,
                registers.rip,
                seen.bytes()
            )
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_moment_that_was_asked_for_is_a_good_end() {
        let text = Moment::Text("login:".into());
        let reset = Ending::Stopped(Stop::Reset);
        for (ending, good) in [
            (Ending::Text, [true, false, false]),
            (Ending::Time, [false, true, false]),
            (Ending::Halted, [false, true, true]),
            (reset, [false, false, true]),
            (Ending::Interrupted, [false, false, false]),
            (Ending::Stopped(Stop::Shutdown), [false, false, false]),
        ] {
            let moments = [&text, &Moment::After, &Moment::End];
            assert_eq!(moments.map(|moment| ending.is(moment)), good, "{ending}");
        }
    }
}
