//! A guest kernel that cannot go on: its own account on the console, a backtrace with names on standard
//! error, and exit code 4.

mod common;

use std::fs;

use common::guest::extract;
use common::{Run, heirloom};

/// What `self_check::call` is made of: `xor eax, eax; call rdi; ret`.
const SELF_CHECK_CALL: [u8; 5] = [0x31, 0xc0, 0xff, 0xd7, 0xc3];
/// `xor eax, eax; mov rax, [rax]`: reads address 0.
const READ_NULL: [u8; 5] = [0x31, 0xc0, 0x48, 0x8b, 0x00];

/// A run in which the guest must have crashed.
fn crash(arguments: &[&str]) -> Run {
    let run = heirloom(&[&["run"], arguments].concat());
    assert_eq!(run.code, Some(4), "{}\n{}", run.stdout, run.stderr);
    run
}

/// The functions that the backtrace names, one text for each line.
fn backtrace(run: &Run) -> Vec<&str> {
    run.stderr
        .lines()
        .filter_map(|line| line.strip_prefix("  0xffffffff"))
        .collect()
}

fn assert_backtrace_names(run: &Run, functions: &[&str]) {
    let backtrace = backtrace(run);
    for function in functions {
        assert!(
            backtrace.iter().any(|line| line.contains(function)),
            "no `{function}` in: {}",
            run.stderr
        );
    }
}

#[test]
fn on_kvm_a_kernel_that_panics_says_why_and_who_called_is_named_with_file_and_line() {
    let run = crash(&["--cmdline", "vmalloc-start=1"]);
    let console = &run.stdout;
    assert!(console.contains("kernel panicked at "), "{console}");
    assert!(
        console.contains("vmalloc-start=0x1 is no page of the vmalloc area"),
        "{console}"
    );
    assert!(console.contains("called from:\n  0x"), "{console}");
    assert!(
        run.stderr.contains("heirloom: the guest kernel panicked\n"),
        "{}",
        run.stderr
    );
    assert_backtrace_names(
        &run,
        &[
            "core::panicking::panic_fmt",
            "heirloom_kernel::start",
            "kernel_main",
            "(guest/kernel/src/main.rs:",
        ],
    );
}

#[test]
fn on_kvm_words_that_the_kernel_cannot_use_are_quoted_in_its_panic() {
    for (words, message) in [
        ("vmalloc-start=abc", "vmalloc-start=abc is no number"),
        (
            "propagation=magic",
            "propagation=magic is no strategy of this kernel",
        ),
        ("init=nothing", "no boot module is called \"nothing\""),
    ] {
        let run = crash(&["--cmdline", words]);
        assert!(run.stdout.contains(message), "{}", run.stdout);
        assert_backtrace_names(&run, &["heirloom_kernel::"]);
    }
}

#[test]
fn on_kvm_a_kernel_that_ends_before_it_is_up_is_not_judged() {
    let run = crash(&["--cmdline", "vmalloc-start=1"]);
    for word in ["HOLDS", "BROKEN", "cr3-known"] {
        assert!(!run.stdout.contains(word), "{}", run.stdout);
    }
}

#[test]
fn on_kvm_a_kernel_fault_shows_registers_the_walk_of_the_address_and_where_it_was() {
    let guest = extract();
    let mut kernel = fs::read(&guest.kernel).unwrap();
    let places: Vec<usize> = (0..kernel.len() - SELF_CHECK_CALL.len())
        .filter(|at| kernel[*at..].starts_with(&SELF_CHECK_CALL))
        .collect();
    let [place] = places[..] else {
        panic!("the kernel's self_check::call has other code now: found {places:x?}");
    };
    kernel[place..place + READ_NULL.len()].copy_from_slice(&READ_NULL);
    fs::write(&guest.kernel, kernel).unwrap();

    let path = guest.kernel.to_str().unwrap();
    let run = crash(&["--kernel", path, "--cmdline", "selfcheck"]);
    for words in [
        "kernel #PF at 0xffffffff8",
        "error code 0x0",
        "rax 0000000000000000 rbx ",
        "cr2 0000000000000000 cr3 ",
        "walk of 0x0:\n  PGD[0] = 0x",
    ] {
        assert!(run.stdout.contains(words), "{}", run.stdout);
    }
    assert!(
        run.stderr
            .contains("the guest kernel took exception 14 (error code 0x0, address 0x0)"),
        "{}",
        run.stderr
    );
    let first = backtrace(&run)[0];
    assert!(
        first.contains("heirloom_kernel::self_check::call+0x2"),
        "{}",
        run.stderr
    );
    assert!(backtrace(&run).len() > 1, "{}", run.stderr);
}
