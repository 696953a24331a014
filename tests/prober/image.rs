//! The prober's image: its code, tables of any shape for it to walk, and what it shall touch.

use std::path::Path;
use std::process::Command;

use heirloom_inspect::paging::mode::PhysBits;
use heirloom_inspect::{CpuState, Cr3, Depth, Entry, Mode, PhysAddr, VirtAddr};

use crate::cpu::{Access, Capabilities, predict};
use crate::machine::Elf;

/// Where the image is, and how much of it there is: code, tables, and 2 MiB of data.
const IMAGE: u64 = 0x10_0000;
const END: u64 = 0x40_0000;
/// Behind the image: where the prober writes what it saw.
pub(crate) const RESULTS: u64 = END;
const RING_3_CODE: u64 = 0x10_7000;
const RING_3_STACK: u64 = 0x10_8000;
const LEVELS: u64 = 0x10_fff8;
const BOOT_PML5: u64 = 0x11_0000;
const BOOT_PML4: u64 = 0x11_1000;
const RING_0: [u64; 2] = [0x11_2000, 0x11_3000];
const RING_3: [u64; 3] = [0x11_4000, 0x11_5000, 0x11_6000];
const ROOTS: u64 = 0x12_0000;
/// With five levels: the two PML4s of each root that lead to the prober itself.
const PML4S: u64 = 0x12_8000;
const BATCHES: u64 = 0x14_0000;
/// Tables with random entries, any of which may be of any level.
const POOL: (u64, u64) = (0x18_0000, 0x20_0000);
/// Frames in which every word is its own physical address, but for the word at offset 0x10 of each. As entries
/// none of them is present.
const DATA: (u64, u64) = (0x20_0000, END);
/// The lowest bytes of that word: `ret 0`, for whoever calls it; above them is the frame's number.
const RET: [u8; 3] = [0xc2, 0, 0];

const ROOT_COUNT: u64 = 8;
const BATCHES_OF_A_ROOT: usize = 4;
const ACCESSES_OF_A_BATCH: usize = 240;

/// As `splitmix64` has it: numbers that a seed decides.
pub(crate) struct Numbers(pub u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn of<T: Copy>(&mut self, among: &[T]) -> T {
        let count = u64::try_from(among.len()).unwrap();
        among[usize::try_from(self.below(count)).unwrap()]
    }
}

/// What one root is probed with, one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub cr3: u64,
    /// Of CR0, CR4 and EFER, the bits that differ from batch to batch.
    bits: [u64; 3],
    pub probes: Vec<Probe>,
}

/// One access.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    pub va: VirtAddr,
    pub access: Access,
    /// The lowest byte of the word that is there, which a write writes again.
    byte: u8,
}

pub(crate) struct Image {
    depth: Depth,
    bytes: Vec<u8>,
    pub batches: Vec<Batch>,
}

impl Image {
    /// The prober with nothing to touch: it tells what the CPU can.
    pub(crate) fn idle(depth: Depth) -> Image {
        let mut image = Image {
            depth,
            bytes: prober(),
            batches: Vec::new(),
        };
        let end = usize::try_from(END - IMAGE).unwrap();
        image.bytes.resize(end, 0);
        image.set(LEVELS, depth.levels().into());
        image.build_home();
        image
    }

    /// The prober with tables and addresses that `seed` decides.
    pub(crate) fn random(depth: Depth, seed: u64, cpu: &Capabilities) -> Image {
        let mut image = Image::idle(depth);
        let numbers = &mut Numbers(seed);
        for at in (DATA.0..DATA.1).step_by(8) {
            image.set(at, at);
        }
        for frame in (DATA.0..DATA.1).step_by(4096) {
            image.set(frame + 0x10, frame >> 12 << 24 | u64::from(RET[0]));
        }
        for table in (POOL.0..POOL.1).step_by(4096) {
            image.fill(table, numbers, cpu.phys_bits);
        }
        for number in 0..ROOT_COUNT {
            let root = ROOTS + number * 4096;
            image.fill(root, numbers, cpu.phys_bits);
            if depth == Depth::Five {
                let pml4s = PML4S + number * 0x2000;
                image.fill(pml4s, numbers, cpu.phys_bits);
                image.fill(pml4s + 4096, numbers, cpu.phys_bits);
            }
            image.lead_home(root, PML4S + number * 0x2000);
            for _ in 0..BATCHES_OF_A_ROOT {
                let batch = image.batch(root, numbers, cpu);
                image.batches.push(batch);
            }
        }
        image.write_batches();
        image
    }

    /// As a kernel that is entered by PVH.
    pub(crate) fn elf(&self) -> Elf {
        // The results lie behind the file's bytes, in memory that is the image's.
        Elf {
            memory_bytes: 0x40_0000,
            ..Elf::new(&self.bytes)
        }
    }

    /// The word at a physical address inside the image, as it is before the CPU runs.
    pub(crate) fn word(&self, at: PhysAddr) -> Option<u64> {
        let at = at.get();
        let inside = (IMAGE..=END - 8).contains(&at);
        let first = usize::try_from(at.checked_sub(IMAGE)?).ok()?;
        inside.then(|| u64::from_le_bytes(self.bytes[first..first + 8].try_into().unwrap()))
    }

    /// Entry `index` of the table in a frame of the image.
    pub(crate) fn entry(&self, table: PhysAddr, index: u16) -> Option<Entry> {
        let at = table.wrapping_add(u64::from(index) * 8);
        self.word(at).map(Entry::new)
    }

    fn set(&mut self, at: u64, word: u64) {
        let first = usize::try_from(at - IMAGE).unwrap();
        self.bytes[first..first + 8].copy_from_slice(&word.to_le_bytes());
    }

    fn point(&mut self, table: u64, index: u64, to: u64, flags: Entry) {
        let entry = Entry::pointing_to(PhysAddr::new(to), flags);
        self.set(table + 8 * index, entry.get());
    }

    /// The first tables, and those by which every root leads to the prober's own code and data.
    fn build_home(&mut self) {
        let [pdpt, pd] = RING_0;
        for index in [0, 511] {
            self.point(BOOT_PML5, index, BOOT_PML4, KERNEL);
            self.point(BOOT_PML4, index, pdpt, KERNEL);
        }
        self.point(pdpt, 0, pd, KERNEL);
        for index in 0..4 {
            self.point(pd, index, index << 21, KERNEL | Entry::LARGE);
        }
        let [pdpt, pd, pt] = RING_3;
        self.point(pdpt, 0, pd, KERNEL | Entry::USER);
        self.point(pd, 0, pt, KERNEL | Entry::USER);
        self.point(pt, 0, RING_3_CODE, Entry::PRESENT | Entry::USER);
        self.point(pt, 1, RING_3_STACK, KERNEL | Entry::USER);
    }

    /// Puts the entries into `root` by which the prober goes on where it is.
    fn lead_home(&mut self, root: u64, pml4s: u64) {
        let (low, high) = match self.depth {
            Depth::Four => (root, root),
            Depth::Five => {
                let (low, high) = (pml4s, pml4s + 4096);
                self.point(root, 0, low, KERNEL | Entry::USER);
                self.point(root, 511, high, KERNEL | Entry::USER);
                (low, high)
            }
        };
        self.point(low, 255, RING_3[0], KERNEL | Entry::USER);
        self.point(high, 511, RING_0[0], KERNEL);
    }

    /// Random entries, at the places where walks go wrong if anywhere, and at some others.
    fn fill(&mut self, table: u64, numbers: &mut Numbers, phys_bits: PhysBits) {
        let others: Vec<u64> = (0..12).map(|_| numbers.below(512)).collect();
        for index in BORDERS.into_iter().chain(others) {
            let entry = random_entry(numbers, phys_bits);
            self.set(table + 8 * index, entry.get());
        }
    }

    fn batch(&self, root: u64, numbers: &mut Numbers, cpu: &Capabilities) -> Batch {
        let mut bit = |bit| if numbers.chance(70) { bit } else { 0 };
        let cr4 = (bit(CpuBits::SMEP) | bit(CpuBits::SMAP)) & cpu.cr4_bits;
        let mut batch = Batch {
            cr3: root,
            bits: [bit(CpuBits::WP), cr4, bit(CpuBits::NXE)],
            probes: Vec::new(),
        };
        let mode = self.mode(&batch, cpu);
        while batch.probes.len() < ACCESSES_OF_A_BATCH {
            let va = self.random_address(root, numbers);
            for access in Access::ALL {
                // What the CPU is expected to reach must be there and not the prober's own, and what it runs
                // must come back.
                let byte = match predict(self, &mode, batch.cr3, va, access) {
                    Err(_) => Some(0),
                    Ok(pa) => {
                        let is_ours = pa.get() >= POOL.0;
                        let word = self.word(pa).filter(|_| is_ours).map(u64::to_le_bytes);
                        let word = word.filter(|word| !access.is_fetch() || word.starts_with(&RET));
                        word.map(|word| word[0])
                    }
                };
                if let Some(byte) = byte {
                    batch.probes.push(Probe { va, access, byte });
                }
            }
        }
        batch
    }

    /// How the CPU translates in a batch.
    fn mode(&self, batch: &Batch, cpu: &Capabilities) -> Mode {
        let [cr0, cr4, efer] = batch.bits;
        let la57 = match self.depth {
            Depth::Four => 0,
            Depth::Five => CpuBits::LA57,
        };
        cpu.mode(&CpuState {
            cr0: CpuBits::PG | cr0,
            cr3: Cr3::new(batch.cr3),
            cr4: CpuBits::PAE | la57 | cr4,
            efer: CpuBits::LMA | efer,
            ..CpuState::default()
        })
    }

    /// An address that mostly follows entries that are there.
    fn random_address(&self, root: u64, numbers: &mut Numbers) -> VirtAddr {
        let mut raw = numbers.of(&[0x10, 0x10, 0xff0]);
        let mut table = Some(root);
        let mut level = Some(self.depth.top());
        while let Some(now) = level {
            let populated = table.map_or(Vec::new(), |table| self.populated(table));
            let index = if !populated.is_empty() && numbers.chance(85) {
                numbers.of(&populated)
            } else {
                numbers.below(512)
            };
            raw |= index << now.shift();
            let below = table.and_then(|table| self.word(PhysAddr::new(table + 8 * index)));
            table = below.map(|word| Entry::new(word).address().get());
            level = now.next();
        }
        let canonical = VirtAddr::sign_extended(raw, self.depth);
        if numbers.chance(3) {
            // The bit above those that count is not as the others are.
            return VirtAddr::new(canonical.get() ^ 1 << 62);
        }
        canonical
    }

    fn populated(&self, table: u64) -> Vec<u64> {
        let is_present = |index: &u64| {
            let word = self.word(PhysAddr::new(table + 8 * index));
            word.is_some_and(|word| Entry::new(word).present())
        };
        (0..512).filter(is_present).collect()
    }

    fn write_batches(&mut self) {
        let mut words = vec![u64::try_from(self.batches.len()).unwrap()];
        for batch in &self.batches {
            words.push(batch.cr3);
            words.extend(batch.bits);
            words.push(u64::try_from(batch.probes.len()).unwrap());
            for probe in &batch.probes {
                let kind = probe.access.number() | u64::from(probe.byte) << 8;
                words.extend([probe.va.get(), kind]);
            }
        }
        let end = BATCHES + 8 * u64::try_from(words.len()).unwrap();
        assert!(end <= POOL.0, "more accesses than there is room for");
        for (at, word) in (BATCHES..).step_by(8).zip(words) {
            self.set(at, word);
        }
    }

    /// Whether the CPU may set A and D in the word at `at`.
    pub(crate) fn is_entry(at: PhysAddr) -> bool {
        (BOOT_PML5..POOL.1).contains(&at.get())
    }
}

/// The bits of control registers that the batches differ in, and those that long mode needs.
pub(crate) struct CpuBits;

impl CpuBits {
    const PG: u64 = 1 << 31;
    const WP: u64 = 1 << 16;
    const PAE: u64 = 1 << 5;
    const LA57: u64 = 1 << 12;
    pub(crate) const SMEP: u64 = 1 << 20;
    pub(crate) const SMAP: u64 = 1 << 21;
    const LMA: u64 = 1 << 10;
    const NXE: u64 = 1 << 11;
}

const KERNEL: Entry = Entry::new(0b11);
/// Both ends of a table, and both sides of its middle.
const BORDERS: [u64; 8] = [0, 1, 254, 256, 257, 509, 510, 511];

fn random_entry(numbers: &mut Numbers, phys_bits: PhysBits) -> Entry {
    // With 52 bits, which is all that there is room for, it is an ignored one.
    let beyond = |numbers: &mut Numbers| {
        let bits: Vec<u32> = (phys_bits.get()..52).collect();
        1_u64
            << if bits.is_empty() {
                52
            } else {
                numbers.of(&bits)
            }
    };
    let frame = |numbers: &mut Numbers, (start, end): (u64, u64)| {
        start + numbers.below((end - start) / 4096) * 4096
    };
    let mut flags = 0;
    for (bit, percent) in [
        (1, 75),  // R/W
        (2, 75),  // U/S
        (63, 20), // NX
        (3, 10),  // PWT
        (4, 10),  // PCD
        (5, 50),  // A
        (6, 50),  // D
        (9, 30),  // ignored, or protection keys
        (11, 30),
        (52, 30),
        (58, 30),
        (59, 10),
        (62, 10),
    ] {
        flags |= u64::from(numbers.chance(percent)) << bit;
    }
    let (to, more) = match numbers.below(100) {
        0..50 => (frame(numbers, POOL), 1),
        50..72 => (frame(numbers, DATA), 1),
        // A large page: 2 MiB of data, or the first GiB, with and without the PAT bit.
        72..80 => (numbers.of(&[DATA.0, DATA.0, 0]), 1 | 1 << 7),
        80..82 => (DATA.0, 1 | 1 << 7 | 1 << 12),
        // One that is not where such a page may be.
        82..84 => (frame(numbers, DATA) | 4096, 1 | 1 << 7),
        // An address bit that the CPU does not have.
        84..88 => (frame(numbers, DATA) | beyond(numbers), 1),
        // Not present, whatever else it says.
        _ => (numbers.next() & 0xf_ffff_f000, numbers.of(&[0, 1 << 7])),
    };
    // G of an entry that points to a table is ignored by Intel's CPUs and reserved on AMD's (APM vol. 2, 5.3.3).
    let global = if more & 1 << 7 == 0 {
        0
    } else {
        u64::from(numbers.chance(50)) << 8
    };
    Entry::new(to | flags | more | global)
}

/// The prober's code, which rustc assembles and links as it stands in memory.
fn prober() -> Vec<u8> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/prober/guest.rs");
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("prober");
    let output = Command::new("rustc")
        .args(["--edition", "2024", "--target", "x86_64-unknown-none"])
        .args(["-C", "relocation-model=static", "-C", "panic=abort", "-O"])
        .args(["-C", "link-arg=--image-base=0x100000"])
        .args(["-C", "link-arg=-Ttext=0x100000"])
        .args(["-C", "link-arg=--oformat=binary"])
        .args(["-D", "warnings", "-o"])
        .args([&binary, &source])
        .output()
        .expect("rustc, by which cargo built this test, can be run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    std::fs::read(binary).unwrap()
}
