//! System calls: number in RAX, arguments in RDI, RSI, RDX, R10, R8, R9, result in RAX, where
//! −4095…−1 is a negated [`Errno`]. RCX and R11 are lost.
//!
//! The first group has Linux's numbers and meaning (arch/x86/entry/syscalls/syscall_64.tbl), so a
//! small static program runs on both kernels. The second group is heirloom's own.

/// `write(fd, buffer, length)`: to the console, for descriptors 1 and 2.
pub const WRITE: u64 = 1;
/// `mmap(address, length, prot, flags, fd, offset)`: private anonymous, demand-zero memory.
pub const MMAP: u64 = 9;
/// `munmap(address, length)`.
pub const MUNMAP: u64 = 11;
/// `brk(address)`: 0, as there is no such memory; a C library then takes `mmap`.
pub const BRK: u64 = 12;
/// `rt_sigprocmask(how, set, old, size)`: nothing, as there are no signals.
pub const RT_SIGPROCMASK: u64 = 14;
/// `ioctl(fd, request, argument)`: an error, as the console is no terminal.
pub const IOCTL: u64 = 16;
/// `writev(fd, vectors, count)`: as `write`, of at most 16 `struct iovec` (base, length).
pub const WRITEV: u64 = 20;
/// `sched_yield()`.
pub const SCHED_YIELD: u64 = 24;
/// `getpid()`.
pub const GETPID: u64 = 39;
/// `fork()`: copy on write.
pub const FORK: u64 = 57;
/// `execve(name, argv, envp)`: the name of a boot module; `envp` is ignored.
pub const EXECVE: u64 = 59;
/// `exit(status)`.
pub const EXIT: u64 = 60;
/// `wait4(pid, status, options, rusage)`: `pid` is a child, or −1 for any; `options` 0 or 1 (`WNOHANG`).
pub const WAIT4: u64 = 61;
/// `getppid()`.
pub const GETPPID: u64 = 110;
/// `arch_prctl(code, address)`: makes `address` the base of FS (0x1002), or stores the base there (0x1003).
pub const ARCH_PRCTL: u64 = 158;
/// `gettid()`: as `getpid`, there being one thread per process.
pub const GETTID: u64 = 186;
/// `set_tid_address(address)`: as `gettid`.
pub const SET_TID_ADDRESS: u64 = 218;
/// `exit_group(status)`: as `exit`, there being one thread per process.
pub const EXIT_GROUP: u64 = 231;
/// `process_vm_readv(pid, local, 1, remote, 1, 0)`: copies from the memory of process `pid` to the
/// caller's; both vectors have one `struct iovec` (base, length), the shorter length counts. The bytes
/// copied: fewer than asked for where a page of either side is missing or forbidden, or beyond
/// [`REMOTE_COPY_LIMIT`]; an error only if there is none. Any process may reach any other.
pub const PROCESS_VM_READV: u64 = 310;
/// `process_vm_writev(pid, local, 1, remote, 1, 0)`: the same from the caller's memory to that of `pid`.
pub const PROCESS_VM_WRITEV: u64 = 311;

/// `kernel_alloc(pages)`: kernel virtual memory from the vmalloc area; its address.
pub const KERNEL_ALLOC: u64 = 1000;
/// `kernel_free(address)`: gives back what `kernel_alloc` gave.
pub const KERNEL_FREE: u64 = 1001;
/// `kernel_write(address, value)`: the kernel stores a u64, in this process's address space.
pub const KERNEL_WRITE: u64 = 1002;
/// `kernel_read(address, out)`: the kernel loads a u64, in this process's address space, to `*out`.
pub const KERNEL_READ: u64 = 1003;
/// `kernel_protect(address, writable)`: makes a whole allocation read-only (0) or writable (1).
pub const KERNEL_PROTECT: u64 = 1004;

/// `kernel_watch(address, number, at_least, how, value)`: the kernel loads a u64, or, if `how` has [`WATCH_WRITES`],
/// stores `value`, again and again, without its lock, so at the same time as whatever others do; each time in this
/// process's address space, and until eventcount `number` is at least so much. Then it does so a last time, and tells
/// the host of that. After the first time, it adds 1 to the eventcount behind, unless `how` has [`WATCH_GOES_ON`].
/// After some milliseconds it returns all the same. The result: see [`Watched`].
pub const KERNEL_WATCH: u64 = 1005;

/// `how` of `kernel_watch`: it stores.
pub const WATCH_WRITES: u64 = 1;
/// `how` of `kernel_watch`: it goes on where a call before has stopped.
pub const WATCH_GOES_ON: u64 = 2;
/// `how` of `kernel_watch`: and that one's last access did not fault.
pub const WATCH_SUCCEEDED: u64 = 4;

/// What accesses of `kernel_watch` came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// Those that did not fault.
    pub succeeded: u32,
    /// How often that changed from one to the next.
    pub turns: u16,
    /// The last one did not fault.
    pub last_succeeded: bool,
    /// The eventcount had come so far before the last one.
    pub is_over: bool,
}

impl Watched {
    const TURNS: u32 = 32;
    const LAST: u32 = 48;
    const OVER: u32 = 49;

    /// As a system call's result.
    #[must_use]
    pub fn to_result(self) -> u64 {
        u64::from(self.succeeded)
            | u64::from(self.turns) << Self::TURNS
            | u64::from(self.last_succeeded) << Self::LAST
            | u64::from(self.is_over) << Self::OVER
    }

    /// From such a result.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the fields' own bits")]
    pub fn from_result(result: u64) -> Watched {
        Watched {
            succeeded: result as u32,
            turns: (result >> Self::TURNS) as u16,
            last_succeeded: result >> Self::LAST & 1 != 0,
            is_over: result >> Self::OVER & 1 != 0,
        }
    }
}

/// `eventcount_read(number)`: the value of one of the kernel's [`EVENTCOUNTS`] counters.
pub const EVENTCOUNT_READ: u64 = 1010;
/// `eventcount_set(number, value)`: sets it and wakes those whose wait is over.
pub const EVENTCOUNT_SET: u64 = 1011;
/// `eventcount_add(number, value)`: adds and wakes; the value before.
pub const EVENTCOUNT_ADD: u64 = 1012;
/// `eventcount_await(number, at_least)`: blocks until the counter is at least that; its value then. (An
/// eventcount's `await`: Reed and Kanodia, "Synchronization with Eventcounts and Sequencers", 1979.)
pub const EVENTCOUNT_AWAIT: u64 = 1013;

/// `checkpoint(text, length)`: tells the host how far the program is.
pub const CHECKPOINT: u64 = 1020;

/// Bytes that one `process_vm_readv` or `process_vm_writev` copies at most: nobody else runs meanwhile.
pub const REMOTE_COPY_LIMIT: u64 = 1 << 20;

/// Counters that processes may meet at.
pub const EVENTCOUNTS: u64 = 64;

/// Why a system call failed; Linux's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
pub enum Errno {
    /// No such boot module.
    NoEntry = 2,
    /// No such kernel allocation or process.
    NoSuchProcess = 3,
    /// Not an executable that this kernel runs.
    NotExecutable = 8,
    /// No such descriptor.
    BadDescriptor = 9,
    /// No child to wait for.
    NoChild = 10,
    /// No more processes.
    TryAgain = 11,
    /// No more memory.
    NoMemory = 12,
    /// The address cannot be accessed.
    Fault = 14,
    /// An argument makes no sense.
    Invalid = 22,
    /// Not a terminal.
    NoTerminal = 25,
    /// No such system call.
    NoSystemCall = 38,
}

impl Errno {
    /// What goes into RAX.
    #[must_use]
    pub const fn to_result(self) -> u64 {
        (-(self as i64)).cast_unsigned()
    }
}

/// `prot` of `mmap`: readable.
pub const PROT_READ: u64 = 1;
/// `prot` of `mmap`: writable.
pub const PROT_WRITE: u64 = 2;
/// `prot` of `mmap`: executable.
pub const PROT_EXEC: u64 = 4;
/// `flags` of `mmap`: changes stay with this process.
pub const MAP_PRIVATE: u64 = 0x02;
/// `flags` of `mmap`: exactly at `address`.
pub const MAP_FIXED: u64 = 0x10;
/// `flags` of `mmap`: no file behind it.
pub const MAP_ANONYMOUS: u64 = 0x20;
/// `code` of `arch_prctl`: sets the base of FS.
pub const ARCH_SET_FS: u64 = 0x1002;
/// `code` of `arch_prctl`: stores the base of FS.
pub const ARCH_GET_FS: u64 = 0x1003;
/// Vectors that one `writev` takes at most: nobody else runs meanwhile.
pub const MAX_VECTORS: u64 = 16;
/// `options` of `wait4`: do not block.
pub const WNOHANG: u64 = 1;
