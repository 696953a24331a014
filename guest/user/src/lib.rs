//! The runtime of heirloom's ring-3 programs: start-up, arguments, system calls, printing.
//!
//! A program is a `no_std`, `no_main` binary that names its main function:
//!
//! ```ignore
//! heirloom_user::program!(main);
//! fn main(arguments: Arguments) -> u8 { 0 }
//! ```
#![no_std]

pub mod arguments;
pub mod eventcount;
pub mod kernel_memory;
pub mod print;
pub mod process;
mod raw;
pub mod remote_memory;

pub use arguments::Arguments;
use heirloom_abi::layout::{self, Depth};
pub use heirloom_abi::syscall::Errno;

/// How many levels the page tables have: the kernel puts the first stack at the end of the user half, which
/// with four is far below where it is with five.
#[must_use]
pub fn depth() -> Depth {
    let on_the_stack = 0_u8;
    if &raw const on_the_stack as u64 >= layout::user_end(Depth::Four) {
        Depth::Five
    } else {
        Depth::Four
    }
}

/// A system call's result: a value, or a negated errno.
pub type Result<T> = core::result::Result<T, Failed>;

/// A system call failed with this Linux errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed(pub u64);

impl Failed {
    /// Whether it is that one.
    pub fn is(self, errno: Errno) -> bool {
        self.0 == (errno as i64).cast_unsigned()
    }
}

/// Makes `$main` the program's main function: it gets the arguments and returns the exit code.
#[macro_export]
macro_rules! program {
    ($main:path) => {
        /// Where the kernel starts the program: RSP points to the argument count.
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        extern "C" fn _start() -> ! {
            core::arch::naked_asm!(
                "mov rdi, rsp",
                "xor ebp, ebp",
                "call {start}",
                "ud2",
                start = sym start,
            )
        }

        extern "C" fn start(stack: *const u64) -> ! {
            // SAFETY: `_start` passes the stack pointer that the kernel set.
            let arguments = unsafe { $crate::Arguments::new(stack) };
            let main: fn($crate::Arguments) -> u8 = $main;
            $crate::process::exit(main(arguments))
        }
    };
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    // No message formatting: it would be most of a small program.
    print::text("panic in process ");
    print::number(process::id().into());
    if let Some(location) = info.location() {
        print::text(" at ");
        print::text(location.file());
        print::text(":");
        print::number(location.line().into());
    }
    print::text("\n");
    process::exit(101)
}
