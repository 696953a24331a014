//! What the kernel's own data say, read out of memory alone, against what the guest says of itself.

use std::collections::BTreeMap;

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
