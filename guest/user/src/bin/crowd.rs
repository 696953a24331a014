//! A crowd: processes that all do what they like at the same time.
//!
//! `crowd PROCESSES SEED STEPS`: each allocates, writes, protects and frees kernel memory, has children, gets and gives
//! back memory of its own, writes to another one's, or lets others run, in an order that follows from the seed. What each must find is checked by
//! itself; how it comes together is judged by whoever looks.
#![no_std]
#![no_main]

use core::cell::UnsafeCell;
use heirloom_abi::PAGE_SIZE;
use heirloom_abi::syscall::{PROT_READ, PROT_WRITE};
use heirloom_user::eventcount::Eventcount;
use heirloom_user::{Arguments, kernel_memory, print, process, remote_memory};

heirloom_user::program!(main);

/// Counts those who are there; they begin together.
const THERE: Eventcount = Eventcount::new(0);
/// Counts what went wrong.
const FAILURES: Eventcount = Eventcount::new(1);
/// The least and the greatest number of a process that is part of it.
const FIRST: Eventcount = Eventcount::new(2);
const LAST: Eventcount = Eventcount::new(3);

const DEFAULT_PROCESSES: u64 = 8;
const DEFAULT_STEPS: u64 = 12;
/// Allocations of kernel memory that a process has at one time.
const MAX_HELD: usize = 3;
/// Pages of an allocation at most: enough to need a new entry of the PGD before long.
const MAX_PAGES: u64 = 6;
/// Words of the memory that processes write to each other.
const WORDS: usize = 2 * 4096 / 8;

/// Memory that a fork shares until it is written to, and others write to.
#[repr(C, align(4096))]
struct Mail(UnsafeCell<[u64; WORDS]>);

// SAFETY: a process has one thread; others write by way of the kernel, and all accesses are volatile.
unsafe impl Sync for Mail {}

static MAIL: Mail = Mail(UnsafeCell::new([0; WORDS]));

impl Mail {
    fn place(&self, word: usize) -> *mut u64 {
        self.0.get().cast::<u64>().wrapping_add(word % WORDS)
    }
}

fn main(arguments: Arguments) -> u8 {
    let processes = arguments.number(1).unwrap_or(DEFAULT_PROCESSES).max(1);
    let seed = arguments.number(2).unwrap_or(0);
    let steps = arguments.number(3).unwrap_or(DEFAULT_STEPS);
    print::text("a crowd of ");
    print::number(processes);
    print::text(", seed ");
    print::number(seed);
    print::text("\n");
    let mut number = 0;
    for child in 1..processes {
        match process::fork() {
            Ok(None) => {
                number = child;
                break;
            }
            Ok(Some(pid)) => {
                if child == 1 {
                    FIRST.store(pid.into());
                }
                LAST.store(pid.into());
            }
            Err(_) => {
                // Nobody waits for one that is not born.
                note(false);
                THERE.add(1);
            }
        }
    }
    THERE.add(1);
    THERE.wait(processes);
    let mut member = Member::new(seed, number);
    member.live(steps);
    if number > 0 {
        process::exit(0);
    }
    while process::wait(None).is_ok() {}
    let failures = FAILURES.load();
    if failures > 0 {
        print::number(failures);
        print::text(" things were not as they should be\n");
    }
    u8::from(failures > 0)
}

/// Counts what went wrong.
fn note(went_well: bool) {
    if !went_well {
        FAILURES.add(1);
    }
}

/// What is written to kernel memory: made of its address, so that no two are alike.
fn pattern(address: u64) -> u64 {
    address ^ 0x5eed_0000_0000_5eed
}

/// Kernel memory that a process has.
#[derive(Clone, Copy)]
struct Held {
    address: u64,
    pages: u64,
    writable: bool,
}

struct Member {
    random: u64,
    held: [Option<Held>; MAX_HELD],
    /// What it wrote to its own half of the mail.
    written: u64,
}

impl Member {
    fn new(seed: u64, number: u64) -> Member {
        // Never 0, of which nothing would follow.
        let random = (seed << 20 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Member {
            random,
            held: [None; MAX_HELD],
            written: 0,
        }
    }

    /// A number below `bound`, by the seed (Marsaglia's xorshift, 2003).
    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 33) % bound
    }

    /// The same for a place in an array.
    #[expect(clippy::cast_possible_truncation, reason = "less than the bound")]
    fn place_below(&mut self, bound: usize) -> usize {
        self.below(bound as u64) as usize
    }

    fn live(&mut self, steps: u64) {
        for _ in 0..steps {
            match self.below(8) {
                0..3 => self.kernel_memory(),
                3 => self.child(),
                4 => self.own_memory(),
                5 => self.write_to_another(),
                6 => self.write_to_itself(),
                _ => self.pause(),
            }
        }
        for held in self.held {
            note(held.is_none_or(|held| kernel_memory::free(held.address).is_ok()));
        }
    }

    /// Takes kernel memory, or looks at what it has, changes it, or gives it back.
    fn kernel_memory(&mut self) {
        let place = self.place_below(MAX_HELD);
        let Some(mut held) = self.held[place] else {
            let pages = 1 + self.below(MAX_PAGES);
            self.held[place] = allocate(pages);
            return;
        };
        let last = held.address + (held.pages - 1) * PAGE_SIZE;
        for at in [held.address, last] {
            note(kernel_memory::read(at) == Ok(pattern(at)));
        }
        match self.below(3) {
            0 => {
                held.writable = !held.writable;
                note(kernel_memory::protect(held.address, held.writable).is_ok());
                note(kernel_memory::write(last, pattern(last)).is_ok() == held.writable);
                self.held[place] = Some(held);
            }
            1 => {
                note(kernel_memory::free(held.address).is_ok());
                self.held[place] = None;
            }
            _ => {}
        }
    }

    /// Has a child, which finds what its parent had and does not touch the parent's, and waits for it.
    fn child(&mut self) {
        let before = self.written;
        match process::fork() {
            Ok(None) => {
                note(read_mail() == before);
                self.write_to_itself();
                self.pause();
                let own = allocate(1);
                note(own.is_none_or(|own| kernel_memory::free(own.address).is_ok()));
                process::exit(0);
            }
            Ok(Some(child)) => {
                self.write_to_itself();
                note(process::wait(Some(child)).is_ok_and(|ended| ended.status == 0));
                note(read_mail() == self.written);
            }
            // There may be no memory for one more.
            Err(_) => {}
        }
    }

    /// Gets some memory, which is zero, writes to it and gives it back.
    fn own_memory(&mut self) {
        let length = (1 + self.below(3)) * PAGE_SIZE;
        let Ok(memory) = process::map(length, PROT_READ | PROT_WRITE) else {
            return note(false);
        };
        for at in (0..length / PAGE_SIZE).map(|page| page * PAGE_SIZE) {
            let word = (memory as u64 + at) as *mut u64;
            // SAFETY: memory that was just mapped, page aligned, and of nobody else.
            unsafe {
                note(word.read_volatile() == 0);
                word.write_volatile(at);
                note(word.read_volatile() == at);
            }
        }
        // SAFETY: nothing refers to it.
        note(unsafe { process::unmap(memory, length) }.is_ok());
    }

    /// Writes to the second half of another one's mail: a page that it may share with its children, or not have yet.
    fn write_to_another(&mut self) {
        let (first, last) = (FIRST.load(), LAST.load());
        if first == 0 {
            return;
        }
        let pid = u32::try_from(first + self.below(last - first + 1)).unwrap_or(0);
        let word = WORDS / 2 + self.place_below(WORDS / 2);
        let text = self.below(u64::MAX).to_ne_bytes();
        // It may have ended.
        // SAFETY: the mail is accessed by volatile reads and writes alone.
        let _ = unsafe { remote_memory::write(pid, MAIL.place(word) as u64, &text) };
    }

    fn write_to_itself(&mut self) {
        self.written = self.below(u64::MAX);
        // SAFETY: the first half of the mail is this process's alone.
        unsafe { MAIL.place(0).write_volatile(self.written) };
        note(read_mail() == self.written);
    }

    /// Lets others run, or lets some time pass.
    fn pause(&mut self) {
        for _ in 0..self.below(4) {
            process::yield_now();
        }
        for _ in 0..self.below(20_000) {
            core::hint::spin_loop();
        }
    }
}

fn read_mail() -> u64 {
    // SAFETY: the first half of the mail is this process's alone.
    unsafe { MAIL.place(0).read_volatile() }
}

/// Takes kernel memory and writes to its first and its last page.
fn allocate(pages: u64) -> Option<Held> {
    let Ok(address) = kernel_memory::allocate(pages) else {
        note(false);
        return None;
    };
    for page in [0, pages - 1] {
        let at = address + page * PAGE_SIZE;
        note(kernel_memory::write(at, pattern(at)).is_ok());
        note(kernel_memory::read(at) == Ok(pattern(at)));
    }
    Some(Held {
        address,
        pages,
        writable: true,
    })
}
