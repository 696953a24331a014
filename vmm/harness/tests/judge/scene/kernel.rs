//! What the kernel does, and tells of.

use std::collections::BTreeMap;
use std::ops::Range;

use heirloom_abi::options::Strategy;
use heirloom_harness::event::EventKind;
use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{
    Entry, Level, Pfn, PhysAddr, PhysicalMemory, VirtAddr, translate_in_memory,
};

use super::{DATA, ENTRY_AREA, MODE, PAGE, Process, STACK, Scene, TEXT, pa};

impl Scene {
    /// Makes process 1.
    pub(crate) fn first(&mut self) {
        self.adopt(0, BTreeMap::new());
        self.exec(1);
    }

    /// Makes a child of `parent` that has its pages, copy on write.
    pub(crate) fn fork(&mut self, parent: u32) -> u32 {
        let root = self.root(parent);
        let mut pages = self.processes[&parent].pages.clone();
        for (va, (frame, flags)) in &mut pages {
            if flags.writable() {
                *flags = flags.without(Entry::WRITABLE);
                self.map_in(root, *va, frame.base(), *flags);
            }
        }
        if let Some(process) = self.processes.get_mut(&parent) {
            process.pages.clone_from(&pages);
        }
        self.adopt(parent, pages)
    }

    fn adopt(&mut self, parent: u32, pages: BTreeMap<VirtAddr, (Pfn, Entry)>) -> u32 {
        let root = self.child_of(parent);
        for (va, (frame, flags)) in &pages {
            self.map_in(root, *va, frame.base(), *flags);
        }
        let child = self.next_pid;
        self.next_pid += 1;
        self.adopt_as(child, parent, root);
        if let Some(process) = self.processes.get_mut(&child) {
            process.pages = pages;
        }
        child
    }

    /// Makes a process without pages, with a number and a root of the caller's choice.
    pub(crate) fn adopt_as(&mut self, child: u32, parent: u32, root: PhysAddr) {
        let pages = BTreeMap::new();
        self.processes.insert(child, Process { root, pages });
        self.tell(
            parent,
            EventKind::ProcessCreated {
                child,
                parent,
                root,
            },
        );
    }

    /// Gives a process pages of its own.
    pub(crate) fn exec(&mut self, pid: u32) {
        for va in [TEXT, DATA, STACK] {
            self.touch(pid, va);
        }
        self.tell(pid, EventKind::ProcessExecuted { process: pid });
    }

    /// A page fault puts a page of its own into place; told with the next event.
    pub(crate) fn touch(&mut self, pid: u32, va: VirtAddr) {
        let flags = if va == TEXT {
            FakeMemory::USER_TEXT
        } else {
            FakeMemory::USER_DATA
        };
        let frame = self.memory.frame();
        self.map_in(self.root(pid), va, frame.base(), flags);
        if let Some(process) = self.processes.get_mut(&pid) {
            process.pages.insert(va, (frame, flags));
        }
    }

    /// A root for a child of `parent`, with the kernel half that the strategy gives it.
    fn child_of(&mut self, parent: u32) -> PhysAddr {
        match self.strategy {
            Strategy::Isolated => {
                let root = self.memory.root();
                self.inherit(root, ENTRY_AREA);
                root
            }
            Strategy::CopyAll => {
                let root = self.memory.child_of(self.kernel);
                self.copy_below(root.pfn(), 256..512, Level::Pml4);
                root
            }
            _ => self.memory.child_of(self.root(parent)),
        }
    }

    /// Gives `root` the kernel's own top-level entry for `va`.
    pub(crate) fn inherit(&mut self, root: PhysAddr, va: VirtAddr) {
        let index = va.index(Level::Pml4);
        let entry = self.memory.peek(self.kernel.pfn(), index);
        self.memory.poke(root.pfn(), index, entry);
    }

    /// Replaces each table below these entries by a copy, and what is below that.
    fn copy_below(&mut self, table: Pfn, entries: Range<u16>, level: Level) {
        let Some(below) = level.next() else {
            return;
        };
        for index in entries {
            let entry = self.memory.peek(table, index);
            if entry.present() && !entry.is_leaf(level) {
                let copy = self.memory.copy_of(entry.address().pfn());
                let entry = Entry::pointing_to(copy.base(), FakeMemory::POINTER);
                self.memory.poke(table, index, entry);
                self.copy_below(copy, 0..512, below);
            }
        }
    }

    /// Maps kernel memory on behalf of `pid`, in every table that the strategy writes.
    pub(crate) fn map(&mut self, pid: u32, pages: u64) -> VirtAddr {
        let roots = self.written();
        let new_entry = self
            .memory
            .peek(self.kernel.pfn(), self.next_address.index(Level::Pml4));
        let (address, frames) = self.prepare(pages);
        for root in roots {
            self.map_pages(root, address, &frames);
        }
        if self.strategy == Strategy::Sync && !new_entry.present() {
            for pid in self.pids() {
                self.inherit(self.root(pid), address);
            }
        }
        self.tell_mapped(pid, address, frames);
        address
    }

    /// The roots below which a change of a kernel mapping is written.
    fn written(&self) -> Vec<PhysAddr> {
        let mut roots = vec![self.kernel];
        if self.strategy == Strategy::CopyAll {
            roots.extend(self.processes.values().map(|process| process.root));
        }
        roots
    }

    /// Where so many pages of kernel memory will be, and in which frames.
    fn prepare(&mut self, pages: u64) -> (VirtAddr, Vec<Pfn>) {
        let address = self.next_address;
        self.next_address = address.wrapping_add((pages + 1) * PAGE);
        (address, (0..pages).map(|_| self.memory.frame()).collect())
    }

    fn map_pages(&mut self, root: PhysAddr, address: VirtAddr, frames: &[Pfn]) {
        for (page, frame) in (0..).zip(frames) {
            let va = address.wrapping_add(page * PAGE);
            self.map_in(root, va, frame.base(), FakeMemory::KERNEL_DATA);
        }
    }

    /// Maps kernel memory below one root alone.
    pub(crate) fn map_below(&mut self, root: PhysAddr, pid: u32, pages: u64) -> VirtAddr {
        let (address, frames) = self.prepare(pages);
        self.map_pages(root, address, &frames);
        self.tell_mapped(pid, address, frames);
        address
    }

    /// The same with certain frames.
    pub(crate) fn map_frames(&mut self, root: PhysAddr, pid: u32, frames: Vec<Pfn>) -> VirtAddr {
        let (address, _) = self.prepare(frames.len() as u64);
        self.map_pages(root, address, &frames);
        self.tell_mapped(pid, address, frames);
        address
    }

    fn tell_mapped(&mut self, pid: u32, address: VirtAddr, frames: Vec<Pfn>) {
        let pages = frames.len() as u64;
        self.allocations.insert(address, pages);
        self.tell(
            pid,
            EventKind::KernelMapped {
                address,
                pages,
                writable: true,
                frames,
            },
        );
    }

    /// From now on allocations start here.
    pub(crate) fn allocate_from(&mut self, address: VirtAddr) {
        self.next_address = address;
    }

    /// Where the next allocation will be.
    pub(crate) fn next_address(&self) -> VirtAddr {
        self.next_address
    }

    pub(crate) fn unmap(&mut self, pid: u32, address: VirtAddr) {
        let pages = self.allocations[&address];
        for page in 0..pages {
            let va = address.wrapping_add(page * PAGE);
            for root in self.written() {
                self.change(root, va, Level::Pt, |_| Entry::ABSENT);
            }
        }
        self.tell_unmapped(pid, address);
    }

    /// Tells that memory was unmapped, and does nothing.
    pub(crate) fn tell_unmapped(&mut self, pid: u32, address: VirtAddr) {
        let pages = self.allocations.remove(&address).unwrap();
        self.tell(pid, EventKind::KernelUnmapped { address, pages });
    }

    pub(crate) fn protect(&mut self, pid: u32, address: VirtAddr, writable: bool) {
        for page in 0..self.allocations[&address] {
            let va = address.wrapping_add(page * PAGE);
            for root in self.written() {
                self.change(root, va, Level::Pt, |entry| {
                    if writable {
                        entry | Entry::WRITABLE
                    } else {
                        entry.without(Entry::WRITABLE)
                    }
                });
            }
        }
        self.tell_protected(pid, address, writable);
    }

    /// Tells that memory was protected, and does nothing.
    pub(crate) fn tell_protected(&mut self, pid: u32, address: VirtAddr, writable: bool) {
        let pages = self.allocations[&address];
        self.tell(
            pid,
            EventKind::KernelProtected {
                address,
                pages,
                writable,
            },
        );
    }

    /// The CPU writes 8 bytes to kernel memory in the address space of `pid`, or faults.
    pub(crate) fn write(&mut self, pid: u32, at: VirtAddr, value: u64) {
        let fault = match self.word(pid, at) {
            None => Some(2),
            Some(bytes) if bytes.iter().any(|(_, writable)| !writable) => Some(3),
            Some(bytes) => {
                for ((at, _), byte) in bytes.into_iter().zip(value.to_le_bytes()) {
                    self.store(at, byte);
                }
                None
            }
        };
        self.tell_access(pid, at, value, true, fault);
    }

    /// The CPU reads 8 bytes of kernel memory in the address space of `pid`, or faults.
    pub(crate) fn read(&mut self, pid: u32, at: VirtAddr) {
        let value = self.word(pid, at).map(|bytes| {
            u64::from_le_bytes(bytes.map(|(at, _)| {
                let mut byte = 0;
                let buffer = std::slice::from_mut(&mut byte);
                self.memory.read_bytes(at, buffer).unwrap();
                byte
            }))
        });
        let fault = if value.is_none() { Some(0) } else { None };
        self.tell_access(pid, at, value.unwrap_or(0), false, fault);
    }

    /// Where the 8 bytes at `at` are, and whether they may be written; `None` if one is nowhere.
    fn word(&mut self, pid: u32, at: VirtAddr) -> Option<[(PhysAddr, bool); 8]> {
        let root = match self.strategy {
            Strategy::Isolated => self.kernel,
            _ => self.root(pid),
        };
        if self.strategy == Strategy::Fault {
            self.inherit(root, at);
        }
        let mut bytes = [(pa(0), false); 8];
        for (offset, byte) in (0..).zip(&mut bytes) {
            let va = at.wrapping_add(offset);
            let walk = translate_in_memory(&self.memory, &MODE, root, va);
            let found = walk.translation()?;
            *byte = (found.pa, found.rights.write);
        }
        Some(bytes)
    }

    /// Puts a byte into memory.
    pub(crate) fn store(&mut self, at: PhysAddr, byte: u8) {
        let index = u16::try_from(at.get() % PAGE / 8).unwrap();
        let mut bytes = self.memory.peek(at.pfn(), index).get().to_le_bytes();
        bytes[usize::try_from(at.get() % 8).unwrap()] = byte;
        let word = Entry::new(u64::from_le_bytes(bytes));
        self.memory.poke(at.pfn(), index, word);
    }

    pub(crate) fn tell_access(
        &mut self,
        pid: u32,
        at: VirtAddr,
        value: u64,
        write: bool,
        fault: Option<u64>,
    ) {
        let address = at.get();
        self.tell(
            pid,
            EventKind::KernelAccess {
                address,
                value,
                write,
                fault,
            },
        );
    }

    /// A process ends; it is a zombie then.
    pub(crate) fn exit(&mut self, pid: u32) {
        let root = self.root(pid);
        self.processes.remove(&pid);
        self.zombies += 1;
        self.tell(
            0,
            EventKind::ProcessExited {
                process: pid,
                status: 0,
                root,
            },
        );
    }

    /// A zombie was waited for; told with the next event.
    pub(crate) fn reap(&mut self) {
        self.zombies -= 1;
    }

    /// Tells nothing but how it stands.
    pub(crate) fn checkpoint(&mut self, pid: u32) {
        let text = "so it stands".into();
        self.tell(pid, EventKind::Checkpoint { text });
    }
}
