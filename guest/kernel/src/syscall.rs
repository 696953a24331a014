//! System calls: what each number does.

use crate::arch::cpu;
use crate::arch::entry::TrapFrame;
use crate::arch::serial::Serial;
use crate::counters::{COUNTERS, Counter};
use crate::fault_injection::inject;
use crate::kernel::Kernel;
use crate::mm::vma::{Backing, Vma};
use crate::mm::{VirtAddr, depth, page_up, user_access};
use crate::process::program::{Arguments, MAX_ARGUMENT_BYTES};
use crate::process::remote_memory::Direction;
use crate::process::{Pid, State, eventcount, lifecycle};
use crate::{println, watch};
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};
use heirloom_abi::PAGE_SIZE;
use heirloom_abi::bugs::Bug;
use heirloom_abi::event::{
    Checkpoint, KernelAccess, KernelMapped, KernelProtected, KernelUnmapped,
};
use heirloom_abi::layout::{Region, user_end};
use heirloom_abi::syscall::{
    self as number, Errno, MAP_ANONYMOUS, MAP_FIXED, PROT_READ, PROT_WRITE,
};

/// Bytes of the `syscall` instruction.
const SYSCALL_LENGTH: u64 = 2;
const MAX_CHECKPOINT_BYTES: usize = 256;
/// A process that cannot go on for want of memory ends as if by SIGKILL.
pub const KILLED: u64 = 9;

/// How often the kernel says that a system call is missing, at most.
const MAX_MISSING_TOLD: u8 = 4;
static MISSING_TOLD: AtomicU8 = AtomicU8::new(0);

/// What a system call leaves behind.
enum Outcome {
    /// The process goes on, with this in RAX.
    Value(u64),
    /// The frame is already as it shall be.
    Done,
}

impl Kernel {
    /// Serves the system call that `frame` asks for; on return, `frame` is of whoever runs next.
    pub fn system_call(&mut self, frame: &mut TrapFrame) {
        COUNTERS.add(Counter::SystemCalls);
        match self.dispatch(frame) {
            Ok(Outcome::Value(value)) => frame.rax = value,
            Ok(Outcome::Done) => {}
            Err(errno) => frame.rax = errno.to_result(),
        }
    }

    fn dispatch(&mut self, frame: &mut TrapFrame) -> Result<Outcome, Errno> {
        let (a, b, c, d) = (frame.rdi, frame.rsi, frame.rdx, frame.r10);
        let value = match frame.rax {
            number::WRITE => self.write(a, b, c)?,
            number::WRITEV => self.writev(a, b, c)?,
            number::BRK | number::RT_SIGPROCMASK => 0,
            number::IOCTL => return Err(Errno::NoTerminal),
            number::ARCH_PRCTL => self.arch_prctl(a, b)?,
            number::MMAP => self.mmap(a, b, c, d)?,
            number::MUNMAP => self.munmap(a, b)?,
            number::GETPID | number::GETTID | number::SET_TID_ADDRESS => cpu::current().into(),
            number::GETPPID => self.current_process().parent.into(),
            number::FORK => self.fork(frame)?.into(),
            number::SCHED_YIELD => {
                frame.rax = 0;
                self.yield_now(frame);
                return Ok(Outcome::Done);
            }
            number::EXECVE => {
                self.execve(frame, a, b)?;
                return Ok(Outcome::Done);
            }
            number::EXIT | number::EXIT_GROUP => {
                self.exit((a & 0xff) << 8);
                self.run_next(frame);
                return Ok(Outcome::Done);
            }
            number::WAIT4 => return self.wait4(frame, a, b, c),
            number::PROCESS_VM_READV => self.copy_remote(frame, Direction::Read)?,
            number::PROCESS_VM_WRITEV => self.copy_remote(frame, Direction::Write)?,
            number::KERNEL_ALLOC => self.kernel_alloc(a)?,
            number::KERNEL_FREE => self.kernel_free(a)?,
            number::KERNEL_WRITE => self.kernel_write(a, b)?,
            number::KERNEL_READ => self.kernel_read(a, b)?,
            number::KERNEL_PROTECT => self.kernel_protect(a, b)?,
            number::KERNEL_WATCH => {
                check_kernel_address(a)?;
                eventcount::load(b)?;
                eventcount::load(b.wrapping_add(1))?;
                frame.vector = watch::WATCHES;
                return Ok(Outcome::Done);
            }
            number::EVENTCOUNT_READ => eventcount::load(a)?,
            number::EVENTCOUNT_SET => self.eventcount_update(a, |_| b).map(|_| 0)?,
            number::EVENTCOUNT_ADD => self.eventcount_update(a, |value| value.wrapping_add(b))?,
            number::EVENTCOUNT_AWAIT => {
                let Some(value) = self.eventcount_await(a, b)? else {
                    self.run_next(frame);
                    return Ok(Outcome::Done);
                };
                value
            }
            number::CHECKPOINT => self.checkpoint(a, b)?,
            crate::boot::self_test::NUMBER if cpu::current() == heirloom_abi::event::KERNEL_PID => {
                self.end_of_boot(frame);
                return Ok(Outcome::Done);
            }
            missing => {
                Self::tell_of_missing(missing);
                return Err(Errno::NoSystemCall);
            }
        };
        Ok(Outcome::Value(value))
    }

    /// Says on the console what a program asks for in vain: a C library's start-up ends without a word.
    fn tell_of_missing(number: u64) {
        let told = MISSING_TOLD.load(Relaxed);
        if told < MAX_MISSING_TOLD {
            MISSING_TOLD.store(told + 1, Relaxed);
            println!(
                "process {} asks for system call {number}, which this kernel does not have; guest/user/README.md lists those that it has",
                cpu::current()
            );
        }
    }

    fn write(&mut self, descriptor: u64, user: u64, length: u64) -> Result<u64, Errno> {
        if descriptor != 1 && descriptor != 2 {
            return Err(Errno::BadDescriptor);
        }
        let mut left = length;
        let mut buffer = [0; 256];
        while left > 0 {
            let chunk = &mut buffer[..usize::try_from(left).map_or(256, |left| left.min(256))];
            match self.read_user(user + (length - left), chunk) {
                Ok(()) => Serial::write_bytes(chunk),
                Err(errno) if left == length => return Err(errno),
                Err(_) => break,
            }
            left -= chunk.len() as u64;
        }
        Ok(length - left)
    }

    /// What is written in the end; an error only if nothing was.
    fn writev(&mut self, descriptor: u64, vectors: u64, count: u64) -> Result<u64, Errno> {
        if count > number::MAX_VECTORS {
            return Err(Errno::Invalid);
        }
        let mut written = 0;
        for place in 0..count {
            let mut vector = [0_u64; 2];
            let at = vectors
                .checked_add(place * size_of_val(&vector) as u64)
                .ok_or(Errno::Fault)?;
            let result = self
                .read_user(at, zerocopy::IntoBytes::as_mut_bytes(&mut vector))
                .and_then(|()| self.write(descriptor, vector[0], vector[1]));
            match result {
                Ok(length) => written += length,
                Err(errno) if written == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        Ok(written)
    }

    /// The base of FS, where a C library has what belongs to a thread.
    fn arch_prctl(&mut self, code: u64, address: u64) -> Result<u64, Errno> {
        match code {
            number::ARCH_SET_FS if address < user_end(depth()) => {
                self.current_process().fs_base = address;
                cpu::load_fs_base(address);
            }
            number::ARCH_GET_FS => {
                let base = self.current_process().fs_base;
                self.write_user(address, &base.to_le_bytes())?;
            }
            _ => return Err(Errno::Invalid),
        }
        Ok(0)
    }

    fn mmap(&mut self, hint: u64, length: u64, protection: u64, flags: u64) -> Result<u64, Errno> {
        let length = page_up(length)
            .filter(|length| *length > 0)
            .ok_or(Errno::Invalid)?;
        if flags & MAP_ANONYMOUS == 0 || !hint.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::Invalid);
        }
        let fixed = flags & MAP_FIXED != 0;
        let start = if fixed {
            let end = hint.checked_add(length).ok_or(Errno::Invalid)?;
            if end > user_end(depth()) {
                return Err(Errno::Invalid);
            }
            self.munmap(hint, length)?;
            VirtAddr::new(hint)
        } else {
            self.current_process()
                .space
                .vmas
                .gap(length)
                .ok_or(Errno::NoMemory)?
        };
        let area = Vma {
            start,
            end: start.wrapping_add(length),
            protection,
            backing: Backing::Zero,
        };
        self.current_process()
            .space
            .vmas
            .insert(area)
            .map_err(|_| Errno::NoMemory)?;
        Ok(start.get())
    }

    fn munmap(&mut self, start: u64, length: u64) -> Result<u64, Errno> {
        let end = start
            .checked_add(length)
            .and_then(page_up)
            .ok_or(Errno::Invalid)?;
        if !start.is_multiple_of(PAGE_SIZE) || length == 0 || end > user_end(depth()) {
            return Err(Errno::Invalid);
        }
        let process = self
            .processes
            .get_mut(cpu::current())
            .ok_or(Errno::NoSuchProcess)?;
        process
            .space
            .unmap(VirtAddr::new(start), VirtAddr::new(end), &mut self.frames)
            .map_err(|_| Errno::NoMemory)?;
        self.flush_current_space();
        Ok(0)
    }

    fn execve(&mut self, frame: &mut TrapFrame, name: u64, argv: u64) -> Result<(), Errno> {
        let mut buffer = [0; 64];
        let length = self.read_user_text(name, &mut buffer)?;
        let module = self.modules.find(&buffer[..length]).ok_or(Errno::NoEntry)?;
        let mut arguments = Arguments::new();
        let mut text = [0; MAX_ARGUMENT_BYTES];
        let mut pointer = argv;
        while pointer != 0 {
            let mut word = [0; 8];
            self.read_user(pointer, &mut word)?;
            let argument = u64::from_le_bytes(word);
            if argument == 0 {
                break;
            }
            let length = self.read_user_text(argument, &mut text)?;
            arguments.push(&text[..length])?;
            pointer += 8;
        }
        if let Some(start) = self.execute(module, &arguments)? {
            *frame = start;
        } else {
            self.exit(KILLED);
            self.run_next(frame);
        }
        Ok(())
    }

    /// Reads a zero-terminated string; its length without the zero.
    fn read_user_text(&mut self, user: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        const PIECE: usize = 16;
        let mut length = 0;
        while length < buffer.len() {
            // Never past the page that the string may end in.
            let at = user.checked_add(length as u64).ok_or(Errno::Fault)?;
            let in_page = usize::try_from(PAGE_SIZE - at % PAGE_SIZE).unwrap_or(PIECE);
            let piece = PIECE.min(in_page).min(buffer.len() - length);
            let bytes = &mut buffer[length..length + piece];
            self.read_user(at, bytes)?;
            if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
                return Ok(length + end);
            }
            length += piece;
        }
        Err(Errno::Invalid)
    }

    fn wait4(
        &mut self,
        frame: &mut TrapFrame,
        pid: u64,
        status: u64,
        options: u64,
    ) -> Result<Outcome, Errno> {
        let wanted = match pid.cast_signed() {
            -1 => None,
            _ => Some(Pid::try_from(pid).map_err(|_| Errno::NoChild)?),
        };
        match self.reap(wanted)? {
            Some((pid, ended)) => {
                if status != 0 {
                    let ended = u32::try_from(ended).unwrap_or(u32::MAX);
                    self.write_user(status, &ended.to_le_bytes())?;
                }
                Ok(Outcome::Value(pid.into()))
            }
            None if options & number::WNOHANG != 0 => Ok(Outcome::Value(0)),
            None => {
                // It will ask again when a child has ended.
                frame.rip -= SYSCALL_LENGTH;
                self.current_process().state = State::WaitsForChild;
                self.run_next(frame);
                Ok(Outcome::Done)
            }
        }
    }

    fn kernel_alloc(&mut self, pages: u64) -> Result<u64, Errno> {
        let current = self.current_process().space.root();
        let mut mapped = self.space.allocate(pages, current, &mut self.frames)?;
        let payload = KernelMapped {
            address: mapped.area.start().get(),
            pages,
            protection: PROT_READ | PROT_WRITE,
        };
        if inject(Bug::LyingFrames) {
            mapped.frames.iter_mut().for_each(|frame| *frame += 1);
        }
        if !inject(Bug::ForgottenEvent) {
            self.emit(&payload, &mapped.frames[..mapped.listed]);
        }
        Ok(mapped.area.start().get())
    }

    fn kernel_free(&mut self, address: u64) -> Result<u64, Errno> {
        let current = self.current_process().space.root();
        let area = self
            .space
            .free(VirtAddr::new(address), current, &mut self.frames)?;
        self.emit(
            &KernelUnmapped {
                address,
                pages: area.length(),
            },
            &[],
        );
        Ok(0)
    }

    fn kernel_protect(&mut self, address: u64, writable: u64) -> Result<u64, Errno> {
        let current = self.current_process().space.root();
        let (area, protection) = self.space.protect(
            VirtAddr::new(address),
            writable != 0,
            current,
            &mut self.frames,
        )?;
        self.emit(
            &KernelProtected {
                address,
                pages: area.length(),
                protection,
            },
            &[],
        );
        Ok(0)
    }

    fn kernel_write(&mut self, address: u64, value: u64) -> Result<u64, Errno> {
        check_kernel_address(address)?;
        let result = if inject(Bug::LostWrite) && address & PAGE_SIZE != 0 {
            Ok(())
        } else {
            // SAFETY: in the vmalloc area, which holds nothing of the kernel's own.
            unsafe { user_access::write(address, value) }
        };
        self.emit_access(address, value, true, result.err())
    }

    fn kernel_read(&mut self, address: u64, out: u64) -> Result<u64, Errno> {
        check_kernel_address(address)?;
        match user_access::read(address) {
            Ok(value) => {
                self.emit_access(address, value, false, None)?;
                self.write_user(out, &value.to_le_bytes())?;
                Ok(0)
            }
            Err(faulted) => self.emit_access(address, 0, false, Some(faulted)),
        }
    }

    pub fn emit_access(
        &mut self,
        address: u64,
        value: u64,
        write: bool,
        faulted: Option<user_access::Faulted>,
    ) -> Result<u64, Errno> {
        let payload = KernelAccess {
            address,
            value,
            write: write.into(),
            faulted: faulted.is_some().into(),
            error_code: faulted.map_or(0, |faulted| faulted.error_code),
        };
        self.emit(&payload, &[]);
        if faulted.is_some() {
            Err(Errno::Fault)
        } else {
            Ok(0)
        }
    }

    fn checkpoint(&mut self, text: u64, length: u64) -> Result<u64, Errno> {
        let mut words = [0_u64; MAX_CHECKPOINT_BYTES / 8];
        let bytes = zerocopy::IntoBytes::as_mut_bytes(&mut words);
        let length = usize::try_from(length)
            .ok()
            .filter(|length| *length <= bytes.len());
        let length = length.ok_or(Errno::Invalid)?;
        self.read_user(text, &mut bytes[..length])?;
        if core::str::from_utf8(&bytes[..length]).is_err() {
            return Err(Errno::Invalid);
        }
        self.emit(
            &Checkpoint {
                length: length as u64,
            },
            &words[..length.div_ceil(8)],
        );
        Ok(0)
    }

    /// The self-test has shown how system calls arrive: the boot is over.
    fn end_of_boot(&mut self, frame: &mut TrapFrame) {
        self.finish_self_test();
        self.end_self_test();
        debug_assert!(self.processes.get(lifecycle::FIRST).is_none());
        *frame = self.boot_first_process();
    }
}

/// Processes may reach vmalloc memory through system calls, and no other part of the kernel.
fn check_kernel_address(address: u64) -> Result<(), Errno> {
    let (first, end) = (Region::Vmalloc.start(depth()), Region::Vmalloc.end(depth()));
    // All 8 bytes of it.
    let inside = (first..end - 7).contains(&address);
    if inside { Ok(()) } else { Err(Errno::Fault) }
}
