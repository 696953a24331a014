//! Reports, as programs read them.

use heirloom_inspect::check::{Check, Strictness};
use heirloom_inspect::difference::Difference;
use heirloom_inspect::report::{
    CheckReport, DifferenceReport, LayoutReport, NamedRange, ReverseReport, Roots, TranslateReport,
};
use heirloom_inspect::{Depth, Discovery, Entry, Level, PhysAddr, VirtRange};
use serde_json::Value;

use crate::scene::{Guest, IMAGE_TEXT, PAGE, Plan, USER_DATA};

fn report(discovery: &Discovery) -> CheckReport {
    let check = Check::of(discovery, Strictness::default());
    CheckReport::new("raw:guest", discovery, check)
}

#[test]
fn a_finding_says_where_it_is_in_whose_address_spaces_and_how_the_walk_goes() {
    let mut guest = Guest::new(Plan::new(Depth::Four, false));
    let va = guest.vmalloc();
    for page in [0, 1, 2, 5, 6] {
        let va = va.wrapping_add(page * PAGE);
        guest.change(guest.init, va, Level::Pt, |entry| entry | Entry::USER);
    }
    let discovery = guest.discover();
    let table = guest.table(guest.init, va, Level::Pt);
    let json = serde_json::to_value(report(&discovery)).unwrap();
    assert_eq!(json["holds"], false);
    let rules = json["rules"].as_array().unwrap();
    let rule = rules
        .iter()
        .find(|rule| rule["rule"]["name"] == "kernel-not-user")
        .unwrap();
    assert_eq!(rule["violations"], 5);
    let finding = &rule["findings"][0];
    assert_eq!(finding["place"], "PT[0]");
    assert_eq!(finding["entry"]["level"], "PT");
    assert_eq!(finding["entry"]["table"], table.to_string());
    assert_eq!(finding["range"]["first"], va.to_string());
    assert_eq!(finding["area"], "vmalloc");
    assert_eq!(finding["spaces"]["count"], discovery.spaces.len());
    let (_, walk) = (&finding["walks"][0][0], &finding["walks"][0][1]);
    assert_eq!(walk["steps"].as_array().unwrap().len(), 4);
}

#[test]
fn a_translation_has_an_index_for_each_level() {
    for depth in [Depth::Four, Depth::Five] {
        let guest = Guest::new(Plan::new(depth, false));
        let discovery = guest.discover();
        let root = discovery.space_at(guest.processes[0]).unwrap().root;
        let va = USER_DATA.wrapping_add(0x123);
        let report = TranslateReport::new("raw:guest", &discovery, root, va);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["offset"], 0x123);
        assert_eq!(
            json["indices"].as_array().unwrap().len(),
            usize::try_from(depth.levels()).unwrap()
        );
        assert!(
            json["walk"]["translation"]["pa"]
                .as_str()
                .unwrap()
                .ends_with("123")
        );
    }
}

#[test]
fn a_range_has_its_addresses_rights_pages_and_area() {
    let guest = Guest::new(Plan::new(Depth::Four, false));
    let discovery = guest.discover();
    let root = discovery.space_at(guest.processes[0]).unwrap().root;
    let range = discovery
        .snapshot
        .ranges(root, VirtRange::ALL)
        .next()
        .unwrap();
    let json = serde_json::to_value(NamedRange::new(range, &discovery)).unwrap();
    for field in ["range", "pa", "rights", "pages", "area"] {
        assert!(json.get(field).is_some(), "{json}");
    }
}

#[test]
fn a_frame_has_the_levels_it_is_a_table_of_and_the_addresses_that_reach_it() {
    let guest = Guest::new(Plan::new(Depth::Four, false));
    let discovery = guest.discover();
    let json = |pa: PhysAddr| {
        serde_json::to_value(ReverseReport::new("raw:guest", &discovery, pa)).unwrap()
    };
    let root = json(guest.init);
    assert_eq!(root["is_root"], true);
    assert_eq!(root["tables"][0]["level"], "PML4");
    let text = json(IMAGE_TEXT.wrapping_add(0x42));
    assert_eq!(text["in_ram"], true);
    assert_eq!(text["reached"].as_array().unwrap().len(), 3);
    assert_eq!(text["is_cut"], false);
    assert_eq!(json(PhysAddr::new(1 << 39))["in_ram"], false);
}

#[test]
fn json_has_the_same_head_everywhere() {
    let guest = Guest::new(Plan::new(Depth::Four, true));
    let discovery = guest.discover();
    let root = discovery.reference.unwrap();
    let named = ("raw:guest", &discovery);
    let difference = Difference::between(&discovery, &discovery).unwrap();
    let reports: Vec<Value> = [
        serde_json::to_value(Roots::new("raw:guest", &discovery)),
        serde_json::to_value(report(&discovery)),
        serde_json::to_value(LayoutReport::new("raw:guest", &discovery)),
        serde_json::to_value(ReverseReport::new("raw:guest", &discovery, IMAGE_TEXT)),
        serde_json::to_value(TranslateReport::new(
            "raw:guest",
            &discovery,
            root,
            USER_DATA,
        )),
        serde_json::to_value(DifferenceReport::new(named, named, difference)),
    ]
    .into_iter()
    .map(Result::unwrap)
    .collect();
    for report in reports {
        assert_eq!(report["version"], 1);
        let target = report.get("target").or(report.get("before")).unwrap();
        assert_eq!(target["name"], "raw:guest");
        assert_eq!(target["mode"]["depth"], "four");
        assert_eq!(target["basis"], "cr3");
        // Numbers beyond 2^53 are strings, and come back as they were.
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), report);
    }
    let roots = serde_json::to_value(Roots::new("raw:guest", &discovery)).unwrap();
    assert_eq!(
        roots["roots"].as_array().unwrap().len(),
        discovery.spaces.len()
    );
    assert_eq!(roots["kinds"]["process"], 4);
    assert_eq!(roots["kinds"]["user-root"], 6);
    let process = roots["roots"]
        .as_array()
        .unwrap()
        .iter()
        .find(|root| root["kind"] == "process")
        .unwrap();
    for field in [
        "address",
        "label",
        "evidence",
        "partner",
        "cpus",
        "cluster",
        "user_pages",
        "differences",
    ] {
        assert!(process.get(field).is_some(), "{process}");
    }
}
