//! The inspecting commands on images that the test writes: arguments, exit codes, files that are no good.

mod arrow;
mod ci;
mod image;
mod judged;
mod watch;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use heirloom_inspect::{Depth, Entry, PhysAddr, VirtAddr};
use image::{DIRECT_MAP, Image, RAM, TEXT, USER, assert_refused, bytes, heirloom};
use serde_json::Value;

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
fn an_image_behind_a_header_is_read_as_what_is_said_when_nothing_is_found() {
    let image = Image::new();
    let plain = heirloom(&["roots", &image.write("plain").display().to_string()]);
    assert_eq!(plain.code, Some(0), "{}", plain.err);
    let roots = |said: &str| {
        let (_, roots) = said.split_once("\n\n").unwrap();
        roots
            .split_once("note:")
            .map_or(roots, |(roots, _)| roots)
            .to_owned()
    };
    for header in [100, 4096, 64 << 10] {
        let path = image.path("behind");
        let bytes = [vec![b'!'; header], bytes(&image.memory)].concat();
        fs::write(&path, bytes).unwrap();
        let target = path.display().to_string();
        let refused = heirloom(&["roots", &target]);
        assert_eq!(refused.code, Some(2), "{header}: {}", refused.out);
        let told = refused.out + &refused.err;
        let (_, option) = told.split_once("say with map=").expect(&told);
        let option = option.split_whitespace().next().unwrap();
        let said = heirloom(&["roots", &format!("{target},map={option}")]);
        assert_eq!(said.code, Some(0), "{header}: {}", said.err);
        assert_eq!(roots(&said.out), roots(&plain.out));
    }
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
fn what_is_mapped_is_found_by_what_it_holds_where_it_leads_and_what_may_be_done_there() {
    let image = Image::new();
    let target = format!("{},cr4=0x20", image.target("guest"));
    let rows = |words: &[&str]| {
        let said = heirloom(&[&["maps", &target], words].concat());
        assert_eq!(said.code, Some(0), "{words:?}: {}", said.err);
        let rows = said.out.lines().filter(|line| line.starts_with("0x"));
        let first = rows.map(|row| row.split('–').next().unwrap().to_owned());
        first.collect::<Vec<_>>()
    };
    let of = |address: u64| format!("{address:#018x}");
    let last = RAM - 4096;
    // The direct map is two ranges: all but the last page, and that, which is text.
    let all = [USER, DIRECT_MAP, DIRECT_MAP + last, TEXT].map(of);
    assert_eq!(rows(&[]), all);
    // Addresses as kernels print them, too.
    let inside = format!("{:016x}", DIRECT_MAP + 0x1234);
    assert_eq!(rows(&["--has", &inside]), all[1..2]);
    assert_eq!(rows(&["--has", "0x1000"]), [""; 0]);
    assert_eq!(rows(&["--phys", &format!("{last:#x}")]), all[2..]);
    // The process's page is the one before.
    let pages = format!("{:#x}-{:#x}", last - 1, last);
    assert_eq!(rows(&["--phys", &pages]), all);
    assert_eq!(rows(&["--phys", "0x40000000"]), [""; 0]);
    assert_eq!(rows(&["--filter", "x"]), all[3..]);
    assert_eq!(rows(&["--filter", "w s"]), all[1..2]);
    let words = ["--has", &inside, "--format", "jsonl", "--leaves"];
    let said = heirloom(&[&["maps", &target], &words[..]].concat());
    let page: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(page["va"], of(DIRECT_MAP + 0x1000));
    let json = heirloom(&["maps", &target, "--json", "--filter", "x"]);
    let json: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(json["ranges"].as_array().unwrap().len(), 1);
    assert_refused(&["maps", &target, "--filter", "g"], &["--leaves"]);
    let said = heirloom(&["translate", &target, &inside]);
    assert!(said.out.contains("→ 0x1234, 4 KiB page"), "{}", said.out);
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
