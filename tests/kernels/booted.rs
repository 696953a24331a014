//! A guest that stands still, asked live and as a core.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use heirloom_inspect::PhysAddr;
use serde_json::Value;

use crate::common::corrupted::number;
use crate::common::heirloom;
use crate::common::linux::qmp::Qmp;
use crate::common::linux::tlb;
use crate::common::machine::Machine;

/// A boot takes some seconds where there is time for it; this is so that nothing hangs.
const BOOT_LIMIT: Duration = Duration::from_secs(600);

/// Boots a guest and waits until its console has `text`.
///
/// # Panics
/// If QEMU complains, or the text does not come.
pub(crate) fn boot(options: &[&str], files: &[(&str, &[u8])], text: &str) -> Machine {
    let machine = Machine::start(|machine| {
        for (name, contents) in files {
            std::fs::write(machine.at(name), contents).unwrap();
        }
        let console = format!("file:{}", machine.at("console").display());
        let folder = format!("{}/", machine.folder().display());
        let standard = ["-accel", "tcg", "-nodefaults", "-no-user-config"];
        let quiet = ["-display", "none", "-serial", &console];
        let all = standard.iter().chain(&quiet).chain(options);
        all.map(|word| word.replace("FOLDER/", &folder)).collect()
    });
    let started = Instant::now();
    while !machine.console().contains(text) {
        let errors = machine.read("errors");
        assert!(
            errors.is_empty() && started.elapsed() < BOOT_LIMIT,
            "no `{text}` after {:?}: {errors}\n{}",
            started.elapsed(),
            machine.console()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    machine
}

/// What the command answers: the exit code, and the report.
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) report: Value,
}

impl Answer {
    /// Why a rule was not tried, if it was not.
    pub(crate) fn why_not_tried(&self, rule: &str) -> Option<&str> {
        let mut rules = self.report["rules"].as_array().unwrap().iter();
        let verdict = rules.find(|verdict| verdict["rule"]["name"] == rule)?;
        verdict["why"].as_str()
    }
}

pub(crate) fn ask(command: &str, target: &str) -> Answer {
    ask_with(command, target, &[])
}

pub(crate) fn ask_with(command: &str, target: &str, words: &[&str]) -> Answer {
    let run = heirloom(&[&[command, target, "--json"], words].concat());
    let report = serde_json::from_str(&run.stdout)
        .unwrap_or_else(|error| panic!("{command}: {error}: {}{}", run.stdout, run.stderr));
    Answer {
        code: run.code.unwrap(),
        report,
    }
}

/// A guest at one moment.
pub(crate) struct Moment {
    pub(crate) roots: Answer,
    pub(crate) check: Answer,
    pub(crate) layout: Answer,
}

impl Moment {
    pub(crate) fn of(target: &str) -> Moment {
        let [roots, check, layout] =
            ["roots", "check", "layout"].map(|command| ask(command, target));
        Moment {
            roots,
            check,
            layout,
        }
    }

    /// The guest as it is now, from a core; the live one gives the same answers.
    ///
    /// # Panics
    /// If it does not.
    pub(crate) fn now(machine: &Machine) -> Moment {
        let mut qmp = machine.qmp();
        qmp.stop();
        let live = Moment::of(&format!("qemu:{}", machine.socket().display()));
        let core = machine.at("core");
        qmp.dump(&core, false);
        let moment = Moment::of(&format!("core:{}", core.display()));
        assert_leaves_are_qemus(&mut qmp, &format!("core:{}", core.display()));
        std::fs::remove_file(core).unwrap();
        qmp.resume();
        assert_eq!(live.profile(), moment.profile());
        assert_eq!(live.kinds(), moment.kinds());
        assert_eq!(live.verdicts(), moment.verdicts());
        assert_eq!(live.areas(), moment.areas());
        let codes = |moment: &Moment| [moment.roots.code, moment.check.code, moment.layout.code];
        assert_eq!(codes(&live), codes(&moment));
        moment
    }

    /// The profile's name.
    pub(crate) fn profile(&self) -> &str {
        let profile = &self.roots.report["target"]["profile"];
        assert!(!profile["evidence"].as_str().unwrap().is_empty());
        profile["name"].as_str().unwrap()
    }

    /// Each root's kind, by its address.
    pub(crate) fn kinds(&self) -> BTreeMap<&str, &str> {
        let roots = self.roots.report["roots"].as_array().unwrap().iter();
        roots
            .map(|root| {
                (
                    root["address"].as_str().unwrap(),
                    root["kind"].as_str().unwrap(),
                )
            })
            .collect()
    }

    /// The roots that CPUs are on.
    pub(crate) fn roots_of_cpus(&self) -> Vec<PhysAddr> {
        let roots = self.roots.report["roots"].as_array().unwrap().iter();
        let on_cpus = roots.filter(|root| !root["cpus"].as_array().unwrap().is_empty());
        on_cpus
            .map(|root| PhysAddr::new(number(&root["address"])))
            .collect()
    }

    /// How many roots are of a kind, and of those only such whose evidence has `words`.
    pub(crate) fn count(&self, kind: &str, words: &str) -> usize {
        let roots = self.roots.report["roots"].as_array().unwrap().iter();
        roots
            .filter(|root| root["kind"] == kind)
            .filter(|root| root["evidence"].as_str().unwrap().contains(words))
            .count()
    }

    /// Each rule's verdict, and how often it is broken.
    pub(crate) fn verdicts(&self) -> Vec<(&str, &str, u64)> {
        let rules = self.check.report["rules"].as_array().unwrap().iter();
        rules
            .map(|rule| {
                (
                    rule["rule"]["name"].as_str().unwrap(),
                    rule["verdict"].as_str().unwrap(),
                    rule["violations"].as_u64().unwrap(),
                )
            })
            .collect()
    }

    /// Rules with this verdict.
    pub(crate) fn rules(&self, verdict: &str) -> Vec<&str> {
        let verdicts = self.verdicts().into_iter();
        let with = verdicts.filter(|(_, found, _)| *found == verdict);
        with.map(|(name, _, _)| name).collect()
    }

    /// The names of the exceptions that were met.
    pub(crate) fn let_pass(&self) -> Vec<&str> {
        let rules = self.check.report["rules"].as_array().unwrap().iter();
        let met = rules.filter_map(|rule| rule["exceptions"].as_array());
        met.flatten()
            .map(|met| met["name"].as_str().unwrap())
            .collect()
    }

    /// Each area's name and first address.
    pub(crate) fn areas(&self) -> Vec<(&str, &str)> {
        let regions = self.layout.report["regions"].as_array().unwrap().iter();
        regions
            .map(|region| {
                (
                    region["name"].as_str().unwrap(),
                    region["range"]["first"].as_str().unwrap(),
                )
            })
            .collect()
    }
}

/// Every leaf of the first CPU's root is where QEMU's own walk has it.
fn assert_leaves_are_qemus(qmp: &mut Qmp, target: &str) {
    let maps = ask("maps", target);
    let ranges: Vec<(u64, u64, u64)> = maps.report["ranges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|range| {
            (
                number(&range["range"]["first"]),
                number(&range["range"]["last"]),
                number(&range["pa"]),
            )
        })
        .collect();
    let lines = tlb::parse(&qmp.monitor("info tlb"));
    assert!(!lines.is_empty() && !ranges.is_empty());
    for line in &lines {
        let at = ranges.partition_point(|(_, last, _)| *last < line.va);
        let (first, _, pa) = ranges[at];
        assert!(first <= line.va, "{:#x} is in no range", line.va);
        assert_eq!(pa + (line.va - first), line.pa, "{:#x}", line.va);
    }
}
