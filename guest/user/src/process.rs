//! Processes: who am I, fork, execute, end, wait; and memory of one's own.

use crate::{Result, raw};
use heirloom_abi::syscall as number;
use heirloom_abi::syscall::{MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE};

/// This process's number.
#[must_use]
pub fn id() -> u32 {
    // SAFETY: reads a number.
    unsafe { raw::call(number::GETPID, [0; 4]) }.map_or(0, truncate)
}

/// The parent's number.
#[must_use]
pub fn parent() -> u32 {
    // SAFETY: reads a number.
    unsafe { raw::call(number::GETPPID, [0; 4]) }.map_or(0, truncate)
}

/// Lets others run.
pub fn yield_now() {
    // SAFETY: comes back with nothing changed; it cannot fail.
    let _ = unsafe { raw::call(number::SCHED_YIELD, [0; 4]) };
}

/// Copies this process: the child's number in the parent, `None` in the child.
///
/// # Errors
/// No memory, or too many processes.
pub fn fork() -> Result<Option<u32>> {
    // SAFETY: the child gets a copy of all memory; nothing here is shared.
    let child = unsafe { raw::call(number::FORK, [0; 4]) }?;
    Ok((child != 0).then_some(truncate(child)))
}

/// Replaces this program by the boot module `name`, called with `arguments` behind its name; each
/// must end in a zero byte.
///
/// # Errors
/// No such module, or not one that can be executed.
pub fn execute(name: &core::ffi::CStr, arguments: &[&core::ffi::CStr]) -> Result<()> {
    const MOST: usize = 8;
    let mut pointers = [0_u64; MOST + 2];
    pointers[0] = name.as_ptr() as u64;
    for (pointer, argument) in pointers[1..=MOST].iter_mut().zip(arguments) {
        *pointer = argument.as_ptr() as u64;
    }
    let arguments = [name.as_ptr() as u64, pointers.as_ptr() as u64, 0, 0];
    // SAFETY: either all of this program goes, or nothing happens.
    unsafe { raw::call(number::EXECVE, arguments) }.map(|_| ())
}

/// Ends this process.
pub fn exit(code: u8) -> ! {
    // SAFETY: nothing of this program runs afterwards.
    let _ = unsafe { raw::call(number::EXIT, [code.into(), 0, 0, 0]) };
    unreachable!("exit does not return")
}

/// How a child ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ended {
    pub pid: u32,
    /// Exit code × 256, or the number of the signal-like cause.
    pub status: u32,
}

/// Waits until a child ends: that one, or any.
///
/// # Errors
/// There is no such child.
pub fn wait(child: Option<u32>) -> Result<Ended> {
    let mut status = 0_u32;
    let who = child.map_or(u64::MAX, u64::from);
    // SAFETY: the kernel writes four bytes to `status`.
    let pid = unsafe { raw::call(number::WAIT4, [who, &raw mut status as u64, 0, 0]) }?;
    Ok(Ended {
        pid: truncate(pid),
        status,
    })
}

/// New memory of this process's own: zeros, page aligned. `protection` are `PROT_*` bits.
///
/// # Errors
/// No room.
pub fn map(length: u64, protection: u64) -> Result<*mut u8> {
    let flags = MAP_PRIVATE | MAP_ANONYMOUS;
    // SAFETY: new memory, where nothing was.
    let address = unsafe { raw::call(number::MMAP, [0, length, protection, flags]) }?;
    Ok(address as *mut u8)
}

/// The same at `address`, in place of whatever is there.
///
/// # Safety
/// 1. Nothing refers to what is there.
///
/// # Errors
/// No room, or not a page of the user half.
pub unsafe fn map_at(address: u64, length: u64, protection: u64) -> Result<()> {
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    // SAFETY: obligation 1.
    unsafe { raw::call(number::MMAP, [address, length, protection, flags]) }.map(|_| ())
}

/// Gives memory back that [`map`] gave.
///
/// # Safety
/// 1. Nothing refers to it any more.
///
/// # Errors
/// Not whole pages.
pub unsafe fn unmap(start: *mut u8, length: u64) -> Result<()> {
    // SAFETY: obligation 1.
    unsafe { raw::call(number::MUNMAP, [start as u64, length, 0, 0]) }.map(|_| ())
}

/// Tells the host how far the program is.
pub fn checkpoint(text: &str) {
    // SAFETY: the kernel reads the text. No host may listen; then nothing happens.
    let _ = unsafe {
        raw::call(
            number::CHECKPOINT,
            [text.as_ptr() as u64, text.len() as u64, 0, 0],
        )
    };
}

/// Process numbers are 32 bits wide.
#[allow(clippy::cast_possible_truncation)]
fn truncate(pid: u64) -> u32 {
    pid as u32
}
