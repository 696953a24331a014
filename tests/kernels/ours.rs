//! Our own guest under each strategy, looked at as any kernel is, which knows nothing of what it promised.

use heirloom_abi::options::Strategy;

use crate::booted::Moment;
use crate::breaks::{NO_PAIR_AND_NO_SELF_MAP, NO_USER_ROOT, Unbreakable, assert_caught_in};
use crate::common::guest::extract;
use crate::common::heirloom;
use crate::common::linux::initramfs;
use crate::common::program::elf;

/// Has the kernel give it memory, becomes five processes, each the child of the one before it and with a page of its own,
/// and says so when all of them have come to stand still, but the last.
const FIVE_PROCESSES: &[u8] = &[
    0xbf, 4, 0, 0, 0, // mov edi, 4
    0xb8, 0xe8, 3, 0, 0, // mov eax, 1000: kernel_alloc
    0x0f, 0x05, // syscall
    0xbb, 4, 0, 0, 0, // mov ebx, 4
    // 0x11:
    0xb8, 57, 0, 0, 0, // mov eax, 57: fork
    0x0f, 0x05, // syscall
    0x85, 0xc0, // test eax, eax
    0x74, 0x16, // jz 0x32
    0x50, // push rax
    0x48, 0xc7, 0xc7, 0xff, 0xff, 0xff, 0xff, // mov rdi, -1
    0x31, 0xf6, // xor esi, esi
    0x31, 0xd2, // xor edx, edx
    0x45, 0x31, 0xd2, // xor r10d, r10d
    0xb8, 61, 0, 0, 0, // mov eax, 61: wait4
    0x0f, 0x05, // syscall
    // 0x32:
    0xff, 0xcb, // dec ebx
    0x75, 0xdb, // jnz 0x11
    0x50, // push rax
    0xbb, 100, 0, 0, 0, // mov ebx, 100
    // 0x3c: all others have the CPU each time.
    0xb8, 24, 0, 0, 0, // mov eax, 24: sched_yield
    0x0f, 0x05, // syscall
    0xff, 0xcb, // dec ebx
    0x75, 0xf5, // jnz 0x3c
    0x48, 0x8d, 0x35, 0x13, 0, 0, 0, // lea rsi, [rip + 0x13]
    0xbf, 1, 0, 0, 0, // mov edi, 1
    0xba, 6, 0, 0, 0, // mov edx, 6
    0xb8, 1, 0, 0, 0, // mov eax, 1: write
    0x0f, 0x05, // syscall
    0xeb, 0xfe, // jmp .
    b'r', b'e', b'a', b'd', b'y', b'\n',
];

/// What cannot be broken under a strategy.
fn unbreakable(strategy: Strategy) -> Vec<Unbreakable> {
    let copies = ("kernel-tables-shared", "let pass as private-kernel-tables");
    let users = ("user-root-minimal", NO_USER_ROOT);
    let all = [copies, users].into_iter().chain(NO_PAIR_AND_NO_SELF_MAP);
    all.filter(|(rule, _)| match *rule {
        "kernel-tables-shared" => strategy == Strategy::CopyAll,
        "user-root-minimal" => strategy != Strategy::Isolated,
        _ => true,
    })
    .collect()
}

#[test]
fn on_kvm_our_guest_is_sound_under_each_strategy_and_each_rule_broken_there_is_reported() {
    let guest = extract();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let archive = initramfs::with_files(&[("five".to_owned(), elf(FIVE_PROCESSES))]);
    std::fs::write(at("programs"), archive).unwrap();
    for strategy in Strategy::ALL {
        let words = format!("init=five propagation={}", strategy.name());
        let core = at(strategy.name());
        let kernel = guest.kernel.display().to_string();
        let run = heirloom(&[
            "boot",
            &kernel,
            "--initrd",
            &at("programs"),
            "--memory",
            "64M",
            "--cmdline",
            &words,
            "--until",
            "ready",
            "--core",
            &core,
            "--json",
        ]);
        assert_eq!(run.code, Some(0), "{words}: {}{}", run.stdout, run.stderr);
        let live: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
        let moment = Moment::of(&format!("core:{core}"));
        eprintln!("{words}");
        assert_eq!(moment.profile(), "heirloom");
        assert_eq!(moment.rules("broken"), Vec::<&str>::new());
        assert_eq!(moment.check.code, 0);
        assert_eq!(live["roots"]["roots"], moment.roots.report["roots"]);
        assert_eq!(live["check"]["rules"], moment.check.report["rules"]);
        let kind = match strategy {
            Strategy::Isolated => "user-root",
            _ => "process",
        };
        assert_eq!((moment.count("kernel", ""), moment.count(kind, "")), (1, 5));
        assert_caught_in(core.as_ref(), &unbreakable(strategy));
        std::fs::remove_file(core).unwrap();
    }
}
