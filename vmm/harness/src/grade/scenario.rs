//! What must happen in the default scenario, whatever the kernel is: the parts of the program `family`.
//!
//! What happens is counted here, not judged: whether each page is where it should be is what rules say. A kernel
//! that does not even try a part gets nothing for it, and its rules are not judged over a whole run.

use std::collections::BTreeSet;

use crate::event::{Event, EventKind};

/// A part of the scenario: from a checkpoint of the program to the next.
struct Part {
    /// The checkpoint's text.
    name: &'static str,
    /// What must happen in it, with this many processes.
    must: fn(u64) -> Vec<(Happening, u64)>,
}

/// Something that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Happening {
    /// Processes born.
    Born,
    /// Processes that ended.
    Ended,
    /// Pages of kernel memory mapped.
    Mapped,
    /// Different processes that had the kernel read kernel memory, or try to.
    Readers,
    /// Allocations whose permissions changed.
    Protected,
    /// Allocations freed.
    Freed,
}

impl Happening {
    fn name(self) -> &'static str {
        match self {
            Happening::Born => "processes born",
            Happening::Ended => "processes ended",
            Happening::Mapped => "pages of kernel memory mapped",
            Happening::Readers => "processes that read kernel memory, or tried",
            Happening::Protected => "allocations made read-only",
            Happening::Freed => "allocations freed",
        }
    }
}

const PARTS: [Part; 5] = [
    Part {
        name: "a family grows",
        must: |processes| vec![(Happening::Born, processes.div_ceil(2) - 1)],
    },
    Part {
        name: "kernel memory while some live and others are yet to come",
        must: |processes| {
            vec![
                (Happening::Born, processes / 2),
                (Happening::Mapped, 2),
                (Happening::Readers, processes),
                (Happening::Protected, 1),
                (Happening::Freed, 1),
            ]
        },
    },
    Part {
        name: "half the family ends, others are born",
        must: |processes| {
            vec![
                (Happening::Ended, processes / 2),
                (Happening::Born, processes / 2),
                (Happening::Mapped, 1),
                (Happening::Readers, processes),
            ]
        },
    },
    Part {
        name: "an allocation across a 512 GiB boundary: a new PGD entry",
        must: |processes| {
            vec![
                (Happening::Mapped, 16),
                (Happening::Readers, processes),
                (Happening::Freed, 2),
            ]
        },
    },
    Part {
        name: "everyone ends",
        must: |processes| vec![(Happening::Ended, processes)],
    },
];

/// How many parts there are.
pub(crate) const COUNT: u64 = PARTS.len() as u64;

/// Counts what happens in each part.
#[derive(Default)]
pub(crate) struct Watched {
    /// The part that the run is in, once there was a checkpoint.
    part: Option<usize>,
    seen: [Seen; PARTS.len()],
    /// Whether the first process ended well.
    ended_well: bool,
}

#[derive(Default)]
struct Seen {
    born: u64,
    ended: u64,
    mapped: u64,
    readers: BTreeSet<u32>,
    protected: u64,
    freed: u64,
}

impl Seen {
    fn count(&self, of: Happening) -> u64 {
        match of {
            Happening::Born => self.born,
            Happening::Ended => self.ended,
            Happening::Mapped => self.mapped,
            Happening::Readers => self.readers.len() as u64,
            Happening::Protected => self.protected,
            Happening::Freed => self.freed,
        }
    }
}

impl Watched {
    /// Takes an event in.
    pub(crate) fn event(&mut self, event: &Event) {
        match &event.claim {
            EventKind::Checkpoint { text } => {
                let part = PARTS.iter().position(|part| part.name == text);
                // Parts come one after the other, each once.
                let next = self.part.map_or(0, |part| part + 1);
                if part == Some(next) {
                    self.part = part;
                }
                return;
            }
            EventKind::Done { status } => self.ended_well = *status == 0,
            _ => {}
        }
        let Some(seen) = self.part.and_then(|part| self.seen.get_mut(part)) else {
            return;
        };
        match event.claim {
            EventKind::ProcessCreated { .. } => seen.born += 1,
            EventKind::ProcessExited { .. } => seen.ended += 1,
            EventKind::KernelMapped { pages, .. } => {
                seen.mapped = seen.mapped.saturating_add(pages);
            }
            EventKind::KernelAccess { write: false, .. } => {
                seen.readers.insert(event.pid);
            }
            EventKind::KernelProtected { .. } => seen.protected += 1,
            EventKind::KernelUnmapped { .. } => seen.freed += 1,
            _ => {}
        }
    }

    /// How many parts were gone through, and what was missing in the others.
    pub(crate) fn result(&self, processes: u64) -> (u64, Vec<String>) {
        let mut reached = 0;
        let mut missing = Vec::new();
        for ((number, part), seen) in (1..).zip(&PARTS).zip(&self.seen) {
            let lacks: Vec<String> = (part.must)(processes)
                .into_iter()
                .filter(|(of, wanted)| seen.count(*of) < *wanted)
                .map(|(of, wanted)| format!("{} {} of {wanted}", of.name(), seen.count(of)))
                .collect();
            let entered = self.part.is_some_and(|last| last + 1 >= number);
            let is_last = number == PARTS.len();
            if !entered {
                missing.push(format!(
                    "part {number}, \"{}\", was never reached",
                    part.name
                ));
            } else if !lacks.is_empty() {
                missing.push(format!(
                    "part {number}, \"{}\": {}",
                    part.name,
                    lacks.join(", ")
                ));
            } else if is_last && !self.ended_well {
                missing.push(format!(
                    "part {number}, \"{}\": the first process did not end with 0",
                    part.name
                ));
            } else {
                reached += 1;
            }
        }
        (reached, missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Counters;
    use heirloom_inspect::VirtAddr;

    fn event(pid: u32, claim: EventKind) -> Event {
        Event {
            sequence: 0,
            cpu: 0,
            pid,
            claim,
            counters: Counters::default(),
        }
    }

    fn checkpoint(text: &str) -> Event {
        event(1, EventKind::Checkpoint { text: text.into() })
    }

    #[test]
    fn checkpoints_alone_are_no_parts() {
        let mut watched = Watched::default();
        for part in &PARTS {
            watched.event(&checkpoint(part.name));
        }
        watched.event(&event(1, EventKind::Done { status: 0 }));
        let (reached, missing) = watched.result(8);
        assert_eq!(reached, 0, "{missing:?}");
        assert_eq!(missing.len(), PARTS.len());
    }

    #[test]
    fn a_part_cannot_be_skipped_nor_come_twice() {
        let mut watched = Watched::default();
        watched.event(&checkpoint(PARTS[0].name));
        watched.event(&checkpoint(PARTS[3].name));
        watched.event(&checkpoint(PARTS[0].name));
        assert_eq!(watched.part, Some(0));
        let (_, missing) = watched.result(8);
        assert!(missing[3].ends_with("was never reached"), "{missing:?}");
    }

    #[test]
    fn one_process_that_reads_eight_times_is_one_reader() {
        let mut watched = Watched::default();
        for part in &PARTS[..2] {
            watched.event(&checkpoint(part.name));
        }
        for _ in 0..8 {
            let claim = EventKind::KernelAccess {
                address: VirtAddr::new(0).get(),
                value: 0,
                write: false,
                fault: None,
            };
            watched.event(&event(1, claim));
        }
        let (_, missing) = watched.result(8);
        assert!(
            missing[1].contains("processes that read kernel memory, or tried 1 of 8"),
            "{missing:?}"
        );
    }
}
