//! All processes, by number.

use super::{Pid, Process, State};
use crate::mm::frame::{FrameAllocator, Use};
use crate::mm::{Frame, OutOfFrames, Pfn, direct_map};

/// Processes that there may be at one time.
pub const MAX_PROCESSES: usize = 4096;

/// Finds a process by its number; owns the frames that processes live in.
pub struct Processes {
    /// Frame number for pid modulo `MAX_PROCESSES`, or 0.
    frames: [u64; MAX_PROCESSES],
    next: Pid,
    count: usize,
    live: u64,
    zombies: u64,
}

impl Processes {
    // Evaluated at compile time only: it is part of a static.
    #[allow(clippy::large_stack_arrays)]
    pub const fn new() -> Processes {
        Processes {
            frames: [0; MAX_PROCESSES],
            next: 1,
            count: 0,
            live: 0,
            zombies: 0,
        }
    }

    /// Processes with an address space.
    pub fn live(&self) -> u64 {
        self.live
    }

    /// Processes that ended and were not waited for.
    pub fn zombies(&self) -> u64 {
        self.zombies
    }

    /// A number that no process has.
    pub fn free_pid(&mut self) -> Option<Pid> {
        if self.count == MAX_PROCESSES - 1 {
            return None;
        }
        while self.next == 0 || self.frames[slot(self.next)] != 0 {
            self.next = self.next.wrapping_add(1);
        }
        let pid = self.next;
        self.next = self.next.wrapping_add(1);
        Some(pid)
    }

    /// A frame for a new process's data.
    pub fn allocate_frame(frames: &mut FrameAllocator) -> Result<Frame, OutOfFrames> {
        frames.allocate_dirty(Use::Kernel)
    }

    /// Adds `process` as its parent's child; it is to live in `frame`.
    pub fn insert(&mut self, process: Process, frame: Frame) {
        let (pid, parent) = (process.pid, process.parent);
        self.frames[slot(pid)] = frame.pfn().get();
        let place = self.pointer(pid).expect("the frame was just put there");
        // SAFETY: the frame is this process's alone, page aligned, and large enough.
        unsafe { place.write(process) };
        self.count += 1;
        self.live += 1;
        if pid != parent {
            self.link_child(parent, pid);
        }
    }

    /// Turns a process without children into a zombie and moves it to its parent's zombies.
    pub fn make_zombie(&mut self, pid: Pid, status: u64) {
        self.unlink_child(pid);
        let process = self.get_mut(pid).expect("the process ends just now");
        process.state = State::Zombie { status };
        let parent = process.parent;
        self.live -= 1;
        self.zombies += 1;
        let first = self
            .get_mut(parent)
            .and_then(|parent| parent.first_zombie.replace(pid));
        if let Some(process) = self.get_mut(pid) {
            process.next_sibling = first;
        }
    }

    /// Takes a zombie child of `parent`, a certain one or any: its number and status. Its frame
    /// goes back.
    pub fn reap(
        &mut self,
        parent: Pid,
        wanted: Option<Pid>,
        frames: &mut FrameAllocator,
    ) -> Option<(Pid, u64)> {
        let mut before = None;
        let mut at = self.get(parent)?.first_zombie;
        while let Some(pid) = at {
            let zombie = self.get(pid)?;
            let next = zombie.next_sibling;
            if wanted.is_none_or(|wanted| wanted == pid) {
                let State::Zombie { status } = zombie.state else {
                    return None;
                };
                match before {
                    Some(before) => self.get_mut(before)?.next_sibling = next,
                    None => self.get_mut(parent)?.first_zombie = next,
                }
                self.zombies -= 1;
                self.remove(pid, frames);
                return Some((pid, status));
            }
            before = at;
            at = next;
        }
        None
    }

    /// Forgets the process without parent or children that made the self-test.
    pub fn remove_orphan(&mut self, pid: Pid, frames: &mut FrameAllocator) {
        self.live -= 1;
        self.remove(pid, frames);
    }

    /// Gives all children of `pid`, living and dead, to `heir`.
    pub fn reparent_children(&mut self, pid: Pid, heir: Pid) {
        while let Some(child) = self.get(pid).and_then(|process| process.first_child) {
            self.unlink_child(child);
            if let Some(child) = self.get_mut(child) {
                child.parent = heir;
            }
            self.link_child(heir, child);
        }
        while let Some(zombie) = self.get(pid).and_then(|process| process.first_zombie) {
            let next = self.get(zombie).and_then(|zombie| zombie.next_sibling);
            if let Some(process) = self.get_mut(pid) {
                process.first_zombie = next;
            }
            let first = self
                .get_mut(heir)
                .and_then(|heir| heir.first_zombie.replace(zombie));
            if let Some(process) = self.get_mut(zombie) {
                process.parent = heir;
                process.next_sibling = first;
            }
        }
    }

    pub fn get(&self, pid: Pid) -> Option<&Process> {
        let process = self.pointer(pid)?;
        // SAFETY: a frame in the table holds a process until `remove`; the table is borrowed.
        let process = unsafe { &*process };
        (process.pid == pid).then_some(process)
    }

    pub fn get_mut(&mut self, pid: Pid) -> Option<&mut Process> {
        let process = self.pointer(pid)?;
        // SAFETY: as in `get`, and the table is borrowed mutably, so this is the only reference.
        let process = unsafe { &mut *process };
        (process.pid == pid).then_some(process)
    }

    // A frame is page aligned.
    #[allow(clippy::cast_ptr_alignment)]
    fn pointer(&self, pid: Pid) -> Option<*mut Process> {
        self.frame(pid).map(|frame| direct_map::words(frame).cast())
    }

    fn remove(&mut self, pid: Pid, frames: &mut FrameAllocator) {
        let frame = self.frame(pid).expect("only a process is removed");
        self.frames[slot(pid)] = 0;
        self.count -= 1;
        // SAFETY: the table led to it, and whoever borrowed from the table has given it back.
        unsafe { frames.free_kernel(frame) };
    }

    /// The frame that a process lives in.
    fn frame(&self, pid: Pid) -> Option<Frame> {
        let number = self.frames[slot(pid)];
        // SAFETY: `insert` was given a frame of the allocator.
        (number != 0).then(|| unsafe { Frame::new(Pfn::new(number)) })
    }

    fn link_child(&mut self, parent: Pid, child: Pid) {
        let Some(parent) = self.get_mut(parent) else {
            return;
        };
        let next = parent.first_child.replace(child);
        if let Some(next) = next.and_then(|next| self.get_mut(next)) {
            next.previous_sibling = Some(child);
        }
        if let Some(child) = self.get_mut(child) {
            child.next_sibling = next;
            child.previous_sibling = None;
        }
    }

    fn unlink_child(&mut self, child: Pid) {
        let Some(process) = self.get_mut(child) else {
            return;
        };
        let parent = process.parent;
        let (previous, next) = (process.previous_sibling.take(), process.next_sibling.take());
        if let Some(next) = next.and_then(|next| self.get_mut(next)) {
            next.previous_sibling = previous;
        }
        match previous {
            Some(previous) => {
                if let Some(previous) = self.get_mut(previous) {
                    previous.next_sibling = next;
                }
            }
            None => {
                if let Some(parent) = self.get_mut(parent) {
                    parent.first_child = next;
                }
            }
        }
    }
}

fn slot(pid: Pid) -> usize {
    pid as usize % MAX_PROCESSES
}
