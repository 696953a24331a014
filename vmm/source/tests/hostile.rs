//! Dumps whose bytes are wrong in any way: nothing panics, nothing takes long or much memory.

#![expect(unsafe_code, reason = "an allocator that counts")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use heirloom_inspect::Entry;
use support::dumps::Kdump;
use support::snapshots::{Cpu, cloud_hypervisor, firecracker};
use support::sound;

/// Mutants of each dump.
const MUTANTS: u64 = 400;
/// What opening and reading one may take: 64 MiB, and the cache of unpacked pages.
const MEMORY: usize = (64 + 32) << 20;
/// CPU time; opening takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// The system's, counting.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);
/// What one test allocates is no other's.
static ALONE: Mutex<()> = Mutex::new(());

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(now, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A generator of numbers (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap()
    }
}

/// `file` with a few bytes, words or its length wrong, mostly near the front, where headers are.
fn mutant(file: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    const EXTREMES: [u64; 8] = [
        0,
        1,
        0x7f,
        0xffff_ffff,
        1 << 40,
        1 << 52,
        i64::MAX as u64,
        u64::MAX,
    ];
    let mut bytes = file.to_vec();
    for _ in 0..=numbers.below(4) {
        let reach = match numbers.below(3) {
            0 => 600,
            1 => 9000,
            _ => bytes.len(),
        };
        let at = numbers.below(reach.min(bytes.len()));
        match numbers.below(4) {
            0 => bytes[at] ^= 1 << numbers.below(8),
            1 => bytes[at] = numbers.next().to_le_bytes()[0],
            2 => {
                let word = EXTREMES[numbers.below(EXTREMES.len())].to_le_bytes();
                let length = [4, 8][numbers.below(2)].min(bytes.len() - at);
                bytes[at..at + length].copy_from_slice(&word[..length]);
            }
            _ => bytes.truncate(at.max(16)),
        }
        if bytes.is_empty() {
            break;
        }
    }
    bytes
}

#[test]
fn any_bytes_are_refused_or_read_soon_and_in_little_memory() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dump");
    let mut numbers = Numbers(11);
    for (name, file) in sound::dumps() {
        let mut opened = 0;
        for number in 0..MUTANTS {
            let bytes = mutant(&file, &mut numbers);
            std::fs::write(&path, &bytes).unwrap();
            drop(bytes);
            let before = NOW.load(Ordering::Relaxed);
            MOST.store(before, Ordering::Relaxed);
            let started = support::cpu_time();
            if let Ok(target) = support::open(path.to_str().unwrap()) {
                opened += 1;
                for range in target.ram.iter().take(16) {
                    let mut entries = [Entry::ABSENT; 64];
                    let first = range.start.pfn();
                    target.memory.read_column(first, 511, &mut entries);
                    for frame in range.whole_frames().step_by(4096).take(64) {
                        let at = heirloom_inspect::PhysAddr::new(frame);
                        let _ = target.memory.read_bytes(at, &mut [0; 4096]);
                    }
                }
                let _ = target.memory.account();
            }
            let took = support::cpu_time().saturating_sub(started);
            assert!(took < PATIENCE, "{name} {number} took {took:?}");
            let most = MOST.load(Ordering::Relaxed) - before;
            assert!(most < MEMORY, "{name} {number} took {most} bytes");
        }
        // Neither all of them are refused, nor none.
        assert!((1..MUTANTS).contains(&opened), "{name}: {opened} opened");
    }
}

/// The states of snapshots, whose memory is another file.
#[test]
fn any_state_is_refused_or_read_soon_and_in_little_memory() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let cpus = [Cpu::new(0x1000), Cpu::new(0x5000)];
    let ranges = [(0, 8 << 12), (4 << 30, 4 << 12)];
    let mut numbers = Numbers(12);
    for (state, memory, file) in [
        ("vmstate", "mem", firecracker(&cpus)),
        (
            "state.json",
            "memory-ranges",
            cloud_hypervisor(&cpus, &ranges, 0),
        ),
        (
            "state.json",
            "memory-ranges",
            cloud_hypervisor(&cpus, &ranges, 2),
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(state);
        std::fs::write(folder.path().join(memory), vec![1; 1 << 20]).unwrap();
        let mut opened = 0;
        for number in 0..MUTANTS {
            std::fs::write(&path, mutant(&file, &mut numbers)).unwrap();
            let before = NOW.load(Ordering::Relaxed);
            MOST.store(before, Ordering::Relaxed);
            let started = support::cpu_time();
            opened += u64::from(support::open(path.to_str().unwrap()).is_ok());
            assert!(
                support::cpu_time().saturating_sub(started) < PATIENCE,
                "{state} {number}"
            );
            let most = MOST.load(Ordering::Relaxed) - before;
            assert!(most < MEMORY, "{state} {number} took {most} bytes");
        }
        assert!((1..=MUTANTS).contains(&opened), "{state}: {opened} opened");
    }
}

#[test]
fn a_bitmap_of_64_tib_in_a_sparse_file_is_looked_through_at_once() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dump");
    let mut bytes = Kdump::default().ram(0, &[1; 4096]).build();
    // max_mapnr_64, and the blocks of both bitmaps: bits for 2^34 pages.
    let blocks = 2 * ((1_u32 << 31) / 4096);
    bytes[436..440].copy_from_slice(&blocks.to_le_bytes());
    bytes[4096 + 96..4096 + 104].copy_from_slice(&(1_u64 << 34).to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(5 << 30).unwrap();
    let started = support::cpu_time();
    let _ = support::open(path.to_str().unwrap());
    assert!(support::cpu_time().saturating_sub(started) < PATIENCE);
    let most = MOST.load(Ordering::Relaxed) - before;
    assert!(most < MEMORY + (64 << 20), "{most}");
}
