//! The main claim, on KVM: a kernel mapping that one process's system call makes is there in every
//! process, born before or after; and where a kernel does not see to that, the host shows it.

mod common;

use std::collections::BTreeSet;
use std::sync::OnceLock;

use heirloom_abi::layout::{Depth, Region};
use serde_json::{Value, json};

use common::events::{Event, events};
use common::{Run, heirloom_json};

/// What the second PGD entry of the vmalloc area translates first; nothing uses PGD[403] before the
/// scenario's last allocation.
const SECOND_VMALLOC_ENTRY: u64 =
    Region::Vmalloc.start(Depth::Four) + Depth::Four.top().entry_span();

/// The rules that have nothing to do with how kernel mappings reach a process: no strategy and no lack
/// of one breaks them.
const OTHER_RULES: [&str; 11] = [
    "user-half-private",
    "direct-map-complete",
    "direct-map-exact",
    "kernel-not-user",
    "write-xor-execute",
    "no-writable-text-alias",
    "tables-not-user-mapped",
    "reserved-bits-clear",
    "canonical",
    "cr3-known",
    "claims-match-tables",
];
/// Those that do.
const PROPAGATION_RULES: [&str; 6] = [
    "kernel-half-shared",
    "kernel-tables-same-frames",
    "propagated",
    "revoked",
    "frames-released",
    "no-dangling-table",
];

/// A judged run: its end, its report and its events.
struct Judged {
    run: Run,
    report: Value,
    events: Vec<Event>,
}

impl Judged {
    fn new(arguments: &[&str]) -> Judged {
        let (run, report) = heirloom_json(arguments);
        let events = events(&run.stderr);
        Judged {
            run,
            report,
            events,
        }
    }

    fn rule(&self, name: &str) -> &Value {
        let rules = self.report["rules"].as_array().unwrap();
        let found = rules.iter().find(|rule| rule["rule"]["name"] == name);
        found.unwrap_or_else(|| panic!("no rule {name}"))
    }

    fn findings(&self, rule: &str) -> &[Value] {
        self.rule(rule)["findings"].as_array().unwrap()
    }

    fn processes(&self) -> &[Value] {
        self.report["processes"].as_array().unwrap()
    }

    /// The processes that live at the moment that is shown.
    fn shown_processes(&self) -> BTreeSet<u64> {
        let spaces = self.report["address_spaces"].as_array().unwrap();
        spaces
            .iter()
            .filter_map(|space| space["whose"]["process"].as_u64())
            .collect()
    }

    /// The allocations of kernel memory: event, maker, first address, end.
    fn allocations(&self) -> Vec<(u64, u64, u64, u64)> {
        let mapped = self
            .events
            .iter()
            .filter(|event| event.is("KernelMapped"))
            .map(|event| {
                let start = event.field("address");
                let end = start + event.field("pages") * heirloom_abi::PAGE_SIZE;
                (event.number, event.pid, start, end)
            });
        mapped.collect()
    }

    /// Who read between these addresses, and what.
    fn readers(&self, start: u64, end: u64) -> Vec<(u64, u64, u64)> {
        self.events
            .iter()
            .filter(|event| event.is_good_read())
            .map(|event| (event.pid, event.field("address"), event.field("value")))
            .filter(|(_, address, _)| (start..end).contains(address))
            .collect()
    }
}

/// The default run, which is made once.
fn default_run() -> &'static Judged {
    static RUN: OnceLock<Judged> = OnceLock::new();
    RUN.get_or_init(|| Judged::new(&[]))
}

/// The run with `--propagation none`, which is made once.
fn run_with_none() -> &'static Judged {
    static RUN: OnceLock<Judged> = OnceLock::new();
    RUN.get_or_init(|| Judged::new(&["--propagation", "none"]))
}

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
}

/// The run must be a good one: exit code 0, every rule looked at facts, and none is broken.
fn assert_holds(judged: &Judged) {
    let Judged { run, report, .. } = judged;
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(report["version"], 1);
    assert_eq!(report["holds"], true);
    for name in OTHER_RULES.iter().chain(&PROPAGATION_RULES) {
        let rule = judged.rule(name);
        assert!(number(&rule["checks"]) > 0, "{rule:#}");
    }
    for rule in report["rules"].as_array().unwrap() {
        assert_eq!(rule["violations"], 0, "{rule:#}");
        assert_eq!(rule["findings"], json!([]), "{rule:#}");
    }
}

#[test]
fn on_kvm_the_default_run_holds_every_rule_by_facts_that_it_looked_at() {
    assert_holds(default_run());
    assert_eq!(default_run().report["propagation"], "prealloc");
}

#[test]
fn on_kvm_eight_processes_of_three_generations_live_at_one_time() {
    let living = default_run().shown_processes();
    assert!(living.len() >= 8, "{living:?}");
    let generations: BTreeSet<u64> = default_run()
        .processes()
        .iter()
        .filter(|process| living.contains(&number(&process["pid"])))
        .map(|process| number(&process["generation"]))
        .collect();
    assert!(generations.len() >= 3, "{generations:?}");
}

#[test]
fn on_kvm_processes_born_before_and_after_an_allocation_read_it_and_so_do_its_makers_kin() {
    let (made, maker, start, end) = default_run().allocations()[0];
    let readers = default_run().readers(start, end);
    let pids: BTreeSet<u64> = readers.iter().map(|(pid, ..)| *pid).collect();
    let (before, after): (Vec<&Value>, Vec<&Value>) = default_run()
        .processes()
        .iter()
        .filter(|process| pids.contains(&number(&process["pid"])))
        .partition(|process| number(&process["born"]) < made);
    assert!(pids.len() >= 8, "{pids:?}");
    assert!(
        before.len() >= 3 && after.len() >= 3,
        "{before:?} {after:?}"
    );
    let maker = default_run()
        .processes()
        .iter()
        .find(|process| process["pid"] == maker)
        .unwrap();
    assert!(pids.contains(&number(&maker["parent"])), "{maker} {pids:?}");
    for address in readers.iter().map(|(_, address, _)| *address) {
        let values: BTreeSet<u64> = readers
            .iter()
            .filter(|(_, read, _)| *read == address)
            .map(|(.., value)| *value)
            .collect();
        assert_eq!(values.len(), 1, "{address:#x}: {values:x?}");
        assert!(!values.contains(&0), "{address:#x} was never written");
    }
}

#[test]
fn on_kvm_an_allocation_crosses_into_a_new_pgd_entry_and_every_process_reads_behind_the_boundary() {
    let crossing = default_run()
        .allocations()
        .into_iter()
        .find(|(_, _, start, end)| (start + 1..*end).contains(&SECOND_VMALLOC_ENTRY));
    let Some((_, _, _, end)) = crossing else {
        panic!("no allocation crosses {SECOND_VMALLOC_ENTRY:#x}");
    };
    let readers = default_run().readers(SECOND_VMALLOC_ENTRY, end);
    let pids: BTreeSet<u64> = readers.iter().map(|(pid, ..)| *pid).collect();
    assert_eq!(pids, default_run().shown_processes());
}

#[test]
fn on_kvm_without_propagation_the_exit_code_is_one_and_rules_about_other_things_hold() {
    assert_eq!(
        run_with_none().run.code,
        Some(1),
        "{}",
        run_with_none().run.stderr
    );
    assert_eq!(run_with_none().report["holds"], false);
    assert_eq!(run_with_none().report["propagation"], "none");
    for name in OTHER_RULES {
        let rule = run_with_none().rule(name);
        assert!(number(&rule["checks"]) > 0, "{rule:#}");
        assert_eq!(rule["violations"], 0, "{rule:#}");
    }
    for name in ["kernel-half-shared", "propagated"] {
        assert!(
            number(&run_with_none().rule(name)["violations"]) > 0,
            "{name}"
        );
    }
}

/// The entry that a finding's walk shows at the root, in the walk of `whose`.
fn root_entry<'f>(finding: &'f Value, whose: &Value) -> Option<&'f Value> {
    let walks = finding["walks"].as_array()?;
    let walk = walks.iter().find(|walk| walk[0] == *whose)?;
    let entry = &walk[1]["steps"][0];
    assert_eq!(entry["level"], "PML4", "{finding:#}");
    Some(entry)
}

#[test]
fn on_kvm_without_propagation_the_process_that_has_a_pgd_entry_of_its_own_is_named_with_both_entries()
 {
    let (_, maker, ..) = *run_with_none()
        .allocations()
        .iter()
        .find(|(.., end)| *end > SECOND_VMALLOC_ENTRY)
        .unwrap();
    let finding = run_with_none()
        .findings("kernel-half-shared")
        .iter()
        .find(|finding| finding["whose"] == json!({ "process": maker }))
        .unwrap();
    assert_eq!(finding["place"], "PGD[403]");
    assert_eq!(finding["address"], format!("{SECOND_VMALLOC_ENTRY:#x}"));
    assert!(text(&finding["expected"]).contains("absent"));
    let kernels = root_entry(finding, &json!("kernel")).unwrap();
    let makers = root_entry(finding, &json!({ "process": maker })).unwrap();
    assert_eq!(
        (&kernels["index"], &makers["index"]),
        (&json!(403), &json!(403))
    );
    assert_eq!(kernels["entry"], "0x0000000000000000");
    let entry = text(&makers["entry"]);
    assert!(text(&finding["found"]).contains(entry));
    let bits = u64::from_str_radix(entry.strip_prefix("0x").unwrap(), 16).unwrap();
    assert_eq!(bits & 1, 1, "not present: {entry}");
}

#[test]
fn on_kvm_without_propagation_a_process_that_lacks_the_mapping_is_named_with_its_address_and_both_walks()
 {
    let (made, maker, ..) = *run_with_none()
        .allocations()
        .iter()
        .find(|(.., end)| *end > SECOND_VMALLOC_ENTRY)
        .unwrap();
    let others: BTreeSet<u64> = run_with_none()
        .findings("propagated")
        .iter()
        .filter(|finding| finding["place"] == format!("kernel memory of event {made}"))
        .filter_map(|finding| {
            let pid = finding["whose"]["process"].as_u64()?;
            assert_eq!(finding["address"], format!("{SECOND_VMALLOC_ENTRY:#x}"));
            let (own, makers) = (json!({ "process": pid }), json!({ "process": maker }));
            let absent = root_entry(finding, &own)?;
            assert_eq!(absent["entry"], "0x0000000000000000");
            assert_ne!(root_entry(finding, &makers)?["entry"], absent["entry"]);
            Some(pid)
        })
        .collect();
    let mut expected = run_with_none().shown_processes();
    expected.remove(&maker);
    assert_eq!(others, expected);
}

#[test]
fn on_kvm_without_propagation_the_cpu_itself_could_not_read_what_another_process_mapped() {
    let findings = run_with_none().findings("propagated");
    let faults: Vec<&Value> = findings
        .iter()
        .filter(|finding| text(&finding["place"]).starts_with("read of kernel memory"))
        .filter(|finding| text(&finding["found"]).contains("the CPU faulted"))
        .collect();
    let places: Vec<&Value> = findings.iter().map(|finding| &finding["place"]).collect();
    assert!(!faults.is_empty(), "only {places:?}");
    for finding in faults {
        let address = text(&finding["address"]);
        assert!(address.starts_with("0xffffc98"), "{address}");
        assert!(finding["whose"]["process"].is_u64(), "{finding:#}");
    }
}

#[test]
fn on_kvm_two_hundred_processes_hold_every_rule() {
    let judged = Judged::new(&["--processes", "200"]);
    assert_holds(&judged);
    assert_eq!(judged.shown_processes().len(), 200);
}

#[test]
fn on_kvm_from_the_least_memory_to_more_than_four_gibibytes_the_direct_map_is_all_of_ram() {
    // The PC's hole between 640 KiB and 1 MiB is no RAM.
    const HOLE: u64 = (1 << 20) - (640 << 10);
    for (size, bytes) in [("64M", 64 << 20), ("6G", 6 << 30)] {
        let judged = Judged::new(&["--memory", size]);
        assert_holds(&judged);
        let entries = judged.report["kernel_entries"].as_array().unwrap();
        let mapped: u64 = entries
            .iter()
            .filter(|group| group["region"] == "direct map")
            .map(|group| number(&group["bytes"]))
            .sum();
        assert_eq!(mapped, bytes - HOLE, "{size}: {entries:#?}");
        let checks = number(&judged.rule("direct-map-complete")["checks"]);
        assert!(checks >= mapped / heirloom_abi::PAGE_SIZE, "{checks}");
    }
}
