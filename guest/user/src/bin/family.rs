//! The default scenario: a family of processes that lives through kernel memory coming and going.
//!
//! `family PROCESSES`: process 1 directs. Every member, process 1 included, obeys the same orders, in
//! step: an order is published in the cells, each member carries it out, and the next one is given
//! when all have reported. So there is one event at a time, and everyone is alive while it happens.
#![no_std]
#![no_main]

use heirloom_user::eventcount::Eventcount;
use heirloom_user::{Arguments, kernel_memory, print, process};

heirloom_user::program!(main);

/// The order of the day, see [`Command`]; it grows with each step, so that waiting for the next
/// one also brings it: one system call where each costs the most.
const ORDER: Eventcount = Eventcount::new(0);
/// Counts reports on it.
const REPORTS: Eventcount = Eventcount::new(1);
/// The kernel memory that it concerns.
const ADDRESS: Eventcount = Eventcount::new(2);
/// The number of the next member to be born; members are numbered from 0 and never again.
const NEXT_MEMBER: Eventcount = Eventcount::new(3);
/// Counts those who came to have a child; the first so many do.
const TICKETS: Eventcount = Eventcount::new(4);
/// Counts those who were born in this step.
const BORN: Eventcount = Eventcount::new(5);
/// Counts those who ended in this step.
const LEFT: Eventcount = Eventcount::new(6);
/// Counts what went wrong that the program itself can see.
const FAILURES: Eventcount = Eventcount::new(7);

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
enum Order {
    /// As many members as the command's value have one child each.
    Fork = 1,
    /// The member allocates as many pages as the value, writes to the first and the last, and tells
    /// `ADDRESS`.
    Allocate,
    /// Everyone reads at `ADDRESS`.
    Read,
    /// The member makes `ADDRESS` read-only.
    Protect,
    /// The member frees `ADDRESS`.
    Free,
    /// Everyone whose number is odd ends.
    ExitOdd,
    /// Everyone ends.
    ExitAll,
}

const ORDERS: [Order; 7] = [
    Order::Fork,
    Order::Allocate,
    Order::Read,
    Order::Protect,
    Order::Free,
    Order::ExitOdd,
    Order::ExitAll,
];

/// What everyone is to do in a step.
#[derive(Clone, Copy)]
struct Command {
    step: u64,
    order: Order,
    /// Whom it is for, where it is for one member.
    member: u64,
    value: u64,
}

impl Command {
    const FIELD: u64 = 0xffff;

    /// The step in the highest bits, so that a later command is a greater number.
    fn encode(self) -> u64 {
        self.step << 48 | (self.order as u64) << 32 | self.member << 16 | self.value
    }

    /// The least number of any command of `step`.
    fn least(step: u64) -> u64 {
        step << 48
    }

    fn decode(word: u64) -> Option<Command> {
        let order = ORDERS
            .into_iter()
            .find(|order| *order as u64 == word >> 32 & Self::FIELD)?;
        let (member, value) = (word >> 16 & Self::FIELD, word & Self::FIELD);
        Some(Command {
            step: word >> 48,
            order,
            member,
            value,
        })
    }
}

const DEFAULT_PROCESSES: u64 = 8;
const PAGE: u64 = heirloom_abi::PAGE_SIZE;

/// What is written to the page of an allocation: made of its address, so that no two are alike.
fn pattern(address: u64) -> u64 {
    address ^ 0x5eed_0000_0000_5eed
}

fn main(arguments: Arguments) -> u8 {
    let processes = arguments.number(1).unwrap_or(DEFAULT_PROCESSES).max(4);
    NEXT_MEMBER.store(1);
    let mut director = Director {
        me: Member { number: 0, step: 0 },
        living: 1,
    };

    process::checkpoint("a family grows");
    director.grow_to(processes.div_ceil(2));

    process::checkpoint("kernel memory while some live and others are yet to come");
    let first = director.allocate(youngest(), 2);
    director.read(first);
    director.grow_to(processes);
    director.read(first);
    director.read(first + PAGE);
    director.order(Order::Protect, youngest(), first, 0);
    director.read(first);
    director.order(Order::Free, 0, first, 0);

    process::checkpoint("half the family ends, others are born");
    director.order(Order::ExitOdd, 0, 0, 0);
    let second = director.allocate(0, 1);
    director.grow_to(processes);
    director.read(second);

    process::checkpoint("an allocation across a 512 GiB boundary: a new PGD entry");
    let crossing = director.allocate(youngest(), 16);
    director.read(crossing + 15 * PAGE);
    director.order(Order::Free, youngest(), crossing, 0);
    director.order(Order::Free, 0, second, 0);

    process::checkpoint("everyone ends");
    director.dismiss();
    let failures = FAILURES.load();
    if failures > 0 {
        print::number(failures);
        print::text(" accesses to kernel memory failed\n");
    }
    0
}

/// The member that was born last.
fn youngest() -> u64 {
    NEXT_MEMBER.load() - 1
}

/// Process 1: a member that also gives the orders.
struct Director {
    me: Member,
    living: u64,
}

impl Director {
    fn order(&mut self, order: Order, member: u64, address: u64, value: u64) {
        for counter in [REPORTS, TICKETS, BORN, LEFT] {
            counter.store(0);
        }
        ADDRESS.store(address);
        self.me.step += 1;
        let command = Command {
            step: self.me.step,
            order,
            member,
            value,
        };
        ORDER.store(command.encode());
        self.me.obey(command);
        REPORTS.wait(self.living);
        self.living = self.living + BORN.load() - LEFT.load();
    }

    /// Lets everyone have a child, and again, until so many live.
    fn grow_to(&mut self, processes: u64) {
        while self.living < processes {
            let before = self.living;
            self.order(Order::Fork, 0, 0, before.min(processes - before));
            if self.living == before {
                break;
            }
        }
    }

    fn allocate(&mut self, member: u64, pages: u64) -> u64 {
        self.order(Order::Allocate, member, 0, pages);
        ADDRESS.load()
    }

    fn read(&mut self, address: u64) {
        self.order(Order::Read, 0, address, 0);
    }

    /// Everyone but process 1 ends, and it buries those whom nobody else did.
    fn dismiss(&mut self) {
        self.order(Order::ExitAll, 0, 0, 0);
        while process::wait(None).is_ok() {}
    }
}

/// A member of the family.
struct Member {
    number: u64,
    step: u64,
}

impl Member {
    /// Carries out one order after the other until it is told to end.
    fn live(&mut self) -> ! {
        loop {
            self.step += 1;
            let word = ORDER.wait(Command::least(self.step));
            match Command::decode(word) {
                Some(command) => self.obey(command),
                None => process::exit(1),
            }
        }
    }

    fn obey(&mut self, command: Command) {
        let concerned = command.member == self.number;
        match command.order {
            Order::Fork => self.fork(command.value),
            Order::Allocate if concerned => allocate(command.value),
            Order::Read => {
                let address = ADDRESS.load();
                note(kernel_memory::read(address).is_ok_and(|value| value == pattern(address)));
            }
            Order::Protect if concerned => {
                note(kernel_memory::protect(ADDRESS.load(), false).is_ok());
            }
            Order::Free if concerned => note(kernel_memory::free(ADDRESS.load()).is_ok()),
            Order::ExitOdd if self.number % 2 == 1 => end(),
            Order::ExitAll if self.number != 0 => end(),
            _ => {}
        }
        REPORTS.add(1);
    }

    fn fork(&mut self, births: u64) {
        if TICKETS.add(1) >= births {
            return;
        }
        match process::fork() {
            Ok(Some(_)) => {
                BORN.add(1);
            }
            Ok(None) => {
                self.number = NEXT_MEMBER.add(1);
                self.live();
            }
            Err(_) => note(false),
        }
    }
}

/// Reports a last time, and ends.
fn end() -> ! {
    LEFT.add(1);
    REPORTS.add(1);
    process::exit(0)
}

fn allocate(pages: u64) {
    match kernel_memory::allocate(pages) {
        Ok(address) => {
            for page in [0, pages - 1] {
                let at = address + page * PAGE;
                note(kernel_memory::write(at, pattern(at)).is_ok());
            }
            ADDRESS.store(address);
        }
        Err(_) => note(false),
    }
}

/// Counts what went wrong.
fn note(went_well: bool) {
    if !went_well {
        FAILURES.add(1);
    }
}
