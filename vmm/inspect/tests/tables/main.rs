//! What crosses modules: whole address spaces, captured, walked, listed, compared. Memory is built by
//! hand; what is broken is broken on purpose.

mod capture;
mod changes;
mod compare;
mod incremental;
mod leaves;
mod model;
mod sharing;
mod walk;

use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{
    Capturer, Depth, Mode, PageSize, PhysAddr, RootId, RootLabel, Snapshot, VirtAddr,
};

const FOUR: Mode = Mode::typical(Depth::Four);
const FIVE: Mode = Mode::typical(Depth::Five);

const VMALLOC: VirtAddr = VirtAddr::new(0xffff_c900_0000_0000);
const DIRECT_MAP: VirtAddr = VirtAddr::new(0xffff_8880_0000_0000);
const TEXT: VirtAddr = VirtAddr::new(0x40_0000);

fn va(raw: u64) -> VirtAddr {
    VirtAddr::new(raw)
}

fn pa(raw: u64) -> PhysAddr {
    PhysAddr::new(raw)
}

/// A fresh capture of some roots, labelled process 1, 2, …
fn snapshot(memory: &FakeMemory, mode: Mode, roots: &[PhysAddr]) -> Snapshot {
    Capturer::new().capture(memory, mode, &labelled(roots))
}

fn labelled(roots: &[PhysAddr]) -> Vec<(RootLabel, PhysAddr)> {
    (1..)
        .zip(roots)
        .map(|(pid, &root)| (RootLabel::Process(pid), root))
        .collect()
}

fn id(snapshot: &Snapshot, number: usize) -> RootId {
    snapshot.roots()[number].id
}

/// A small kernel half: two 2 MiB pages of direct map and one vmalloc page.
fn kernel(memory: &mut FakeMemory) -> PhysAddr {
    let root = memory.root();
    for page in 0..2 {
        memory.map(
            Depth::Four,
            root,
            DIRECT_MAP.wrapping_add(page << 21),
            pa(page << 21),
            PageSize::Size2MiB,
            FakeMemory::KERNEL_DATA,
        );
    }
    memory.map(
        Depth::Four,
        root,
        VMALLOC,
        pa(0x70_0000),
        PageSize::Size4KiB,
        FakeMemory::KERNEL_DATA,
    );
    root
}

/// `count` processes that inherited that kernel half, each with a page of text of its own.
fn family(memory: &mut FakeMemory, count: u64) -> Vec<PhysAddr> {
    let kernel = kernel(memory);
    (0..count)
        .map(|number| {
            let root = memory.child_of(kernel);
            memory.map(
                Depth::Four,
                root,
                TEXT,
                pa(0x100_0000 + (number << 12)),
                PageSize::Size4KiB,
                FakeMemory::USER_TEXT,
            );
            root
        })
        .collect()
}
