//! How the command judges: by which profile, what is required, known and allowed.

use std::fs;

use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{Depth, Entry, PageSize, PhysAddr, VirtAddr};
use serde_json::Value;

use crate::image::{Image, RAM, TEXT, assert_refused, heirloom};

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
    let heap = 0xffff_c900_0000_0000;
    let for_all = |image: &mut Image, at: u64| {
        let (pa, va) = (PhysAddr::new(RAM - 0x8000), VirtAddr::new(at));
        let size = PageSize::Size4KiB;
        for root in image.processes.into_iter().chain([image.kernel]) {
            let flags = FakeMemory::USER_DATA;
            image.memory.map(Depth::Four, root, va, pa, size, flags);
        }
    };
    for_all(&mut image, heap);
    let target = image.target("guest");
    assert_eq!(heirloom(&["check", &target]).code, Some(1));
    let file = image.path("baseline.json").display().to_string();
    let said = heirloom(&["check", &target, "--write-baseline", &file]);
    assert_eq!(said.code, Some(1), "{}{}", said.out, said.err);
    let said = heirloom(&["check", &target, "--baseline", &file]);
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
    assert!(said.out.contains(" known, 0 new, 0 gone\n"), "{}", said.out);
    // One more, and it alone is told.
    for_all(&mut image, heap + 0x2_0000);
    let more = image.target("more");
    let said = heirloom(&["check", &more, "--baseline", &file, "--json"]);
    assert_eq!(said.code, Some(1), "{}{}", said.out, said.err);
    let report: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(report["compared"]["gone"], serde_json::json!([]));
    for rule in report["rules"].as_array().unwrap() {
        for finding in rule["findings"].as_array().unwrap() {
            let range = &finding["range"]["first"];
            assert_eq!(range, &format!("{:#x}", heap + 0x2_0000), "{finding}");
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
