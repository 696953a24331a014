//! Linux's page tables corrupted on purpose, in a copy of a core: `heirloom check` reports each corruption as
//! what it is, where it is, and as nothing else; and nothing on the untouched image.

mod cases;
mod copy;

use std::collections::BTreeSet;

use heirloom_inspect::PhysAddr;
use serde_json::Value;

use cases::Case;
use copy::CorruptedImage;

use crate::command::{list, run};
use crate::common::corrupted::{Judge, number};
use crate::common::linux::Variant;
use crate::image::{Image, Partner, partner_of, some_user_page};

/// The rules that a report says are broken.
fn broken_rules(report: &Value) -> BTreeSet<&str> {
    list(report, "rules")
        .iter()
        .filter(|verdict| verdict["violations"] != 0)
        .map(|verdict| verdict["rule"]["name"].as_str().unwrap())
        .collect()
}

/// The report on one corruption against what it must be.
fn judge(image: &CorruptedImage, case: &Case) -> Result<(), String> {
    let expected = (case.corrupt)(image);
    let (code, report) = run(&["check", &image.target()]);
    if code != 1 || report["holds"] != false {
        return Err(format!("exit code {code}, holds: {}", report["holds"]));
    }
    let user_root = |root| partner_of(root, Partner::User);
    let judge = Judge {
        tables: image,
        many: 30,
        user_root: image.variant.pti.then_some(user_root),
        has_names: true,
    };
    judge.judge(&report, expected)
}

/// Each corruption by itself, on a fresh copy.
fn every_corruption_is_reported_as_what_it_is(variant: Variant) {
    let image = CorruptedImage::copy_of(variant);
    let mut wrong = Vec::new();
    for case in cases::all().filter(|case| variant.pti || !case.needs_kpti) {
        let judged = judge(&image, case);
        image.restore();
        if let Err(what) = judged {
            wrong.push(format!("{}: {what}", case.name));
        }
    }
    // All is as it was before.
    let (code, report) = run(&["check", &image.target()]);
    assert_eq!((code, broken_rules(&report)), (0, BTreeSet::new()));
    assert!(wrong.is_empty(), "{}:\n{}", variant.name, wrong.join("\n"));
}

#[test]
fn with_kpti_every_corruption_is_reported_as_what_it_is_and_as_nothing_else() {
    every_corruption_is_reported_as_what_it_is(Variant::PTI_ON);
}

#[test]
fn without_kpti_every_corruption_is_reported_as_what_it_is_and_as_nothing_else() {
    every_corruption_is_reported_as_what_it_is(Variant::PTI_OFF);
}

#[test]
fn with_five_levels_every_corruption_is_reported_as_what_it_is_and_as_nothing_else() {
    every_corruption_is_reported_as_what_it_is(Variant::LA57_PTI_ON);
}

#[test]
fn a_clean_linux_has_no_false_alarm_and_what_it_does_on_purpose_is_named() {
    for variant in Variant::ALL {
        let image = Image::of(variant);
        let (code, report) = run(&["check", &image.target()]);
        let broken = broken_rules(&report);
        assert!(
            code == 0 && broken.is_empty(),
            "{}: {broken:?}",
            variant.name
        );
        assert_eq!(report["holds"], true);
        let met: BTreeSet<&str> = list(&report, "rules")
            .iter()
            .filter_map(|verdict| verdict["exceptions"].as_array())
            .flatten()
            .map(|exception| exception["name"].as_str().unwrap())
            .collect();
        assert!(
            met.contains("trampoline-identity-map"),
            "{}: {met:?}",
            variant.name
        );
        // Two processes have an LDT; each CPU's TSS is mapped where system calls need it.
        for name in ["ldt-remap", "kpti-cpu-tss"] {
            assert_eq!(met.contains(name), variant.pti, "{}: {met:?}", variant.name);
        }
        let has_vsyscall = variant.words.contains("vsyscall=emulate");
        assert_eq!(met.contains("vsyscall-page"), has_vsyscall, "{met:?}");
        // Linux has looked for such pages itself.
        let kernel = &image.guest.listing.kernel;
        let passed = |line: &String| line.contains("Checked W+X mappings: passed");
        assert!(kernel.iter().any(passed), "{}: {kernel:?}", variant.name);
    }
}

#[test]
fn a_just_in_time_compilers_pages_are_a_note_unless_strictness_is_asked_for() {
    let image = Image::of(Variant::PTI_ON);
    let target = image.target();
    let (code, report) = run(&["check", &target, "--strict-user"]);
    assert_eq!(code, 1);
    let broken = broken_rules(&report);
    assert_eq!(broken, BTreeSet::from(["user-write-xor-execute"]));
}

#[test]
fn a_cpu_whose_cr3_leads_to_no_root_is_reported_and_what_lies_there_is_not_judged() {
    let image = CorruptedImage::copy_of(Variant::PTI_OFF);
    // A page of a process.
    let (_, page) = some_user_page(&Image::of(Variant::PTI_OFF).capture());
    image.set_last_cr3(page.pa);
    let (code, report) = run(&["check", &image.target()]);
    assert_eq!(code, 1);
    assert_eq!(broken_rules(&report), BTreeSet::from(["cr3-known"]));
}

/// Reading `/proc/kcore` leaves copies of pages in the kernel's memory, roots among them.
#[test]
fn a_copy_of_a_root_without_pages_is_no_address_space_as_no_process_has_it() {
    let image = CorruptedImage::copy_of(Variant::PTI_OFF);
    let target = image.target();
    let kind_at = |address: &Value| {
        let (code, report) = run(&["roots", &target]);
        assert_eq!(code, 0);
        let mut roots = list(&report, "roots").iter();
        let found = roots.find(|root| root["address"] == *address);
        found.map(|root| root["kind"].clone())
    };
    let (_, report) = run(&["roots", &target]);
    let mut roots = list(&report, "roots").iter();
    let poking = roots.find(|root| root["kind"] == "no-pages").unwrap();
    let address = |value: &Value| PhysAddr::new(number(value));
    let copy = image.copy_table(address(&poking["address"]).pfn());
    assert_eq!(kind_at(&poking["address"]), Some("no-pages".into()));
    let copied = serde_json::to_value(copy.base()).unwrap();
    assert_eq!(kind_at(&copied), Some("idle".into()));
    let (code, report) = run(&["check", &target]);
    assert_eq!((code, broken_rules(&report)), (0, BTreeSet::new()));
}
