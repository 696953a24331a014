//! The kernel cannot go on: says why, on the console and to the host, and ends the run.

use crate::arch::cpu;
use crate::arch::entry::{PAGE_FAULT_VECTOR, TrapFrame};
use crate::kernel::Kernel;
use crate::mm::{Root, VirtAddr, depth, user_access};
use crate::{println, probe};
use core::arch::asm;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use heirloom_abi::event::{Crash, KERNEL_PID};
use heirloom_abi::layout::Region;

const MAX_CALLERS: usize = 32;
const FAILED: u32 = 0x7f;

/// Where to write the final status; 0 if nowhere.
static EXIT_PORT: AtomicU32 = AtomicU32::new(0);
/// A crash while crashing says nothing more.
static CRASHING: AtomicBool = AtomicBool::new(false);

/// Makes a crash end the machine through `port`.
pub fn set_exit_port(port: u16) {
    EXIT_PORT.store(port.into(), Relaxed);
}

/// The mnemonic of an exception (Intel SDM vol. 3A, table 6-1).
pub const fn name(vector: u64) -> &'static str {
    const NAMES: [&str; 22] = [
        "#DE",
        "#DB",
        "NMI",
        "#BP",
        "#OF",
        "#BR",
        "#UD",
        "#NM",
        "#DF",
        "coprocessor overrun",
        "#TS",
        "#NP",
        "#SS",
        "#GP",
        "#PF",
        "vector 15",
        "#MF",
        "#AC",
        "#MC",
        "#XM",
        "#VE",
        "#CP",
    ];
    // A match, because indexing by u64 is not constant.
    if vector < NAMES.len() as u64 {
        #[allow(clippy::cast_possible_truncation)]
        NAMES[vector as usize]
    } else {
        "interrupt"
    }
}

/// Ends the run for an exception in ring 0.
pub fn fault(frame: &TrapFrame) -> ! {
    let address = cpu::fault_address();
    println!(
        "kernel {} at {:#x}, error code {:#x}",
        name(frame.vector),
        frame.rip,
        frame.error_code
    );
    println!(
        "rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}\n\
         rsi {:016x} rdi {:016x} rbp {:016x} rsp {:016x}\n\
         r8  {:016x} r9  {:016x} r10 {:016x} r11 {:016x}\n\
         r12 {:016x} r13 {:016x} r14 {:016x} r15 {:016x}\n\
         rip {:016x} rflags {:08x} cr2 {:016x} cr3 {:016x}",
        frame.rax,
        frame.rbx,
        frame.rcx,
        frame.rdx,
        frame.rsi,
        frame.rdi,
        frame.rbp,
        frame.rsp,
        frame.r8,
        frame.r9,
        frame.r10,
        frame.r11,
        frame.r12,
        frame.r13,
        frame.r14,
        frame.r15,
        frame.rip,
        frame.rflags,
        address,
        cpu::loaded_root().start().get(),
    );
    if frame.vector == PAGE_FAULT_VECTOR as u64 {
        print_walk(VirtAddr::new(address));
    }
    end(&Crash {
        vector: frame.vector,
        error_code: frame.error_code,
        rip: frame.rip,
        rsp: frame.rsp,
        rbp: frame.rbp,
        address,
    })
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    println!("kernel {info}");
    let (rbp, rsp): (u64, u64);
    // SAFETY: reads two registers.
    unsafe {
        asm!("mov {}, rbp", "mov {}, rsp", out(reg) rbp, out(reg) rsp, options(nomem, nostack));
    }
    let rip = panic as *const () as u64;
    end(&Crash {
        vector: Crash::PANIC,
        error_code: 0,
        rip,
        rsp,
        rbp,
        address: 0,
    })
}

/// Stops this CPU if another one has crashed: what it does with the lock, or without, is over.
pub fn stop_if_another_crashed() {
    if CRASHING.load(Relaxed) {
        cpu::halt();
    }
}

fn end(crash: &Crash) -> ! {
    if !CRASHING.swap(true, Relaxed) {
        print_callers(crash.rbp);
        probe::ring(KERNEL_PID, crash, &[], None);
        let port = EXIT_PORT.load(Relaxed);
        if let Some(port) = u16::try_from(port).ok().filter(|port| *port != 0) {
            Kernel::leave_through(port, FAILED);
        }
    }
    cpu::halt()
}

/// The entries that the CPU met at `address`, as far as they go.
fn print_walk(address: VirtAddr) {
    // SAFETY: CR3 always holds a root.
    let root = unsafe { Root::new(cpu::loaded_root()) };
    println!("walk of {:#x}:", address.get());
    root.walk(address, |level, index, entry| {
        println!("  {}[{index}] = {:#018x}", depth().name(level), entry.get());
    });
}

/// Return addresses up the stack; the host, which has the symbols, names them.
fn print_callers(mut frame_pointer: u64) {
    println!("called from:");
    for _ in 0..MAX_CALLERS {
        // The first CPU's stack is in the image, the others' are not.
        let on_a_stack = [Region::KernelImage, Region::DirectMap]
            .iter()
            .any(|region| region.contains(frame_pointer, depth()));
        if !on_a_stack || !frame_pointer.is_multiple_of(8) {
            return;
        }
        let (Ok(next), Ok(caller)) = (
            user_access::read(frame_pointer),
            user_access::read(frame_pointer + 8),
        ) else {
            return;
        };
        if caller == 0 {
            return;
        }
        println!("  {caller:#x}");
        frame_pointer = next;
    }
}
