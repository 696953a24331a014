//! What a capture costs after K table pages were written, while N processes live: it follows K, not N.
//! `cargo bench -p heirloom-inspect --bench capture`; the last lines give the ratios.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{
    Capturer, Depth, Entry, Level, Mode, PageSize, Pfn, PhysAddr, RootLabel, Snapshot, VirtAddr,
    Written,
};

const MODE: Mode = Mode::typical(Depth::Four);
const PROCESSES: [u32; 6] = [50, 100, 200, 400, 800, 1600];
const WRITTEN: [usize; 3] = [1, 10, 50];
const TEXT: VirtAddr = VirtAddr::new(0x40_0000);

/// Processes with a kernel half in common, and a PGD and five tables each of their own.
struct Family {
    memory: FakeMemory,
    roots: Vec<(RootLabel, PhysAddr)>,
    /// A PT of each process, to be written.
    tables: Vec<Pfn>,
    capturer: Capturer,
    last: Snapshot,
    turn: u64,
}

impl Family {
    fn new(processes: u32) -> Family {
        let mut memory = FakeMemory::new();
        let kernel = memory.root();
        for page in 0..2048 {
            let va = VirtAddr::new(0xffff_8880_0000_0000 + (page << 12));
            let data = FakeMemory::KERNEL_DATA;
            let pa = PhysAddr::new(page << 12);
            memory.map(Depth::Four, kernel, va, pa, PageSize::Size4KiB, data);
        }
        let mut roots = vec![(RootLabel::Kernel, kernel)];
        let mut tables = Vec::new();
        for pid in 1..=processes {
            let root = memory.child_of(kernel);
            for base in [TEXT, VirtAddr::new(0x7fff_ffe0_0000)] {
                for page in 0..8 {
                    let pa = PhysAddr::new((u64::from(pid) << 20) | (page << 12));
                    let va = base.wrapping_add(page << 12);
                    let data = FakeMemory::USER_DATA;
                    memory.map(Depth::Four, root, va, pa, PageSize::Size4KiB, data);
                }
            }
            tables.push(memory.table_for(Depth::Four, root, TEXT, Level::Pt));
            roots.push((RootLabel::Process(pid), root));
        }
        let mut capturer = Capturer::new();
        let last = capturer.capture(&memory, MODE, &roots);
        Family {
            memory,
            roots,
            tables,
            capturer,
            last,
            turn: 0,
        }
    }

    /// Writes an entry in each of `count` tables, captures, and asks what changed: how long the host took.
    fn event(&mut self, count: usize) -> Duration {
        self.turn += 1;
        let processes = self.tables.len();
        let start = usize::try_from(self.turn).unwrap_or(0) * 7;
        let written: Vec<Pfn> = (0..count)
            .map(|number| self.tables[(start + number) % processes])
            .collect();
        let entry = Entry::pointing_to(PhysAddr::new(self.turn << 12), FakeMemory::USER_DATA);
        for &table in &written {
            self.memory.poke(table, 100, entry);
        }
        let before = Instant::now();
        let written = Written::Frames(&written);
        let snapshot = self
            .capturer
            .capture_written(&self.memory, MODE, &self.roots, written);
        let changes = snapshot.changes_since(&self.last).count();
        self.last = black_box(snapshot);
        let took = before.elapsed();
        assert_eq!(changes, count);
        took
    }
}

fn capture(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("capture");
    let mut medians = Vec::new();
    for processes in PROCESSES {
        let mut family = Family::new(processes);
        for written in WRITTEN {
            let id = BenchmarkId::new(format!("{written} written"), processes);
            group.bench_function(id, |bencher| {
                bencher.iter_custom(|events| (0..events).map(|_| family.event(written)).sum());
            });
            let mut times: Vec<_> = (0..501).map(|_| family.event(written)).collect();
            times.sort();
            medians.push(times[times.len() / 2]);
        }
    }
    group.finish();
    println!(
        "median of a capture, and its ratio to that with {} processes",
        PROCESSES[0]
    );
    for (processes, row) in PROCESSES.iter().zip(medians.chunks(WRITTEN.len())) {
        print!("{processes:>5} processes:");
        for ((written, median), first) in WRITTEN.iter().zip(row).zip(&medians) {
            let ratio = median.as_secs_f64() / first.as_secs_f64();
            print!("   {written:>2} written {median:>9.1?} ×{ratio:.2}");
        }
        println!();
    }
}

criterion_group!(benches, capture);
criterion_main!(benches);
