//! What the kernel's own data say, read out of memory alone, against what the guest says of itself.

use std::collections::BTreeMap;
use std::fmt::Write;

use heirloom_inspect::PhysAddr;
use serde_json::Value;

use crate::command::{address, ask, list};
use crate::common::heirloom;
use crate::common::linux::Variant;
use crate::image::Image;

/// The processes of `heirloom roots`, with their names and roots.
fn processes(report: &Value) -> BTreeMap<u64, (String, PhysAddr)> {
    let mut processes = BTreeMap::new();
    for root in list(report, "roots") {
        for owner in root
            .get("owners")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            if owner["owner"] == "process" {
                let comm = owner["comm"].as_str().unwrap().to_owned();
                let of = (comm, address(&root["address"]));
                assert_eq!(processes.insert(owner["pid"].as_u64().unwrap(), of), None);
            }
        }
    }
    processes
}

#[test]
fn every_process_has_its_number_and_name_and_no_other_has_one() {
    for variant in Variant::ALL {
        let image = Image::of(variant);
        let report = ask(&["roots", &image.target()]);
        let found: BTreeMap<u64, String> = processes(&report)
            .into_iter()
            .map(|(pid, (comm, _))| (pid, comm))
            .collect();
        let expected: BTreeMap<u64, String> = image
            .listing()
            .with_memory()
            .map(|(pid, process)| (pid.into(), process.name.clone()))
            .collect();
        assert_eq!(found, expected, "{}", variant.name);
    }
}

#[test]
fn a_process_is_named_by_its_number_and_by_its_command_as_by_its_root() {
    let image = Image::of(Variant::ALL[0]);
    let target = image.target();
    let processes = processes(&ask(&["roots", &target]));
    let with = |comm: &str| {
        let same = processes.iter().filter(|(_, (other, _))| other == comm);
        same.map(|(pid, _)| *pid).collect::<Vec<_>>()
    };
    let alone = |(_, (comm, _)): &(&u64, &(String, PhysAddr))| with(comm).len() == 1;
    let (pid, (comm, root)) = processes.iter().find(alone).unwrap();
    let number = pid.to_string();
    let root = root.to_string();
    let walk = |by: &[&str]| {
        let report = ask(&[&["translate", &target, "0x400000"], by].concat());
        (report["whose"].clone(), report["walk"].clone())
    };
    let expected = walk(&["--root", &root]);
    assert_eq!(walk(&["--pid", &number]), expected);
    assert_eq!(walk(&["--root", &format!("pid{number}")]), expected);
    assert_eq!(walk(&["--comm", comm]), expected);

    let (_, (shared, _)) = processes.iter().find(|process| !alone(process)).unwrap();
    let refused = heirloom(&["translate", &target, "0x400000", "--comm", shared]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    for pid in with(shared) {
        assert!(
            refused.stderr.contains(&pid.to_string()),
            "{}",
            refused.stderr
        );
    }
    let unknown = heirloom(&["translate", &target, "no_such_function", "--root", "kernel"]);
    assert_eq!(unknown.code, Some(2), "{}", unknown.stderr);
    assert!(
        unknown.stderr.contains("`no_such_function`"),
        "{}",
        unknown.stderr
    );
}

#[test]
fn symbols_are_where_the_guest_says_that_they_are() {
    for variant in Variant::ALL {
        let image = Image::of(variant);
        let target = image.target();
        for name in ["pgd_list", "poking_mm", "init_top_pgt", "_text"] {
            let report = ask(&["translate", &target, name, "--root", "kernel"]);
            let expected = PhysAddr::new(image.listing().symbol(name)).to_string();
            assert_eq!(report["walk"]["va"], expected, "{}: {name}", variant.name);
            let symbol = report["symbol"].as_str().unwrap();
            assert!(!symbol.contains('+'), "{}: {name}: {symbol}", variant.name);
        }
    }
}

#[test]
fn a_list_of_symbols_names_a_kernel_wherever_it_was_loaded() {
    let image = Image::of(Variant::ALL[0]);
    let target = image.target();
    let at = |name| image.listing().symbol(name);
    // As if it had been linked 16 MiB below.
    let names = ["_text", "pgd_list", "poking_mm", "init_top_pgt"];
    let mut list = String::new();
    for name in names {
        writeln!(list, "{:016x} T {name}", at(name) - (16 << 20)).unwrap();
    }
    let own = at("pgd_list") - (16 << 20) + 4;
    writeln!(list, "{own:016x} d a_name_of_our_own").unwrap();
    // The last one ends what is known.
    let end = own + 0x100;
    writeln!(list, "{end:016x} d its_end").unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), list).unwrap();
    let symbols = ["--symbols", file.path().to_str().unwrap()];
    let name = "a_name_of_our_own+1";
    let walk = [
        &["translate", &target, name, "--root", "kernel"],
        &symbols[..],
    ]
    .concat();
    let report = ask(&walk);
    let expected = PhysAddr::new(at("pgd_list") + 5).to_string();
    assert_eq!(report["walk"]["va"], expected);
    assert_eq!(report["symbol"], "a_name_of_our_own+0x1");
    // One of another kernel is refused.
    let list = "ffffffff81000000 T _text\nffffffff81000040 T pgd_list\n\
                ffffffff81000080 T poking_mm\n";
    std::fs::write(file.path(), list).unwrap();
    let refused = heirloom(&walk.iter().map(|word| &**word).collect::<Vec<_>>());
    assert_eq!(refused.code, Some(2), "{}", refused.stdout);
    assert!(
        refused.stderr.contains("another kernel"),
        "{}",
        refused.stderr
    );
}
