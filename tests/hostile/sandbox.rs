//! The sandbox: on every thread of every command that runs guests or reads files, a system call that nothing needs ends
//! the command with a sentence. No hook in the program makes that call: a debugger's means do, as an attack would.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::cores::table_web;
use crate::fake::Fake;
use crate::file;
use crate::running::Running;
use crate::tiny::{Elf, SPIN, code, print};

/// Numbers and arguments (x86-64, `syscall(2)`).
const IOCTL: u64 = 16;
const SOCKET: u64 = 41;
const CLONE: u64 = 56;
const EXECVE: u64 = 59;
const KILL: u64 = 62;
const PTRACE: u64 = 101;
const OPEN_BY_HANDLE_AT: u64 = 304;
const BPF: u64 = 321;
const TIOCSTI: u64 = 0x5412;
const AF_INET: u64 = 2;
/// A number that no kernel has, and the flag of 32-bit pointers (`__X32_SYSCALL_BIT`).
const NOBODYS: u64 = 0x4000_0000 + 1000;

const A_FEW_SECONDS: Duration = Duration::from_secs(5);

/// Has a thread that waits in a system call make another one instead.
fn make_call(thread: Pid, call: u64, arguments: [u64; 3]) {
    const SYSCALL: i64 = 0x050f;
    for _ in 0..1000 {
        ptrace::attach(thread).unwrap();
        let stopped = waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        assert!(matches!(stopped, WaitStatus::Stopped(..)), "{stopped:?}");
        let mut registers = ptrace::getregs(thread).unwrap();
        let behind = registers.rip - 2;
        let code = ptrace::read(thread, behind as ptrace::AddressType).unwrap();
        if code & 0xffff == SYSCALL && takes_signals(thread) {
            registers.rip = behind;
            registers.rax = call;
            // What it waited in is not begun again.
            registers.orig_rax = u64::MAX;
            [registers.rdi, registers.rsi, registers.rdx] = arguments;
            ptrace::setregs(thread, registers).unwrap();
            ptrace::detach(thread, None).unwrap();
            return;
        }
        ptrace::detach(thread, None).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("the thread never waits");
}

/// Not so one that the C library has only just made: it stands behind a system call, too, with all signals blocked, and
/// what the sandbox refuses would end the process before it can say why.
fn takes_signals(thread: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap();
    let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
    let blocked = u64::from_str_radix(blocked.unwrap().trim(), 16).unwrap();
    blocked >> (Signal::SIGSYS as i32 - 1) & 1 == 0
}

/// `Seccomp:` of proc_pid_status(5) for each thread: 2 where calls are filtered.
fn filtered(running: &Running) -> Vec<bool> {
    let threads = running.threads().into_iter();
    let statuses = threads.filter_map(|thread| fs::read_to_string(thread.join("status")).ok());
    statuses
        .map(|status| status.contains("\nSeccomp:\t2\n") && status.contains("\nNoNewPrivs:\t1\n"))
        .collect()
}

fn spinning(command: &[&str], kernel: &Path) -> Running {
    let kernel = kernel.to_str().unwrap();
    let arguments = [command, &[kernel, "--timeout", "3600"]].concat();
    let mut running = Running::start(&arguments);
    running.until(|it| it.stdout().starts_with(b"up"));
    running
}

fn assert_ended_at(running: Running, call: &str, what: &str) {
    let ended = running.ends_within(A_FEW_SECONDS);
    let said = ended.said();
    assert_eq!(ended.code, Some(3), "{what}: {said}");
    let made = format!("the system call `{call}`");
    assert!(
        said.contains(&made) && said.contains("--no-sandbox"),
        "{what}: {said}"
    );
    assert_eq!(said.lines().count(), 1, "{what}: {said}");
}

#[test]
fn on_kvm_a_call_that_nothing_needs_ends_the_command_on_every_thread_and_is_named() {
    let (_folder, kernel) = file("kernel", &Elf::new(&code(&[&print(b"up\n"), SPIN])).bytes());
    for command in [&["run", "--kernel"][..], &["boot"]] {
        let threads = spinning(command, &kernel).threads().len();
        // The one that runs the guest, the watchdog and the one that waits for signals.
        assert!(threads >= 3, "{threads}");
        for number in 0..threads {
            let running = spinning(command, &kernel);
            let thread = &running.threads()[number];
            let what = format!("{command:?}, thread {number}");
            let thread = thread.file_name().unwrap().to_str().unwrap();
            make_call(
                Pid::from_raw(thread.parse().unwrap()),
                SOCKET,
                [AF_INET, 1, 0],
            );
            assert_ended_at(running, "socket", &what);
        }
    }
}

#[test]
fn on_kvm_programs_sockets_signals_processes_and_what_types_into_terminals_are_out_of_reach() {
    let (_folder, kernel) = file("kernel", &Elf::new(&code(&[&print(b"up\n"), SPIN])).bytes());
    for (call, arguments, name) in [
        (EXECVE, [0, 0, 0], "execve"),
        (KILL, [1, 0, 0], "kill"),
        (CLONE, [17, 0, 0], "clone"),
        (PTRACE, [0, 0, 0], "ptrace"),
        (IOCTL, [0, TIOCSTI, 0], "ioctl"),
        // Another file than a path names, beside Landlock's rules.
        (OPEN_BY_HANDLE_AT, [0, 0, 0], "open_by_handle_at"),
        (BPF, [0, 0, 0], "bpf"),
        (NOBODYS, [0, 0, 0], "1073742824"),
    ] {
        let running = spinning(&["run", "--kernel"], &kernel);
        make_call(running.process(), call, arguments);
        assert_ended_at(running, name, name);
    }
}

#[test]
fn on_kvm_every_command_that_reads_a_guest_is_in_the_sandbox_on_all_threads_unless_it_shall_not() {
    let (_folder, kernel) = file("kernel", &Elf::new(&code(&[&print(b"up\n"), SPIN])).bytes());
    let (_other, core) = file("core", &table_web(64, 512));
    let core = format!("core:{}", core.display());
    let kernel_name = kernel.to_str().unwrap();
    for arguments in [
        &["run", "--kernel", kernel_name][..],
        &["boot", kernel_name],
        &["grade", kernel_name],
        &["lecture", "--claim", "2", "--kernel", kernel_name],
        &["lab", "--processes", "8", "--kernel", kernel_name],
        &["bugs", "--run", "--kernel", kernel_name],
        &["check", &core],
        &["explore", &core, "--html", "/dev/null"],
        &["diff", &core, &core],
    ] {
        let mut running = Running::start(arguments);
        running.until(|it| {
            let filtered = filtered(it);
            !filtered.is_empty() && filtered.iter().all(|filtered| *filtered)
        });
    }
    let off = Running::start(&["--no-sandbox", "run", "--kernel", kernel_name]);
    let mut off = off;
    off.until(|it| it.stdout().starts_with(b"up"));
    assert!(filtered(&off).iter().all(|filtered| !filtered));
}

#[test]
fn a_live_guest_is_read_in_the_sandbox_and_runs_on_when_that_ends_the_command() {
    let fake = Fake::default().hang("cont").serve();
    let mut running = Running::start(&["check", &fake.spec]);
    running.until(|_| {
        fake.asked
            .lock()
            .unwrap()
            .last()
            .is_some_and(|last| last == "cont")
    });
    assert!(filtered(&running).iter().all(|filtered| *filtered));
    make_call(running.process(), EXECVE, [0, 0, 0]);
    let ended = running.ends_within(A_FEW_SECONDS);
    assert_eq!(ended.code, Some(3), "{}", ended.said());
    assert!(ended.said().contains("`execve`"), "{}", ended.said());
    assert_eq!(fake.asked().last().unwrap(), "cont");
}
