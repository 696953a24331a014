//! Five levels of page tables, on QEMU's emulated CPU, which has LA57: what holds with four holds with five.

mod common;

use heirloom_abi::bugs;
use heirloom_abi::options::Strategy;
use serde_json::Value;

use common::{heirloom, heirloom_json};

const QEMU: [&str; 2] = ["--machine", "qemu"];

/// `heirloom run --json` on QEMU.
fn run(words: &[&str]) -> (common::Run, Value) {
    heirloom_json(&[words, &QEMU].concat())
}

/// Whether the kernel says that it uses the feature.
fn has(report: &Value, feature: &str) -> bool {
    let machine = report["machine"].as_array().unwrap();
    machine.iter().any(|name| name == feature)
}

/// The first addresses of the kernel's entries in use.
fn entries(report: &Value) -> Vec<(u64, String)> {
    let entries = report["kernel_entries"].as_array().unwrap();
    entries
        .iter()
        .map(|entry| {
            let first = entry["first"].as_u64().unwrap();
            (first, entry["range"]["first"].as_str().unwrap().to_owned())
        })
        .collect()
}

#[test]
fn every_strategy_keeps_its_promise_with_five_levels_and_none_breaks_the_same_rules_as_with_four() {
    for strategy in Strategy::ALL {
        let words = ["--propagation", strategy.name()];
        let (five, at_five) = run(&words);
        let (four, at_four) = run(&[&words[..], &["--cmdline", "la57=off"]].concat());
        let good = i32::from(!strategy.propagates());
        assert_eq!(
            (five.code, four.code),
            (Some(good), Some(good)),
            "{}: {}{}",
            strategy.name(),
            five.said(),
            four.said()
        );
        assert!(has(&at_five, "la57") && !has(&at_four, "la57"));
        let verdicts = |report: &Value| -> Vec<Value> {
            let rules = report["rules"].as_array().unwrap();
            rules.iter().map(|rule| rule["verdict"].clone()).collect()
        };
        assert_eq!(
            verdicts(&at_five),
            verdicts(&at_four),
            "{}",
            strategy.name()
        );
        assert_eq!(at_five["events"], at_four["events"]);
    }
}

#[test]
fn the_layout_is_linuxs_for_five_levels_and_the_entries_are_the_pml5s() {
    let (_, report) = run(&["--propagation", "sync"]);
    let found = entries(&report);
    for (index, address) in [
        (273, "0xff11000000000000"),
        (416, "0xffa0000000000000"),
        (468, "0xffd4000000000000"),
        (511, "0xffff000000000000"),
    ] {
        assert!(
            found.contains(&(index, address.to_owned())),
            "no {index} at {address} in {found:?}"
        );
    }
}

#[test]
fn the_words_of_the_program_do_not_turn_five_levels_off_and_another_value_is_refused() {
    let (_, report) = run(&["--cmdline", "clearcpuid=la57"]);
    assert!(!has(&report, "la57"));
    let (_, report) = run(&["--cmdline", "init=family -- 8 la57=off"]);
    assert!(has(&report, "la57"), "{}", report["machine"]);
    let refused = heirloom(&[&["run", "--cmdline", "la57=on"], &QEMU[..]].concat());
    assert_eq!(refused.code, Some(4));
    assert!(
        refused.stdout.contains("la57=on: there is only `off`"),
        "{}",
        refused.stdout
    );
}

/// The kernel with this bug never comes to its end.
const ENDLESS: &str = "freed-shared-table";

#[test]
fn every_deliberate_bug_is_caught_by_its_rule_with_five_levels() {
    let names = bugs::ALL.iter().map(|info| info.name);
    let names: Vec<&str> = names.filter(|name| *name != ENDLESS).collect();
    let run_of = heirloom(&[&["bugs", "--run", "--json"], &names[..], &QEMU].concat());
    assert_eq!(run_of.code, Some(0), "{}", run_of.said());
    let rows: Value = serde_json::from_str(&run_of.stdout).unwrap();
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), bugs::ALL.len() - 1);
    for row in rows {
        assert_eq!(row["right"], true, "{row}");
    }
    let (_, report) = run(&["--bug", ENDLESS, "--timeout", "10"]);
    let rule = bugs::ALL.iter().find(|info| info.name == ENDLESS).unwrap();
    let rules = report["rules"].as_array().unwrap();
    let rule = rules.iter().find(|it| it["rule"]["name"] == rule.rule);
    assert_eq!(rule.unwrap()["verdict"], "broken");
}

#[test]
fn the_lectures_claims_hold_with_five_levels_with_the_numbers_of_five() {
    for (claim, said) in [
        ("1", ""),
        ("2", ""),
        ("3", ""),
        ("4", ""),
        ("5", ""),
        // One entry covers 256 TiB.
        ("6", "256 TiB"),
        ("7", "PGD[416]"),
        ("8", ""),
        // 57 bits of address.
        ("9", "0xff00000000000000"),
        ("11", ""),
        ("13", ""),
    ] {
        let words = ["lecture", "--json", "--claim", claim];
        let lecture = heirloom(&[&words[..], &QEMU].concat());
        assert_eq!(lecture.code, Some(0), "{claim}: {}", lecture.said());
        assert!(lecture.stdout.contains(said), "{claim}: {}", lecture.stdout);
    }
}

#[test]
fn a_mapping_costs_one_table_more_where_it_needs_a_new_entry() {
    let words = [
        "lab",
        "--strategies",
        "sync,copy-all",
        "--processes",
        "1,2,4",
    ];
    let lab = heirloom(&[&words[..], &QEMU].concat());
    assert_eq!(lab.code, Some(0), "{}", lab.said());
    // PDPT, PD and PT with four levels, and the PML4 with five; each with its entry.
    let row = |name: &str| {
        let mut rows = lab.stdout.lines().map(str::trim);
        let row = rows.find(|row| row.starts_with(name)).unwrap();
        row.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert!(row("sync").contains("1 0 0 4 1 + N"), "{}", lab.stdout);
    assert!(row("copy-all").contains("4 + 4N 1 + N"), "{}", lab.stdout);
}
