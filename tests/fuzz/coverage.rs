//! Which parts of the program an input reaches, where the compiler counts that: with `-C instrument-coverage` and
//! `--cfg coverage_guided`. It works with any stable compiler, and guides as a fuzzer's own instrumentation would.

#[cfg(coverage_guided)]
mod counted {
    #![expect(
        unsafe_code,
        reason = "the compiler's counters are memory of its runtime"
    )]

    use std::sync::Mutex;

    // SAFETY: the symbols of LLVM's profiling runtime, which is linked with `-C instrument-coverage`.
    unsafe extern "C" {
        fn __llvm_profile_begin_counters() -> *mut u64;
        fn __llvm_profile_end_counters() -> *mut u64;
    }

    /// What was seen of each counter, a bit for each magnitude; and the sums, for the profile that is written at the
    /// end.
    static SEEN: Mutex<(Vec<u8>, Vec<u64>)> = Mutex::new((Vec::new(), Vec::new()));

    /// Calls `run`: whether it reached what none before did, or more often.
    pub(crate) fn is_new(run: impl FnOnce()) -> bool {
        let mut seen = SEEN.lock().unwrap();
        let (seen, sums) = &mut *seen;
        // SAFETY: both are of one array of counters, which lives as long as the program. Other threads may count in it
        // meanwhile; a count that is lost for that only guides a little worse.
        let counters = unsafe {
            let (begin, end) = (
                __llvm_profile_begin_counters(),
                __llvm_profile_end_counters(),
            );
            std::slice::from_raw_parts_mut(begin, end.offset_from_unsigned(begin))
        };
        seen.resize(counters.len(), 0);
        sums.resize(counters.len(), 0);
        for (sum, counter) in sums.iter_mut().zip(&mut *counters) {
            *sum += std::mem::take(counter);
        }
        run();
        let mut is_new = false;
        for (seen, counter) in seen.iter_mut().zip(&*counters) {
            if *counter != 0 {
                let magnitude = 1 << (counter.ilog2() / 2).min(7);
                is_new |= *seen & magnitude == 0;
                *seen |= magnitude;
            }
        }
        is_new
    }

    /// How much was reached, and writes the sums back.
    pub(crate) fn told() -> Option<String> {
        is_new(|| {});
        let mut seen = SEEN.lock().unwrap();
        let (seen, sums) = &mut *seen;
        // SAFETY: as above.
        let counters = unsafe {
            let (begin, end) = (
                __llvm_profile_begin_counters(),
                __llvm_profile_end_counters(),
            );
            std::slice::from_raw_parts_mut(begin, end.offset_from_unsigned(begin))
        };
        for (counter, sum) in counters.iter_mut().zip(sums) {
            *counter += std::mem::take(sum);
        }
        let reached = seen.iter().filter(|seen| **seen != 0).count();
        Some(format!(
            "{reached} of {} regions of all that is linked were reached",
            seen.len()
        ))
    }
}

#[cfg(not(coverage_guided))]
mod counted {
    /// Calls `run`; what it reached is not known.
    pub(crate) fn is_new(run: impl FnOnce()) -> bool {
        run();
        false
    }

    pub(crate) fn told() -> Option<String> {
        None
    }
}

pub(crate) use counted::{is_new, told};
