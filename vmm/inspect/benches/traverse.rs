//! What it costs to go through tables: listing 600,000 pages, counting them, every table once, and the way
//! back from a physical address. `cargo bench -p heirloom-inspect --bench traverse`.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use heirloom_inspect::tally::Tallier;
use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{
    Capturer, Comparer, Depth, Half, Mode, PageSize, PhysAddr, RootLabel, Snapshot, VirtAddr,
    VirtRange,
};

const PAGES: u64 = 600_000;
const PROCESSES: u32 = 64;

/// A direct map of 4 KiB pages, as a kernel has it that splits its large ones, and processes that inherit it.
fn image() -> Snapshot {
    let mut memory = FakeMemory::new();
    let kernel = memory.root();
    let mut map = |root, va: u64, pa: u64, flags| {
        let (va, pa) = (VirtAddr::new(va), PhysAddr::new(pa));
        memory.map(Depth::Four, root, va, pa, PageSize::Size4KiB, flags);
    };
    for page in 0..PAGES {
        let data = FakeMemory::KERNEL_DATA;
        map(
            kernel,
            0xffff_8880_0000_0000 + (page << 12),
            page << 12,
            data,
        );
    }
    let mut roots = vec![(RootLabel::Kernel, kernel)];
    for pid in 1..=PROCESSES {
        let root = memory.child_of(kernel);
        for page in 0..64 {
            let va = VirtAddr::new(0x40_0000 + (page << 14));
            let pa = PhysAddr::new((u64::from(pid) << 20) + (page << 12));
            let data = FakeMemory::USER_DATA;
            memory.map(Depth::Four, root, va, pa, PageSize::Size4KiB, data);
        }
        roots.push((RootLabel::Process(pid), root));
    }
    Capturer::new().capture(&memory, Mode::typical(Depth::Four), &roots)
}

fn traverse(criterion: &mut Criterion) {
    let image = image();
    let root = image.roots()[0].id;
    let mut group = criterion.benchmark_group("traverse");
    group.sample_size(20);
    group.bench_function("leaves", |bencher| {
        bencher.iter(|| assert_eq!(image.leaves(root, VirtRange::ALL).count() as u64, PAGES));
    });
    group.bench_function("ranges", |bencher| {
        bencher.iter(|| image.ranges(root, VirtRange::ALL).count());
    });
    group.bench_function("placements", |bencher| {
        bencher.iter(|| image.placements().len());
    });
    group.bench_function("table frames", |bencher| {
        bencher.iter(|| image.table_frames());
    });
    group.bench_function("tally", |bencher| {
        bencher.iter(|| {
            let mut tallier = Tallier::new(&image);
            let roots = image.roots().iter();
            roots
                .map(|root| tallier.count(root.id, Half::Kernel).pages())
                .max()
        });
    });
    group.bench_function("reverse", |bencher| {
        bencher.iter(|| {
            image
                .reverse(black_box(PhysAddr::new(0x20_0000)))
                .reached
                .len()
        });
    });
    group.bench_function("compare", |bencher| {
        bencher.iter(|| {
            let mut comparer = Comparer::within(&image);
            let others = image.roots().iter();
            others
                .map(|other| comparer.compare(root, other.id, Half::User).len())
                .sum::<usize>()
        });
    });
    group.finish();
}

criterion_group!(benches, traverse);
criterion_main!(benches);
