//! Tables of any kind: what a snapshot answers is what a walk through memory answers, and an incremental capture is the
//! one from scratch.

use heirloom_inspect::index::{Scope, TableIndex};
use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{
    Capturer, Depth, Entry, Mode, Pfn, PhysAddr, RootLabel, Snapshot, VirtAddr, Written,
    translate_in_memory,
};

use crate::engine::Target;

/// Frames of memory.
const FRAMES: u64 = 10;

/// Numbers out of an input; zeros behind its end.
pub(crate) struct Numbers<'a>(pub(crate) &'a [u8]);

impl Numbers<'_> {
    pub(crate) fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    pub(crate) fn word(&mut self) -> u64 {
        u64::from_le_bytes([(); 8].map(|()| self.byte()))
    }

    pub(crate) fn is_over(&self) -> bool {
        self.0.is_empty()
    }
}

/// An entry at the places where kernels have theirs, or anywhere, that mostly leads to one of `frames` frames from
/// `first` on.
pub(crate) fn entry(numbers: &mut Numbers<'_>, first: u64, frames: u64) -> (Pfn, u16, Entry) {
    const PLACES: [u16; 8] = [0, 1, 255, 256, 273, 402, 510, 511];
    let table = Pfn::new(first + u64::from(numbers.byte()) % frames);
    let place = numbers.byte();
    let index = match PLACES.get(usize::from(place)) {
        Some(index) => *index,
        None => u16::from(place) * 2 + u16::from(numbers.byte() & 1),
    };
    let kind = numbers.byte();
    let to = (first + u64::from(numbers.byte()) % (frames + 2)) << 12;
    let word = match kind % 8 {
        0 => 0,
        1 => to | 0x63,
        2 => to | 0x67,
        3 => to | 0xe3,
        4 => to | 1 << 63 | 0x163,
        5 => to & !0x1f_ffff | 0x1e7,
        6 => to | u64::from(numbers.byte()),
        _ => numbers.word(),
    };
    (table, index % 512, Entry::new(word))
}

fn mode(numbers: &mut Numbers<'_>) -> Mode {
    let bits = numbers.byte();
    let depth = if bits & 1 == 0 {
        Depth::Four
    } else {
        Depth::Five
    };
    Mode {
        nxe: bits & 2 == 0,
        gigabyte_pages: bits & 4 == 0,
        ..Mode::typical(depth)
    }
}

fn assert_agree(memory: &FakeMemory, snapshot: &Snapshot, addresses: &[u64]) {
    for root in snapshot.roots() {
        for address in addresses {
            let at = VirtAddr::new(*address);
            let kept = snapshot.translate(root.id, at);
            let read = translate_in_memory(memory, snapshot.mode(), root.address, at);
            assert_eq!(kept.to_string(), read.to_string(), "{root:?} {at}");
        }
    }
}

/// All that a snapshot holds.
fn contents(snapshot: &Snapshot) -> Vec<String> {
    let tables = snapshot.tables();
    let tables = tables.map(|it| format!("{:?} {:?} {:x?}", it.pfn(), it.level(), it.words()));
    let missing = snapshot.missing().map(|it| format!("{it:?}"));
    let mut contents: Vec<String> = tables.chain(missing).collect();
    contents.sort();
    contents
}

fn read(input: &[u8]) {
    let mut numbers = Numbers(input);
    let mode = mode(&mut numbers);
    let mut memory = FakeMemory::new();
    for _ in 0..FRAMES {
        memory.frame();
    }
    let count = u64::from(numbers.byte()) % 4;
    let roots: Vec<(RootLabel, PhysAddr)> = (1..=count + 1)
        .map(|root| {
            (
                RootLabel::Found(PhysAddr::new(root << 12)),
                PhysAddr::new(root << 12),
            )
        })
        .collect();
    let mut capturer = Capturer::new();
    let mut steps = 0;
    while !numbers.is_over() && steps < 12 {
        let mut written = Vec::new();
        let mut addresses = vec![0, u64::MAX, 1 << 47];
        for _ in 0..=numbers.byte() % 16 {
            let (table, place, entry) = entry(&mut numbers, 1, FRAMES);
            memory.poke(table, place, entry);
            written.push(table);
            let low = u64::from(place) << 39 | u64::from(numbers.byte()) << 30;
            addresses.push((low << 16).cast_signed().wrapping_shr(16).cast_unsigned());
            addresses.push(low | u64::from(place) << 21 | u64::from(place) << 12);
        }
        let kept = capturer.capture_written(&memory, mode, &roots, Written::Frames(&written));
        let fresh = Capturer::new().capture(&memory, mode, &roots);
        assert_eq!(contents(&kept), contents(&fresh));
        assert_agree(&memory, &kept, &addresses);
        let index = TableIndex::new(&fresh, Scope::default());
        assert_eq!(index.space_count(), roots.len());
        steps += 1;
    }
}

pub(crate) fn target() -> Target {
    // Roots that share a table, one that leads to itself, leaves of all sizes.
    let seeds = vec![
        vec![
            0, 3, 7, 0, 6, 2, 4, 9, 1, 6, 2, 4, 9, 2, 7, 1, 5, 0, 3, 3, 0, 5,
        ],
        vec![
            1, 1, 15, 0, 7, 2, 0, 1, 0, 2, 2, 2, 0, 2, 3, 3, 3, 0, 5, 6, 4, 5, 5, 1, 1, 9,
        ],
        (0..200).map(|byte: u8| byte.wrapping_mul(7)).collect(),
    ];
    Target::new("tables", seeds, read)
}
