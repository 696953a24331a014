//! Copying between the memory of two processes: `process_vm_readv` and `process_vm_writev`.
//!
//! "In kernel context, user data is accessed (a lot!)", and "user data of many processes" (the
//! lecture). Whose address space is loaded does not matter: the other process's pages are found through
//! its own tables, and reached in the direct map.

use super::{Pid, State};
use crate::arch::entry::TrapFrame;
use crate::kernel::Kernel;
use heirloom_abi::PAGE_SIZE;
use heirloom_abi::syscall::{Errno, REMOTE_COPY_LIMIT};

/// Bytes that are copied at a time, by way of the kernel's stack.
const PIECE: usize = 512;

/// Which way the bytes go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the other process to the caller.
    Read,
    /// From the caller to the other process.
    Write,
}

/// A `struct iovec`: a piece of somebody's memory.
#[derive(Clone, Copy)]
struct IoVec {
    base: u64,
    length: u64,
}

impl IoVec {
    /// The address `done` bytes into it, and how many bytes follow in its page.
    fn at(self, done: u64) -> Result<(u64, u64), Errno> {
        let address = self.base.checked_add(done).ok_or(Errno::Fault)?;
        Ok((address, PAGE_SIZE - address % PAGE_SIZE))
    }
}

impl Kernel {
    /// Serves `process_vm_readv` and `process_vm_writev`, whose arguments are in `frame`. The bytes
    /// copied.
    ///
    /// # Errors
    /// [`Errno::Invalid`] for flags or more than one vector a side, [`Errno::NoSuchProcess`] for a
    /// process without memory, [`Errno::Fault`] if not even the first byte can be copied.
    pub fn copy_remote(&mut self, frame: &TrapFrame, direction: Direction) -> Result<u64, Errno> {
        let (local_count, remote_count, flags) = (frame.rdx, frame.r8, frame.r9);
        if flags != 0 || local_count > 1 || remote_count > 1 {
            return Err(Errno::Invalid);
        }
        if local_count == 0 || remote_count == 0 {
            return Ok(0);
        }
        let local = self.read_iovec(frame.rsi)?;
        let remote = self.read_iovec(frame.r10)?;
        let pid = Pid::try_from(frame.rdi).map_err(|_| Errno::NoSuchProcess)?;
        self.processes
            .get(pid)
            .filter(|process| !matches!(process.state, State::Zombie { .. }))
            .ok_or(Errno::NoSuchProcess)?;

        let length = local.length.min(remote.length).min(REMOTE_COPY_LIMIT);
        let mut done = 0;
        while done < length {
            match self.copy_piece(pid, local, remote, direction, done, length - done) {
                Ok(copied) => done += copied,
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Copies at most `left` bytes, within one page of either side, so that all before a page that
    /// cannot be reached is copied. How many.
    fn copy_piece(
        &mut self,
        pid: Pid,
        local: IoVec,
        remote: IoVec,
        direction: Direction,
        done: u64,
        left: u64,
    ) -> Result<u64, Errno> {
        let (local, local_room) = local.at(done)?;
        let (remote, remote_room) = remote.at(done)?;
        let length = left.min(local_room).min(remote_room);
        let length = usize::try_from(length).map_or(PIECE, |length| length.min(PIECE));
        let mut buffer = [0; PIECE];
        let piece = &mut buffer[..length];
        match direction {
            Direction::Read => {
                self.read_process(pid, remote, piece)?;
                self.write_user(local, piece)?;
            }
            Direction::Write => {
                self.read_user(local, piece)?;
                self.write_process(pid, remote, piece)?;
            }
        }
        Ok(length as u64)
    }

    /// Reads an `iovec` of the current process.
    fn read_iovec(&mut self, user: u64) -> Result<IoVec, Errno> {
        let mut words = [0_u64; 2];
        self.read_user(user, zerocopy::IntoBytes::as_mut_bytes(&mut words))?;
        let [base, length] = words;
        if length.cast_signed() < 0 {
            return Err(Errno::Invalid);
        }
        Ok(IoVec { base, length })
    }
}
