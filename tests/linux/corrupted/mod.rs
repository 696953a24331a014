//! Linux's page tables corrupted on purpose, in a copy of a core: `heirloom check` reports each corruption as
//! what it is, where it is, and as nothing else; and nothing on the untouched image.

mod cases;
mod copy;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use heirloom_inspect::{Pfn, PhysAddr, VirtAddr, Walk};
use serde_json::Value;

use cases::{Case, Expected, Where};
use copy::{CorruptedImage, Place};

use crate::command::{address, list, number, run};
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

/// Whether a finding is about the entry at `place`, in these address spaces and no others.
fn is_about(finding: &Value, place: Place, spaces: Where, pti: bool) -> bool {
    let Some(entry) = finding.get("entry") else {
        return false;
    };
    let is_there = Pfn::new(number(&entry["table"])) == place.table
        && entry["index"].as_u64() == Some(place.index.into());
    let roots: Vec<PhysAddr> = list(&finding["spaces"], "roots")
        .iter()
        .map(address)
        .collect();
    let count = finding["spaces"]["count"].as_u64();
    let only = |expected: &[PhysAddr]| roots == expected && count == Some(roots.len() as u64);
    is_there
        && match spaces {
            Where::Process(root) if pti => only(&[root, partner_of(root, Partner::User)]),
            Where::Only(root) | Where::Process(root) => only(&[root]),
            Where::Many => count > Some(30),
        }
}

/// Whether an entry that was written is what a finding is about, or on the way to it.
fn follows_from(finding: &Value, image: &CorruptedImage, written: &BTreeSet<(Pfn, u64)>) -> bool {
    let is_about_one = finding.get("entry").is_some_and(|entry| {
        let index = entry["index"].as_u64().unwrap();
        written.contains(&(Pfn::new(number(&entry["table"])), index))
    });
    let leads_there = || {
        let first = VirtAddr::new(number(&finding["range"]["first"]));
        let roots = list(&finding["spaces"], "roots").iter().map(address);
        let mut walks = roots.map(|root| image.walk(root, first));
        let is_written = |walk: Walk| {
            let mut steps = walk.steps().iter();
            steps.any(|step| written.contains(&(step.table, step.index.into())))
        };
        walks.any(is_written)
    };
    is_about_one || leads_there()
}

/// The report on one corruption against what it must be: each finding that is expected, once, and else none
/// but by the same rules on what the entries that were written lead to.
fn judge(image: &CorruptedImage, case: &Case) -> Result<(), String> {
    let mut expected = (case.corrupt)(image);
    let rules: BTreeSet<&str> = expected.iter().map(|expected| expected.rule).collect();
    let written = image.written();
    let (code, report) = run(&["check", &image.target()]);
    if code != 1 || report["holds"] != false {
        return Err(format!("exit code {code}, holds: {}", report["holds"]));
    }
    let mut unexpected = String::new();
    for verdict in list(&report, "rules") {
        let rule = verdict["rule"]["name"].as_str().unwrap();
        let findings = verdict.get("findings").and_then(Value::as_array);
        let findings = findings.map_or(&[][..], Vec::as_slice);
        for finding in findings {
            if finding["area"] == "kernel-image" && finding["symbol"].as_str().is_none() {
                let _ = write!(unexpected, "\n  {rule}: without a symbol: {finding}");
            }
            let is_it = |expected: &Expected| {
                expected.rule == rule
                    && is_about(finding, expected.place, expected.spaces, image.variant.pti)
            };
            if let Some(found) = expected.iter().position(is_it) {
                expected.remove(found);
            } else if !rules.contains(rule) || !follows_from(finding, image, &written) {
                let _ = write!(unexpected, "\n  {rule}: {finding}");
            }
        }
    }
    if expected.is_empty() && unexpected.is_empty() {
        return Ok(());
    }
    Err(format!("missing: {expected:?}; unexpected: {unexpected}"))
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
