//! `heirloom layout` and `--blind`, which know no symbols and no CPU, against the guest's symbols and what is
//! found with its CPUs.

use std::collections::BTreeMap;

use heirloom_inspect::PhysAddr;
use serde_json::Value;

use crate::command::{address, ask, list, number};
use crate::common::linux::Variant;
use crate::image::Image;

/// The first and the last address of an area.
fn range(report: &Value, area: &str) -> (u64, u64) {
    let regions = list(report, "regions").iter();
    let ranges: Vec<&Value> = regions
        .filter(|region| region["area"] == area)
        .map(|region| &region["range"])
        .collect();
    let [range] = ranges[..] else {
        panic!("{area} is there {} times", ranges.len());
    };
    (number(&range["first"]), number(&range["last"]))
}

#[test]
fn the_areas_begin_where_the_kernels_own_variables_and_symbols_say_in_spite_of_kaslr() {
    for variant in Variant::ALL {
        let image = Image::of(variant);
        let memory = image.moment.open_core();
        let kernel_data = image.kernel_data(&memory);
        let symbol = |name| image.guest.listing.symbol(name);
        for arguments in [&["layout"][..], &["layout", "--blind"]] {
            let report = ask(&[arguments, &[&image.target()]].concat());
            let name = variant.name;
            let base = kernel_data.base_of("page_offset_base");
            assert_eq!(number(&report["direct_map"]["base"]), base, "{name}");
            assert_eq!(range(&report, "direct-map").0, base, "{name}");
            let vmalloc = kernel_data.base_of("vmalloc_base");
            assert_eq!(range(&report, "vmalloc").0, vmalloc, "{name}");
            let vmemmap = kernel_data.base_of("vmemmap_base");
            assert_eq!(range(&report, "vmemmap").0, vmemmap, "{name}");
            // The image is mapped in pages of 2 MiB, beyond its end.
            let (first, last) = range(&report, "kernel-image");
            assert_eq!(first, symbol("_text"), "{name}");
            assert!((symbol("_end") - 1..symbol("_end") + (2 << 20)).contains(&last));
        }
    }
}

/// What each root is said to be.
fn kinds(arguments: &[&str]) -> BTreeMap<PhysAddr, String> {
    let report = ask(arguments);
    let kind = |root: &Value| root["kind"].as_str().unwrap().to_owned();
    list(&report, "roots")
        .iter()
        .map(|root| (address(&root["address"]), kind(root)))
        .collect()
}

#[test]
fn without_any_cr3_the_same_roots_are_found_and_taken_for_the_same() {
    for variant in Variant::ALL {
        let image = Image::of(variant);
        let target = image.target();
        let mut seeing = kinds(&["roots", &target]);
        let blind = kinds(&["roots", &target, "--blind"]);
        // A process has ended and a CPU is still on its root: nothing else tells that from a freed one.
        let memory = image.moment.open_core();
        let own = image.kernel_data(&memory).init_top_pgt();
        for cpu in &image.moment.cpus {
            let root = cpu.cr3.root();
            if root != own && seeing[&root] == "kernel" {
                seeing.insert(root, "idle".to_owned());
            }
        }
        assert_eq!(seeing, blind, "{}", variant.name);
    }
}
