//! CPUs that do something while another one changes kernel mappings. There is a process for each CPU.
//!
//! `beside watch CPUS ROUNDS`: all but process 1 access kernel memory again and again, and do not stop while it unmaps
//! that memory, makes it read-only, and maps it again, the first time below a new PGD entry if the area of kernel
//! mappings starts a few pages below one.
//!
//! `beside busy CPUS ALLOCATIONS ROUNDS`: all but process 1 stay in ring 3, so that they must be interrupted when it
//! unmaps what it has mapped. Checkpoints part the phases.
#![no_std]
#![no_main]

use core::cell::UnsafeCell;
use heirloom_abi::PAGE_SIZE;
use heirloom_abi::syscall::Watched;
use heirloom_user::eventcount::Eventcount;
use heirloom_user::{Arguments, Result, kernel_memory, print, process, remote_memory};

heirloom_user::program!(main);

/// What the watchers are to do, an [`Act`]; it grows with each order.
const ORDER: Eventcount = Eventcount::new(0);
/// Where.
const ADDRESS: Eventcount = Eventcount::new(1);
/// Counts those who have done it.
const REPORTS: Eventcount = Eventcount::new(2);
/// How many orders are carried out. The one behind counts those who have begun.
const OVER: Eventcount = Eventcount::new(3);
const BEGUN: Eventcount = Eventcount::new(4);
/// Counts the watchers' accesses that did not fault, and what was not as it should be.
const ACCESSES: Eventcount = Eventcount::new(5);
const FAILURES: Eventcount = Eventcount::new(6);

/// Pages that are mapped while others read the last of them.
const PAGES: u64 = 16;
/// CPUs, and allocations that there are at one time.
const MAX_CPUS: usize = 8;
const MAX_ALLOCATIONS: usize = 255;

const WRONG_ARGUMENTS: u8 = 2;
const FAILED: u8 = 3;

fn main(arguments: Arguments) -> u8 {
    let numbers = (arguments.number(2), arguments.number(3));
    let (Some(cpus @ 1..), Some(count)) = numbers else {
        return WRONG_ARGUMENTS;
    };
    let others = cpus - 1;
    let done = match (arguments.get(1), arguments.number(4)) {
        (Some("watch"), _) => be_watched(others, count),
        (Some("busy"), rounds) => beside_busy_ones(others, count, rounds.unwrap_or(1)),
        _ => return WRONG_ARGUMENTS,
    };
    match done {
        Ok(()) if FAILURES.load() == 0 => 0,
        Ok(()) => 1,
        Err(_) => FAILED,
    }
}

/// What watchers do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Act {
    /// They read what will be unmapped.
    ReadToTheEnd = 0,
    /// They write to what will be read-only.
    WriteToTheEnd = 1,
    /// They read what will be mapped.
    ReadFromTheStart = 2,
    /// They end.
    End = 3,
}

const ACTS: u64 = 4;

/// What is written to kernel memory: made of its address, so that no two are alike.
fn pattern(address: u64) -> u64 {
    address ^ 0x5eed_0000_0000_5eed
}

/// Counts what went wrong.
fn note(went_well: bool) {
    if !went_well {
        FAILURES.add(1);
    }
}

/// Process 1 among watchers.
struct Watchers {
    others: u64,
    step: u64,
}

impl Watchers {
    /// Has them all access `address`, and does `change` in the middle of it.
    fn during(
        &mut self,
        act: Act,
        address: u64,
        change: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        self.step += 1;
        ADDRESS.store(address);
        ORDER.store(self.step * ACTS + act as u64);
        BEGUN.wait(self.step * self.others);
        let changed = change();
        OVER.store(self.step);
        REPORTS.wait(self.step * self.others);
        changed
    }
}

fn be_watched(others: u64, rounds: u64) -> Result<()> {
    for _ in 0..others {
        if process::fork()?.is_none() {
            watch();
        }
    }
    let mut watchers = Watchers { others, step: 0 };
    for _ in 0..rounds {
        let page = kernel_memory::allocate(1)?;
        kernel_memory::write(page, pattern(page))?;
        watchers.during(Act::ReadToTheEnd, page, || kernel_memory::free(page))?;

        let page = kernel_memory::allocate(1)?;
        watchers.during(Act::WriteToTheEnd, page, || {
            kernel_memory::protect(page, false)
        })?;
        kernel_memory::free(page)?;

        // The lowest gap was that page's, and is again.
        let last = page + (PAGES - 1) * PAGE_SIZE;
        watchers.during(Act::ReadFromTheStart, last, || {
            let mapped = kernel_memory::allocate(PAGES)?;
            note(mapped == page);
            kernel_memory::write(last, pattern(last))
        })?;
        kernel_memory::free(page)?;
    }
    ORDER.store((watchers.step + 1) * ACTS + Act::End as u64);
    while process::wait(None).is_ok() {}
    print::number(others);
    print::text(" CPUs accessed kernel memory ");
    print::number(ACCESSES.load());
    print::text(" times while it was changed; ");
    print::number(FAILURES.load());
    print::text(" things were not as they should be\n");
    Ok(())
}

/// What a watcher does all its life.
fn watch() -> ! {
    let mut step = 1;
    loop {
        let order = ORDER.wait(step * ACTS);
        let address = ADDRESS.load();
        let over = (OVER, step);
        let value = pattern(address);
        match order % ACTS {
            act if act == Act::ReadToTheEnd as u64 => {
                ended(kernel_memory::watch(address, None, over));
            }
            act if act == Act::WriteToTheEnd as u64 => {
                ended(kernel_memory::watch(address, Some(value), over));
            }
            act if act == Act::ReadFromTheStart as u64 => {
                let watched = kernel_memory::watch(address, None, over);
                note(watched.is_ok_and(|watched| watched.last_succeeded && watched.turns == 1));
                count(watched);
                note(kernel_memory::read(address) == Ok(value));
            }
            _ => process::exit(0),
        }
        REPORTS.add(1);
        step += 1;
    }
}

/// What must have worked until it was forbidden, and never since.
fn ended(watched: Result<Watched>) {
    note(watched.is_ok_and(|watched| !watched.last_succeeded && watched.turns == 1));
    count(watched);
}

fn count(watched: Result<Watched>) {
    ACCESSES.add(watched.map_or(0, |watched| watched.succeeded.into()));
}

/// A word of a busy process's memory, which process 1 reads and writes by way of the kernel.
struct Word(UnsafeCell<u64>);

// SAFETY: a process has one thread, and all accesses are volatile.
unsafe impl Sync for Word {}

/// Grows while the process is busy …
static BUSY: Word = Word(UnsafeCell::new(0));
/// … until this is not 0.
static STOP: Word = Word(UnsafeCell::new(0));

/// How long process 1 waits before it asks again whether all are busy.
const SPINS: u32 = 1000;

fn beside_busy_ones(others: u64, allocations: u64, rounds: u64) -> Result<()> {
    let mut children = [0; MAX_CPUS];
    let mut addresses = [0; MAX_ALLOCATIONS];
    let children = part_of(&mut children, others)?;
    let addresses = part_of(&mut addresses, allocations)?;
    // The tables come with the first mapping; all others are then alike.
    kernel_memory::allocate(1)?;
    for child in &mut *children {
        match process::fork()? {
            Some(pid) => *child = pid,
            None => be_busy(),
        }
    }
    // When all have a CPU, none of them has a reason to leave ring 3: then each must be seen there once more.
    for _ in 0..2 {
        for child in &*children {
            let before = busy(*child)?;
            while busy(*child)? == before {
                (0..SPINS).for_each(|_| core::hint::spin_loop());
            }
        }
    }
    process::checkpoint("settled");
    for _ in 0..rounds {
        for address in &mut *addresses {
            *address = kernel_memory::allocate(1)?;
        }
        process::checkpoint("mapped");
        for address in &*addresses {
            kernel_memory::free(*address)?;
        }
        process::checkpoint("unmapped");
    }
    for child in &*children {
        // SAFETY: another process's memory.
        unsafe { remote_memory::write(*child, STOP.0.get() as u64, &1_u64.to_ne_bytes()) }?;
    }
    while process::wait(None).is_ok() {}
    Ok(())
}

/// How busy another process has been.
fn busy(child: u32) -> Result<u64> {
    let mut busy = [0; 8];
    remote_memory::read(child, BUSY.0.get() as u64, &mut busy)?;
    Ok(u64::from_ne_bytes(busy))
}

fn part_of<T>(all: &mut [T], count: u64) -> Result<&mut [T]> {
    let part = usize::try_from(count).ok();
    part.and_then(|count| all.get_mut(..count))
        .ok_or(heirloom_user::Failed(0))
}

/// Stays in ring 3 until it is to end.
fn be_busy() -> ! {
    // SAFETY: both are this process's own; see `Word`.
    unsafe {
        while STOP.0.get().read_volatile() == 0 {
            let busy = BUSY.0.get();
            busy.write_volatile(busy.read_volatile() + 1);
        }
    }
    process::exit(0)
}
