//! Wrong kernels of many kinds, each with the grade that a teacher would give.

use std::fmt::Write as _;
use std::fs;

use heirloom_abi::bugs::Bug;

use crate::Grade;
use crate::kernels::Wrong;

/// Fifteen points for the scenario, five for each rule.
fn every_rule(strategy: &str) -> String {
    let rules = [
        "kernel-half-shared",
        "kernel-tables-same-frames",
        "propagated",
        "revoked",
        "user-half-private",
        "direct-map-complete",
        "direct-map-exact",
        "kernel-not-user",
        "write-xor-execute",
        "no-writable-text-alias",
        "tables-not-user-mapped",
        "reserved-bits-clear",
        "canonical",
        "cr3-known",
        "claims-match-tables",
        "frames-released",
        "no-dangling-table",
    ];
    let mut file = format!("propagation = [\"{strategy}\"]\nscenario = 15\n[rules]\n");
    for rule in rules {
        writeln!(file, "{rule} = 5").unwrap();
    }
    file
}

fn grade(name: &str) -> Grade {
    let bug = Bug::from_name(name).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let assignment = folder.path().join("assignment.toml");
    fs::write(&assignment, every_rule(bug.info().strategy.name())).unwrap();
    Grade::of(&Wrong::new(bug).kernel, &assignment)
}

#[test]
fn on_kvm_an_honest_mistake_costs_what_it_breaks_and_no_more() {
    for (name, points, lost) in [
        ("protect-forgets-last", 95, &["propagated"][..]),
        ("lost-write", 95, &["propagated"]),
        ("direct-map-hole", 95, &["direct-map-complete"]),
        ("direct-map-overrun", 95, &["direct-map-exact"]),
        ("unnamed-region", 95, &["canonical"]),
        ("leaked-page", 95, &["frames-released"]),
        ("alias-by-high-table", 95, &["no-dangling-table"]),
        ("identity-map-left", 95, &["user-half-private"]),
        ("user-bit", 90, &["propagated", "kernel-not-user"]),
        (
            "writable-text",
            90,
            &["write-xor-execute", "no-writable-text-alias"],
        ),
        (
            "fork-shares-table",
            90,
            &["user-half-private", "frames-released"],
        ),
        // The CPU runs on a root that is freed: no lie, and no small mistake.
        ("exit-keeps-cr3", 90, &["cr3-known", "frames-released"]),
        ("sync-skips-one", 90, &["kernel-half-shared", "propagated"]),
        // Who lacks a mapping is told to have made it: what is told is wrong by mistake, and costs nothing more.
        (
            "child-misses-entry",
            90,
            &["kernel-half-shared", "propagated"],
        ),
    ] {
        let grade = grade(name);
        assert_eq!(grade.points(), points, "{name}: {:#}", grade.0);
        let (mut found, mut lost) = (grade.lost(), lost.to_vec());
        found.sort_unstable();
        lost.sort_unstable();
        assert_eq!(found, lost, "{name}");
        assert_eq!(grade.lies(), [""; 0], "{name}");
    }
}

#[test]
fn on_kvm_memory_that_was_freed_and_stays_mapped_costs_its_rule_and_what_comes_of_it() {
    let grade = grade("unmap-forgets-last");
    let lost = grade.lost();
    assert!(lost.contains(&"revoked"), "{lost:?}");
    // Whether the frame has become somebody else's when the host looks is chance.
    let comes_of_it = ["revoked", "user-half-private", "no-dangling-table"];
    assert!(
        lost.iter().all(|rule| comes_of_it.contains(rule)),
        "{lost:?}"
    );
    assert_eq!(grade.points(), 100 - 5 * lost.len() as u64, "{:#}", grade.0);
    assert_eq!(grade.lies(), [""; 0]);
}

#[test]
fn on_kvm_a_kernel_that_crashes_gets_points_for_the_parts_before_and_for_no_rule() {
    for name in ["fork-keeps-writable", "copy-on-write-skips-copy"] {
        // Who overwrites whose stack is chance, but nobody gets through all parts.
        let grade = grade(name);
        for item in grade.items() {
            let most = if item["kind"] == "rule" { 0 } else { 14 };
            assert!(item["points"].as_u64().unwrap() <= most, "{name}: {item:#}");
        }
        assert_eq!(grade.lost().len(), 18, "{name}: {:?}", grade.lost());
    }
}

#[test]
fn on_kvm_a_kernel_that_lies_gets_none_and_is_told_which_word_was_false() {
    for (name, word) in [
        ("lying-pid", "the root of process 1"),
        ("lying-frames", "page 0 of the mapping"),
        ("lying-counter", "sum of all frames' uses"),
        (
            "forgotten-event",
            "the guest told of no kernel memory there",
        ),
    ] {
        let grade = grade(name);
        assert_eq!(grade.points(), 0, "{name}: {:#}", grade.0);
        let lies = grade.lies();
        assert!(
            lies.iter().any(|lie| lie.contains(word)),
            "{name}: {lies:?}"
        );
    }
}
