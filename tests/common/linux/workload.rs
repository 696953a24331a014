//! What a Linux guest of the tests runs beside busybox: one program that, by the name under which it is
//! started, makes an address space of one kind and then sleeps in it for ever. Not a module of the tests:
//! `initramfs.rs` has rustc build it, a static program for x86_64-unknown-none that makes Linux's
//! system calls itself.
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};

const PAGE: usize = 4096;

// System calls and their flags, as arch/x86/entry/syscalls/syscall_64.tbl and include/uapi name them.
const OPEN: usize = 2;
const MMAP: usize = 9;
const MPROTECT: usize = 10;
const MADVISE: usize = 28;
const PAUSE: usize = 34;
const CLONE: usize = 56;
const EXIT: usize = 60;
const MODIFY_LDT: usize = 154;
const PKEY_MPROTECT: usize = 329;
const PKEY_ALLOC: usize = 330;
const KEXEC_FILE_LOAD: usize = 320;

const READ: usize = 1;
const WRITE: usize = 2;
const EXECUTE: usize = 4;
const SHARED: usize = 1;
const PRIVATE: usize = 2;
const ANONYMOUS: usize = 0x20;
const MADV_HUGEPAGE: usize = 14;
const KEXEC_FILE_ON_CRASH: usize = 2;
const SIGCHLD: usize = 17;
const CLONE_VM: usize = 0x100;
const CLONE_VFORK: usize = 0x4000;
/// VM, FS, FILES, SIGHAND, THREAD: a thread.
const THREAD: usize = 0x1_0f00;

// At entry RSP points to argc, then argv (System V ABI, 3.4.1).
global_asm!(
    ".globl _start",
    "_start:",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {start}",
    "ud2",
    start = sym start,
);

/// # Safety
/// 1. The call does nothing to this program's memory that Rust does not expect.
unsafe fn call(number: usize, arguments: [usize; 6]) -> isize {
    let result;
    // SAFETY: obligation 1; RCX and R11 are lost, as the ABI says.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("rdx") arguments[2],
            in("r10") arguments[3],
            in("r8") arguments[4],
            in("r9") arguments[5],
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// Ends the process where a call fails: the tests then miss it among those that are to be there.
fn must(number: usize, arguments: [usize; 6]) -> usize {
    // SAFETY: every caller maps new memory or changes memory that only raw pointers know.
    let result = unsafe { call(number, arguments) };
    usize::try_from(result).unwrap_or_else(|_| exit(result.unsigned_abs()))
}

fn exit(status: usize) -> ! {
    // SAFETY: it does not return.
    unsafe { call(EXIT, [status, 0, 0, 0, 0, 0]) };
    sleep()
}

fn sleep() -> ! {
    loop {
        // SAFETY: it waits.
        unsafe { call(PAUSE, [0; 6]) };
    }
}

/// `pages` fresh pages, at `hint` if that is free.
fn map_at(hint: usize, pages: usize, protection: usize, sharing: usize) -> usize {
    let flags = sharing | ANONYMOUS;
    must(MMAP, [hint, pages * PAGE, protection, flags, usize::MAX, 0])
}

fn map(pages: usize, protection: usize, sharing: usize) -> usize {
    map_at(0, pages, protection, sharing)
}

/// Writes to each of `pages` pages.
fn touch(at: usize, pages: usize) {
    for page in 0..pages {
        // SAFETY: the caller mapped the page, readable and writable, and nothing refers to it.
        unsafe { ((at + page * PAGE) as *mut usize).write_volatile(page) };
    }
}

/// A child that shares nothing with its parent but pages to be copied on write; true in the child.
fn fork() -> bool {
    must(CLONE, [SIGCHLD, 0, 0, 0, 0, 0]) == 0
}

/// A thread, or a process in the same address space, on a stack of its own, that sleeps.
fn share_address_space(flags: usize) {
    let pages = 4;
    let top = map(pages, READ | WRITE, PRIVATE) + pages * PAGE;
    // SAFETY: the child has a stack of its own and does nothing but system calls.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 3f",
            "2:",
            "mov eax, {pause}",
            "syscall",
            "jmp 2b",
            "3:",
            pause = const PAUSE,
            inlateout("rax") CLONE => _,
            in("rdi") flags,
            in("rsi") top,
            in("rdx") 0,
            in("r10") 0,
            in("r8") 0,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
}

unsafe extern "C" fn start(stack: *const usize) -> ! {
    // SAFETY: argc and argv are where the ABI says; without any argument it is a null pointer.
    let name = unsafe { *stack.add(1) as *const u8 };
    if name.is_null() {
        exit(1);
    }
    // SAFETY: an argument ends with a zero byte.
    let name = unsafe { core::ffi::CStr::from_ptr(name.cast()) };
    let path = name.to_bytes();
    let file = path.rsplit(|byte| *byte == b'/').next();
    match file.unwrap_or(path) {
        b"heap" => touch(map(300, READ | WRITE, PRIVATE), 300),
        // Four processes; each child has copied a quarter of what it shares.
        b"fork" => {
            let at = map(32, READ | WRITE, PRIVATE);
            touch(at, 32);
            for child in 0..3 {
                if fork() {
                    touch(at + child * 8 * PAGE, 8);
                    break;
                }
            }
        }
        b"shared" => {
            let at = map(16, READ | WRITE, SHARED);
            touch(at, 16);
            if fork() {
                touch(at, 16);
            }
        }
        b"huge" => {
            let pages = 3 * 512;
            let at = map(pages, READ | WRITE, PRIVATE);
            must(MADVISE, [at, pages * PAGE, MADV_HUGEPAGE, 0, 0, 0]);
            touch(at, pages);
        }
        // Pages that are there and may not be touched: P is clear, and the entry has a frame.
        b"none" => {
            let at = map(8, READ | WRITE, PRIVATE);
            touch(at, 8);
            must(MPROTECT, [at, 4 * PAGE, 0, 0, 0, 0]);
        }
        // As a just-in-time compiler has them.
        b"jit" => touch(map(4, READ | WRITE | EXECUTE, PRIVATE), 4),
        b"threads" => {
            for _ in 0..3 {
                share_address_space(THREAD);
            }
        }
        // A process that shares another's address space; its parent waits.
        b"vfork" => share_address_space(CLONE_VM | CLONE_VFORK | SIGCHLD),
        // With KPTI the local descriptor table is mapped at an address that each process has for itself.
        b"ldt" => {
            // struct user_desc: entry 0, base 0, limit 0xfffff, 32 bits, in pages, usable.
            let descriptor = [0_u32, 0, 0xf_ffff, 0b101_0001];
            must(
                MODIFY_LDT,
                [0x11, (&raw const descriptor) as usize, 16, 0, 0, 0],
            );
        }
        // A protection key stands in bits 59–62 of an entry.
        b"pkey" => {
            let at = map(4, READ | WRITE, PRIVATE);
            touch(at, 4);
            // SAFETY: a CPU may have no keys.
            let key = unsafe { call(PKEY_ALLOC, [0; 6]) };
            if let Ok(key) = usize::try_from(key) {
                must(PKEY_MPROTECT, [at, 4 * PAGE, READ | WRITE, key, 0, 0]);
            }
        }
        // With five levels, and only when asked, a process has memory above 2^47.
        b"high" => touch(map_at(1 << 52, 8, READ | WRITE, PRIVATE), 8),
        // Loads the kernel that runs when this one crashes, and is done.
        b"crash-kernel" => {
            let [kernel, initrd] = [c"/crash/vmlinuz", c"/crash/initrd"]
                .map(|file| must(OPEN, [file.as_ptr() as usize, 0, 0, 0, 0, 0]));
            let words = c"console=ttyS0 quiet nokaslr".to_bytes_with_nul();
            let (length, at) = (words.len(), words.as_ptr() as usize);
            must(
                KEXEC_FILE_LOAD,
                [kernel, initrd, length, at, KEXEC_FILE_ON_CRASH, 0],
            );
            exit(0);
        }
        // Never in the kernel for long, so that a CPU is found in ring 3.
        b"spin" => loop {
            core::hint::spin_loop();
        },
        _ => exit(1),
    }
    sleep()
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    exit(101)
}
