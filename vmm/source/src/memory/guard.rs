//! A mapped file that may become shorter while it is read.
//!
//! Touching a page behind the end of a mapped file raises SIGBUS, which would end the process. Here a page of
//! zeros is put in its place instead, and where that was is remembered: what was read is then known not
//! to be the file's. A SIGBUS of any other origin goes where it went before.
#![expect(unsafe_code, reason = "a signal handler, and mapped memory")]

use std::fs::File;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use nix::libc::{self, c_int, c_void, siginfo_t};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Files that can be mapped at the same time.
const SLOTS: usize = 64;
/// No byte was missing.
const NONE: usize = usize::MAX;
const PAGE: usize = 4096;

/// The addresses of a mapping; those of one that is free are empty.
struct Slot {
    start: AtomicUsize,
    end: AtomicUsize,
    /// The first offset at which a page was missing.
    lost: AtomicUsize,
}

static MAPPED: [Slot; SLOTS] = [const {
    Slot {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        lost: AtomicUsize::new(NONE),
    }
}; SLOTS];

/// What SIGBUS did before.
static BEFORE: OnceLock<Option<SigAction>> = OnceLock::new();

/// A file, mapped to be read only.
#[derive(Debug)]
pub(super) struct Guarded {
    map: MmapRaw,
    slot: usize,
}

impl Guarded {
    /// Maps the first `length` bytes of `file`; `None` if that cannot be.
    pub(super) fn new(file: &File, length: u64) -> Option<Guarded> {
        if !watch() {
            return None;
        }
        // Shared: a private mapping of huge pages would reserve them again.
        let map = MmapOptions::new()
            .len(usize::try_from(length).ok()?)
            .map_raw_read_only(file)
            .inspect_err(|error| {
                log::debug!("a file of guest memory is read, not mapped: {error}");
            })
            .ok()?;
        let start = map.as_ptr() as usize;
        let slot = MAPPED.iter().position(|slot| {
            let (free, ours) = (Ordering::Acquire, Ordering::Relaxed);
            slot.start.compare_exchange(0, start, free, ours).is_ok()
        })?;
        MAPPED[slot].lost.store(NONE, Ordering::Relaxed);
        MAPPED[slot].end.store(start + map.len(), Ordering::Release);
        Some(Guarded { map, slot })
    }

    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// Copies bytes from `offset` on.
    ///
    /// # Panics
    /// If they are not inside.
    pub(super) fn copy(&self, offset: usize, buffer: &mut [u8]) {
        assert!(
            offset
                .checked_add(buffer.len())
                .is_some_and(|end| end <= self.map.len()),
            "callers stay inside the file"
        );
        // SAFETY: `offset..offset + buffer.len()` lies inside the mapping, as was just asserted, and the
        // mapping lives as long as `self`. `buffer` is ours alone, so the two do not overlap. No
        // reference to the mapped bytes is made, since others may write them.
        unsafe {
            ptr::copy_nonoverlapping(
                self.map.as_ptr().add(offset),
                buffer.as_mut_ptr(),
                buffer.len(),
            );
        }
    }

    /// The first offset at which a page was missing.
    pub(super) fn lost_at(&self) -> Option<u64> {
        let lost = MAPPED[self.slot].lost.load(Ordering::Relaxed);
        (lost != NONE).then_some(lost as u64)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // Before the mapping goes, which happens behind this.
        MAPPED[self.slot].end.store(0, Ordering::Release);
        MAPPED[self.slot].start.store(0, Ordering::Release);
    }
}

/// Takes SIGBUS, once: whether that could be done.
fn watch() -> bool {
    let before = BEFORE.get_or_init(|| {
        let flags = SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK | SaFlags::SA_NODEFER;
        let action = SigAction::new(SigHandler::SigAction(on_bus_error), flags, SigSet::empty());
        // SAFETY: `on_bus_error` does only what a signal handler may do: it reads and writes atomics, and
        // calls mmap and sigaction.
        unsafe { sigaction(Signal::SIGBUS, &action) }.ok()
    });
    before.is_some()
}

extern "C" fn on_bus_error(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gives a handler that was installed with SA_SIGINFO a valid `info`, and for SIGBUS
    // `si_addr` is set.
    let address = unsafe { (*info).si_addr() } as usize;
    let slot = MAPPED.iter().find(|slot| {
        let end = slot.end.load(Ordering::Acquire);
        (slot.start.load(Ordering::Acquire)..end).contains(&address)
    });
    let Some(slot) = slot else {
        return as_before(signal, info, context);
    };
    let page = address & !(PAGE - 1);
    // SAFETY: the page lies in a mapping of ours, which its owner is reading from right now, so that it lives.
    // Nobody holds a reference into it, and it stays readable.
    let zeros = unsafe {
        libc::mmap(
            page as *mut c_void,
            PAGE,
            libc::PROT_READ,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    if zeros == libc::MAP_FAILED {
        return as_before(signal, info, context);
    }
    let offset = page - slot.start.load(Ordering::Acquire);
    slot.lost.fetch_min(offset, Ordering::Relaxed);
}

/// Does what SIGBUS did before there was a handler of ours.
fn as_before(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let Some(Some(before)) = BEFORE.get() else {
        // SAFETY: as below; this is the first instant of the handler, nothing is known of another one.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
        return;
    };
    match before.handler() {
        SigHandler::SigAction(handler) => handler(signal, info, context),
        SigHandler::Handler(handler) => handler(signal),
        SigHandler::SigDfl | SigHandler::SigIgn => {
            // SAFETY: the action that was there before is put back; the instruction that faulted runs
            // again, and ends the process as it would have.
            unsafe {
                let _ = sigaction(Signal::SIGBUS, before);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_the_file_has_lost_reads_as_zero_and_is_remembered() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 * 4096).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &vec![7; 64 * 4096], 0).unwrap();
        let mapped = Guarded::new(&file, 64 * 4096).unwrap();
        let mut word = [0; 8];
        mapped.copy(40 * 4096, &mut word);
        assert_eq!((word, mapped.lost_at()), ([7; 8], None));
        file.set_len(10 * 4096).unwrap();
        for page in [20, 30, 12] {
            mapped.copy(page * 4096 + 8, &mut word);
            assert_eq!(word, [0; 8]);
        }
        assert_eq!(mapped.lost_at(), Some(12 * 4096));
        mapped.copy(9 * 4096, &mut word);
        assert_eq!(word, [7; 8]);

        // The slot is free for another file.
        drop(mapped);
        let again = Guarded::new(&file, 10 * 4096).unwrap();
        assert_eq!(again.lost_at(), None);
    }
}
