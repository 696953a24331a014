//! Dumps whose bytes are wrong in any way: nothing panics, nothing takes long or much memory.

#![expect(unsafe_code, reason = "an allocator that counts")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use heirloom_inspect::Entry;
use support::dumps::{Kdump, Packing, avml, flattened, lime};
use support::elf::{CoreBuilder, qemu_note};

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

fn dumps() -> Vec<(&'static str, Vec<u8>)> {
    let page =
        |value: u8| (0..4096_u32).map(move |at| value.wrapping_mul((at / 9).to_le_bytes()[0]));
    let ram: Vec<u8> = (0..24).flat_map(page).collect();
    let notes = CoreBuilder::default()
        .note("QEMU", &qemu_note(0x1000, 0x6b0, 0x10))
        .note("VMCOREINFO", b"NUMBER(phys_base)=0\n")
        .notes;
    let kdump = |packing| {
        Kdump {
            packing,
            notes: notes.clone(),
            ..Kdump::default()
        }
        .ram(0, &ram)
        .left_out(24..30)
        .build()
    };
    let ranges: [(u64, &[u8]); 2] = [(0, &ram), (1 << 32, &ram)];
    let core = CoreBuilder {
        notes: notes.clone(),
        ..CoreBuilder::default()
    }
    .load(0, &ram)
    .load(1 << 32, &ram);
    vec![
        ("zlib", kdump(Packing::Zlib)),
        ("lzo", kdump(Packing::Lzo)),
        ("snappy", kdump(Packing::Snappy)),
        ("zstd", kdump(Packing::Zstd)),
        ("flattened", flattened(&kdump(Packing::Zlib), 4096)),
        ("LiME", lime(&ranges)),
        ("AVML", avml(&ranges)),
        ("core", core.build()),
    ]
}

#[test]
fn any_bytes_are_refused_or_read_soon_and_in_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dump");
    let mut numbers = Numbers(11);
    for (name, file) in dumps() {
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

#[test]
fn a_bitmap_of_64_tib_in_a_sparse_file_is_looked_through_at_once() {
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
    let most = MOST.load(Ordering::Relaxed);
    assert!(most < MEMORY + (64 << 20), "{most}");
}
