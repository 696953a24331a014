//! How many CPUs a machine has, and on which of the host's they run.
#![expect(unsafe_code, reason = "affinity is set by calls of the C library")]

use std::fmt;
use std::str::FromStr;

/// CPUs that a machine may have.
pub const MAX_CPUS: u8 = 8;

/// The CPUs of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpus {
    count: CpuCount,
    pinned: bool,
}

impl Default for Cpus {
    fn default() -> Self {
        Cpus::new(CpuCount::ONE)
    }
}

impl Cpus {
    /// So many, pinned.
    pub const fn new(count: CpuCount) -> Cpus {
        Cpus {
            count,
            pinned: true,
        }
    }

    /// Whether each stays on one CPU of the host. Else two of them often share one for some milliseconds, and wait
    /// for each other.
    #[must_use]
    pub const fn pinned(self, pinned: bool) -> Cpus {
        Cpus { pinned, ..self }
    }

    /// How many there are.
    pub const fn count(self) -> u8 {
        self.count.get()
    }

    /// Where the threads of the CPUs may run; `None` for wherever the system likes: if that is wanted, or there
    /// is nothing to choose from.
    pub(crate) fn places(self) -> Option<Places> {
        (self.pinned && self.count() > 1)
            .then(Places::allowed)
            .flatten()
    }
}

/// 1 to [`MAX_CPUS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CpuCount(u8);

impl CpuCount {
    /// One.
    pub const ONE: CpuCount = CpuCount(1);

    /// So many; `None` for none and for more than [`MAX_CPUS`].
    pub const fn new(count: u8) -> Option<CpuCount> {
        if count == 0 || count > MAX_CPUS {
            return None;
        }
        Some(CpuCount(count))
    }

    /// The number.
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl fmt::Display for CpuCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for CpuCount {
    type Err = String;

    fn from_str(text: &str) -> Result<CpuCount, String> {
        let count = text.parse().ok().and_then(CpuCount::new);
        count.ok_or_else(|| format!("a guest has 1 to {MAX_CPUS} CPUs"))
    }
}

/// The host's CPUs that this program may use.
#[derive(Clone)]
pub(crate) struct Places {
    all: libc::cpu_set_t,
    numbers: Vec<usize>,
}

impl Places {
    /// Those that the calling thread may use; `None` if that is not known.
    fn allowed() -> Option<Places> {
        // SAFETY: a set of CPUs is an array of bits, for which zeros are a value.
        let mut all: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: the set is as large as is said; 0 is the calling thread.
        let failed = unsafe { libc::sched_getaffinity(0, size_of_val(&all), &raw mut all) } != 0;
        let most = usize::try_from(libc::CPU_SETSIZE).unwrap_or(0);
        // SAFETY: the number is below that of the set's bits.
        let numbers = (0..most).filter(|number| unsafe { libc::CPU_ISSET(*number, &all) });
        let numbers: Vec<usize> = numbers.collect();
        (!failed && !numbers.is_empty()).then_some(Places { all, numbers })
    }

    /// Keeps the calling thread, which runs CPU `cpu`, on one of them. A system that refuses leaves it where it
    /// is.
    pub(crate) fn pin(&self, cpu: usize) {
        // SAFETY: as in `allowed`.
        let mut one: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        let number = self.numbers[cpu % self.numbers.len()];
        // SAFETY: the number is one of the set's, see `allowed`.
        unsafe { libc::CPU_SET(number, &mut one) };
        set(&one);
    }

    /// Lets the calling thread run on all of them again.
    pub(crate) fn unpin(&self) {
        set(&self.all);
    }
}

fn set(cpus: &libc::cpu_set_t) {
    // SAFETY: the set is as large as is said; 0 is the calling thread.
    let failed = unsafe { libc::sched_setaffinity(0, size_of_val(cpus), cpus) } != 0;
    if failed {
        log::debug!("a vCPU's thread stays where the system has it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_one_to_eight_cpus() {
        for text in ["1", "2", "8"] {
            assert_eq!(text.parse::<CpuCount>().unwrap().to_string(), text);
        }
        for text in ["0", "9", "-1", "two", "", "256"] {
            let error = text.parse::<CpuCount>().unwrap_err();
            assert!(error.contains("1 to 8"), "{error}");
        }
    }

    #[test]
    fn a_thread_that_was_pinned_may_run_everywhere_again() {
        let several = Cpus::new(CpuCount::new(2).unwrap());
        assert!(Cpus::default().places().is_none());
        assert!(several.pinned(false).places().is_none());
        let places = several.places().unwrap();
        places.pin(1);
        assert_eq!(Places::allowed().unwrap().numbers.len(), 1);
        places.unpin();
        assert_eq!(Places::allowed().unwrap().numbers, places.numbers);
    }
}
