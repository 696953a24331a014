//! The inspecting commands on images that the test writes: arguments, exit codes, files that are no good.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{Depth, Entry, PageSize, Pfn, PhysAddr, PhysicalMemory, VirtAddr};
use serde_json::Value;
use tempfile::TempDir;

/// 2 MiB of RAM, and page tables that show it: a kernel, and two processes.
struct Image {
    folder: TempDir,
    memory: FakeMemory,
    kernel: PhysAddr,
    processes: [PhysAddr; 2],
}

const RAM: u64 = 2 << 20;
const DIRECT_MAP: u64 = 0xffff_8880_0000_0000;
const TEXT: u64 = 0xffff_ffff_8100_0000;
const USER: u64 = 0x40_0000;

impl Image {
    fn new() -> Image {
        let mut memory = FakeMemory::new();
        let kernel = memory.root();
        let mut map = |root, va, pa, flags| {
            let (va, pa) = (VirtAddr::new(va), PhysAddr::new(pa));
            memory.map(Depth::Four, root, va, pa, PageSize::Size4KiB, flags);
        };
        let constants = FakeMemory::KERNEL_TEXT | Entry::NO_EXECUTE;
        for at in (0..RAM).step_by(4096) {
            let is_text = at == RAM - 4096;
            let flags = if is_text {
                constants
            } else {
                FakeMemory::KERNEL_DATA
            };
            map(kernel, DIRECT_MAP + at, at, flags);
        }
        map(kernel, TEXT, RAM - 4096, FakeMemory::KERNEL_TEXT);
        let processes = [1, 2].map(|number| {
            let root = memory.child_of(kernel);
            let page = PhysAddr::new(RAM - (4096 << number));
            let va = VirtAddr::new(USER);
            memory.map(
                Depth::Four,
                root,
                va,
                page,
                PageSize::Size4KiB,
                FakeMemory::USER_DATA,
            );
            root
        });
        Image {
            folder: TempDir::new().unwrap(),
            memory,
            kernel,
            processes,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes the RAM into a file: its path.
    fn write(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes(&self.memory)).unwrap();
        path
    }

    /// The image as a target on the first process's root.
    fn target(&self, name: &str) -> String {
        let path = self.write(name);
        format!("raw:{},cr3={}", path.display(), self.processes[0])
    }
}

fn bytes(memory: &FakeMemory) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(RAM).unwrap()];
    for (pfn, page) in (0..).map(Pfn::new).zip(bytes.chunks_mut(4096)) {
        // What was not built is zero.
        let _ = memory.read_bytes(pfn.base(), page);
    }
    bytes
}

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

fn heirloom<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heirloom"));
    let output = command.args(arguments).output().unwrap();
    let said = Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    };
    assert!(!said.err.contains("panicked"), "{}", said.err);
    said
}

/// Asserts exit code 2 and one line that says these words.
#[track_caller]
fn assert_refused<S: AsRef<std::ffi::OsStr>>(arguments: &[S], words: &[&str]) {
    let said = heirloom(arguments);
    assert_eq!(said.code, Some(2), "{}{}", said.out, said.err);
    assert_eq!(said.out, "");
    for word in words {
        assert!(said.err.contains(word), "no `{word}` in {}", said.err);
    }
}

#[test]
fn every_command_answers_on_a_sound_image_with_exit_code_zero() {
    let image = Image::new();
    let target = image.target("guest");
    let commands: [&[&str]; 9] = [
        &["roots", &target],
        &["check", &target],
        &["check", "--strict-user", &target],
        &["maps", &target],
        &["maps", "--kernel", &target],
        &["layout", &target],
        &["translate", &target, "0xffff888000001234"],
        &["reverse", &target, "0x1000"],
        &["diff", &target, &target],
    ];
    for command in commands {
        let said = heirloom(command);
        assert_eq!(said.code, Some(0), "{command:?}: {}{}", said.out, said.err);
        assert_eq!(said.err, "", "{command:?}");
        let json = heirloom(&[command, &["--json"]].concat());
        assert_eq!(json.code, Some(0), "{command:?}");
        let json: Value = serde_json::from_str(&json.out).unwrap();
        assert_eq!(json["version"], 1, "{command:?}");
    }
    let blind = format!("raw:{}", image.write("guest").display());
    let said = heirloom(&["roots", "--blind", &blind]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    for root in image.processes.iter().chain([&image.kernel]) {
        assert!(said.out.contains(&root.to_string()), "{}", said.out);
    }
}

#[test]
fn a_broken_rule_is_exit_code_one() {
    let mut image = Image::new();
    let index = VirtAddr::new(TEXT).index(heirloom_inspect::Level::Pml4);
    image
        .memory
        .poke(image.processes[1].pfn(), index, Entry::ABSENT);
    let said = heirloom(&["check", &image.target("guest")]);
    assert_eq!(said.code, Some(1), "{}", said.out);
    assert!(
        said.out
            .ends_with("rules are broken: kernel-mappings-equal.\n"),
        "{}",
        said.out
    );
    let said = heirloom(&["check", "--json", &image.target("guest")]);
    assert_eq!(said.code, Some(1));
    // Commands that only show do not judge.
    assert_eq!(heirloom(&["roots", &image.target("guest")]).code, Some(0));
}

#[test]
fn pages_that_a_process_can_write_and_execute_count_with_strictness_alone() {
    let mut image = Image::new();
    let (root, va) = (image.processes[0], VirtAddr::new(USER));
    image.memory.change(
        Depth::Four,
        root,
        va,
        heirloom_inspect::Level::Pt,
        |entry| entry.without(Entry::NO_EXECUTE),
    );
    let target = image.target("guest");
    assert_eq!(heirloom(&["check", &target]).code, Some(0));
    let strict = heirloom(&["check", "--strict-user", &target]);
    assert_eq!(strict.code, Some(1));
    assert!(strict.out.contains("user-write-xor-execute"));
}

#[test]
fn files_that_are_no_good_are_exit_code_two_and_named() {
    let image = Image::new();
    let empty = image.path("empty");
    fs::write(&empty, []).unwrap();
    let name = |path: &Path| path.display().to_string();
    for kind in ["raw", "core"] {
        let missing = image.path("missing");
        assert_refused(
            &["roots", &format!("{kind}:{}", name(&missing))],
            &["missing"],
        );
        assert_refused(&["check", &format!("{kind}:{}", name(&empty))], &["empty"]);
        let folder = name(image.folder.path());
        assert_refused(
            &["maps", &format!("{kind}:{folder}")],
            &["neither a regular file"],
        );
    }
    assert_refused(
        &["roots", &format!("core:{}", name(&image.write("guest")))],
        &["guest"],
    );
    assert_refused(&["roots", "nonsense"], &["nonsense"]);
    assert_refused(&["roots"], &["TARGET"]);
    assert_refused(&["diff", &image.target("guest")], &["TARGET"]);
    assert_refused(
        &[
            "roots",
            &format!("raw:{},cr3=0x40000000", name(&image.write("guest"))),
        ],
        &["0x40000000", "no RAM"],
    );
    // Zeroes have no page tables.
    let zeroes = image.path("zeroes");
    fs::write(&zeroes, vec![0; 1 << 20]).unwrap();
    assert_refused(
        &["roots", &format!("raw:{}", name(&zeroes))],
        &["no page tables found", "cr3="],
    );
}

#[test]
fn an_image_that_is_cut_anywhere_is_no_panic() {
    let image = Image::new();
    let whole = bytes(&image.memory);
    let path = image.path("cut");
    for length in [1, 7, 4095, 4096, 4097, 0x5_0000, 0x5_0001, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        for spec in [
            "",
            ",cr3=0x1000",
            ",cr3=0x1000,cr4=0x20",
            ",cr3=0x1000,cr4=0x1020",
        ] {
            let target = format!("raw:{}{spec}", path.display());
            for command in ["roots", "check", "layout"] {
                let said = heirloom(&[command, &target]);
                assert!(
                    matches!(said.code, Some(0..=2)),
                    "{command} {target}: {}",
                    said.err
                );
                assert_eq!(said.code == Some(2), !said.err.is_empty(), "{}", said.err);
            }
        }
    }
}

#[test]
fn the_address_space_is_named_by_its_root_its_cr3_its_cpu_or_as_the_kernels() {
    let image = Image::new();
    let cr4 = format!("{},cr4=0x20", image.target("guest"));
    let maps = |root: &str| heirloom(&["maps", "--user", &cr4, "--root", root]);
    let shown = |root: PhysAddr| format!("root {root}\n");
    // With PCID and the bit that says not to flush, as CR3 has it.
    let cr3 = format!("{:#x}", image.processes[1].get() | 1 << 63 | 5);
    for (name, root) in [
        (image.processes[1].to_string(), image.processes[1]),
        (cr3, image.processes[1]),
        ("cpu0".to_owned(), image.processes[0]),
        ("kernel".to_owned(), image.kernel),
    ] {
        let said = maps(&name);
        assert_eq!(said.code, Some(0), "{name}: {}", said.err);
        assert!(said.out.contains(&shown(root)), "{name}: {}", said.out);
    }
    // A root that is none of those found is walked as well, and said to be none; one outside of memory is none.
    let table = format!("{:#x}", image.kernel.get() + 0x1000);
    let said = maps(&table);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.out.contains("(foreign)"), "{}", said.out);
    for (name, words) in [
        (
            "0x12345000",
            &["no address space 0x12345000", "heirloom roots"][..],
        ),
        ("cpu1", &["no address space cpu1"]),
        ("pid7", &["no address space pid7"]),
        ("everything", &["`everything` names no address space"]),
    ] {
        let said = maps(name);
        assert_eq!(said.code, Some(2), "{name}");
        for word in words {
            assert!(said.err.contains(word), "{name}: {}", said.err);
        }
    }
    assert_refused(
        &["maps", "--kernel", "--user", &cr4],
        &["--kernel", "--user"],
    );
    assert_refused(&["translate", &cr4, "there"], &["`there` is no address"]);
    assert_refused(
        &["reverse", &cr4, "0x1ffffffffffffffff"],
        &["is no address"],
    );
}

#[test]
fn four_and_five_levels_cannot_be_compared() {
    let image = Image::new();
    let four = image.target("guest");
    let path = image.path("guest");
    let five = format!("raw:{},cr3=0x1000,cr4=0x1020", path.display());
    assert_refused(&["diff", &four, &five], &["4-level", "5-level"]);
}

#[test]
fn a_reader_who_leaves_is_no_error() {
    let image = Image::new();
    let target = image.target("guest");
    for arguments in [
        &["maps", &target][..],
        &["maps", "--json", &target],
        &["roots", "--json", &target],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_heirloom"));
        let mut child = command
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            (output.status.code(), &err[..]),
            (Some(0), ""),
            "{arguments:?}"
        );
    }
}

#[test]
fn help_of_each_command_tells_of_targets() {
    for command in [
        "roots",
        "check",
        "maps",
        "layout",
        "translate",
        "reverse",
        "diff",
    ] {
        let said = heirloom(&[command, "--help"]);
        assert_eq!(said.code, Some(0), "{}", said.err);
        for kind in ["core:FILE", "raw:FILE", "qemu:SOCKET", "rec:FILE"] {
            assert!(said.out.contains(kind), "{command}: {}", said.out);
        }
    }
    let said = heirloom(&["check", "--help"]);
    assert!(said.out.contains("kernel-tables-shared") && said.out.contains("vsyscall-page"));
}

#[test]
fn the_profile_is_said_with_its_evidence_and_can_be_given_by_name_or_file() {
    let image = Image::new();
    let target = image.target("guest");
    let said = heirloom(&["layout", &target]);
    let line = "  profile: generic (no known kernel's marks)\n";
    assert!(said.out.contains(line), "{}", said.out);
    assert!(said.out.contains("linear map of physical memory"));
    let said = heirloom(&["layout", &target, "--profile", "linux"]);
    assert!(said.out.contains("  profile: linux (the user says so)\n"));
    assert!(said.out.contains("direct map"), "{}", said.out);
    // The file that the command prints is one that it takes, and what is changed in it shows.
    let printed = heirloom(&["profile", &target]);
    assert_eq!(printed.code, Some(0), "{}", printed.err);
    let path = image.path("mine.toml");
    let text = printed
        .out
        .replace("\"linear map of physical memory\"", "\"everything\"");
    fs::write(&path, text).unwrap();
    let path = path.display().to_string();
    let said = heirloom(&["layout", &target, "--profile", &path]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(
        said.out
            .contains("  profile: mykernel (the user says so)\n")
    );
    assert!(said.out.contains(" everything "), "{}", said.out);
    let said = heirloom(&["check", &target, "--json", "--profile", &path]);
    let report: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(report["target"]["profile"]["name"], "mykernel");
    assert_eq!(report["holds"], true);
}

#[test]
fn a_profile_that_is_no_good_is_refused_with_the_file_and_what_is_wrong() {
    let image = Image::new();
    let target = image.target("guest");
    assert_refused(
        &["check", &target, "--profile", "minix"],
        &["profile minix:", "write linux, xen, heirloom, generic"],
    );
    let long = format!("name = \"{}\"", "x".repeat(2 << 20));
    for (text, words) in [
        ("name = \"x\"\nareas = 5\n", ["line 2", "unknown field"]),
        ("name = ", ["line 1", "mine.toml"]),
        (
            "like = \"linux\"\n",
            ["a profile needs a name", "mine.toml"],
        ),
        (
            "name = \"x\"\nlet-pass = [\"vsyscal-page\"]\n",
            ["nearest is `vsyscall-page`", "mine.toml"],
        ),
        (&long, ["1 MiB", "mine.toml"]),
        ("\u{0}", ["line 1", "mine.toml"]),
    ] {
        let path = image.path("mine.toml");
        fs::write(&path, text).unwrap();
        let path = path.display().to_string();
        assert_refused(&["roots", &target, "--profile", &path], &words);
    }
}

#[test]
fn a_rule_that_is_required_and_not_tried_is_a_fault_and_an_unknown_one_is_refused() {
    let image = Image::new();
    let target = image.target("guest");
    let said = heirloom(&["check", &target, "--require", "write-xor-execute"]);
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
    let last = said.out.lines().last().unwrap();
    assert!(last.contains(" rules hold, ") && last.contains(" not tried: "));
    let said = heirloom(&[
        "check",
        &target,
        "--require",
        "write-xor-execute",
        "--require",
        "user-half-nx",
    ]);
    assert_eq!(said.code, Some(1), "{}{}", said.out, said.err);
    let last = said.out.lines().last().unwrap();
    assert!(
        last.starts_with("NOT TRIED, and required: user-half-nx (no pair "),
        "{last}"
    );
    assert_refused(
        &["check", &target, "--require", "user-half-xn"],
        &["there is no rule `user-half-xn`; the nearest is `user-half-nx`"],
    );
}

#[test]
fn known_findings_pass_and_new_ones_do_not() {
    let mut image = Image::new();
    let text = PhysAddr::new(RAM - 4096);
    let writable = |image: &mut Image, at: u64| {
        let (kernel, va) = (image.kernel, VirtAddr::new(at));
        let flags = FakeMemory::KERNEL_TEXT | Entry::WRITABLE;
        let size = PageSize::Size4KiB;
        image.memory.map(Depth::Four, kernel, va, text, size, flags);
    };
    writable(&mut image, TEXT + 0x1_0000);
    let target = image.target("guest");
    assert_eq!(heirloom(&["check", &target]).code, Some(1));
    let file = image.path("baseline.json").display().to_string();
    let said = heirloom(&["check", &target, "--write-baseline", &file]);
    assert_eq!(said.code, Some(1), "{}{}", said.out, said.err);
    let said = heirloom(&["check", &target, "--baseline", &file]);
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
    assert!(said.out.contains(" known, 0 new, 0 gone\n"), "{}", said.out);
    // One more, and it alone is told.
    writable(&mut image, TEXT + 0x2_0000);
    let more = image.target("more");
    let said = heirloom(&["check", &more, "--baseline", &file, "--json"]);
    assert_eq!(said.code, Some(1), "{}{}", said.out, said.err);
    let report: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(report["compared"]["gone"], serde_json::json!([]));
    for rule in report["rules"].as_array().unwrap() {
        for finding in rule["findings"].as_array().unwrap() {
            let range = &finding["range"]["first"];
            assert_eq!(range, &format!("{:#x}", TEXT + 0x2_0000), "{finding}");
        }
    }
    // What is gone is said, and no fault.
    let sound = Image::new();
    let said = heirloom(&[
        "check",
        &sound.target("sound"),
        "--baseline",
        &file,
        "--json",
    ]);
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
    let report: Value = serde_json::from_str(&said.out).unwrap();
    assert_ne!(report["compared"]["gone"], serde_json::json!([]));
    for (text, words) in [
        ("", "baseline"),
        ("{}", "version"),
        ("{\"version\":9,\"findings\":[]}", "version 9"),
    ] {
        fs::write(&file, text).unwrap();
        assert_refused(&["check", &target, "--baseline", &file], &[words, &file]);
    }
}

#[test]
fn what_the_user_allows_passes_there_and_nowhere_else() {
    let mut image = Image::new();
    let (kernel, text) = (image.kernel, PhysAddr::new(RAM - 4096));
    let va = VirtAddr::new(TEXT + 0x1_0000);
    let flags = FakeMemory::KERNEL_TEXT | Entry::WRITABLE;
    image
        .memory
        .map(Depth::Four, kernel, va, text, PageSize::Size4KiB, flags);
    let target = image.target("guest");
    let range = format!("@{TEXT:#x}-{:#x}", TEXT + 0x1_ffff);
    let both = |range: &str| {
        let rules = ["write-xor-execute", "no-writable-text-alias"];
        let [one, other] = rules.map(|rule| format!("{rule}{range}"));
        heirloom(&["check", &target, "--allow", &one, "--allow", &other])
    };
    for range in ["", &range] {
        let said = both(range);
        assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
        assert!(
            said.out.contains("let pass, as the user allows"),
            "{}",
            said.out
        );
    }
    assert_eq!(both("@0x1000-0x1fff").code, Some(1));
    for (words, wrong) in [
        (
            ["--allow", "write-xor-exec"],
            "nearest is `write-xor-execute`",
        ),
        (
            ["--allow", "no-loop@0x2000-0x1000"],
            "no range of addresses",
        ),
        (["--allow", "no-loop@here"], "no range of addresses"),
    ] {
        assert_refused(&["check", &target, words[0], words[1]], &[wrong]);
    }
}
