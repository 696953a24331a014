//! Bochs: the one machine here whose CPU has PCIDs and INVPCID, and whose TLB keeps global pages when CR3 is loaded.
//!
//! Its TLB has no tags: every load of CR3 drops all that is not global, bit 63 or not. So a PCID that was not flushed
//! shows there by what the kernel has noted, and a global page that was not flushed by what the CPU reads.

#[path = "../common/mod.rs"]
mod common;
mod machine;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use heirloom_harness::{Bug, ExitStatus, Run, Strategy};
use heirloom_inspect::PhysAddr;
use heirloom_inspect::rules::Verdict;
use heirloom_machine::{CpuCount, Cpus};

use crate::machine::{Bochs, WORDS};

/// What a run was like.
struct Ran {
    status: ExitStatus,
    /// The PCIDs that each root was seen with, by number.
    pcids: BTreeMap<PhysAddr, Vec<u16>>,
    /// CR4.PCIDE at each event.
    tagged: Vec<bool>,
    verdicts: Vec<Verdict>,
    console: String,
}

impl Ran {
    fn assert_ended_well(&self) {
        assert!(
            self.status.is_success(),
            "{}: {}",
            self.status,
            self.console
        );
    }

    fn verdict(&self, rule: &str) -> &Verdict {
        let mut verdicts = self.verdicts.iter();
        verdicts.find(|verdict| verdict.rule.name == rule).unwrap()
    }

    /// What the rule found.
    fn found(&self, rule: &str) -> Vec<&str> {
        let findings = self.verdict(rule).findings.iter();
        findings.map(|finding| finding.found.as_str()).collect()
    }

    fn broken(&self) -> Vec<&str> {
        let broken = self.verdicts.iter().filter(|verdict| verdict.is_broken());
        broken.map(|verdict| verdict.rule.name).collect()
    }
}

/// What the kernel printed, for whoever asks later.
#[derive(Clone, Default)]
struct Console(Arc<Mutex<Vec<u8>>>);

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs a program of the guest's on Bochs with so many CPUs, judged at each event.
fn ran(
    (strategy, bug, cpus): (Strategy, Option<Bug>, u8),
    (program, arguments): (&str, &[&str]),
    words: &str,
) -> Ran {
    let guest = common::guest::extract();
    let bochs = Bochs {
        kernel: guest.kernel.clone(),
    };
    let console = Console::default();
    let arguments = arguments.iter().map(ToString::to_string);
    let mut run = Run::builder(&bochs)
        .strategy(strategy)
        .bug(bug)
        .cpus(Cpus::new(CpuCount::new(cpus).unwrap()))
        .embedded(program, arguments.collect())
        .kernel_words(&format!("{WORDS} {words}"))
        .console(Box::new(console.clone()))
        .time_limit(common::AMPLE)
        .start()
        .unwrap();
    let mut pcids: BTreeMap<PhysAddr, Vec<u16>> = BTreeMap::new();
    let mut tagged = Vec::new();
    let ended = run.to_end(|seen| {
        tagged.push(seen.snapshot().unwrap().mode().pcide);
        for cpu in seen.cpus() {
            let known = pcids.entry(cpu.cr3.root()).or_default();
            if !known.contains(&cpu.cr3.pcid()) {
                known.push(cpu.cr3.pcid());
            }
        }
    });
    let console = String::from_utf8_lossy(&console.0.lock().unwrap()).into_owned();
    let status = ended.unwrap_or_else(|error| panic!("{error}; the kernel said: {console}"));
    Ran {
        status,
        pcids,
        tagged,
        verdicts: run.judge().verdicts().to_vec(),
        console,
    }
}

const RULE: &str = "no-stale-translation";
const FAMILY: (&str, &[&str]) = ("family", &["4"]);

const TRIALS: (&str, &[&str]) = ("trials", &[]);

#[test]
fn processes_on_two_cpus_have_pcids_of_their_own_and_every_rule_holds() {
    let ran = ran((Strategy::Prealloc, None, 2), FAMILY, "selfcheck");
    ran.assert_ended_well();
    assert_eq!(ran.broken(), [""; 0]);
    assert!(ran.verdict(RULE).holds() && ran.verdict(RULE).checks > 0);
    assert!(ran.tagged.iter().all(|on| *on));
    for (root, pcids) in &ran.pcids {
        assert_eq!(pcids.len(), 1, "{root}: {pcids:?}");
    }
    let different: BTreeSet<u16> = ran.pcids.values().flatten().copied().collect();
    assert!(
        different.contains(&0) && different.len() >= 4,
        "{different:?}"
    );
    assert!(ran.console.contains("pcid true"), "{}", ran.console);
    assert!(ran.console.contains(" passed, 0 failed"), "{}", ran.console);
}

#[test]
fn a_kernel_on_a_root_of_its_own_has_pcid_0_there_and_holds_without_invpcid() {
    let ran = ran((Strategy::Isolated, None, 1), FAMILY, "clearcpuid=invpcid");
    ran.assert_ended_well();
    assert_eq!(ran.broken(), [""; 0]);
    assert!(ran.verdict(RULE).holds() && ran.verdict(RULE).checks > 0);
    assert!(ran.tagged.iter().all(|on| *on));
    let seen: Vec<&Vec<u16>> = ran.pcids.values().collect();
    assert_eq!(seen, [&vec![0]]);
}

#[test]
fn pcids_may_be_refused() {
    let ran = ran((Strategy::Prealloc, None, 1), FAMILY, "pcid=off");
    ran.assert_ended_well();
    assert_eq!(ran.broken(), [""; 0]);
    assert!(ran.tagged.iter().all(|on| !on));
    assert!(ran.pcids.len() > 3);
    assert!(
        ran.pcids.values().all(|pcids| *pcids == [0]),
        "{:?}",
        ran.pcids
    );
}

#[test]
fn a_pcid_that_is_given_on_and_was_not_flushed_is_found_by_what_the_kernel_has_noted() {
    let bug = Bug::PcidNotFlushed;
    let ran = ran((Strategy::Prealloc, Some(bug), 1), FAMILY, "");
    assert_eq!(bug.info().rule, RULE);
    assert!(ran.verdict(RULE).is_broken());
    let found = ran.found(RULE);
    let tells =
        |found: &&str| found.contains("under PCID ") && found.contains(" is that of process ");
    assert!(found.iter().any(tells), "{found:#?}");
    // Bochs's TLB has no tags, so nothing else went wrong.
    let others = ran.broken();
    let mut others = others.iter();
    assert!(others.all(|rule| [RULE, "frame-not-reused-early"].contains(rule)));
}

#[test]
fn a_global_page_that_a_load_of_cr3_does_not_drop_is_found_by_what_the_cpu_reads() {
    let bug = Some(Bug::FlushKeepsGlobal);
    let ran = ran((Strategy::Prealloc, bug, 1), TRIALS, "");
    let found = ran.found(RULE);
    let tells = |words| found.iter().any(|found: &&str| found.contains(words));
    assert!(tells("by an old translation"), "{found:#?}");
    assert!(tells("no flush that covers it"), "{found:#?}");
}
