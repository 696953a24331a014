//! The lab's scenario: what one kernel mapping costs while many processes live.
//!
//! `lab PROCESSES ALLOCATIONS`: process 1 has PROCESSES − 1 children, each of which only waits. Then it
//! makes ALLOCATIONS kernel mappings of one page, and one more. Where the area of kernel mappings starts
//! as many pages below a 512 GiB boundary, the last one needs a new PGD entry, and no other does.
//! Checkpoints part the phases; in none of those between `settled` and `freed` is a process born or dies.
#![no_std]
#![no_main]

use heirloom_user::eventcount::Eventcount;
use heirloom_user::{Arguments, kernel_memory, process};

heirloom_user::program!(main);

/// What the others wait at: the address to read, which grows from one reading to the next, so that
/// waiting for it also brings it; [`END`] at last.
const ORDER: Eventcount = Eventcount::new(0);
/// Counts the others when they have come to wait, and at each order that they carried out.
const REPORTS: Eventcount = Eventcount::new(1);

/// Above every address that an allocation can have.
const END: u64 = u64::MAX;
/// Allocations below the boundary: as many as one page table maps, a guard page behind each, less the
/// one that the table is made for.
const MAX_ALLOCATIONS: usize = 255;

/// The exit codes.
const WRONG_ARGUMENTS: u8 = 2;
const NO_PROCESS: u8 = 3;
const NO_KERNEL_MEMORY: u8 = 4;

fn main(arguments: Arguments) -> u8 {
    let (Some(processes), Some(allocations)) = (arguments.number(1), arguments.number(2)) else {
        return WRONG_ARGUMENTS;
    };
    let others = processes.saturating_sub(1);
    let mut addresses = [0; MAX_ALLOCATIONS];
    let Some(addresses) = usize::try_from(allocations)
        .ok()
        .and_then(|allocations| addresses.get_mut(..allocations))
    else {
        return WRONG_ARGUMENTS;
    };
    // The tables below the PGD entry come with the first mapping; all others are then alike.
    if kernel_memory::allocate(1).is_err() {
        return NO_KERNEL_MEMORY;
    }
    for _ in 0..others {
        match process::fork() {
            Ok(Some(_)) => {}
            Ok(None) => obey(),
            Err(_) => return NO_PROCESS,
        }
    }
    REPORTS.wait(others);
    // Whoever has reported and does not wait yet.
    process::yield_now();
    process::checkpoint("settled");
    match measure(addresses, others) {
        Ok(()) => 0,
        Err(_) => NO_KERNEL_MEMORY,
    }
}

/// The phases.
fn measure(addresses: &mut [u64], others: u64) -> heirloom_user::Result<()> {
    for address in &mut *addresses {
        *address = kernel_memory::allocate(1)?;
    }
    process::checkpoint("mapped");
    let last = addresses.last().copied().unwrap_or_default();
    read_everywhere(last, 2 * others)?;
    process::checkpoint("read");
    let new = kernel_memory::allocate(1)?;
    process::checkpoint("mapped with a new PGD entry");
    read_everywhere(new, 3 * others)?;
    process::checkpoint("read below the new PGD entry");
    for address in &*addresses {
        kernel_memory::free(*address)?;
    }
    process::checkpoint("freed");
    kernel_memory::free(new)?;
    ORDER.store(END);
    while process::wait(None).is_ok() {}
    Ok(())
}

/// Writes `address` there, and has every process read it once. A read that fails is for the host to
/// see: the kernel tells it of every one.
fn read_everywhere(address: u64, reports: u64) -> heirloom_user::Result<()> {
    kernel_memory::write(address, address)?;
    let _ = kernel_memory::read(address);
    ORDER.store(address);
    REPORTS.wait(reports);
    // The last to report does not wait yet.
    process::yield_now();
    Ok(())
}

/// What all but process 1 do.
fn obey() -> ! {
    let mut awaited = 1;
    loop {
        REPORTS.add(1);
        let order = ORDER.wait(awaited);
        if order == END {
            process::exit(0);
        }
        let _ = kernel_memory::read(order);
        awaited = order + 1;
    }
}
