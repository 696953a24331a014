//! The ways into the kernel and the one way out.
//!
//! Every way in leaves a [`TrapFrame`], on top of the CPU's entry stack if ring 3 was interrupted, and
//! calls [`crate::trap`] with it. There is one kernel stack for each CPU and none for a process: the kernel
//! never blocks inside a system call, so to switch processes it only exchanges the frame (and CR3)
//! before it leaves.

use super::cpu;
use super::descriptors::{USER_CODE, USER_DATA};
use super::entry_area::{self, Place};
use super::local::CpuLocal;
use crate::mm::VirtAddr;
use core::arch::naked_asm;
use core::mem::offset_of;

/// Exception vectors and the interrupts this kernel uses.
pub const VECTORS: usize = 36;
pub const PAGE_FAULT_VECTOR: usize = 14;
pub const TIMER_VECTOR: u8 = 32;
pub const SPURIOUS_VECTOR: u8 = 33;
/// Another CPU asks this one to drop translations.
pub const SHOOTDOWN_VECTOR: u8 = 34;
/// Another CPU has work for this one, which sleeps.
pub const WAKE_VECTOR: u8 = 35;
/// No vector of the CPU's: a frame made by `syscall`.
pub const SYSCALL_VECTOR: u64 = 256;

/// The registers of whatever was interrupted.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct TrapFrame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error_code: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

const _: () = assert!(size_of::<TrapFrame>() == 22 * 8);

impl TrapFrame {
    /// A program at its first instruction, with interrupts on.
    pub fn for_program(rip: u64, rsp: u64) -> TrapFrame {
        const INTERRUPTS_ON: u64 = 0x202;
        TrapFrame {
            rip,
            rsp,
            cs: USER_CODE.into(),
            ss: USER_DATA.into(),
            rflags: INTERRUPTS_ON,
            ..TrapFrame::default()
        }
    }
}

unsafe extern "C" {
    static __entry_text_start: u8;
    static __entry_text_end: u8;
}

/// Where the text of this module lies in the kernel image: whole pages.
pub fn entry_text() -> (VirtAddr, VirtAddr) {
    (
        VirtAddr::new(&raw const __entry_text_start as u64),
        VirtAddr::new(&raw const __entry_text_end as u64),
    )
}

/// Where `syscall` enters: RIP in RCX, RFLAGS in R11, stack still ring 3's.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
pub extern "C" fn syscall_entry() {
    naked_asm!(
        "swapgs",
        "mov gs:[{user_rsp}], rsp",
        "mov rsp, gs:[{entry_stack_top}]",
        "push {user_data}",
        "push qword ptr gs:[{user_rsp}]",
        "push r11",
        "push {user_code}",
        "push rcx",
        "push 0",
        "push {vector}",
        "jmp {save}",
        user_rsp = const offset_of!(CpuLocal, user_rsp),
        entry_stack_top = const offset_of!(CpuLocal, entry_stack_top),
        user_data = const USER_DATA,
        user_code = const USER_CODE,
        vector = const SYSCALL_VECTOR,
        save = sym save_and_call,
    )
}

/// What is behind the stubs of some vectors, when vector and error code are pushed: `$save` goes on.
macro_rules! entry {
    ($name:ident, $save:path) => {
        #[unsafe(naked)]
        #[unsafe(link_section = ".text.entry")]
        extern "C" fn $name() {
            naked_asm!(
                "test byte ptr [rsp + 24], 3",
                "jz {save}",
                "swapgs",
                "jmp {save}",
                save = sym $save,
            )
        }
    };
}

entry!(trap_entry, save_and_call);
entry!(tick_entry, save_and_tick);
entry!(answer_entry, save_and_answer);

/// Completes the frame and calls the kernel: `$user` on the kernel's stack and, if it has one, in its own address
/// space, if ring 3 was interrupted; else `$kernel` where it is. Calls go through a register: this text runs at an
/// address of its own.
macro_rules! save_and_call {
    ($name:ident, $user:path, $kernel:path) => {
        #[unsafe(naked)]
        #[unsafe(link_section = ".text.entry")]
        extern "C" fn $name() {
            naked_asm!(
                "push rax",
                "push rcx",
                "push rdx",
                "push rsi",
                "push rdi",
                "push r8",
                "push r9",
                "push r10",
                "push r11",
                "push rbx",
                "push rbp",
                "push r12",
                "push r13",
                "push r14",
                "push r15",
                "cld",
                "mov rdi, rsp",
                "mov rbx, rsp",
                "test byte ptr [rsp + {cs}], 3",
                "jz 3f",
                "mov rax, gs:[{kernel_cr3}]",
                "test rax, rax",
                "jz 2f",
                "mov cr3, rax",
                "2:",
                "mov rsp, gs:[{kernel_stack_top}]",
                "movabs rax, offset {user}",
                "call rax",
                "mov rsp, rbx",
                "jmp {restore}",
                "3:",
                "movabs rax, offset {kernel}",
                "call rax",
                "mov rsp, rbx",
                "jmp {resume}",
                cs = const offset_of!(TrapFrame, cs),
                kernel_cr3 = const offset_of!(CpuLocal, kernel_cr3),
                kernel_stack_top = const offset_of!(CpuLocal, kernel_stack_top),
                user = sym $user,
                kernel = sym $kernel,
                restore = sym restore,
                resume = sym resume,
            )
        }
    };
}

save_and_call!(save_and_call, crate::trap::user, crate::trap::kernel);
// The timer's interrupt must not be in service while the CPU waits for the lock: others could not interrupt it.
save_and_call!(
    save_and_tick,
    crate::trap::user_tick,
    crate::trap::kernel_tick
);
// What other CPUs ask for is answered without the kernel's lock, which the asking one may hold.
save_and_call!(save_and_answer, crate::trap::answer, crate::trap::answer);

/// Pops the general registers, and what is above them up to RIP.
macro_rules! pop_and {
    ($($before:literal,)* => $($after:literal,)* ; $($operands:tt)*) => {
        naked_asm!(
            $($before,)*
            "pop r15",
            "pop r14",
            "pop r13",
            "pop r12",
            "pop rbp",
            "pop rbx",
            "pop r11",
            "pop r10",
            "pop r9",
            "pop r8",
            "pop rdi",
            "pop rsi",
            "pop rdx",
            "pop rcx",
            "pop rax",
            "add rsp, 16",
            $($after,)*
            $($operands)*
        )
    };
}

/// Pops the frame that RSP points to, which is ring 3's, and goes on where it says.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
pub extern "C" fn restore() {
    pop_and!(
        "mov rax, gs:[{user_cr3}]",
        "test rax, rax",
        "jz 2f",
        "mov cr3, rax",
        "or rax, gs:[{user_cr3_kept}]",
        "mov gs:[{user_cr3}], rax",
        "2:",
        =>
        "swapgs",
        "iretq",
        ;
        user_cr3 = const offset_of!(CpuLocal, user_cr3),
        user_cr3_kept = const offset_of!(CpuLocal, user_cr3_kept),
    )
}

/// The same for a frame of the kernel's own.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
extern "C" fn resume() {
    pop_and!(=> "iretq", ;)
}

/// Leaves the kernel with `frame`, never to return to the caller.
pub fn leave_with(frame: &TrapFrame) -> ! {
    let top = (Place::Area.entry_stack_top(cpu::id()) as *mut TrapFrame).wrapping_sub(1);
    let restore = entry_area::restore_in_area();
    // SAFETY: the entry stack is empty, and `restore` runs where every address space has it.
    unsafe {
        top.write(*frame);
        core::arch::asm!(
            "mov rsp, {top}",
            "jmp {restore}",
            top = in(reg) top,
            restore = in(reg) restore,
            options(noreturn)
        );
    }
}

/// A stub for a vector that pushes an error code itself (`error`) or not (`plain`), or that has an entry of its
/// own.
macro_rules! stub {
    ($name:ident, $vector:literal, plain) => {
        #[unsafe(naked)]
        #[unsafe(link_section = ".text.entry")]
        extern "C" fn $name() {
            naked_asm!("push 0", "push {vector}", "jmp {entry}", vector = const $vector, entry = sym trap_entry)
        }
    };
    ($name:ident, $vector:literal, error) => {
        #[unsafe(naked)]
        #[unsafe(link_section = ".text.entry")]
        extern "C" fn $name() {
            naked_asm!("push {vector}", "jmp {entry}", vector = const $vector, entry = sym trap_entry)
        }
    };
    ($name:ident, $vector:literal, $entry:ident) => {
        #[unsafe(naked)]
        #[unsafe(link_section = ".text.entry")]
        extern "C" fn $name() {
            naked_asm!("push 0", "push {vector}", "jmp {entry}", vector = const $vector, entry = sym $entry)
        }
    };
}

macro_rules! stubs {
    ($($name:ident $vector:literal $kind:ident),* $(,)?) => {
        $(stub!($name, $vector, $kind);)*
        /// The stub for each vector, in order.
        pub static TRAP_STUBS: [extern "C" fn(); VECTORS] = [$($name),*];
    };
}

// Which exceptions push an error code: Intel SDM vol. 3A, table 6-1.
stubs! {
    trap_0 0 plain, trap_1 1 plain, trap_2 2 plain, trap_3 3 plain, trap_4 4 plain,
    trap_5 5 plain, trap_6 6 plain, trap_7 7 plain, trap_8 8 error, trap_9 9 plain,
    trap_10 10 error, trap_11 11 error, trap_12 12 error, trap_13 13 error, trap_14 14 error,
    trap_15 15 plain, trap_16 16 plain, trap_17 17 error, trap_18 18 plain, trap_19 19 plain,
    trap_20 20 plain, trap_21 21 error, trap_22 22 plain, trap_23 23 plain, trap_24 24 plain,
    trap_25 25 plain, trap_26 26 plain, trap_27 27 plain, trap_28 28 plain, trap_29 29 error,
    trap_30 30 error, trap_31 31 plain, timer 32 tick_entry, spurious 33 plain,
    shootdown 34 answer_entry, wake 35 answer_entry,
}
