//! The same kernel without KVM and without a host that looks: QEMU's emulated CPU (TCG) has what this
//! host's KVM may lack, and lacks what it may have. Here the kernel checks itself.

mod common;

use assert_cmd::Command;
use heirloom_abi::options::Strategy;

use common::guest::extract;
use common::promises::{assert_kept, assert_kept_with_five_levels};
use common::{Run, limited};

/// QEMU's exit status for the guest's: isa-debug-exit makes 2 × status + 1 of it.
const fn exit_code(guest_status: i32) -> i32 {
    2 * guest_status + 1
}

/// What the guest writes to the exit port when it crashes.
const CRASHED: i32 = 0x7f;

/// Runs the command that `heirloom extract` prints, each change (from, to) made to it first.
fn qemu(changes: &[(&str, &str)]) -> Run {
    let guest = extract();
    let mut line = guest.qemu.clone();
    for (from, to) in changes {
        assert!(line.contains(from), "no `{from}` to change in: {line}");
        line = line.replacen(from, to, 1);
    }
    // `exec`, so that the time limit ends QEMU and not the shell alone.
    let run = limited(Command::new("sh").args(["-c", &format!("exec {line}")]));
    assert_ne!(
        run.code,
        Some(127),
        "this test needs qemu-system-x86_64, Debian's package qemu-system-x86: {}",
        run.stderr
    );
    run
}

/// The run must have ended with the guest's status 0, and said all of `words`.
fn assert_good(run: &Run, words: &[&str]) {
    let Run {
        code,
        stdout,
        stderr,
    } = run;
    assert_eq!(*code, Some(exit_code(0)), "{stdout}\n{stderr}");
    for word in words {
        assert!(stdout.contains(word), "no `{word}` in: {stdout}\n{stderr}");
    }
}

const CHECKS_PASS: &str = " passed, 0 failed";
/// A family behind its self-checks becomes the trials.
const TRIALS: (&str, &str) = ("init=family selfcheck", "init=trials");
const OLD_CPU: (&str, &str) = ("-cpu max", "-cpu qemu64");

#[test]
fn the_printed_command_boots_and_the_kernel_passes_its_checks_with_smep_and_smap_on() {
    let run = qemu(&[]);
    assert_good(&run, &["smep true smap true umip true", CHECKS_PASS]);
    assert!(
        run.stdout.contains("system calls by syscall"),
        "{}",
        run.stdout
    );
}

#[test]
fn every_promise_is_kept_where_system_calls_are_real_with_five_levels_and_with_four() {
    let run = qemu(&[TRIALS]);
    assert_good(&run, &["system calls by syscall"]);
    assert_kept_with_five_levels(&run.stdout);
    let run = qemu(&[TRIALS, ("init=trials", "init=trials la57=off")]);
    assert_good(&run, &["system calls by syscall"]);
    assert_kept(&run.stdout);
}

#[test]
fn a_cpu_without_smep_and_smap_is_good_enough_and_the_kernel_says_so() {
    let run = qemu(&[OLD_CPU]);
    assert_good(&run, &["smep false smap false umip false", CHECKS_PASS]);
}

#[test]
fn every_promise_is_kept_on_a_cpu_without_smep_and_smap() {
    let run = qemu(&[OLD_CPU, TRIALS]);
    assert_good(&run, &[]);
    assert_kept(&run.stdout);
}

#[test]
fn ram_above_four_gibibytes_is_found_and_in_the_direct_map() {
    // One more range of RAM: it is tried at both ends, and behind its end.
    let passed = |run: &Run| -> u32 {
        assert_good(run, &[CHECKS_PASS]);
        let (before, _) = run.stdout.split_once(CHECKS_PASS).unwrap();
        before.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let (small, large) = (qemu(&[]), qemu(&[("-m 256M", "-m 5G")]));
    assert!(large.stdout.contains("5119 MiB of RAM"), "{}", large.stdout);
    assert_eq!(passed(&large), passed(&small) + 3);
}

/// Eight pages below a PGD entry that nothing uses yet, so that the family's last allocation needs it.
const NEAR_A_BOUNDARY: &str = "vmalloc-start=below:8 init=family";

#[test]
fn with_every_strategy_every_process_reads_kernel_memory_below_a_new_pgd_entry() {
    for strategy in Strategy::ALL {
        if !strategy.propagates() {
            continue;
        }
        let name = format!("propagation={}", strategy.name());
        // With five levels of page tables and with four.
        for depth in ["", "la57=off "] {
            let words = format!("{depth}{name} {NEAR_A_BOUNDARY}");
            let run = qemu(&[("init=family", &words)]);
            assert_good(&run, &[&name, CHECKS_PASS]);
            assert!(
                !run.stdout.contains("accesses to kernel memory failed"),
                "{words}: {}",
                run.stdout
            );
        }
    }
}

#[test]
fn without_propagation_only_its_maker_can_read_kernel_memory_below_a_new_pgd_entry() {
    let words = format!("propagation=none {NEAR_A_BOUNDARY}");
    let run = qemu(&[("init=family", &words)]);
    // All of the eight but the maker.
    assert_good(
        &run,
        &["propagation=none", "7 accesses to kernel memory failed"],
    );
}

#[test]
fn a_kernel_that_panics_says_why_and_ends_with_its_own_status() {
    let run = qemu(&[("init=family", "init=nothing")]);
    assert_eq!(run.code, Some(exit_code(CRASHED)), "{}", run.stdout);
    assert!(
        run.stdout.contains("no boot module is called \"nothing\""),
        "{}",
        run.stdout
    );
}
