//! What happens, event by event.

use super::{CpuAsked, History, KERNEL, Life, MAX_LIVE, Present, ProcessRecord, Writes, word_at};
use crate::index::TableIndex;
use crate::memory::PhysicalMemory;
use crate::snapshot::{RootLabel, Snapshot};
use heirloom_paging::addr::{PAGE_SIZE, PhysAddr, VirtAddr};

impl History {
    /// The next event begins: the last one's contradictions are forgotten.
    pub fn begin(&mut self, present: Present) {
        self.present = present;
        self.contradictions.clear();
    }

    /// The kernel is up, on this root.
    pub fn boot(&mut self, root: PhysAddr) {
        self.check_root(root);
        if self.kernel_root.replace(root).is_some() {
            self.contradict("the kernel booted twice");
        }
        self.set_root(RootLabel::Kernel, Some(root));
    }

    /// A process has an address space.
    pub fn create(&mut self, child: u32, parent: u32, root: PhysAddr) {
        // The first is the kernel's own, the last stands for a number that is none.
        if [KERNEL, u32::MAX].contains(&child) {
            self.contradict(format!("no process has the number {child}"));
            return;
        }
        if self.live >= MAX_LIVE {
            self.contradict(format!(
                "process {child} is one more than {MAX_LIVE}, the most that are followed"
            ));
            return;
        }
        self.check_root(root);
        let owner = self.owners.get(&root).and_then(|pids| pids.iter().min());
        if let Some(other) = owner {
            self.contradict(format!("process {child} has the root of process {other}"));
        } else if self.kernel_root == Some(root) {
            self.contradict(format!("process {child} has the kernel's own root"));
        }
        let generation = match self.processes.get(&parent) {
            Some(parent) if parent.life == Life::Live => parent.generation.saturating_add(1),
            _ if parent == KERNEL => 1,
            _ => {
                self.contradict(format!(
                    "process {child} has a parent, {parent}, that does not live"
                ));
                1
            }
        };
        let record = ProcessRecord {
            pid: child,
            parent,
            generation,
            root,
            life: Life::Live,
            born: self.present.sequence,
        };
        match self.processes.insert(child, record) {
            Some(before) if before.life == Life::Live => {
                self.disown(before.root, child);
                self.contradict(format!("process {child} was created and lives already"));
            }
            _ => self.live += 1,
        }
        self.owners.entry(root).or_default().push(child);
        self.set_root(RootLabel::Process(child), Some(root));
    }

    /// A process has ended, and its address space is gone.
    pub fn end(&mut self, pid: u32, status: u64, root: PhysAddr) {
        if !self.must_live(pid) {
            return;
        }
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        process.life = Life::Ended { status };
        let known = process.root;
        self.live -= 1;
        self.disown(known, pid);
        self.set_root(RootLabel::Process(pid), None);
        if known != root {
            self.contradict(format!("process {pid} had the root {known}, not {root}"));
        }
    }

    /// Whether process `pid` has an address space; a contradiction if not.
    pub fn must_live(&mut self, pid: u32) -> bool {
        let lives = self
            .process(pid)
            .is_some_and(|process| process.life == Life::Live);
        if !lives {
            self.contradict(format!("process {pid} does not live"));
        }
        lives
    }

    /// Kernel memory was mapped.
    pub fn map(&mut self, address: VirtAddr, pages: u64, writable: bool) {
        let Present { sequence, pid, .. } = self.present;
        let mapped = self.memory.map(address, pages, writable, pid, sequence);
        self.memory_changed(mapped);
    }

    /// Kernel memory was unmapped.
    pub fn unmap(&mut self, address: VirtAddr, pages: u64) {
        let unmapped = self.memory.unmap(address, pages);
        self.memory_changed(unmapped);
    }

    /// Kernel memory has other rights.
    pub fn protect(&mut self, address: VirtAddr, pages: u64, writable: bool) {
        let protected = self.memory.protect(address, pages, writable);
        self.memory_changed(protected);
    }

    /// Takes in what tables and memory show of the present event: the frames of a new allocation, as its
    /// maker's address space has them, what was written, and what memory holds where the kernel read or
    /// wrote. The latter is all that judging reads of memory beside tables.
    pub fn witness<M: PhysicalMemory + ?Sized>(&mut self, snapshot: &Snapshot, memory: &M) {
        if let Some((address, _)) = self.present.mapped {
            self.find_frames(address, snapshot);
        }
        if let Some(access) = &self.present.access {
            let word = word_at(access.address);
            if access.write
                && access.fault.is_none()
                && let Some(allocation) = self.memory.holding_mut(word)
            {
                allocation.write(word.first, access.value);
            }
            let in_memory = self.in_memory(snapshot, memory);
            if let Some(access) = &mut self.present.access {
                access.in_memory = in_memory;
            }
        }
    }

    /// Takes in what the tables no longer say, at an event or between two.
    pub fn see_tables(&mut self, index: &TableIndex) {
        self.translations.see(index);
    }

    /// Takes in how the CPUs stand at the present event: what they were asked to forget since the event before,
    /// until which `before` entries had been written, and what the access was that it reports.
    pub fn see_cpus<M: PhysicalMemory + ?Sized>(
        &mut self,
        (cpus, before): (&[CpuAsked], Writes),
        index: &TableIndex,
        memory: &M,
    ) {
        let event = self.present.sequence;
        self.translations.settle(index, (cpus, before), event);
        let view = self.kernel_view();
        let access = (self.present.access.as_ref(), view);
        self.translations.witness(access, index, memory);
    }

    /// What `memory` holds where the present access was made.
    pub fn in_memory<M: PhysicalMemory + ?Sized>(
        &self,
        snapshot: &Snapshot,
        memory: &M,
    ) -> Option<u64> {
        let address = self.present.access?.address;
        let root = snapshot.root_of(self.kernel_view())?;
        let mut bytes = [0; 8];
        // They may lie in two pages.
        for (offset, byte) in (0..).zip(&mut bytes) {
            let va = VirtAddr::new(address).checked_add(offset)?;
            let walk = snapshot.translate(root.id, va);
            let at = walk.translation()?.pa;
            memory.read_bytes(at, std::slice::from_mut(byte)).ok()?;
        }
        Some(u64::from_le_bytes(bytes))
    }

    fn find_frames(&mut self, address: VirtAddr, snapshot: &Snapshot) {
        let Some(root) = snapshot.root_of(self.maker_view()) else {
            return;
        };
        let sequence = self.present.sequence;
        let made_now = self
            .memory
            .starting_at(address)
            .filter(|allocation| allocation.made == sequence);
        if let Some(allocation) = made_now {
            allocation.frames = allocation
                .pages()
                .map_while(|page| {
                    let walk = snapshot.translate(root.id, page);
                    Some(walk.translation()?.pa.pfn())
                })
                .collect();
            self.memory_generation += 1;
        }
    }

    /// What is told of the present event cannot be.
    pub fn contradict(&mut self, what: impl Into<String>) {
        self.contradictions.push(what.into());
    }

    fn memory_changed(&mut self, change: Result<(), String>) {
        self.memory_generation += 1;
        if let Err(contradiction) = change {
            self.contradict(contradiction);
        }
    }

    fn check_root(&mut self, root: PhysAddr) {
        let is_frame = root.get().is_multiple_of(PAGE_SIZE) && self.truth.is_ram(root, PAGE_SIZE);
        // Frame 0 is the firmware's, whatever the memory map says.
        if !is_frame || root.get() == 0 {
            self.contradict(format!("the root {root} is not a frame of RAM"));
        }
    }

    fn set_root(&mut self, label: RootLabel, root: Option<PhysAddr>) {
        let place = self.roots.binary_search_by_key(&label, |(label, _)| *label);
        match (place, root) {
            (Ok(at), Some(root)) => self.roots[at].1 = root,
            (Err(at), Some(root)) => self.roots.insert(at, (label, root)),
            (Ok(at), None) => drop(self.roots.remove(at)),
            (Err(_), None) => {}
        }
    }

    fn disown(&mut self, root: PhysAddr, pid: u32) {
        if let Some(owners) = self.owners.get_mut(&root) {
            owners.retain(|owner| *owner != pid);
            if owners.is_empty() {
                self.owners.remove(&root);
            }
        }
    }
}
