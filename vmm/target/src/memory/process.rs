//! Guest memory in another process, read with `process_vm_readv`.

use std::io::IoSliceMut;

use heirloom_inspect::Entry;
use heirloom_inspect::addr::PAGE_SIZE;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use zerocopy::IntoBytes;

/// As many pieces as one call may ask for: Linux's UIO_MAXIOV.
const PIECES: usize = 1024;

/// A process whose memory is, in part, the guest's. Offsets are addresses in the process.
#[derive(Debug)]
pub(crate) struct ProcessSource {
    pid: Pid,
}

impl ProcessSource {
    /// The memory of process `pid`.
    pub(crate) fn new(pid: Pid) -> ProcessSource {
        ProcessSource { pid }
    }

    /// Fills `buffer` from `address` on.
    ///
    /// # Errors
    /// The system's, EFAULT if the process does not have all of it.
    pub(crate) fn try_read(&self, address: u64, buffer: &mut [u8]) -> nix::Result<()> {
        let mut have = 0;
        while have < buffer.len() {
            let rest = &mut buffer[have..];
            let base = usize::try_from(address)
                .ok()
                .and_then(|address| address.checked_add(have))
                .ok_or(nix::Error::EFAULT)?;
            let len = rest.len();
            let remote = [RemoteIoVec { base, len }];
            match process_vm_readv(self.pid, &mut [IoSliceMut::new(rest)], &remote) {
                Ok(0) => return Err(nix::Error::EFAULT),
                // A call reads at most what the kernel's limits allow.
                Ok(more) => have += more,
                Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(crate) fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        self.try_read(address, buffer).is_ok()
    }

    /// Reads the words at `address`, `address` + 4096 and so on, many with one call; absent where
    /// the process has none.
    pub(crate) fn read_column(&self, mut address: u64, entries: &mut [Entry]) {
        let mut words = [0_u64; PIECES];
        let mut remote = Vec::with_capacity(PIECES);
        let mut rest = entries;
        while !rest.is_empty() {
            let count = rest.len().min(PIECES);
            remote.clear();
            remote.extend((0..count).map(|index| {
                RemoteIoVec {
                    base: usize::try_from(address.wrapping_add(index as u64 * PAGE_SIZE))
                        .unwrap_or(usize::MAX),
                    len: 8,
                }
            }));
            let local = words[..count].as_mut_bytes();
            let whole = process_vm_readv(self.pid, &mut [IoSliceMut::new(local)], &remote)
                .map_or(0, |bytes| bytes / 8);
            // The one that could not be read is absent; the next call goes on behind it.
            let done = (whole + usize::from(whole < count)).min(count);
            let (now, later) = rest.split_at_mut(done);
            now.fill(Entry::ABSENT);
            for (entry, word) in now.iter_mut().zip(&words[..whole]) {
                *entry = Entry::new(u64::from_le(*word));
            }
            address = address.wrapping_add(done as u64 * PAGE_SIZE);
            rest = later;
        }
    }
}
