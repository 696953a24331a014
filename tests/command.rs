//! The command as a whole: usage, exit codes, readers who leave.

use std::process::Stdio;

use assert_cmd::Command;

fn heirloom() -> Command {
    Command::new(env!("CARGO_BIN_EXE_heirloom"))
}

/// Runs with `arguments`; the exit code and what was said on standard error.
fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let output = heirloom().args(arguments).output().unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn wrong_usage_is_exit_code_two() {
    for arguments in [
        &[][..],
        &["fly"],
        &["run", "--memory", "lots"],
        &["run", "--timeout", "0"],
        &["run", "--timeout", "99999999999999999999"],
        &["doctor", "--jason"],
        &["extract"],
    ] {
        let (code, said) = run(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {said}");
    }
}

#[test]
fn too_little_memory_says_how_much_is_enough() {
    let (code, said) = run(&["run", "--memory", "32M"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("64 MiB"), "{said}");
}

#[test]
fn on_kvm_a_kernel_that_cannot_be_used_is_exit_code_two_and_named() {
    for path in ["/no/such/kernel", "/dev/zero", "/etc/passwd"] {
        let (code, said) = run(&["run", "--kernel", path]);
        assert_eq!(code, Some(2), "{said}");
        assert!(
            said.starts_with("heirloom: ") && said.contains(path),
            "{said}"
        );
    }
}

#[test]
fn help_lists_the_exit_codes() {
    let output = heirloom().arg("--help").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    for line in [
        "0  all rules hold",
        "1  a rule failed",
        "4  the guest crashed",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn a_reader_who_leaves_early_is_neither_panic_nor_error() {
    for arguments in [&["doctor"][..], &["doctor", "--json"], &["--help"]] {
        // Without KVM the doctor's answer is 3.
        let (code, _) = run(arguments);
        assert!(matches!(code, Some(0 | 3)), "{arguments:?}: {code:?}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_heirloom"))
            .args(arguments)
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), code, "{arguments:?}");
        assert_eq!(
            String::from_utf8(output.stderr).unwrap(),
            "",
            "{arguments:?}"
        );
    }
}
