//! A guest that makes, changes and frees address spaces while it is recorded.

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use heirloom_inspect::history::GroundTruth;
use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{
    Capturer, CpuState, Cr3, Depth, Entry, Mode, PageSize, Pfn, PhysAddr, PhysRange, RootLabel,
    Snapshot, VirtAddr,
};
use heirloom_source::recording::{
    Capture, EVENT_BYTES, End, EventPage, Header, Piece, Recorder, Recording,
};

pub(crate) const MODE: Mode = Mode::typical(Depth::Four);

/// Something that happens between two moments.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    /// A process is born of the one at this position.
    Fork(usize),
    /// The process at this position ends, its tables with it.
    Exit(usize),
    /// The process at this position has a page mapped.
    Map(usize, u64),
    /// A word of one of its tables becomes this.
    Poke(usize, u16, u64),
    /// The process at this position gets an empty table.
    Empty(usize, u64),
    /// An entry of its root leads to the root itself.
    SelfMap(usize),
    /// The frame of a root of another process is used as a lower table.
    Alias(usize, usize),
}

/// A file in memory that can be looked at while it is written.
#[derive(Clone, Default)]
pub(crate) struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What was captured live.
pub(crate) struct Live {
    pub(crate) page: EventPage,
    pub(crate) cpus: Vec<CpuState>,
    /// `None` where nothing was captured with the event.
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) pieces: Vec<Piece>,
}

/// The guest, and the recording of it.
pub(crate) struct Guest {
    pub(crate) memory: FakeMemory,
    roots: Vec<(RootLabel, PhysAddr)>,
    next_pid: u32,
    capturer: Capturer,
    recorder: Recorder,
    pub(crate) file: Shared,
    pub(crate) lives: Vec<Live>,
}

pub(crate) fn header() -> Header {
    let mut header = Header::new(GroundTruth {
        ram: vec![PhysRange {
            start: PhysAddr::new(0),
            bytes: 1 << 30,
        }],
        image: Vec::new(),
    });
    header.command = ["heirloom", "run"].map(String::from).to_vec();
    header.strategy = Some("prealloc".into());
    header
}

/// An event with its number; the rest of it is anything.
pub(crate) fn event(number: u64) -> EventPage {
    let mut page = [0; EVENT_BYTES];
    page[..8].copy_from_slice(b"anything");
    page[8..16].copy_from_slice(&number.to_le_bytes());
    page[40..48].copy_from_slice(&number.wrapping_mul(0x1234_5678_9abc).to_le_bytes());
    page[EVENT_BYTES - 1] = 0xee;
    page
}

impl Guest {
    /// The kernel's address space alone, with a page.
    pub(crate) fn new() -> Guest {
        let file = Shared::default();
        let recorder =
            Recorder::new(Path::new("guest"), Box::new(file.clone()), &header()).unwrap();
        let mut memory = FakeMemory::new();
        memory.add(Pfn::new(0x100));
        let kernel = memory.root();
        memory.map(
            Depth::Four,
            kernel,
            VirtAddr::new(0xffff_8880_0000_0000),
            PhysAddr::new(0x1000),
            PageSize::Size4KiB,
            FakeMemory::KERNEL_DATA,
        );
        Guest {
            memory,
            roots: vec![(RootLabel::Kernel, kernel)],
            next_pid: 1,
            capturer: Capturer::new(),
            recorder,
            file,
            lives: Vec::new(),
        }
    }

    /// A guest that does this, with a moment after each act.
    pub(crate) fn of(acts: &[Act]) -> Guest {
        let mut guest = Guest::new();
        for act in acts {
            guest.act(*act);
            guest.moment();
        }
        guest
    }

    fn root(&self, position: usize) -> PhysAddr {
        self.roots[position % self.roots.len()].1
    }

    pub(crate) fn act(&mut self, act: Act) {
        match act {
            Act::Fork(parent) => {
                let child = self.memory.child_of(self.root(parent));
                self.roots.push((RootLabel::Process(self.next_pid), child));
                self.next_pid += 1;
                self.map(child, 0x40_0000);
            }
            Act::Exit(position) if self.roots.len() > 1 => {
                let position = 1 + position % (self.roots.len() - 1);
                let (_, root) = self.roots.remove(position);
                self.memory.remove(root.pfn());
            }
            Act::Exit(_) => {}
            Act::Map(position, page) => {
                self.map(self.root(position), page % (1 << 22) * 4096);
            }
            Act::Empty(position, page) => {
                let root = self.root(position).pfn();
                let index = 20 + u16::try_from(page % 8).unwrap();
                let below = self.memory.frame();
                let entry = Entry::pointing_to(below.base(), FakeMemory::POINTER);
                self.memory.poke(root, index, entry);
            }
            Act::Poke(position, index, word) => {
                let root = self.root(position).pfn();
                if self.memory.peek(root, 0).present() {
                    let table = self.memory.peek(root, 0).address().pfn();
                    self.memory.poke(table, index % 512, Entry::new(word));
                }
            }
            Act::SelfMap(position) => {
                let root = self.root(position);
                let entry = Entry::pointing_to(root, FakeMemory::POINTER);
                self.memory.poke(root.pfn(), 300, entry);
            }
            Act::Alias(position, other) => {
                let entry = Entry::pointing_to(self.root(other), FakeMemory::POINTER);
                self.memory.poke(self.root(position).pfn(), 17, entry);
            }
        }
    }

    fn map(&mut self, root: PhysAddr, va: u64) {
        // What another act has put there may be no table.
        let (depth, va) = (Depth::Four, VirtAddr::new(va));
        let walk = heirloom_inspect::translate_in_memory(&self.memory, &MODE, root, va);
        let Some(step) = walk.steps().last() else {
            return;
        };
        if !step.entry.present() {
            let frame = self.memory.frame();
            let flags = FakeMemory::USER_DATA;
            self.memory
                .map(depth, root, va, frame.base(), PageSize::Size4KiB, flags);
        }
    }

    /// The guest stands still, and is captured and recorded.
    pub(crate) fn moment(&mut self) {
        let number = self.lives.len() as u64;
        let snapshot = self.capturer.capture(&self.memory, MODE, &self.roots);
        let cpu = |number: u64| CpuState {
            cr3: Cr3::new(self.root(usize::try_from(number).unwrap()).get()),
            rip: VirtAddr::new(0xffff_ffff_8020_0000 + number),
            cpl: u8::try_from(number % 2 * 3).unwrap(),
            ..CpuState::default()
        };
        let live = Live {
            page: event(number),
            cpus: (0..=number % 3)
                .map(|cpu_number| cpu(number + cpu_number))
                .collect(),
            snapshot: Some(snapshot),
            pieces: vec![Piece {
                at: PhysAddr::new(0x7000_0000 + number),
                bytes: vec![1, 2, 3],
            }],
        };
        self.record(live);
    }

    /// An event without a look at the tables.
    pub(crate) fn event_alone(&mut self) {
        self.repeat(self.lives.len() as u64);
    }

    /// Records an event with this number, without a look at the tables.
    pub(crate) fn repeat(&mut self, number: u64) {
        self.record(Live {
            page: event(number),
            cpus: Vec::new(),
            snapshot: None,
            pieces: Vec::new(),
        });
    }

    fn record(&mut self, live: Live) {
        let capture = live.snapshot.as_ref().map(|snapshot| Capture {
            snapshot,
            cpus: &live.cpus,
            reporting_cpu: live.cpus.len() - 1,
            pieces: &live.pieces,
        });
        self.recorder.record(Some(&live.page), capture).unwrap();
        self.lives.push(live);
    }

    /// The run is over.
    pub(crate) fn end(self) -> (Vec<u8>, Vec<Live>) {
        self.recorder.finish(&End::Done { status: 0 }).unwrap();
        (self.file.bytes(), self.lives)
    }
}

/// Opens a recording that is in memory.
pub(crate) fn open(bytes: Vec<u8>) -> Recording {
    Recording::from_bytes(Path::new("guest"), bytes).unwrap()
}
