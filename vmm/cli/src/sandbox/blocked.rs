//! What happens when a call is made that the sandbox does not allow: the command says which, and ends.
#![expect(
    unsafe_code,
    reason = "a signal's handler is set, which may use system calls only, and reads what the kernel says of the signal"
)]

use libc::{c_int, c_void};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::exit::Exit;

/// The numbers of all system calls of x86-64, with their names.
const NAMES: &str = include_str!("names.txt");

/// Where the number of the call is in what the kernel says of SIGSYS (`si_syscall`, sigaction(2)): behind three
/// numbers, padding and an address, in numbers of 32 bits.
const CALL: usize = 6;

/// From now on a call that is not allowed ends the command with a sentence, and not by a signal.
pub(super) fn report() {
    let action = SigAction::new(
        SigHandler::SigAction(end),
        SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK,
        SigSet::empty(),
    );
    // SAFETY: the handler only reads what it is given, and makes system calls.
    let set = unsafe { sigaction(Signal::SIGSYS, &action) };
    // It fails for signals that do not exist; without it the signal itself ends the command.
    let _ = set;
}

extern "C" fn end(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel gives the handler a whole `siginfo_t`, which is longer.
    let call = unsafe { info.cast::<c_int>().add(CALL).read() };
    let mut digits = [0; 10];
    for part in [
        "heirloom: the sandbox ended the command: it made the system call `",
        name(call).unwrap_or_else(|| decimal(call, &mut digits)),
        "`, which nothing that it does needs. What it read may be an attack. If it is yours and trusted, --no-sandbox \
         runs without; please report it\n",
    ] {
        // SAFETY: `part` has so many bytes.
        unsafe { libc::write(libc::STDERR_FILENO, part.as_ptr().cast(), part.len()) };
    }
    // SAFETY: none of the destructors that this leaves out could be relied on now.
    unsafe { libc::_exit(Exit::Host as c_int) }
}

/// The name of a system call.
fn name(call: c_int) -> Option<&'static str> {
    NAMES.lines().find_map(|line| {
        let (number, name) = line.split_once(' ')?;
        (number.parse() == Ok(call)).then_some(name)
    })
}

/// The number itself, without taking memory.
fn decimal(number: c_int, digits: &mut [u8; 10]) -> &str {
    let mut rest = number.unsigned_abs();
    let mut first = digits.len();
    for (place, digit) in digits.iter_mut().enumerate().rev() {
        // One digit is below 256.
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or_default();
        rest /= 10;
        first = place;
        if rest == 0 {
            break;
        }
    }
    let digits = digits.get(first..).unwrap_or_default();
    std::str::from_utf8(digits).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_has_its_name_or_its_number() {
        for (call, called) in [
            (libc::SYS_read, "read"),
            (libc::SYS_execve, "execve"),
            (libc::SYS_clone3, "clone3"),
        ] {
            assert_eq!(name(call.try_into().unwrap()), Some(called));
        }
        assert_eq!(name(335), None);
        for number in [0, 7, 1_073_741_864, c_int::MAX] {
            assert_eq!(decimal(number, &mut [0; 10]), number.to_string());
        }
    }
}
