//! `heirloom run --program FILE`: a ring-3 program of the user's own as the first process.

mod common;

use std::fs;
use std::path::Path;

use common::program::{
    DYN, EXEC, SPIN, UNDEFINED, X86_64, elf, elf_of, exit, print, print_argument,
};
use common::{Run, heirloom};

/// Runs `file` as a program called `name`, with more `arguments` of the command.
fn run_as(name: &str, file: &[u8], arguments: &[&str]) -> Run {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    fs::write(&path, file).unwrap();
    run_at(&path, arguments)
}

fn run_at(path: &Path, arguments: &[&str]) -> Run {
    heirloom(&[&["run", "--program", path.to_str().unwrap()], arguments].concat())
}

#[test]
fn on_kvm_a_program_of_the_users_own_runs_and_what_it_writes_is_seen() {
    let run = run_as("hello", &elf(&print("hello\n", 0)), &[]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stdout.contains("\nhello\n"), "{}", run.stdout);
    assert!(run.stdout.contains("\nHOLDS: "), "{}", run.stdout);
}

#[test]
fn on_kvm_a_programs_arguments_stand_behind_the_dashes() {
    let program = elf(&print_argument(4));
    let run = run_as("echo", &program, &["--", "one!", "--two", "three"]);
    assert!(run.stdout.contains("\none!"), "{}", run.stdout);
    // Its name and three more.
    assert!(run.stderr.contains("exit code 4"), "{}", run.stderr);
}

#[test]
fn on_kvm_a_program_may_have_the_name_of_an_embedded_one() {
    let run = run_as("family", &elf(&print("my own\n", 0)), &[]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stdout.contains("\nmy own\n"), "{}", run.stdout);
    assert!(run.stdout.contains("family (1 processes"), "{}", run.stdout);
}

#[test]
fn on_kvm_a_program_that_exits_with_an_error_is_exit_code_four_and_its_own_code_is_named() {
    let run = run_as("three", &elf(&exit(3)), &[]);
    assert_eq!(run.code, Some(4), "{}", run.stderr);
    assert!(run.stderr.contains("exit code 3"), "{}", run.stderr);
}

#[test]
fn on_kvm_a_program_that_is_killed_is_exit_code_four_and_the_kernel_says_what_it_did() {
    let run = run_as("undefined", &elf(UNDEFINED), &[]);
    assert_eq!(run.code, Some(4), "{}", run.stderr);
    assert!(run.stderr.contains("signal 4"), "{}", run.stderr);
    assert!(
        run.stdout
            .contains("process 1 killed: executed an undefined instruction (#UD) at rip 0x400078"),
        "{}",
        run.stdout
    );
}

#[test]
fn on_kvm_a_program_that_never_ends_is_stopped_in_ring_3_by_the_time_limit() {
    // Now and then the time is over while a timer interrupt is served.
    let was_in_ring_3 = (0..10).any(|_| {
        let run = run_as("spin", &elf(SPIN), &["--timeout", "5"]);
        assert_eq!(run.code, Some(4), "{}", run.stderr);
        for words in ["not done after 5 s", "--timeout"] {
            assert!(run.stderr.contains(words), "{}", run.stderr);
        }
        ["RIP 0x400078", "ring 3"]
            .iter()
            .all(|words| run.stderr.contains(words))
    });
    assert!(was_in_ring_3);
}

#[test]
fn on_kvm_a_program_file_that_is_not_there_or_no_file_is_exit_code_two_and_named() {
    for path in ["/no/such/program", "/dev/zero", "/tmp"] {
        let run = run_at(Path::new(path), &[]);
        assert_eq!(run.code, Some(2), "{}", run.stderr);
        assert!(run.stderr.contains(path), "{}", run.stderr);
    }
}

#[test]
fn on_kvm_a_program_file_that_is_no_static_x86_64_elf_is_exit_code_two_and_said_to_be_none() {
    let code = exit(0);
    let mut foreign_class = elf(&code);
    foreign_class[4] = 1;
    for (file, words) in [
        (Vec::new(), "no ELF"),
        (b"#!/bin/sh\necho hello\n".to_vec(), "no ELF"),
        (elf(&code)[..40].to_vec(), "no ELF"),
        (foreign_class, "x86-64"),
        (elf_of(EXEC, X86_64 + 1, &code), "x86-64"),
        (elf_of(DYN, X86_64, &code), "-no-pie"),
    ] {
        let run = run_as("program", &file, &[]);
        assert_eq!(run.code, Some(2), "{words}: {}", run.stderr);
        assert!(run.stderr.contains(words), "{}", run.stderr);
        assert!(run.stderr.contains("program"), "{}", run.stderr);
        assert_eq!(run.stdout, "", "the guest was not to boot");
    }
}

#[test]
fn on_kvm_a_program_cut_at_any_byte_is_exit_code_two_and_the_guest_does_not_boot() {
    let file = elf(&exit(0));
    for length in [64, 100, 119, 120, file.len() - 1] {
        let run = run_as("cut-off", &file[..length], &[]);
        assert_eq!(run.code, Some(2), "{}", run.stderr);
        for words in ["cut-off", "it is cut off: ", "copy it again"] {
            assert!(run.stderr.contains(words), "{}", run.stderr);
        }
        assert_eq!(run.stdout, "", "the guest was not to boot");
    }
}

#[test]
fn on_kvm_a_program_that_the_guest_kernel_would_refuse_is_told_why() {
    let good = elf(&exit(0));
    // The fields of its one program header, from byte 64 on (System V ABI, chapter 5).
    let changed = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let word = |value: u64| value.to_le_bytes();
    for (file, words) in [
        (changed(64, &6_u32.to_le_bytes()), "no segment to load"),
        (changed(64, &3_u32.to_le_bytes()), "-static"),
        (changed(72, &word(u64::MAX)), "beyond 2^64"),
        (changed(80, &word(0x1000)), "programs have 0x10000"),
        (
            changed(80, &word(0xffff_8000_0000_0000)),
            "programs have 0x10000",
        ),
        (changed(80, &word(0x40_0008)), "before the page"),
        (changed(104, &word(1)), "larger in the file than in memory"),
        (
            changed(68, &4_u32.to_le_bytes()),
            "none of its segments is executable",
        ),
        (changed(24, &word(0x50_0000)), "starts at 0x500000"),
    ] {
        let run = run_as("program", &file, &[]);
        assert_eq!(run.code, Some(2), "{words}: {}", run.stderr);
        assert!(run.stderr.contains(words), "{words}: {}", run.stderr);
        assert_eq!(run.stdout, "", "the guest was not to boot");
    }
}

#[test]
fn on_kvm_a_program_name_that_a_command_line_cannot_hold_is_exit_code_two() {
    let run = run_as("two words", &elf(&exit(0)), &[]);
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    assert!(run.stderr.contains("blanks"), "{}", run.stderr);
}

/// The code blocks of guest/user/README.md in this language.
fn recipes(language: &str) -> Vec<&'static str> {
    const README: &str = include_str!("../guest/user/README.md");
    let begin = format!("```{language}\n");
    let blocks = README.split(begin.as_str()).skip(1);
    blocks
        .map(|rest| rest.split("```").next().unwrap())
        .collect()
}

#[test]
fn on_kvm_the_recipes_for_c_and_rust_and_musl_are_compiled_as_they_say_and_run() {
    const README: &str = include_str!("../guest/user/README.md");
    let (c, rust) = (recipes("c"), recipes("rust"));
    let family = "process 2, the child: 2\nprocess 1: 1 still, 1.50\n";
    for (recipe, file, compiler, says) in [
        (c[0], "hello.c", "gcc ", "hello from C\n"),
        (
            *rust.last().unwrap(),
            "hello.rs",
            "rustc ",
            "hello from Rust\n",
        ),
        (c[1], "family.c", "musl-gcc ", family),
    ] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(file), recipe).unwrap();
        let mut lines = README.lines().filter_map(|line| line.strip_prefix("$ "));
        let command = lines.find(|line| line.starts_with(compiler)).unwrap();
        let compiled = std::process::Command::new("sh")
            .args(["-c", command])
            .current_dir(folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&compiled.stderr);
        assert!(compiled.status.success(), "{command}: {said}");
        let program = folder.path().join(file.split('.').next().unwrap());
        let run = run_at(&program, &[]);
        assert_eq!(run.code, Some(0), "{file}: {}", run.stderr);
        assert!(run.stdout.contains(says), "{file}: {}", run.stdout);
        assert!(
            !run.stdout.contains("asks for system call"),
            "{}",
            run.stdout
        );
    }
}

/// The base of FS is a process's own: who comes back finds it, and a program that begins has none.
#[test]
fn on_kvm_the_base_of_fs_is_each_processs_own_on_any_cpu() {
    let folder = tempfile::tempdir().unwrap();
    let source = r#"
static long call(long n, long a, long b, long c) {
    long r;
    __asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return r;
}
static long mine[2] = {7, 0};
void _start(void) {
    long word = -1, wrong = 0;
    wrong |= call(158, 0x1003, (long)&word, 0) || word;
    wrong |= call(158, 0x1002, 1L << 62, 0) != -22;
    wrong |= call(158, 0x1003, 8, 0) != -14;
    long child = call(57, 0, 0, 0), child2 = call(57, 0, 0, 0);
    mine[0] = call(39, 0, 0, 0);
    wrong |= call(158, 0x1002, (long)mine, 0);
    for (int i = 0; i < 200; i++) {
        call(24, 0, 0, 0);
        long there;
        __asm__ volatile("movq %%fs:0, %0" : "=r"(there));
        wrong |= there != mine[0];
    }
    int status;
    while (call(61, -1, (long)&status, 0) > 0) wrong |= status;
    call(60, wrong != 0, 0, 0);
}
"#;
    fs::write(folder.path().join("own.c"), source).unwrap();
    let compiled = std::process::Command::new("gcc")
        .args("-O1 -static -nostdlib -no-pie -fno-stack-protector -o own own.c".split(' '))
        .current_dir(folder.path())
        .status()
        .unwrap();
    assert!(compiled.success());
    for cpus in ["1", "3"] {
        let run = run_at(&folder.path().join("own"), &["--cpus", cpus]);
        assert_eq!(run.code, Some(0), "{cpus}: {}{}", run.stdout, run.stderr);
    }
}

#[test]
fn the_readme_lists_every_system_call() {
    const README: &str = include_str!("../guest/user/README.md");
    const SOURCE: &str = include_str!("../guest/abi/src/syscall.rs");
    let mut seen = 0;
    let mut documented = "";
    for line in SOURCE.lines() {
        if let Some(text) = line.strip_prefix("/// `") {
            documented = text.split('`').next().unwrap_or_default();
        } else if let Some(constant) = line.strip_prefix("pub const ")
            && let Some((_, number)) = constant.split_once(": u64 = ")
            && documented.ends_with(')')
        {
            let row = format!("| {} | `{documented}` |", number.trim_end_matches(';'));
            assert!(README.contains(&row), "{row}");
            documented = "";
            seen += 1;
        }
    }
    assert!(seen >= 20, "{seen}");
}

#[test]
fn on_kvm_a_system_call_that_is_not_there_is_named_on_the_console_a_few_times() {
    // mov eax, 97 (getrlimit); syscall
    let asks = [0xb8, 97, 0, 0, 0, 0x0f, 0x05].repeat(10);
    let program = elf(&[asks, exit(127)].concat());
    let run = run_as("libc", &program, &[]);
    assert_eq!(run.code, Some(4), "{}", run.stderr);
    let told = run.stdout.matches("asks for system call 97").count();
    assert_eq!(told, 4, "{}", run.stdout);
}
