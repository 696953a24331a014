//! `heirloom lab` on real machines: the growth laws, shards, charts, and counts that do not agree.

mod common;

use std::fs;
use std::path::Path;

use common::{Run, heirloom};
use heirloom_abi::propagation::{Costs, Promise, Strategy};
use serde_json::Value;

/// Runs `heirloom lab --json ARGUMENTS`, which must go well.
fn lab(arguments: &[&str]) -> Value {
    let run = heirloom(&[&["lab", "--json"], arguments].concat());
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    // No bar where standard error is no terminal, only lines now and then.
    for line in run.stderr.lines() {
        assert!(
            line.starts_with("heirloom: ") && line.contains(" s, "),
            "{}",
            run.stderr
        );
    }
    json(&run)
}

fn json(run: &Run) -> Value {
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {}", run.stdout))
}

/// The formula of `figure` for `strategy`.
fn law<'a>(results: &'a Value, strategy: &str, figure: &str) -> &'a str {
    results["growth"]
        .as_array()
        .unwrap()
        .iter()
        .find(|growth| growth["strategy"] == strategy)
        .and_then(|growth| growth["laws"][figure]["formula"].as_str())
        .unwrap_or_else(|| panic!("no {figure} of {strategy}"))
}

/// The cells without what a clock tells.
fn without_times(results: &Value) -> Value {
    const PHASES: [&str; 5] = ["map", "read", "map_new", "read_new", "unmap"];
    let mut cells = results["cells"].clone();
    for cell in cells.as_array_mut().unwrap() {
        cell["fastest_mapping_nanoseconds"].take();
        cell["fastest_mapping_cycles"].take();
        for phase in PHASES {
            cell[phase]["nanoseconds"].take();
            // The timer's interrupts, and the system calls of whoever waits, come as time goes by.
            cell[phase]["guest"]["cr3_loads"].take();
            cell[phase]["guest"]["system_calls"].take();
        }
    }
    cells
}

#[test]
fn on_kvm_each_strategy_grows_as_the_lecture_says() {
    let results = lab(&["--processes", "1,2,4,8,16", "--allocations", "8"]);
    let is = |figure: &str, strategy: &str, formula: &str| {
        assert_eq!(
            law(&results, strategy, figure),
            formula,
            "{strategy} {figure}"
        );
    };
    // "Update mapping in every process": each has a copy, and the kernel's own root makes one more.
    is("pte-writes", "copy-all", "1 + N");
    is("new-entry-pte-writes", "copy-all", "3 + 3N");
    is("new-entry-pgd-writes", "copy-all", "1 + N");
    is("unmap-pte-writes", "copy-all", "1 + N");
    let copies = &results["growth"][0];
    assert_eq!(copies["strategy"], "copy-all");
    assert_eq!(copies["laws"]["kernel-table-frames"]["class"], "O(N)");
    // Below a shared entry, one write is seen by all.
    let names = Strategy::ALL.map(Strategy::name);
    let sharing = |strategy: &Strategy| strategy.promise() != Promise::PrivateCopies;
    for strategy in Strategy::ALL.into_iter().filter(sharing) {
        let strategy = strategy.name();
        is("pte-writes", strategy, "1");
        is("new-entry-pte-writes", strategy, "3");
        is("unmap-pte-writes", strategy, "1");
        let growth = results["growth"].as_array().unwrap().iter();
        let own = growth.filter(|growth| growth["strategy"] == strategy);
        for growth in own {
            assert_eq!(growth["laws"]["kernel-table-frames"]["class"], "O(1)");
        }
    }
    // Each costs what its row of the table says.
    for strategy in Strategy::ALL {
        let Costs {
            mapping,
            new_pgd_entry,
            kernel_faults,
        } = strategy.info().costs;
        is("pte-writes", strategy.name(), mapping);
        is("new-entry-pgd-writes", strategy.name(), new_pgd_entry);
        is("new-entry-kernel-faults", strategy.name(), kernel_faults);
    }
    for strategy in names {
        is("pgd-writes", strategy, "0");
        is("kernel-faults", strategy, "0");
        is("unmap-page-flushes", strategy, "1");
    }
    // Who pays for a new PGD entry, and when.
    is("new-entry-pgd-writes", "prealloc", "0");
    is("new-entry-pgd-writes", "sync", "1 + N");
    is("new-entry-kernel-faults", "sync", "0");
    is("new-entry-pgd-writes", "fault", "1 + N");
    is("new-entry-kernel-faults", "fault", "N");
    is("new-entry-pgd-writes", "isolated", "1");
    is("new-entry-pgd-writes", "none", "1");
    // Who never learns of it.
    is("new-entry-reads-lost", "none", "N − 1");
    for strategy in names.into_iter().filter(|name| *name != "none") {
        is("new-entry-reads-lost", strategy, "0");
        let loads = if strategy == "isolated" { "2" } else { "0" };
        is("cr3-loads-per-system-call", strategy, loads);
    }
}

#[test]
fn on_kvm_the_shards_joined_are_the_whole() {
    let small = [
        "--processes",
        "1,3",
        "--strategies",
        "sync,fault",
        "--allocations",
        "2",
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for index in 0..3 {
        let shard = format!("{index}/3");
        let run = heirloom(&[&["lab", "--shard", &shard], &small[..]].concat());
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        fs::write(path(&index.to_string()), run.stdout).unwrap();
    }
    let chart = path("chart.svg");
    let joined = lab(&[
        "--svg",
        &chart,
        "--merge",
        &path("2"),
        &path("0"),
        &path("1"),
    ]);
    let whole = lab(&small);
    assert_eq!(without_times(&joined), without_times(&whole));
    assert_eq!(joined["plan"], whole["plan"]);
    assert!(fs::read_to_string(chart).unwrap().contains("sync, fault"));

    let missing = heirloom(&["lab", "--merge", &path("0"), &path("1")]);
    assert_eq!(missing.code, Some(2));
    assert!(
        missing
            .stderr
            .contains("1 of 4 cells are missing: sync with 3 processes"),
        "{}",
        missing.stderr
    );
}

#[test]
fn a_file_that_is_no_shard_is_exit_code_two_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.json");
    fs::write(&path, "{\"schema\": 99}").unwrap();
    for (file, said) in [
        (path.as_path(), "version 99"),
        (Path::new("/no/such/file"), "could not read"),
    ] {
        let file = file.to_str().unwrap();
        let run = heirloom(&["lab", "--merge", file]);
        assert_eq!(run.code, Some(2));
        assert!(run.stderr.contains(said) && run.stderr.contains(file));
    }
}

#[test]
fn on_kvm_the_chart_is_well_formed_and_has_every_strategy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lab.svg");
    let small = ["lab", "--processes", "1,2", "--allocations", "1", "--svg"];
    let run = heirloom(&[&small[..], &[path.to_str().unwrap()]].concat());
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let text = fs::read_to_string(path).unwrap();
    let chart = roxmltree::Document::parse(&text).unwrap();
    let words: String = chart.descendants().filter_map(|node| node.text()).collect();
    for strategy in Strategy::ALL.map(Strategy::name) {
        assert!(words.contains(strategy), "no {strategy} in the chart");
        assert!(run.stdout.contains(strategy), "no {strategy} in the table");
    }
}

#[test]
fn on_kvm_a_count_that_its_tables_belie_fails_the_run_with_cell_counter_and_both_numbers() {
    let small = ["lab", "--processes", "2", "--strategies", "prealloc"];
    let run = heirloom(&[&small[..], &["--cmdline", "bug=lying-counter"]].concat());
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    let said = run.stderr.trim_end();
    let numbers = said
        .strip_prefix(
            "heirloom: prealloc with 2 processes, when everything is mapped: the guest counts ",
        )
        .and_then(|rest| rest.split_once(" page-table frames, its tables show "))
        .unwrap_or_else(|| panic!("{said}"));
    let [guest, tables]: [u64; 2] = [numbers.0, numbers.1].map(|number| number.parse().unwrap());
    assert_eq!(guest + 1, tables);
}

#[test]
fn on_kvm_a_mapping_that_one_process_never_gets_fails_the_run() {
    let small = ["lab", "--processes", "3", "--strategies", "sync"];
    let run = heirloom(&[&small[..], &["--cmdline", "bug=sync-skips-one"]].concat());
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(
        run.stderr
            .contains("sync with 3 processes: 0 processes did not read")
            && run.stderr.contains("and 1 below the new PGD entry"),
        "{}",
        run.stderr
    );
}

#[test]
fn on_kvm_processes_that_memory_cannot_hold_are_exit_code_four_with_the_remedy() {
    let run = heirloom(&[
        "lab",
        "--memory",
        "64M",
        "--processes",
        "4000",
        "--strategies",
        "copy-all",
    ]);
    assert_eq!(run.code, Some(4), "{}", run.stderr);
    assert!(run.stderr.contains("copy-all with 4000 processes"));
    assert!(run.stderr.contains("--memory"), "{}", run.stderr);
}

#[test]
fn wrong_usage_is_exit_code_two() {
    for arguments in [
        &["--processes", "0"][..],
        &["--strategies", "hope"],
        &["--allocations", "256"],
        &["--shard", "3/3"],
        &["--shard", "0/2", "--svg", "x.svg"],
        &["--merge", "x.json", "--processes", "1"],
        &["--merge"],
    ] {
        let run = heirloom(&[&["lab"], arguments].concat());
        assert_eq!(run.code, Some(2), "{arguments:?}: {}", run.stderr);
    }
}

#[test]
fn on_kvm_what_is_unmapped_costs_an_interrupt_and_a_flush_for_each_cpu_and_a_mapping_none() {
    for words in [
        &["--strategies", "prealloc,isolated"][..],
        &["--strategies", "copy-all", "--machine", "qemu"],
    ] {
        let results = lab(&[&["--cpus", "4,1,2", "--allocations", "8"], words].concat());
        assert_eq!(results["cpus"], serde_json::json!([1, 2, 4]));
        for growth in results["growth"].as_array().unwrap() {
            for (figure, formula) in [
                ("map_interrupts", "0"),
                ("map_flushes", "0"),
                ("unmap_interrupts", "N − 1"),
                ("unmap_flushes", "N"),
            ] {
                assert_eq!(growth[figure]["formula"], formula, "{growth}, {figure}");
            }
        }
        for cell in results["cells"].as_array().unwrap() {
            assert!(cell["unmap"]["cycles"].as_u64().unwrap() > 0, "{cell}");
        }
    }
}

#[test]
fn on_kvm_the_chart_of_cpus_is_drawn_and_processes_are_not_asked_for_with_them() {
    let folder = tempfile::TempDir::new().unwrap();
    let chart = folder.path().join("cpus.svg");
    let words = ["lab", "--cpus", "1,2", "--strategies", "sync", "--svg"];
    let run = heirloom(&[&words[..], &[chart.to_str().unwrap()]].concat());
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stdout.contains("HOLDS: no rule is broken in 2 cells."));
    let drawn = fs::read_to_string(&chart).unwrap();
    assert!(drawn.contains("Interrupts to unmap a page"));
    let refused = heirloom(&["lab", "--cpus", "2", "--processes", "4"]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
}
