//! What to do about exceptions, interrupts and system calls.

use crate::arch::apic;
use crate::arch::cpu;
use crate::arch::entry::{
    PAGE_FAULT_VECTOR, SPURIOUS_VECTOR, SYSCALL_VECTOR, TIMER_VECTOR, TrapFrame, syscall_entry,
};
use crate::arch::entry_area::Place;
use crate::counters::{self, COUNTERS, Counter};
use crate::kernel::{KERNEL, Kernel};
use crate::mm::user_space::{Access, Unresolved};
use crate::mm::{UserHalf, VirtAddr, depth, propagation, user_access};
use crate::process::scheduler::{self, NOTHING_TO_RUN};
use crate::smp::shootdown;
use crate::watch::{self, WATCHES};
use crate::{crash, println, probe, self_check};
use core::fmt;
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};
use heirloom_abi::event::{PageFaultHandled, ProcessKilled, machine};
use heirloom_abi::layout::{Region, user_end};

const PAGE_FAULT: u64 = PAGE_FAULT_VECTOR as u64;
const TIMER: u64 = TIMER_VECTOR as u64;
const SPURIOUS: u64 = SPURIOUS_VECTOR as u64;

/// Page-fault error code bits (Intel SDM vol. 3A, 4.7).
const FAULT_WRITE: u64 = 1 << 1;
const FAULT_USER: u64 = 1 << 2;
const FAULT_FETCH: u64 = 1 << 4;

/// How system calls arrive on this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum SyscallPath {
    /// The self-test has not run.
    Unknown,
    /// `syscall` enters ring 0 at LSTAR, as on hardware.
    Native,
    /// `syscall` goes to LSTAR without leaving ring 3, and the fetch there faults: kvm_pvm with
    /// kernel code emulated. RIP, RCX, R11 and RFLAGS are as `syscall` sets them.
    ByPageFault,
}

static SYSCALL_PATH: AtomicU8 = AtomicU8::new(SyscallPath::Unknown as u8);

/// How system calls arrive here.
pub fn syscall_path() -> SyscallPath {
    match SYSCALL_PATH.load(Relaxed) {
        0 => SyscallPath::Unknown,
        1 => SyscallPath::Native,
        _ => SyscallPath::ByPageFault,
    }
}

/// Handles whatever brought the CPU here from ring 3. When it returns, the CPU goes on with `frame`.
pub extern "C" fn user(frame: &mut TrapFrame) {
    KERNEL.lock().user_trap(frame);
    if frame.vector >= WATCHES {
        without_lock(frame);
    }
}

/// What is to be done without the kernel's lock.
#[cold]
fn without_lock(frame: &mut TrapFrame) {
    if frame.vector == WATCHES {
        watch::watch(frame);
    } else {
        debug_assert!(frame.vector == NOTHING_TO_RUN);
        scheduler::sleep_until_ready(frame);
    }
}

/// The timer has interrupted ring 3. Where nobody else wants the CPU, it need not wait for the kernel's lock.
pub extern "C" fn user_tick(frame: &mut TrapFrame) {
    apic::end_of_interrupt();
    if scheduler::is_somebody_ready() {
        user(frame);
    } else {
        counters::note_idle_tick();
    }
}

/// The timer has interrupted a CPU that sleeps.
pub extern "C" fn kernel_tick(_: &mut TrapFrame) {
    apic::end_of_interrupt();
}

/// Answers an interrupt that another CPU sent, without the lock: that one may hold it, and wait.
pub extern "C" fn answer(_: &mut TrapFrame) {
    apic::end_of_interrupt();
    shootdown::answer();
    crash::stop_if_another_crashed();
}

impl Kernel {
    fn user_trap(&mut self, frame: &mut TrapFrame) {
        if self.space.isolates() {
            // One on the way in, one on the way out.
            COUNTERS.add_many(Counter::Cr3Loads, 2);
        }
        match frame.vector {
            SYSCALL_VECTOR => {
                self.learn_syscall_path(SyscallPath::Native);
                self.system_call(frame);
            }
            PAGE_FAULT => self.user_page_fault(frame, cpu::fault_address()),
            TIMER => {
                COUNTERS.add(Counter::TimerInterrupts);
                self.yield_now(frame);
            }
            SPURIOUS => {}
            _ => self.kill(frame, 0),
        }
    }

    fn user_page_fault(&mut self, frame: &mut TrapFrame, address: u64) {
        let code = frame.error_code;
        if self.is_syscall_by_page_fault(frame, address) {
            frame.rip = frame.rcx;
            frame.rflags = frame.r11;
            self.system_call(frame);
            return;
        }
        let access = if code & FAULT_FETCH != 0 {
            Access::Execute
        } else if code & FAULT_WRITE != 0 {
            Access::Write
        } else {
            Access::Read
        };
        if address >= user_end(depth()) {
            self.kill(frame, address);
            return;
        }
        let process = self
            .processes
            .get_mut(cpu::current())
            .expect("ring 3 is a process");
        let before = probe::faults_enabled().then(|| {
            process
                .space
                .root()
                .leaf::<UserHalf>(VirtAddr::new(address))
        });
        match process.space.resolve(
            VirtAddr::new(address),
            access,
            &self.modules,
            &mut self.frames,
        ) {
            Ok(()) => {
                if let Some(before) = before {
                    let before = before.map_or(0, |leaf| leaf.entry.get());
                    self.emit_fault_handled(address, code, before);
                }
            }
            Err(Unresolved::NotAllowed) => self.kill(frame, address),
            Err(Unresolved::OutOfMemory) => {
                println!("process {} killed: out of memory", cpu::current());
                self.exit(crate::syscall::KILLED);
                self.run_next(frame);
            }
        }
    }

    /// Tells the host which leaf entry the fault at `address` was handled by.
    fn emit_fault_handled(&mut self, address: u64, error_code: u64, before: u64) {
        let root = self.current_process().space.root();
        if let Some(after) = root.leaf::<UserHalf>(VirtAddr::new(address)) {
            self.emit(
                &PageFaultHandled {
                    pid: cpu::current().into(),
                    address,
                    error_code,
                    entry_address: after.address().get(),
                    before,
                    after: after.entry.get(),
                },
                &[],
            );
        }
    }

    /// Where `syscall` does not leave ring 3, this fault is one. It can be nothing else: ring 3
    /// fetches at exactly the entry address, and that is not its to execute.
    fn is_syscall_by_page_fault(&mut self, frame: &TrapFrame, address: u64) -> bool {
        let entry = Place::Area.text(syscall_entry);
        let looks_like_one = address == entry
            && frame.rip == entry
            && frame.error_code & (FAULT_USER | FAULT_FETCH) == FAULT_USER | FAULT_FETCH;
        if looks_like_one {
            self.learn_syscall_path(SyscallPath::ByPageFault);
        }
        looks_like_one && syscall_path() == SyscallPath::ByPageFault
    }

    /// The first system call is the self-test's, whose program the kernel wrote itself: it tells
    /// what kind of machine this is.
    fn learn_syscall_path(&mut self, path: SyscallPath) {
        if syscall_path() == SyscallPath::Unknown {
            SYSCALL_PATH.store(path as u8, Relaxed);
            if path == SyscallPath::ByPageFault {
                self.machine |= machine::SYSCALL_QUIRK;
            }
        }
    }

    /// Ends the current process for what it did.
    fn kill(&mut self, frame: &mut TrapFrame, address: u64) {
        let cause = Cause { frame, address };
        println!("process {} killed: {cause}", cpu::current());
        self.emit(
            &ProcessKilled {
                pid: cpu::current().into(),
                vector: frame.vector,
                error_code: frame.error_code,
                rip: frame.rip,
                address,
            },
            &[],
        );
        let signal = signal(frame.vector);
        self.exit(signal);
        self.run_next(frame);
    }
}

/// The signal that Linux would send for an exception.
const fn signal(vector: u64) -> u64 {
    const SIGILL: u64 = 4;
    const SIGTRAP: u64 = 5;
    const SIGFPE: u64 = 8;
    const SIGSEGV: u64 = 11;
    match vector {
        0 | 16 | 19 => SIGFPE,
        1 | 3 => SIGTRAP,
        6 => SIGILL,
        _ => SIGSEGV,
    }
}

/// What a process did to raise an exception that has no address.
fn did(vector: u64) -> &'static str {
    match vector {
        0 => "divided by zero (#DE)",
        3 => "hit a breakpoint (#BP)",
        6 => "executed an undefined instruction (#UD)",
        13 => "executed a privileged instruction or used a non-canonical address (#GP)",
        _ => crash::name(vector),
    }
}

/// What a process did, for people.
struct Cause<'a> {
    frame: &'a TrapFrame,
    address: u64,
}

impl fmt::Display for Cause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TrapFrame {
            vector,
            error_code,
            rip,
            ..
        } = self.frame;
        if *vector != PAGE_FAULT {
            return write!(
                f,
                "{} at rip {rip:#x} (error code {error_code:#x})",
                did(*vector)
            );
        }
        let did = if error_code & FAULT_FETCH != 0 {
            "executed"
        } else if error_code & FAULT_WRITE != 0 {
            "wrote to"
        } else {
            "read"
        };
        let address = self.address;
        let whose = match Region::of(address, depth()) {
            Some(Region::User) => "its own",
            _ => "kernel",
        };
        let region = match Region::of(address, depth()) {
            Some(Region::User) => "not mapped so",
            Some(region) => region.name(),
            None => "kernel half",
        };
        write!(
            f,
            "{did} {whose} address {address:#x} ({region}) at rip {rip:#x} (error code {error_code:#x})"
        )
    }
}

/// Handles an exception in the kernel. When it returns, the CPU goes on with
/// `frame`.
pub extern "C" fn kernel(frame: &mut TrapFrame) {
    if frame.vector == SPURIOUS {
        return;
    }
    if frame.vector == PAGE_FAULT {
        let address = cpu::fault_address();
        if propagation::kernel_fault(VirtAddr::new(address)) {
            return;
        }
        if let Some((rip, rax)) = user_access::fixup(frame.rip, frame.error_code) {
            frame.rip = rip;
            frame.rax = rax.unwrap_or(frame.rax);
            return;
        }
        if self_check::expected_fetch_fault(frame, address) {
            return;
        }
    }
    crash::fault(frame)
}
