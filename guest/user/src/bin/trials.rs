//! What the kernel owes its processes, tried from ring 3: what must work works, and what must not be
//! done kills the process that does it, and no other. Ends with the number of broken promises.
#![no_std]
#![no_main]

use core::arch::asm;
use heirloom_abi::layout::{CPU_ENTRY_AREA, KERNEL_IMAGE_OFFSET, Region, kernel_half};
use heirloom_abi::syscall::{Errno, PROT_EXEC, PROT_READ, PROT_WRITE};
use heirloom_user::eventcount::Eventcount;
use heirloom_user::{Arguments, depth, kernel_memory, print, process};

heirloom_user::program!(main);

const SIGILL: u32 = 4;
const SIGFPE: u32 = 8;
const SIGSEGV: u32 = 11;
const PAGE: u64 = heirloom_abi::PAGE_SIZE;

/// What the child of a trial does, and the status that it must end with.
type Trial = (&'static str, fn(), u32);

const TRIALS: [Trial; 23] = [
    (
        "a program that ends with a code",
        || process::exit(7),
        7 << 8,
    ),
    ("read the null page", || read(0), SIGSEGV),
    (
        "read where nothing is mapped",
        || read(0x1234_5000),
        SIGSEGV,
    ),
    (
        "write to its own text",
        || write(main as fn(Arguments) -> u8 as *const () as u64),
        SIGSEGV,
    ),
    ("execute its own stack", execute_stack, SIGSEGV),
    (
        "execute a mapping without PROT_EXEC",
        execute_mapping,
        SIGSEGV,
    ),
    (
        "write to a read-only mapping",
        write_read_only_mapping,
        SIGSEGV,
    ),
    ("read an unmapped mapping", read_after_unmap, SIGSEGV),
    (
        "read the last address of the user half",
        || read(Region::User.end(depth()) - 8),
        SIGSEGV,
    ),
    (
        "read a non-canonical address",
        || read(Region::User.end(depth())),
        SIGSEGV,
    ),
    (
        "read the first address of the kernel half",
        || read(kernel_half(depth())),
        SIGSEGV,
    ),
    (
        "read the direct map",
        || read(Region::DirectMap.start(depth()) + 0x20_0000),
        SIGSEGV,
    ),
    (
        "write to the direct map",
        || write(Region::DirectMap.start(depth()) + 0x20_0000),
        SIGSEGV,
    ),
    ("read kernel text", || read(KERNEL_TEXT), SIGSEGV),
    ("write to kernel text", || write(KERNEL_TEXT), SIGSEGV),
    ("execute kernel text", || execute(KERNEL_TEXT), SIGSEGV),
    ("read vmalloc memory", read_vmalloc, SIGSEGV),
    ("read the cpu entry area", || read(ENTRY_AREA), SIGSEGV),
    ("write to the cpu entry area", || write(ENTRY_AREA), SIGSEGV),
    (
        "execute the cpu entry area",
        || execute(ENTRY_TEXT),
        SIGSEGV,
    ),
    ("a privileged instruction", halt, SIGSEGV),
    ("an undefined instruction", undefined, SIGILL),
    ("divide by zero", divide, SIGFPE),
];

const ENTRY_AREA: u64 = CPU_ENTRY_AREA;
/// Where `guest/kernel/src/arch/entry_area.rs` puts the entry text.
const ENTRY_TEXT: u64 = ENTRY_AREA + 0x7000;
const KERNEL_TEXT: u64 = KERNEL_IMAGE_OFFSET + 0x20_0000;

fn main(arguments: Arguments) -> u8 {
    if arguments.get(1) == Some("executed") {
        let right = arguments.get(2) == Some("with arguments") && arguments.get(3).is_none();
        return if right { 42 } else { 1 };
    }
    let mut broken = 0;
    for (name, act, expected) in TRIALS {
        broken += verdict(name, in_child(act) == Some(expected));
    }
    for (name, holds) in [
        (
            "copy on write keeps parent and child apart",
            copy_on_write as fn() -> bool,
        ),
        (
            "new memory is zero, used memory keeps its bytes",
            demand_zero,
        ),
        ("unmapping the middle keeps both ends", unmap_middle),
        (
            "execute starts another program with its arguments",
            execute_program,
        ),
        (
            "execute of what is not there leaves the program as it is",
            execute_missing,
        ),
        ("a process that never asks is preempted", preemption),
        ("orphans come to process 1", orphans),
        (
            "kernel memory is read and written, and gone when freed",
            kernel_memory_round_trip,
        ),
        ("system calls refuse bad addresses", bad_addresses),
        ("floating point survives other processes", floating_point),
        ("wait without children says so", wait_without_children),
    ] {
        broken += verdict(name, holds());
    }
    broken
}

fn verdict(name: &str, holds: bool) -> u8 {
    print::text(if holds { "kept: " } else { "BROKEN: " });
    print::text(name);
    print::text("\n");
    u8::from(!holds)
}

/// Runs `act` in a child; the status that it ends with.
fn in_child(act: fn()) -> Option<u32> {
    match process::fork().ok()? {
        None => {
            act();
            process::exit(0)
        }
        Some(child) => {
            let ended = process::wait(Some(child)).ok()?;
            (ended.pid == child).then_some(ended.status)
        }
    }
}

fn read(address: u64) {
    // SAFETY: no memory of Rust's is there; the process is to die.
    unsafe { asm!("mov {0}, [{0}]", inout(reg) address => _, options(nostack, readonly)) };
}

fn write(address: u64) {
    // SAFETY: as in `read`: the process is to die before anything is written.
    unsafe { asm!("mov byte ptr [{}], 0", in(reg) address, options(nostack)) };
}

fn execute(address: u64) {
    // SAFETY: as in `read`; should it be executed, there is a `ret`, or chaos in a child.
    unsafe { asm!("call {}", in(reg) address, clobber_abi("C")) };
}

fn execute_stack() {
    let code = [0xc3_u8; 16];
    execute(code.as_ptr() as u64);
}

fn execute_mapping() {
    if let Ok(page) = process::map(PAGE, PROT_READ | PROT_WRITE) {
        // SAFETY: the page was just mapped, writable.
        unsafe { page.write_volatile(0xc3) };
        execute(page as u64);
    }
}

fn write_read_only_mapping() {
    if let Ok(page) = process::map(PAGE, PROT_READ | PROT_EXEC) {
        read(page as u64);
        write(page as u64);
    }
}

fn read_after_unmap() {
    if let Ok(page) = process::map(PAGE, PROT_READ | PROT_WRITE) {
        write(page as u64);
        // SAFETY: nothing refers to the page.
        let _ = unsafe { process::unmap(page, PAGE) };
        read(page as u64);
    }
}

fn read_vmalloc() {
    if let Ok(address) = kernel_memory::allocate(1) {
        read(address);
    }
}

fn halt() {
    // SAFETY: the process is to die.
    unsafe { asm!("hlt", options(nomem, nostack)) };
}

fn undefined() {
    // SAFETY: the process is to die.
    unsafe { asm!("ud2", options(nomem, nostack)) };
}

fn divide() {
    // SAFETY: the process is to die.
    unsafe { asm!("xor ecx, ecx", "div ecx", out("eax") _, out("edx") _, out("ecx") _) };
}

/// The first word of page `page` of a mapping.
fn word_of(mapping: *mut u8, page: u64) -> *mut u64 {
    (mapping as u64 + page * PAGE) as *mut u64
}

fn copy_on_write() -> bool {
    let Ok(page) = process::map(2 * PAGE, PROT_READ | PROT_WRITE) else {
        return false;
    };
    let word = word_of(page, 0);
    // SAFETY: the pages were just mapped; volatile, because fork is not known to the compiler.
    unsafe {
        word.write_volatile(1);
        let Ok(child) = process::fork() else {
            return false;
        };
        if child.is_none() {
            let inherited = word.read_volatile() == 1;
            word.write_volatile(2);
            let own = word.read_volatile() == 2;
            process::exit(u8::from(!(inherited && own)));
        }
        let Ok(ended) = process::wait(child) else {
            return false;
        };
        let untouched = word.read_volatile() == 1;
        word.write_volatile(3);
        ended.status == 0 && untouched && word.read_volatile() == 3
    }
}

fn demand_zero() -> bool {
    const PAGES: u64 = 5;
    let Ok(start) = process::map(PAGES * PAGE, PROT_READ | PROT_WRITE) else {
        return false;
    };
    (0..PAGES).all(|page| {
        let word = word_of(start, page);
        // SAFETY: the pages were just mapped.
        unsafe {
            let zero = word.read_volatile() == 0;
            word.write_volatile(page + 1);
            zero && word.read_volatile() == page + 1
        }
    })
}

fn unmap_middle() -> bool {
    let Ok(start) = process::map(3 * PAGE, PROT_READ | PROT_WRITE) else {
        return false;
    };
    let at = |page: u64| word_of(start, page);
    // SAFETY: the pages were just mapped; the middle one is not used after it is unmapped, but by
    // the child that must die of it.
    unsafe {
        for page in 0..3 {
            at(page).write_volatile(page + 1);
        }
        if process::unmap(at(1).cast(), PAGE).is_err() {
            return false;
        }
        let Ok(child) = process::fork() else {
            return false;
        };
        if child.is_none() {
            read(at(1) as u64);
            process::exit(0);
        }
        let died = process::wait(child).is_ok_and(|ended| ended.status == SIGSEGV);
        died && at(0).read_volatile() == 1 && at(2).read_volatile() == 3
    }
}

fn execute_program() -> bool {
    in_child(|| {
        let _ = process::execute(c"trials", &[c"executed", c"with arguments"]);
    }) == Some(42 << 8)
}

fn execute_missing() -> bool {
    process::execute(c"no such program", &[]).is_err_and(|failed| failed.is(Errno::NoEntry))
}

const TURN: Eventcount = Eventcount::new(60);

fn preemption() -> bool {
    TURN.store(0);
    let Ok(child) = process::fork() else {
        return false;
    };
    if child.is_none() {
        // Never gives the CPU away of itself until the parent has had it.
        while TURN.load() == 0 {
            for _ in 0..10_000 {
                core::hint::spin_loop();
            }
        }
        process::exit(0);
    }
    // Nor does the parent: each must be interrupted for the other to go on.
    let mut spins = 0_u64;
    while spins < 50_000_000 {
        spins += 1;
        core::hint::black_box(spins);
    }
    TURN.store(1);
    process::wait(child).is_ok_and(|ended| ended.status == 0)
}

fn orphans() -> bool {
    const REPORT: Eventcount = Eventcount::new(61);
    REPORT.store(0);
    let ended = in_child(|| {
        let _ = process::fork().map(|child| {
            if child.is_none() {
                while process::parent() != 1 {
                    process::yield_now();
                }
                REPORT.store(1);
                process::exit(0);
            }
        });
    });
    REPORT.wait(1);
    // Process 1 is this program.
    ended == Some(0) && process::wait(None).is_ok()
}

fn kernel_memory_round_trip() -> bool {
    let Ok(address) = kernel_memory::allocate(2) else {
        return false;
    };
    let second = address + PAGE;
    let written = kernel_memory::write(second, 99).is_ok();
    let read_back = kernel_memory::read(second) == Ok(99);
    let read_only = kernel_memory::protect(address, false).is_ok()
        && kernel_memory::write(second, 1).is_err()
        && kernel_memory::read(second) == Ok(99);
    let freed = kernel_memory::free(address).is_ok()
        && kernel_memory::read(second).is_err()
        && kernel_memory::free(address).is_err();
    written && read_back && read_only && freed
}

fn bad_addresses() -> bool {
    let kernel = kernel_memory::read(KERNEL_TEXT).is_err_and(|failed| failed.is(Errno::Fault));
    let user = kernel_memory::write(PAGE, 1).is_err_and(|failed| failed.is(Errno::Fault));
    let pages = kernel_memory::allocate(u64::MAX).is_err_and(|failed| failed.is(Errno::NoMemory));
    kernel && user && pages
}

fn floating_point() -> bool {
    let pattern: u64 = 0x0123_4567_89ab_cdef;
    let Ok(child) = process::fork() else {
        return false;
    };
    let mine = if child.is_none() { !pattern } else { pattern };
    let mut seen: u64;
    // SAFETY: XMM7 is named as changed.
    unsafe { asm!("movq xmm7, {}", in(reg) mine, out("xmm7") _) };
    // Several rounds through the other process, with the register in use by both.
    let mut same = true;
    for _ in 0..4 {
        // SAFETY: the yield in between is a system call, which keeps XMM registers.
        unsafe {
            asm!(
                "movq xmm7, {mine}",
                "mov eax, 24",
                "syscall",
                "movq {seen}, xmm7",
                mine = in(reg) mine,
                seen = out(reg) seen,
                out("rax") _, out("rcx") _, out("r11") _, out("xmm7") _,
            );
        }
        same &= seen == mine;
    }
    if child.is_none() {
        process::exit(u8::from(!same));
    }
    same && process::wait(child).is_ok_and(|ended| ended.status == 0)
}

fn wait_without_children() -> bool {
    process::wait(None).is_err_and(|failed| failed.is(Errno::NoChild))
}
