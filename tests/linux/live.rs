//! A core and the live QEMU of the same moment give the same answer, and a guest is left as it was.

use serde_json::Value;

use crate::command::{address, ask, list, number, qemu, run};
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

/// What a command answers to a question.
struct Answer {
    code: i32,
    report: Value,
    /// What differs between a core and the live guest.
    of_target: OfTarget,
}

/// What a report says of the target, and not of the page tables. QEMU dumps RAM that video memory and ROMs
/// hide, too; only the live one tells that they do.
#[derive(Default)]
struct OfTarget {
    /// Start and length of each range of RAM.
    ram: Vec<(u64, u64)>,
    notes: Vec<String>,
    /// Pages of the direct map that rule `direct-map-exact` lets pass as they show video memory or ROM.
    isa_hole: u64,
    /// RAM that the direct map shows.
    in_direct_map: Option<u64>,
}

fn answer(target: &str, question: &[&str], places: &[(&str, String)]) -> Answer {
    let mut words = vec![question[0], target];
    for word in &question[1..] {
        let place = places.iter().find(|(name, _)| name == word);
        words.push(place.map_or(word, |(_, value)| value.as_str()));
    }
    let (code, mut report) = run(&words);
    let target = report.as_object_mut().unwrap().remove("target").unwrap();
    let of_target = take_of_target(&mut report, &target);
    // What it ran on counts.
    report["cpus"] = target["cpus"].clone();
    Answer {
        code,
        report,
        of_target,
    }
}

/// Takes out of a report what it says of the target.
fn take_of_target(report: &mut Value, target: &Value) -> OfTarget {
    let mut of_target = OfTarget::default();
    for range in list(target, "ram") {
        let bytes = range["bytes"].as_u64().unwrap();
        of_target.ram.push((number(&range["start"]), bytes));
    }
    if let Some(notes) = report.as_object_mut().unwrap().remove("notes") {
        of_target.notes = serde_json::from_value(notes).unwrap();
    }
    for rule in items(report, "rules") {
        let Some(exceptions) = rule.get_mut("exceptions").and_then(Value::as_array_mut) else {
            continue;
        };
        for exception in exceptions.extract_if(.., |exception| exception["name"] == "isa-hole") {
            of_target.isa_hole += exception["count"].as_u64().unwrap();
        }
        if exceptions.is_empty() {
            rule.as_object_mut().unwrap().remove("exceptions");
        }
    }
    let direct_map = report.get_mut("direct_map").and_then(Value::as_object_mut);
    of_target.in_direct_map =
        direct_map.map(|map| map.remove("ram_bytes").unwrap().as_u64().unwrap());
    let all: u64 = of_target.ram.iter().map(|(_, bytes)| bytes).sum();
    for region in items(report, "regions") {
        if region["area"] == "direct-map" {
            let shown = of_target.in_direct_map.unwrap();
            let of_all = format!("; shows {} of {} MiB of RAM", shown >> 20, all >> 20);
            let evidence = region["evidence"].as_str().unwrap();
            let (linear, pages) = evidence.split_once(&of_all).unwrap_or_else(|| {
                panic!("no `{of_all}` in: {evidence}");
            });
            region["evidence"] = format!("{linear}{pages}").into();
        }
    }
    of_target
}

/// The items of a list, if the report has it.
fn items<'v>(report: &'v mut Value, name: &str) -> impl Iterator<Item = &'v mut Value> {
    let list = report.get_mut(name).and_then(Value::as_array_mut);
    list.into_iter().flatten()
}

/// Whether what a core and the live guest tell of themselves differs by nothing but where each is read from.
fn assert_are_one(core: &OfTarget, live: &OfTarget) {
    const MIB: u64 = 1 << 20;
    // What lies from 640 KiB to 1 MiB and the firmware's ROM are no RAM, in either.
    assert_eq!(core.ram, [(0, 0xa_0000), (MIB, 511 * MIB)]);
    assert_eq!(core.ram, live.ram);
    assert_eq!(core.in_direct_map, live.in_direct_map);
    assert_eq!(core.isa_hole, live.isa_hole);
    if core.notes.is_empty() && live.notes.is_empty() {
        return;
    }
    let [of_core, core_notes @ ..] = &core.notes[..] else {
        panic!("no notes")
    };
    let [of_live, live_notes @ ..] = &live.notes[..] else {
        panic!("no notes")
    };
    assert!(
        of_core.starts_with("QEMU does not write EFER into a core: "),
        "{of_core}"
    );
    assert!(
        of_live.starts_with("RAM is read from the memory of process "),
        "{of_live}"
    );
    assert_eq!(core_notes, live_notes);
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
        let difference = difference(&of_core.report, &of_live.report, "");
        assert_eq!(difference, None, "{}: {question:?}", variant.name);
        assert_eq!(of_core.code, of_live.code, "{}: {question:?}", variant.name);
        assert_are_one(&of_core.of_target, &of_live.of_target);
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
