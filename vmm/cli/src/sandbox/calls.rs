//! Which system calls can be made: seccomp.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BackendError, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Compare,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use super::Beside;

/// Calls without conditions: of this program, and of what the C libraries (glibc, musl) make of its calls.
#[rustfmt::skip]
const ALLOWED: &[c_long] = &[
    // Memory.
    libc::SYS_brk, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_madvise, libc::SYS_mincore, libc::SYS_membarrier,
    libc::SYS_memfd_create,
    // Open files.
    libc::SYS_read, libc::SYS_readv, libc::SYS_pread64, libc::SYS_preadv, libc::SYS_preadv2,
    libc::SYS_write, libc::SYS_writev, libc::SYS_pwrite64, libc::SYS_pwritev, libc::SYS_pwritev2,
    libc::SYS_close, libc::SYS_close_range, libc::SYS_lseek, libc::SYS_fcntl, libc::SYS_dup, libc::SYS_dup2, libc::SYS_dup3,
    libc::SYS_fstat, libc::SYS_fstatfs, libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_ftruncate,
    libc::SYS_fallocate, libc::SYS_fadvise64, libc::SYS_fchmod, libc::SYS_flock, libc::SYS_copy_file_range,
    libc::SYS_sendfile, libc::SYS_splice, libc::SYS_getdents64,
    libc::SYS_poll, libc::SYS_ppoll, libc::SYS_select, libc::SYS_pselect6, libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl, libc::SYS_epoll_wait, libc::SYS_epoll_pwait, libc::SYS_eventfd2, libc::SYS_pipe2, libc::SYS_pipe,
    // Names of files, of which Landlock decides.
    libc::SYS_open, libc::SYS_openat, libc::SYS_stat, libc::SYS_lstat, libc::SYS_newfstatat, libc::SYS_statx,
    libc::SYS_statfs, libc::SYS_access, libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_readlink,
    libc::SYS_readlinkat, libc::SYS_getcwd, libc::SYS_umask, libc::SYS_unlink, libc::SYS_unlinkat,
    libc::SYS_rmdir, libc::SYS_rename, libc::SYS_renameat, libc::SYS_renameat2, libc::SYS_link, libc::SYS_linkat,
    // Threads.
    libc::SYS_exit, libc::SYS_exit_group, libc::SYS_gettid, libc::SYS_futex, libc::SYS_set_robust_list,
    libc::SYS_get_robust_list, libc::SYS_rseq, libc::SYS_sched_yield, libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity, libc::SYS_getcpu, libc::SYS_set_tid_address,
    // Signals to itself, and waiting for a child that has ended.
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_sigsuspend, libc::SYS_rt_sigpending, libc::SYS_sigaltstack, libc::SYS_restart_syscall, libc::SYS_pause, libc::SYS_wait4, libc::SYS_waitid,
    // Time, chance, and who it is.
    libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_clock_nanosleep, libc::SYS_nanosleep,
    libc::SYS_gettimeofday, libc::SYS_time, libc::SYS_getrandom, libc::SYS_getpid, libc::SYS_getppid, libc::SYS_getuid, libc::SYS_geteuid,
    libc::SYS_getgid, libc::SYS_getegid, libc::SYS_uname, libc::SYS_sysinfo, libc::SYS_getrlimit, libc::SYS_getrusage,
    libc::SYS_times,
    // Another filter can only take more.
    libc::SYS_seccomp,
    // glibc asks for it first, and has to be told that there is none: see `UNKNOWN`.
    libc::SYS_clone3, libc::SYS_openat2,
];

/// Calls whose arguments lie in memory, where no filter sees them. They are answered as by a kernel that does not know
/// them; libraries then make the old ones.
const UNKNOWN: &[c_long] = &[libc::SYS_clone3, libc::SYS_openat2];

/// Of a guest in another process, or of a machine's that QEMU is.
const CONNECTIONS: &[c_long] = &[
    libc::SYS_connect,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_shutdown,
];

/// Requests of terminals and files by their low 16 bits: what a terminal is and how large, and whether to wait. None
/// that types into it (TIOCSTI, TIOCLINUX) or changes it.
const REQUESTS: [u64; 5] = [
    0x5401, // TCGETS
    0x542a, // TCGETS2
    0x5413, // TIOCGWINSZ
    0x5421, // FIONBIO
    0x5451, // FIOCLEX
];
/// The type that all requests of KVM have, in bits 15 to 8.
const KVM: u64 = 0xae << 8;

/// Whether this kernel filters system calls.
pub(crate) fn are_filtered_here() -> bool {
    std::path::Path::new("/proc/sys/kernel/seccomp/actions_avail").exists()
}

/// All of them hold.
pub(super) fn filters(beside: Beside) -> Result<[SeccompFilter; 2], BackendError> {
    let allowed = SeccompFilter::new(
        rules(beside)?,
        SeccompAction::Trap,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )?;
    let unknown = SeccompFilter::new(
        UNKNOWN.iter().map(|call| (*call, Vec::new())).collect(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS.unsigned_abs()),
        TargetArch::x86_64,
    )?;
    Ok([allowed, unknown])
}

fn rules(beside: Beside) -> Result<BTreeMap<c_long, Vec<SeccompRule>>, BackendError> {
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> =
        ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    let no_execution = masked(2, unsigned(libc::PROT_EXEC), 0)?;
    let ourselves = u64::from(std::process::id());
    let mut requests = vec![masked(1, 0xff00, KVM)?];
    for request in REQUESTS {
        requests.push(masked(1, 0xffff, request)?);
    }
    rules.extend([
        (libc::SYS_mmap, vec![no_execution.clone()]),
        (libc::SYS_mprotect, vec![no_execution]),
        (libc::SYS_ioctl, requests),
        // Threads, and no processes.
        (
            libc::SYS_clone,
            vec![masked(
                0,
                unsigned(libc::CLONE_THREAD),
                unsigned(libc::CLONE_THREAD),
            )?],
        ),
        (libc::SYS_tgkill, vec![equal(0, ourselves)?]),
        // What the limits are, and no others.
        (libc::SYS_prlimit64, vec![equal(2, 0)?]),
        (
            libc::SYS_prctl,
            [
                libc::PR_SET_NAME,
                libc::PR_SET_VMA,
                libc::PR_SET_NO_NEW_PRIVS,
            ]
            .into_iter()
            .map(|option| equal(0, unsigned(option)))
            .collect::<Result<_, _>>()?,
        ),
    ]);
    if beside != Beside::None {
        rules.extend(CONNECTIONS.iter().map(|call| (*call, Vec::new())));
        rules.insert(libc::SYS_socket, vec![equal(0, unsigned(libc::AF_UNIX))?]);
    }
    match beside {
        Beside::None => {}
        Beside::Child => {
            rules.insert(libc::SYS_kill, Vec::new());
            rules.insert(libc::SYS_pidfd_send_signal, Vec::new());
        }
        Beside::Guest => {
            rules.insert(libc::SYS_process_vm_readv, Vec::new());
        }
    }
    Ok(rules)
}

/// Constants of the C library are signed, and none of these is negative.
fn unsigned(constant: libc::c_int) -> u64 {
    u64::from(constant.unsigned_abs())
}

/// That an argument, of which the kernel takes 32 bits, has this value where `mask` is set.
fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompRule, BackendError> {
    condition(argument, Length::Dword, Compare::MaskedEq(mask), value)
}

/// That an argument has this value.
fn equal(argument: u8, value: u64) -> Result<SeccompRule, BackendError> {
    condition(argument, Length::Qword, Compare::Eq, value)
}

fn condition(
    argument: u8,
    length: Length,
    compare: Compare,
    value: u64,
) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(
        argument, length, compare, value,
    )?])
}
