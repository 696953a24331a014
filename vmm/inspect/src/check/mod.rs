//! The generic rules: what must hold in the page tables of any kernel.
//!
//! Where the judge holds our own guest against what it says of itself, here the tables alone speak. A
//! difference between address spaces is told as what it is: a *pointer* divergence, where one has a
//! private copy of a table and maps the same, or a *mapping* divergence, where it maps something else. What
//! kernels do on purpose is let pass by name ([`EXCEPTIONS`]) and counted.

mod evidence;
mod exceptions;
mod rules;
mod scene;

use std::collections::BTreeMap;

use serde::Serialize;

pub use evidence::{EntryPlace, Excepted, Finding, MOST_FINDINGS, Spaces, Verdict};
pub use exceptions::{EXCEPTIONS, Exception};

use crate::discover::{Discovery, Kind};
use crate::judge::RuleInfo;
use scene::Scene;

/// What the generic rules found.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// Whether every rule holds.
    pub holds: bool,
    /// Whether there is a kernel half to judge; a guest that has just begun to page has none.
    pub has_kernel_half: bool,
    /// Every rule's verdict.
    pub rules: Vec<Verdict>,
    /// What is worth knowing and no fault.
    pub notes: Vec<String>,
}

/// How strict to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strictness {
    /// Pages of processes that are writable and executable are a fault, too.
    pub user: bool,
}

impl Check {
    /// Holds every rule against the live address spaces.
    pub fn of(discovery: &Discovery, strictness: Strictness) -> Check {
        let scene = Scene::new(discovery);
        let mut notes = notes(discovery, &scene);
        let mut verdicts: Vec<Verdict> = rules::ALL
            .iter()
            .map(|rule| {
                let mut verdict = Verdict::new(rule.info);
                (rule.judge)(&scene, &mut verdict);
                verdict
            })
            .collect();
        if !strictness.user {
            verdicts.retain(|verdict| {
                let is_lenient = verdict.rule.name == "user-write-xor-execute";
                if is_lenient && verdict.violations > 0 {
                    let (pages, are) = match verdict.violations {
                        1 => ("page", "is"),
                        _ => ("pages", "are"),
                    };
                    notes.push(format!(
                        "{} {pages} of processes {are} writable and executable (--strict-user makes that a fault)",
                        verdict.violations
                    ));
                }
                !is_lenient
            });
        }
        Check {
            holds: verdicts.iter().all(|verdict| verdict.violations == 0),
            has_kernel_half: discovery.reference.is_some(),
            rules: verdicts,
            notes,
        }
    }

    /// Every rule's name and meaning.
    pub fn rules() -> impl Iterator<Item = RuleInfo> {
        rules::ALL.iter().map(|rule| rule.info)
    }
}

fn notes(discovery: &Discovery, scene: &Scene<'_>) -> Vec<String> {
    let mut notes = discovery.notes.clone();
    let freed = discovery
        .spaces
        .iter()
        .filter(|space| space.kind == Kind::Freed)
        .count();
    if freed > 0 {
        let (roots, are) = match freed {
            1 => ("root", "is"),
            _ => ("roots", "are"),
        };
        notes.push(format!(
            "{freed} freed {roots} {are} still in memory; nobody runs there, so that is not judged"
        ));
    }
    let mut devices: BTreeMap<&str, u64> = BTreeMap::new();
    for page in scene.kernel_pages.iter().chain(&scene.user_pages) {
        if !scene.is_ram(page.leaf.pa, page.leaf.size) {
            let area = crate::layout::area_at(&discovery.layout, &discovery.snapshot, page.va);
            *devices
                .entry(area.map_or("elsewhere", |area| area.name()))
                .or_default() += 1;
        }
    }
    if !devices.is_empty() {
        let counts: Vec<String> = devices
            .iter()
            .map(|(area, pages)| format!("{pages} in {area}"))
            .collect();
        notes.push(format!(
            "pages that lead outside RAM (devices, firmware): {}",
            counts.join(", ")
        ));
    }
    if discovery.snapshot.omitted() > 0 {
        notes.push(format!(
            "{} tables were left out: there are absurdly many",
            discovery.snapshot.omitted()
        ));
    }
    notes
}
