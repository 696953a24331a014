//! The lecture's experiments, as far as ring 3 has a part in them: `lecture EXPERIMENT ARGUMENTS…`.
//!
//! Addresses come from the host, which knows where to look afterwards. Nothing here says whether a
//! claim holds: the host reads that out of page tables, memory and events.
#![no_std]
#![no_main]

use core::arch::asm;
use heirloom_abi::PAGE_SIZE;
use heirloom_abi::syscall::{PROT_READ, PROT_WRITE};
use heirloom_user::eventcount::Eventcount;
use heirloom_user::{Arguments, Failed, Result, kernel_memory, process, remote_memory};

heirloom_user::program!(main);

const READ_WRITE: u64 = PROT_READ | PROT_WRITE;
/// Exit codes.
const NO_SUCH_EXPERIMENT: u8 = 2;
const FAILED: u8 = 3;

fn main(arguments: Arguments) -> u8 {
    let done = match arguments.get(1) {
        Some("calls") => calls(arguments),
        Some("copy") => copy(arguments),
        Some("share") => share(arguments),
        Some("cost") => cost(arguments),
        Some("try") => try_all(arguments),
        Some("faults") => faults(arguments),
        Some("churn") => churn(arguments),
        _ => return NO_SUCH_EXPERIMENT,
    };
    if done.is_ok() { 0 } else { FAILED }
}

/// Argument `index`; the experiment itself is the first.
fn number(arguments: Arguments, index: usize) -> Result<u64> {
    arguments.number(1 + index).ok_or(Failed(0))
}

/// `calls BATCHES CALLS`: system calls that do next to nothing, with a checkpoint behind each batch.
fn calls(arguments: Arguments) -> Result<()> {
    let (batches, calls) = (number(arguments, 1)?, number(arguments, 2)?);
    process::checkpoint("calls");
    for _ in 0..batches {
        for _ in 0..calls {
            let _ = process::id();
        }
        process::checkpoint("called");
    }
    Ok(())
}

const READY: Eventcount = Eventcount::new(10);
const OVER: Eventcount = Eventcount::new(11);
/// Bytes that are copied across a page boundary, half of them before it.
const ACROSS: usize = 1024;

/// `copy RESULTS BUFFER SHARED THEIRS`: process 1 reads and writes the memory of process 2, its child.
/// `THEIRS` is two writable pages of process 2, a read-only one, and nothing; `SHARED` a page from
/// before the fork; `BUFFER` two pages of process 1; `RESULTS` what the calls returned.
fn copy(arguments: Arguments) -> Result<()> {
    let (results, buffer) = (number(arguments, 1)?, number(arguments, 2)?);
    let (shared, theirs) = (number(arguments, 3)?, number(arguments, 4)?);
    // SAFETY: the host chose addresses at which this program has nothing.
    unsafe {
        process::map_at(results, PAGE_SIZE, READ_WRITE)?;
        process::map_at(buffer, 2 * PAGE_SIZE, READ_WRITE)?;
        process::map_at(shared, PAGE_SIZE, READ_WRITE)?;
    }
    fill(shared, PAGE_SIZE, 3);
    let Some(child) = process::fork()? else {
        return own_memory(theirs);
    };
    READY.wait(1);
    process::checkpoint("filled");

    let half = ACROSS as u64 / 2;
    // SAFETY: the two pages at `buffer` are nobody else's, and the bytes lie across their boundary.
    let bytes =
        unsafe { core::slice::from_raw_parts_mut((buffer + PAGE_SIZE - half) as *mut u8, ACROSS) };
    let mut beyond = [0; ACROSS];
    let second = theirs + PAGE_SIZE;
    let read_only = theirs + 2 * PAGE_SIZE;
    let nothing = theirs + 3 * PAGE_SIZE;
    let mut returned = [0; 8];
    returned[0] = result(remote_memory::read(child, second - half, bytes));
    store(results, &returned);
    process::checkpoint("read");

    fill(bytes.as_ptr() as u64, ACROSS as u64, 5);
    // SAFETY: another process's memory, for all of these.
    unsafe {
        returned[1] = result(remote_memory::write(child, second - half, bytes));
        returned[2] = result(remote_memory::write(child, read_only - 64, bytes));
        returned[3] = result(remote_memory::write(child, read_only, bytes));
        returned[4] = result(remote_memory::read(child, nothing - 64, &mut beyond));
        returned[5] = result(remote_memory::read(child, nothing, &mut beyond));
        returned[6] = result(remote_memory::write(child, shared, &[0xee; 8]));
        returned[7] = result(remote_memory::write(child + 100, shared, &[0xee; 8]));
    }
    store(results, &returned);
    process::checkpoint("written");
    OVER.store(1);
    process::wait(Some(child)).map(|_| ())
}

/// Process 2's part of `copy`.
fn own_memory(theirs: u64) -> Result<()> {
    // SAFETY: as in `copy`.
    unsafe {
        process::map_at(theirs, 2 * PAGE_SIZE, READ_WRITE)?;
        process::map_at(theirs + 2 * PAGE_SIZE, PAGE_SIZE, PROT_READ)?;
    }
    fill(theirs, 2 * PAGE_SIZE, 7);
    READY.store(1);
    OVER.wait(1);
    Ok(())
}

/// Fills memory with words that are all different, and differ with `seed`.
fn fill(start: u64, length: u64, seed: u64) {
    for offset in (0..length).step_by(8) {
        let word = (start + offset + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ seed);
        // SAFETY: the caller has just mapped it.
        unsafe { ((start + offset) as *mut u64).write_volatile(word) };
    }
}

fn store(results: u64, returned: &[u64; 8]) {
    // SAFETY: `copy` mapped a page there.
    unsafe { (results as *mut [u64; 8]).write_volatile(*returned) };
}

/// What the system call returned, as it stood in RAX.
fn result(returned: Result<u64>) -> u64 {
    returned.unwrap_or_else(|failed| failed.0.wrapping_neg())
}

/// What everyone is to do, see [`act`]; grows with each order.
const ORDER: Eventcount = Eventcount::new(0);
const REPORTS: Eventcount = Eventcount::new(1);
/// Whom the order is for, where it is for one.
const WHO: Eventcount = Eventcount::new(2);
const ADDRESS: Eventcount = Eventcount::new(3);
const ACT_END: u64 = 0;
const ACT_FORK: u64 = 1;
const ACT_READ: u64 = 2;
const ACTS: u64 = 4;

/// Process 1, and how many follow its orders.
struct Family {
    step: u64,
    others: u64,
}

/// `share MEMBERS`: a family of several generations; process 1 allocates kernel memory below a PGD
/// entry that all have (E1) and then some that needs a new one, and everyone reads it.
fn share(arguments: Arguments) -> Result<()> {
    let members = number(arguments, 1)?;
    let mut family = Family { step: 0, others: 0 };
    while family.others + 1 < members {
        family.fork(family.others / 2)?;
    }
    // Once before it counts: the tables below E1, and everyone's own pages, are then in place.
    let warm = kernel_memory::allocate(2)?;
    family.read(warm);
    kernel_memory::free(warm)?;

    process::checkpoint("below E1");
    let below = kernel_memory::allocate(2)?;
    kernel_memory::write(below, below ^ 0x5eed)?;
    family.read(below);
    process::checkpoint("a new entry");
    let pages = 16;
    let across = kernel_memory::allocate(pages)?;
    let last = across + (pages - 1) * PAGE_SIZE;
    kernel_memory::write(last, last ^ 0x5eed)?;
    family.read(last);
    process::checkpoint("a late child");
    family.fork(1)?;
    family.read(last);
    process::checkpoint("freed");
    kernel_memory::free(across)?;
    kernel_memory::free(below)?;
    family.read(below);
    process::checkpoint("over");
    family.order(ACT_END);
    Ok(())
}

impl Family {
    /// Has everyone but process 1 carry an order out.
    fn order(&mut self, act: u64) {
        self.step += 1;
        ORDER.store(self.step * ACTS + act);
        REPORTS.wait(self.others);
        REPORTS.store(0);
    }

    /// Has everyone but process 1 read kernel memory.
    fn read(&mut self, address: u64) {
        ADDRESS.store(address);
        self.order(ACT_READ);
    }

    /// Member `who` has a child. Members are numbered in the order of their birth, process 1 is 0.
    fn fork(&mut self, who: u64) -> Result<()> {
        self.others += 1;
        if who == 0 {
            WHO.store(who);
            self.step += 1;
            ORDER.store(self.step * ACTS + ACT_FORK);
            if process::fork()?.is_none() {
                act(self.others, self.step);
            }
            REPORTS.wait(self.others);
            REPORTS.store(0);
        } else {
            WHO.store(who);
            self.order(ACT_FORK);
        }
        Ok(())
    }
}

/// The life of member `me`, born in `step`.
fn act(mut me: u64, mut step: u64) -> ! {
    let mut living = me;
    loop {
        REPORTS.add(1);
        step += 1;
        let order = ORDER.wait(step * ACTS);
        match order % ACTS {
            ACT_FORK => {
                living += 1;
                if WHO.load() == me && process::fork().is_ok_and(|child| child.is_none()) {
                    me = living;
                }
            }
            ACT_READ => {
                // Whether it can is for the host to see.
                let _ = kernel_memory::read(ADDRESS.load());
            }
            _ => {
                REPORTS.add(1);
                process::exit(0)
            }
        }
    }
}

/// `cost PROCESSES…`: one kernel mapping, whenever there are so many processes.
fn cost(arguments: Arguments) -> Result<()> {
    // Its tables are then in place.
    kernel_memory::allocate(1)?;
    let mut living = 1;
    let mut index = 1;
    while let Ok(processes) = number(arguments, index) {
        while living < processes {
            if process::fork()?.is_none() {
                READY.add(1);
                OVER.wait(1);
                return Ok(());
            }
            living += 1;
        }
        READY.wait(living - 1);
        process::checkpoint("one mapping");
        let address = kernel_memory::allocate(1)?;
        kernel_memory::free(address)?;
        index += 1;
    }
    OVER.store(1);
    for _ in 1..living {
        process::wait(None)?;
    }
    Ok(())
}

/// `try ACCESS…`: `r`, `w` or `x` and a decimal address each, tried by a child of its own. There is
/// kernel memory at the start of the vmalloc area meanwhile.
fn try_all(arguments: Arguments) -> Result<()> {
    kernel_memory::allocate(1)?;
    let mut index = 2;
    while let Some(access) = arguments.get(index) {
        let (how, address) = access.split_at_checked(1).ok_or(Failed(0))?;
        let address: u64 = address.parse().map_err(|_| Failed(0))?;
        process::checkpoint(access);
        let child = process::fork()?;
        if child.is_none() {
            // SAFETY: nothing of Rust's is at the address, or the child dies of it.
            unsafe {
                match how {
                    "r" => asm!("mov {0}, [{0}]", inout(reg) address => _, options(nostack)),
                    "w" => asm!("mov qword ptr [{}], 0", in(reg) address, options(nostack)),
                    _ => asm!("call {}", in(reg) address, clobber_abi("C")),
                }
            }
            return Ok(());
        }
        process::wait(child)?;
        index += 1;
    }
    Ok(())
}

/// `faults ADDRESS`: demand-zero pages, read first and written first, and copy on write, with a copy
/// and without.
fn faults(arguments: Arguments) -> Result<()> {
    let first = number(arguments, 1)?;
    let page = |number: u64| (first + number * PAGE_SIZE) as *mut u64;
    // SAFETY: the host chose an address at which this program has nothing.
    unsafe {
        process::map_at(first, 2 * PAGE_SIZE, READ_WRITE)?;
        process::checkpoint("faults");
        page(0).write_volatile(1);
        page(1).read_volatile();
        let child = process::fork()?;
        if child.is_none() {
            page(0).write_volatile(2);
            return Ok(());
        }
        process::wait(child)?;
        page(0).write_volatile(3);
    }
    process::checkpoint("no more faults");
    Ok(())
}

/// Children that live at one time.
const LITTER: u64 = 4;

/// `churn PROCESSES`: so many processes come and go, with kernel memory that comes and goes in between,
/// each time some of it below a new table or the next PGD entry.
fn churn(arguments: Arguments) -> Result<()> {
    let processes = number(arguments, 1)?;
    // Twice, so that each table that stays for good is there, and each of the program's pages.
    litter(0)?;
    litter(1)?;
    process::checkpoint("start");
    for round in 0..processes / LITTER {
        litter(round)?;
    }
    process::checkpoint("end");
    Ok(())
}

/// Some children are born before the second allocation, some after; all read the first.
fn litter(round: u64) -> Result<()> {
    let early = kernel_memory::allocate(1 + round % 2 * 15)?;
    let mut late = 0;
    for number in 0..LITTER {
        if number == LITTER / 2 {
            late = kernel_memory::allocate(2)?;
        }
        if process::fork()?.is_none() {
            let own = process::map(PAGE_SIZE, READ_WRITE)?;
            fill(own as u64, 64, number);
            let read = kernel_memory::read(early);
            process::exit(if read.is_ok() { 0 } else { FAILED });
        }
    }
    process::wait(None)?;
    kernel_memory::free(late)?;
    for _ in 1..LITTER {
        process::wait(None)?;
    }
    kernel_memory::free(early)
}
