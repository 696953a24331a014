//! Notes of what each CPU was asked to forget, for the host: see `heirloom_abi::flush_log`.

use super::cpu;
use crate::counters::{COUNTERS, Counter};
use crate::mm::{Frame, PhysAddr, VirtAddr, direct_map};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use heirloom_abi::PAGE_SIZE;
use heirloom_abi::flush_log::{FLUSHES, Flush, FlushHeader, FlushLog, PCIDS, PcidNote};
use heirloom_abi::options::MAX_CPUS;

/// The abi's [`FlushLog`], as its CPU writes it.
#[repr(C)]
struct Log {
    last: AtomicU64,
    root_loads: AtomicU64,
    user_writes_at_load: AtomicU64,
    all: AtomicU64,
    kernel_writes_at_all: AtomicU64,
    user_writes_at_all: AtomicU64,
    owes: AtomicU64,
    pcids: AtomicU64,
    flushes: [Note; FLUSHES],
}

#[repr(C)]
struct Note {
    first: AtomicU64,
    end: AtomicU64,
    kernel_writes: AtomicU64,
    user_writes: AtomicU64,
}

/// The abi's [`PcidNote`].
#[repr(C)]
struct OfPcid {
    root: AtomicU64,
    kept: AtomicU64,
    dropped: AtomicU64,
    user_writes: AtomicU64,
}

/// Bytes for a CPU's notes of all PCIDs: whole pages.
const OF_PCIDS: u64 = (PCIDS * size_of::<OfPcid>()) as u64;

const _: () = {
    assert!(size_of::<OfPcid>() == size_of::<PcidNote>());
    assert!(offset_of!(OfPcid, kept) == offset_of!(PcidNote, kept));
    assert!(offset_of!(OfPcid, dropped) == offset_of!(PcidNote, dropped));
    assert!(offset_of!(OfPcid, user_writes) == offset_of!(PcidNote, user_writes));
    assert!(
        OF_PCIDS.is_multiple_of(PAGE_SIZE)
            && offset_of!(Log, pcids) == offset_of!(FlushHeader, pcids)
    );
    assert!(size_of::<Log>() == size_of::<FlushLog>());
    assert!(offset_of!(Log, root_loads) == offset_of!(FlushHeader, root_loads));
    assert!(offset_of!(Log, user_writes_at_load) == offset_of!(FlushHeader, user_writes_at_load));
    assert!(offset_of!(Log, all) == offset_of!(FlushHeader, all));
    assert!(offset_of!(Log, kernel_writes_at_all) == offset_of!(FlushHeader, kernel_writes_at_all));
    assert!(offset_of!(Log, user_writes_at_all) == offset_of!(FlushHeader, user_writes_at_all));
    assert!(offset_of!(Log, owes) == offset_of!(FlushHeader, owes));
    assert!(offset_of!(Log, flushes) == offset_of!(FlushLog, flushes));
    assert!(offset_of!(Note, end) == offset_of!(Flush, end));
    assert!(offset_of!(Note, kernel_writes) == offset_of!(Flush, kernel_writes));
    assert!(offset_of!(Note, user_writes) == offset_of!(Flush, user_writes));
    assert!(MAX_CPUS.is_power_of_two() && FLUSHES.is_power_of_two());
};

static LOGS: [Log; MAX_CPUS] = [const {
    Log {
        last: AtomicU64::new(0),
        root_loads: AtomicU64::new(0),
        user_writes_at_load: AtomicU64::new(0),
        all: AtomicU64::new(0),
        kernel_writes_at_all: AtomicU64::new(0),
        user_writes_at_all: AtomicU64::new(0),
        owes: AtomicU64::new(0),
        pcids: AtomicU64::new(0),
        flushes: [const {
            Note {
                first: AtomicU64::new(0),
                end: AtomicU64::new(0),
                kernel_writes: AtomicU64::new(0),
                user_writes: AtomicU64::new(0),
            }
        }; FLUSHES],
    }
}; MAX_CPUS];

/// Where the host finds the first CPU's, guest-physical.
pub fn physical() -> u64 {
    direct_map::physical_in_image(VirtAddr::new(&raw const LOGS as u64)).get()
}

/// Memory for notes of PCIDs on `cpus` CPUs, in frames.
pub const fn frames_for_pcids(cpus: usize) -> u64 {
    cpus as u64 * (OF_PCIDS / PAGE_SIZE)
}

/// From now on it is noted what CPUs are asked of PCIDs, on so many.
///
/// # Safety
/// 1. From `first` on there are [`frames_for_pcids`] frames of zeros, which are for nothing else.
pub unsafe fn note_pcids(first: Frame, cpus: usize) {
    for (log, number) in LOGS.iter().zip(0..).take(cpus) {
        let at = first.start().get() + number * OF_PCIDS;
        log.pcids.store(at, Relaxed);
    }
}

#[inline]
fn own() -> &'static Log {
    &LOGS[cpu::id() % MAX_CPUS]
}

/// Notes that `invlpg` was given this address. Pages that are flushed one after the other share a note.
#[inline]
pub fn page(page: u64) {
    let log = own();
    let last = log.last.load(Relaxed);
    let mut note = &log.flushes[place(last)];
    if note.end.load(Relaxed) != page {
        log.last.store(last + 1, Relaxed);
        note = &log.flushes[place(last + 1)];
        note.first.store(page, Relaxed);
    }
    note.end.store(page.wrapping_add(PAGE_SIZE), Relaxed);
    note.kernel_writes.store(kernel_writes(), Relaxed);
    note.user_writes.store(user_writes(), Relaxed);
}

/// Notes that CR3 was loaded, which drops all translations but global ones.
#[inline]
pub fn root_load() {
    let log = own();
    log.root_loads
        .store(log.root_loads.load(Relaxed) + 1, Relaxed);
    log.user_writes_at_load.store(user_writes(), Relaxed);
}

/// Notes that a page was dropped, of this PCID alone.
pub fn user_page(page: u64, pcid: u16) {
    let log = own();
    let last = log.last.load(Relaxed) + 1;
    log.last.store(last, Relaxed);
    let note = &log.flushes[place(last)];
    note.first.store(page | u64::from(pcid), Relaxed);
    note.end.store(page.wrapping_add(PAGE_SIZE), Relaxed);
    note.kernel_writes.store(kernel_writes(), Relaxed);
    note.user_writes.store(user_writes(), Relaxed);
}

/// Notes that CR3 was loaded with this PCID and root, or will be before any of it is used; whether what has that PCID
/// was kept.
pub fn pcid_load(pcid: u16, root: u64, keeps: bool) {
    const HIGHEST: u64 = PCIDS as u64 - 1;
    let log = own();
    let known = log.pcids.load(Relaxed);
    if known == 0 {
        return;
    }
    let highest = (known & HIGHEST).max(pcid.into());
    log.pcids.store(known & !HIGHEST | highest, Relaxed);
    let notes = direct_map::address_of(PhysAddr::new(known & !HIGHEST));
    let at = notes.get() + u64::from(pcid) * size_of::<OfPcid>() as u64;
    // SAFETY: `note_pcids` was given memory for as many notes as there are PCIDs, and all that is there is atomic.
    let note = unsafe { &*(at as *const OfPcid) };
    note.root.store(root, Relaxed);
    if keeps {
        note.kept.store(note.kept.load(Relaxed) + 1, Relaxed);
    } else {
        note.dropped.store(note.dropped.load(Relaxed) + 1, Relaxed);
        note.user_writes.store(user_writes(), Relaxed);
    }
}

/// Notes that all translations were dropped, global ones, too. Nothing is owed any more.
pub fn everything() {
    let log = own();
    log.all.store(log.all.load(Relaxed) + 1, Relaxed);
    log.kernel_writes_at_all.store(kernel_writes(), Relaxed);
    log.user_writes_at_all.store(user_writes(), Relaxed);
    log.owes.store(0, Relaxed);
}

/// Notes that CPU `number`, which sleeps or waits, is to drop everything before it goes on.
pub fn owes(number: usize) {
    LOGS[number % MAX_CPUS].owes.store(1, Relaxed);
}

// Another CPU may hold the lock that the counters stand behind; then it waits for this one.

#[inline]
fn kernel_writes() -> u64 {
    COUNTERS.get(Counter::KernelEntryWrites)
}

#[inline]
fn user_writes() -> u64 {
    COUNTERS.get(Counter::UserEntryWrites)
}

#[expect(clippy::cast_possible_truncation, reason = "less than FLUSHES")]
const fn place(number: u64) -> usize {
    (number % FLUSHES as u64) as usize
}
