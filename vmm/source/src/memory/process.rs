//! Guest memory in another process, read with `process_vm_readv`.
//!
//! Looking through all of it (`read_column`) copies whole blocks, although it wants one word of each
//! page: the kernel finds a run of pages faster than as many single ones. Of 512 MiB, one thread took
//! 40 to 60 ms by blocks of 256 KiB and 95 to 140 ms by single words, where the process had huge pages
//! as QEMU asks for; without them the two took the same. Pages that the process never touched are
//! found first (/proc/PID/pagemap, under 13 ms) and passed over: most of a large guest's memory.

use std::fs::File;
use std::io::IoSliceMut;
use std::os::unix::fs::FileExt;

use heirloom_inspect::Entry;
use heirloom_inspect::paging::addr::PAGE_SIZE;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use zerocopy::IntoBytes;

/// Pages whose words are fetched by one call.
const BATCH: usize = 64;
const PAGE: usize = 4096;
/// Entries of pagemap that are fetched by one call.
const WINDOW: usize = 4096;

/// A process whose memory is, in part, the guest's. Offsets are addresses in the process.
#[derive(Debug)]
pub(crate) struct ProcessSource {
    pid: Pid,
    /// /proc/PID/pagemap, if a page that is not there is zero.
    pagemap: Option<File>,
}

impl ProcessSource {
    /// The memory of process `pid`. It is `anonymous` if all that is read of it is private and of no
    /// file, so that a page which the process never touched is zero.
    pub(crate) fn new(pid: Pid, anonymous: bool) -> ProcessSource {
        let pagemap = || File::open(format!("/proc/{pid}/pagemap")).ok();
        ProcessSource {
            pid,
            pagemap: anonymous.then(pagemap).flatten(),
        }
    }

    #[cfg(test)]
    pub(super) fn pagemap(&self) -> Option<&File> {
        self.pagemap.as_ref()
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

    /// Reads the words at `address`, `address` + 4096 and so on; absent where the process has none.
    pub(crate) fn read_column(&self, address: u64, entries: &mut [Entry]) {
        let mut touched = Touched {
            pagemap: self.pagemap.as_ref(),
            last: address.saturating_add(entries.len() as u64 * PAGE_SIZE) / PAGE_SIZE,
            first: 0,
            window: Vec::new(),
        };
        let mut block = vec![0; BATCH * PAGE];
        let mut batch = Batch::default();
        let place = |index: usize| address.wrapping_add(index as u64 * PAGE_SIZE);
        entries.fill(Entry::ABSENT);
        let mut next = 0;
        while next < entries.len() {
            batch.clear();
            while next < entries.len() && batch.indices.len() < BATCH {
                if touched.may_have(place(next) / PAGE_SIZE) {
                    batch.add(next, place(next));
                }
                next += 1;
            }
            let done = batch.read(self.pid, &mut block, entries);
            // The one that could not be read stays absent; the next call goes on behind it.
            if let Some(failed) = batch.indices.get(done) {
                next = failed + 1;
            }
        }
    }
}

/// The words of some pages, fetched by one call.
#[derive(Default)]
struct Batch {
    /// Which of the column.
    indices: Vec<usize>,
    /// Where each stands in the block.
    places: Vec<usize>,
    remote: Vec<RemoteIoVec>,
}

impl Batch {
    fn clear(&mut self) {
        self.indices.clear();
        self.places.clear();
        self.remote.clear();
    }

    /// Adds the word at `address`. What lies between it and one a page before comes along.
    fn add(&mut self, index: usize, address: u64) {
        let base = usize::try_from(address).unwrap_or(usize::MAX);
        let end = self.places.last().map_or(0, |place| place + 8);
        match self.remote.last_mut() {
            Some(run) if run.base.wrapping_add(run.len - 8 + PAGE) == base => {
                run.len += PAGE;
                self.places.push(end - 8 + PAGE);
            }
            _ => {
                self.remote.push(RemoteIoVec { base, len: 8 });
                self.places.push(end);
            }
        }
        self.indices.push(index);
    }

    /// Fetches the words into `entries`: how many there are before the first that cannot be read.
    fn read(&self, pid: Pid, block: &mut [u8], entries: &mut [Entry]) -> usize {
        let bytes = self.places.last().map_or(0, |place| place + 8);
        let local = &mut block[..bytes];
        let have = process_vm_readv(pid, &mut [IoSliceMut::new(local)], &self.remote).unwrap_or(0);
        let done = self.places.partition_point(|place| place + 8 <= have);
        for (index, place) in self.indices.iter().zip(&self.places[..done]) {
            let word = block[*place..].first_chunk().copied().unwrap_or_default();
            entries[*index] = Entry::new(u64::from_le_bytes(word));
        }
        done
    }
}

/// Which pages a process has touched (Documentation/admin-guide/mm/pagemap.rst).
struct Touched<'a> {
    pagemap: Option<&'a File>,
    /// No page behind this one will be asked for.
    last: u64,
    /// The page of the window's first entry.
    first: u64,
    window: Vec<u64>,
}

impl Touched<'_> {
    /// Whether the page with this number is in memory or in swap, or it is not known.
    fn may_have(&mut self, page: u64) -> bool {
        const PRESENT_OR_SWAPPED: u64 = 1 << 63 | 1 << 62;
        let Some(pagemap) = self.pagemap else {
            return true;
        };
        let known = page
            .checked_sub(self.first)
            .is_some_and(|index| index < self.window.len() as u64);
        if !known {
            self.first = page;
            let left = self.last.saturating_sub(page).saturating_add(1);
            self.window.clear();
            self.window
                .resize(usize::try_from(left).unwrap_or(WINDOW).min(WINDOW), 0);
            let have = pagemap
                .read_at(self.window.as_mut_bytes(), page.wrapping_mul(8))
                .unwrap_or(0);
            self.window.truncate(have / 8);
        }
        usize::try_from(page - self.first)
            .ok()
            .and_then(|index| self.window.get(index))
            .is_none_or(|entry| entry & PRESENT_OR_SWAPPED != 0)
    }
}
