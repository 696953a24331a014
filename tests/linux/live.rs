//! A core and the live QEMU of the same moment give the same answer, and a guest is left as it was.

use serde_json::Value;

use crate::command::{address, ask, list, qemu, run};
use crate::common::linux::{Guest, Variant};
use crate::image::{Image, some_user_page};

/// What is asked of both; `ROOT` and `VA` stand for what the image has.
const QUESTIONS: [&[&str]; 8] = [
    &["roots"],
    &["check"],
    &["layout"],
    &["maps", "--root", "kernel"],
    &["maps", "--root", "ROOT", "--user"],
    &["translate", "VA", "--root", "ROOT"],
    &["translate", "VA"],
    &["reverse", "PA"],
];

/// The report of one question, without what it says of the target: its name, and what a core does not tell.
fn answer(target: &str, question: &[&str], places: &[(&str, String)]) -> (i32, Value) {
    let mut words = vec![question[0], target];
    for word in &question[1..] {
        let place = places.iter().find(|(name, _)| name == word);
        words.push(place.map_or(word, |(_, value)| value.as_str()));
    }
    let (code, mut report) = run(&words);
    let target = report.as_object_mut().unwrap().remove("target").unwrap();
    let notes = report.as_object_mut().unwrap().remove("notes");
    assert!(notes.is_none_or(|notes| notes.is_array()));
    forget_hidden_ram(&mut report);
    // What it ran on counts.
    report["cpus"] = target["cpus"].clone();
    (code, report)
}

/// QEMU dumps RAM that video memory and ROMs hide, too; only the live one tells that they do. What a
/// report says of how much RAM there is differs by that.
fn forget_hidden_ram(report: &mut Value) {
    for rule in items(report, "rules") {
        let Some(exceptions) = rule.get_mut("exceptions").and_then(Value::as_array_mut) else {
            continue;
        };
        exceptions.retain(|exception| exception["name"] != "isa-hole");
        if exceptions.is_empty() {
            rule.as_object_mut().unwrap().remove("exceptions");
        }
    }
    if let Some(map) = report.get_mut("direct_map").and_then(Value::as_object_mut) {
        assert!(map.remove("ram_bytes").is_some());
    }
    for region in items(report, "regions") {
        if region["area"] == "direct-map" {
            let evidence = region["evidence"].as_str().unwrap();
            let (linear, shown) = evidence.split_once("; shows ").unwrap();
            let (_, pages) = shown.split_once(" of RAM in ").unwrap();
            region["evidence"] = format!("{linear} in {pages}").into();
        }
    }
}

/// The items of a list, if the report has it.
fn items<'v>(report: &'v mut Value, name: &str) -> impl Iterator<Item = &'v mut Value> {
    let list = report.get_mut(name).and_then(Value::as_array_mut);
    list.into_iter().flatten()
}

/// Where two reports differ first; `None` if they do not.
fn difference(left: &Value, right: &Value, at: &str) -> Option<String> {
    match (left, right) {
        (Value::Object(ours), Value::Object(theirs)) if ours.keys().eq(theirs.keys()) => ours
            .iter()
            .find_map(|(name, value)| difference(value, &theirs[name], &format!("{at}.{name}"))),
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => (0..)
            .zip(ours.iter().zip(theirs))
            .find_map(|(number, (ours, theirs))| {
                difference(ours, theirs, &format!("{at}[{number}]"))
            }),
        _ if left == right => None,
        _ => Some(format!("{at}: {left} is {right} in the live guest")),
    }
}

fn core_and_live_agree(variant: Variant) {
    let image = Image::of(variant);
    let snapshot = image.capture();
    let (root, page) = some_user_page(&snapshot);
    let places = [
        ("ROOT", format!("{root:#x}")),
        ("VA", format!("{:#x}", page.va)),
        ("PA", format!("{:#x}", page.pa)),
    ];
    let mut machine = image.machine();
    for question in QUESTIONS {
        let of_core = answer(&image.target(), question, &places);
        let of_live = answer(&qemu(&image.guest.socket()), question, &places);
        let difference = difference(&of_core.1, &of_live.1, "");
        assert_eq!(difference, None, "{}: {question:?}", variant.name);
        assert_eq!(of_core.0, of_live.0, "{}: {question:?}", variant.name);
        // It was paused before.
        assert_eq!(machine.qmp.status(), "paused", "{question:?}");
    }
}

#[test]
fn with_kpti_a_core_and_the_live_qemu_of_the_same_moment_give_the_same_answers() {
    core_and_live_agree(Variant::PTI_ON);
}

#[test]
fn with_two_cpus_a_core_and_the_live_qemu_of_the_same_moment_give_the_same_answers() {
    core_and_live_agree(Variant::PTI_OFF);
}

#[test]
fn with_five_levels_and_a_cpu_in_ring_3_a_core_and_the_live_qemu_give_the_same_answers() {
    core_and_live_agree(Variant::LA57_PTI_ON);
}

#[test]
fn a_guest_that_runs_with_its_ram_in_a_shared_file_is_looked_at_and_runs_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ram");
    let memory = format!(
        "memory-backend-file,id=ram,size=512M,share=on,mem-path={}",
        file.display()
    );
    let guest = Guest::boot_with(
        Variant::PTI_ON,
        &["-object", &memory, "-machine", "memory-backend=ram"],
    );
    let target = qemu(&guest.socket());
    let mut qmp = guest.qmp();
    assert_eq!(qmp.status(), "running");
    let report = ask(&["roots", &target]);
    assert_eq!(qmp.status(), "running");
    let processes = list(&report, "roots")
        .iter()
        .filter(|root| root["kind"] == "process")
        .map(|root| address(&root["address"]));
    // The child of vfork shares its parent's.
    assert_eq!(processes.count(), guest.listing.with_memory().count() - 1);
    assert_eq!(ask(&["check", &target])["holds"], true);
    assert_eq!(qmp.status(), "running");
}
