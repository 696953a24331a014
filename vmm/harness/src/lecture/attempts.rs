//! Accesses from ring 3, each tried by a process of its own: what became of it.

use heirloom_abi::options::Strategy;
use heirloom_inspect::{Half, VirtAddr};

use super::proof::{ClaimError, missing};
use super::runner::Experiment;
use super::trace::{Observation, Trace};
use crate::event::EventKind;

/// Exception vectors (Intel SDM vol. 3A, table 6-1).
pub(crate) const GENERAL_PROTECTION: u64 = 13;
pub(crate) const PAGE_FAULT: u64 = 14;

/// Page-fault error code bits (Intel SDM vol. 3A, 4.7).
const FAULT_PRESENT: u64 = 1 << 0;
const FAULT_WRITE: u64 = 1 << 1;
const FAULT_USER: u64 = 1 << 2;
const FAULT_RESERVED: u64 = 1 << 3;
const FAULT_FETCH: u64 = 1 << 4;

/// How an address is accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccessKind {
    Read,
    Write,
    Execute,
}

impl AccessKind {
    pub(crate) const ALL: [AccessKind; 3] =
        [AccessKind::Read, AccessKind::Write, AccessKind::Execute];

    fn letter(self) -> char {
        match self {
            AccessKind::Read => 'r',
            AccessKind::Write => 'w',
            AccessKind::Execute => 'x',
        }
    }

    /// The bits that the error code must have, whether the page is present or not.
    fn error_code(self) -> u64 {
        FAULT_USER
            | match self {
                AccessKind::Read => 0,
                AccessKind::Write => FAULT_WRITE,
                AccessKind::Execute => FAULT_FETCH,
            }
    }
}

/// An access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) how: AccessKind,
    pub(crate) address: VirtAddr,
}

impl Access {
    /// As the program's argument, and as the text of its checkpoint.
    fn word(self) -> String {
        format!("{}{}", self.how.letter(), self.address.get())
    }
}

/// A run in which each access is tried.
pub(crate) fn experiment(strategy: Strategy, accesses: &[Access]) -> Experiment {
    let words: Vec<String> = accesses.iter().map(|access| access.word()).collect();
    let arguments: Vec<&str> = ["try"]
        .into_iter()
        .chain(words.iter().map(String::as_str))
        .collect();
    Experiment::new(strategy, &arguments)
}

/// What became of the process that tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It went on, and ended well.
    Survived,
    /// It was killed for this exception.
    Killed {
        vector: u64,
        error_code: u64,
        /// CR2.
        address: VirtAddr,
        rip: VirtAddr,
    },
    /// It ended in another way.
    Ended { status: u64 },
}

/// An access that was tried.
pub(crate) struct Attempt<'f> {
    pub(crate) access: Access,
    /// The moment before.
    pub(crate) before: &'f Observation,
    /// What happens, from then on.
    pub(crate) section: &'f [Observation],
    pub(crate) outcome: Outcome,
    /// See [`Trace::has_imprecise_error_codes`].
    imprecise: bool,
}

impl Attempt<'_> {
    /// Whether the process died of a page fault for exactly this access, to a page that is `mapped`,
    /// though not for ring 3, or not mapped at all.
    pub(crate) fn is_page_fault(&self, mapped: bool) -> bool {
        is_page_fault_of(self.outcome, self.access, mapped, self.imprecise)
    }
}

fn is_page_fault_of(outcome: Outcome, access: Access, mapped: bool, imprecise: bool) -> bool {
    let expected = access.how.error_code() | if mapped { FAULT_PRESENT } else { 0 };
    let ignored = if imprecise && access.address.half() == Half::Kernel {
        FAULT_PRESENT | FAULT_RESERVED
    } else {
        0
    };
    matches!(outcome, Outcome::Killed { vector: PAGE_FAULT, error_code, address, .. }
        if address == access.address && error_code & !ignored == expected & !ignored)
}

/// Finds the outcome of each access.
pub(crate) fn find<'f>(
    trace: &'f Trace,
    accesses: &[Access],
) -> Result<Vec<Attempt<'f>>, ClaimError> {
    accesses
        .iter()
        .map(|access| {
            let section = trace.section(&access.word())?;
            let outcome = outcome(section).ok_or_else(|| {
                missing(format!(
                    "no process tried {:?} of {}",
                    access.how, access.address
                ))
            })?;
            Ok(Attempt {
                access: *access,
                before: &section[0],
                section,
                imprecise: trace.has_imprecise_error_codes(),
                outcome,
            })
        })
        .collect()
}

/// The end of the first process that ends in `section`, and why.
fn outcome(section: &[Observation]) -> Option<Outcome> {
    let mut killed = None;
    for moment in section {
        match moment.event.claim {
            EventKind::ProcessKilled {
                vector,
                error_code,
                rip,
                address,
                ..
            } => {
                killed = Some(Outcome::Killed {
                    vector,
                    error_code,
                    address,
                    rip,
                });
            }
            EventKind::ProcessExited { status, .. } => {
                return killed.or(Some(match status {
                    0 => Outcome::Survived,
                    status => Outcome::Ended { status },
                }));
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_page_fault_of_the_very_access_counts() {
        let access = Access {
            how: AccessKind::Write,
            address: VirtAddr::new(0xffff_8880_0000_0000),
        };
        let killed = |vector, error_code, address| Outcome::Killed {
            vector,
            error_code,
            address: VirtAddr::new(address),
            rip: VirtAddr::new(0x40_1000),
        };
        let address = access.address.get();
        // What is expected where the page is mapped, where it is not, and where the machine does not say.
        for (outcome, expected) in [
            (killed(PAGE_FAULT, 7, address), [true, false, true]),
            (killed(PAGE_FAULT, 6, address), [false, true, true]),
            (killed(PAGE_FAULT, 15, address), [false, false, true]),
            (killed(PAGE_FAULT, 5, address), [false; 3]),
            (killed(PAGE_FAULT, 3, address), [false; 3]),
            (killed(PAGE_FAULT, 0x17, address), [false; 3]),
            (killed(PAGE_FAULT, 7, address + 8), [false; 3]),
            (killed(GENERAL_PROTECTION, 7, address), [false; 3]),
            (Outcome::Survived, [false; 3]),
            (Outcome::Ended { status: 11 }, [false; 3]),
        ] {
            let found = [(true, false), (false, false), (false, true)]
                .map(|(mapped, imprecise)| is_page_fault_of(outcome, access, mapped, imprecise));
            assert_eq!(found, expected, "{outcome:?}");
        }
    }

    #[test]
    fn in_the_user_half_every_machine_is_held_to_the_exact_error_code() {
        let access = Access {
            how: AccessKind::Read,
            address: VirtAddr::new(0x1000),
        };
        let killed = |error_code| Outcome::Killed {
            vector: PAGE_FAULT,
            error_code,
            address: access.address,
            rip: VirtAddr::new(0x40_1000),
        };
        assert!(is_page_fault_of(killed(4), access, false, true));
        assert!(!is_page_fault_of(killed(5), access, false, true));
        assert!(!is_page_fault_of(killed(0xd), access, false, true));
    }
}
