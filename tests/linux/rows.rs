//! `heirloom maps --format`: the rows of all address spaces against the report of each.

use std::collections::BTreeMap;

use heirloom_inspect::PhysAddr;
use serde_json::Value;

use crate::command::{address, ask, list, number};
use crate::common::heirloom;
use crate::common::linux::Variant;
use crate::image::Image;

fn lines(arguments: &[&str]) -> Vec<Value> {
    let run = heirloom(arguments);
    assert_eq!(run.code, Some(0), "{arguments:?}: {}", run.stderr);
    let rows = run
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    rows.collect()
}

/// The root of the process with the most pages.
fn a_process(target: &str) -> String {
    let roots = ask(&["roots", target]);
    let processes = list(&roots, "roots")
        .iter()
        .filter(|root| root["kind"] == "process");
    let root = processes
        .max_by_key(|root| root["user_pages"].as_u64())
        .unwrap();
    address(&root["address"]).to_string()
}

/// First address, physical address and bytes.
type Range = (u64, u64, u64);

#[test]
fn the_ranges_of_all_address_spaces_are_those_of_each_report() {
    let image = Image::of(Variant::PTI_ON);
    let target = image.target();
    let mut found: BTreeMap<PhysAddr, Vec<Range>> = BTreeMap::new();
    for row in lines(&[
        "maps", &target, "--root", "all", "--format", "jsonl", "--user",
    ]) {
        let bytes = row["bytes"].as_u64().unwrap();
        found.entry(address(&row["root"])).or_default().push((
            number(&row["va"]),
            number(&row["pa"]),
            bytes,
        ));
    }
    let roots = ask(&["roots", &target]);
    let mut seen = 0;
    for root in list(&roots, "roots") {
        let root = address(&root["address"]);
        let report = ask(&["maps", &target, "--user", "--root", &root.to_string()]);
        let expected: Vec<Range> = list(&report, "ranges")
            .iter()
            .map(|row| {
                let (first, last) = (
                    number(&row["range"]["first"]),
                    number(&row["range"]["last"]),
                );
                (first, number(&row["pa"]), last - first + 1)
            })
            .collect();
        assert_eq!(found.remove(&root).unwrap_or_default(), expected, "{root}");
        seen += expected.len();
    }
    assert!(found.is_empty() && seen > 1000, "{seen}: {found:?}");
}

/// Whether a filter lets a page through.
type Takes = fn(&Value) -> bool;

#[test]
fn pages_have_their_bits_as_their_entry_has_them_and_filters_take_exactly_what_they_say() {
    let image = Image::of(Variant::PTI_OFF);
    let target = image.target();
    let root = a_process(&target);
    let all = [
        "maps", &target, "--root", &root, "--format", "jsonl", "--leaves",
    ];
    let pages = lines(&all);
    let mut bits = BTreeMap::new();
    for page in &pages {
        let entry = number(&page["entry"]);
        let bit = |number: u32| entry >> number & 1 == 1;
        for (name, number) in [("accessed", 5), ("dirty", 6), ("global", 8)] {
            assert_eq!(page[name], bit(number), "{page}");
            *bits.entry((name, bit(number))).or_insert(0) += 1;
        }
        let large = page["size"] != "4KiB";
        let pat = u64::from(bit(3))
            | u64::from(bit(4)) << 1
            | u64::from(bit(if large { 12 } else { 7 })) << 2;
        assert_eq!(page["pat"], pat, "{page}");
        assert!(page["index"].as_u64().unwrap() < 512);
    }
    // Linux sets A in what it maps.
    assert!(bits.len() >= 5, "{bits:?}");
    let filters: [(&[&str], Takes); 4] = [
        (&["--filter", "x !u"], |page| {
            page["execute"] == true && page["user"] == false
        }),
        (&["--filter", "ro d"], |page| {
            page["write"] == false && page["dirty"] == true
        }),
        (&["--filter", "w nx g", "--size", "2M"], |page| {
            page["write"] == true
                && page["execute"] == false
                && page["global"] == true
                && page["size"] == "2MiB"
        }),
        (
            &[
                "--range",
                "0xffffffff80000000-0xffffffffffffffff",
                "--filter",
                "s",
            ],
            |page| number(&page["va"]) >= 0xffff_ffff_8000_0000 && page["user"] == false,
        ),
    ];
    for (filter, takes) in filters {
        let found = lines(&[&all, filter].concat());
        let expected: Vec<&Value> = pages.iter().filter(|page| takes(page)).collect();
        assert!(found.iter().eq(expected.iter().copied()), "{filter:?}");
        // All but the rarest kind are there.
        assert!(
            !expected.is_empty() || filter.contains(&"ro d"),
            "{filter:?}"
        );
    }
}

#[test]
fn csv_has_the_same_rows_under_their_names() {
    let image = Image::of(Variant::PTI_OFF);
    let target = image.target();
    let root = a_process(&target);
    let options = [
        "maps", &target, "--root", &root, "--leaves", "--user", "--format",
    ];
    let csv = heirloom(&[&options[..], &["csv"]].concat()).stdout;
    let mut rows = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let names = rows.next().unwrap();
    let objects = lines(&[&options[..], &["jsonl"]].concat());
    assert!(!objects.is_empty());
    for object in &objects {
        let row = rows.next().unwrap();
        assert_eq!(row.len(), names.len());
        assert_eq!(object.as_object().unwrap().len(), names.len());
        for (name, text) in names.iter().zip(row) {
            let expected = match &object[*name] {
                Value::Null => String::new(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            assert_eq!(text, expected, "{name} of {object}");
        }
    }
    assert_eq!(rows.next(), None);
}

#[test]
fn what_makes_no_sense_is_refused_with_what_would() {
    let image = Image::of(Variant::PTI_OFF);
    let target = image.target();
    for (options, word) in [
        (&["--root", "all"][..], "jsonl"),
        (&["--format", "csv", "--filter", "d"], "--leaves"),
        (&["--format", "csv", "--filter", "quick"], "w (writable)"),
        (&["--range", "7"], "FIRST-LAST"),
        (&["--range", "9-7"], "FIRST-LAST"),
        (
            &["--format", "csv", "--leaves", "--size", "3M"],
            "4K, 2M or 1G",
        ),
    ] {
        let run = heirloom(&[&["maps", &target], options].concat());
        assert_eq!(run.code, Some(2), "{options:?}: {}", run.stderr);
        assert!(run.stderr.contains(word), "{options:?}: {}", run.stderr);
    }
}
