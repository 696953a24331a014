//! The CPUs: on which tables they run.

use super::Rule;
use crate::check::evidence::{Finding, Spaces, Verdict};
use crate::check::scene::Scene;
use crate::discover::{Basis, Kind};
use crate::judge::RuleInfo;
use crate::snapshot::RootLabel;

pub(super) const CR3_KNOWN: Rule = Rule {
    info: RuleInfo {
        name: "cr3-known",
        statement: "every CPU runs on a root that is one of the kernel's: not freed, not of another making; a root that the user names is one, too",
        source: "SDM vol. 3A, 4.5: CR3 locates the root table",
    },
    judge: |scene, verdict| {
        for (number, cpu) in scene.discovery.running_cpus() {
            let root = cpu.cr3.root();
            let space = scene.discovery.space_at(root);
            let kind = space.map(|space| space.kind);
            verdict.checked(1);
            let is_known = match kind {
                None | Some(Kind::Freed | Kind::NotUnderstood) => false,
                // With no kernel half to compare with, nothing is foreign.
                Some(Kind::Foreign) => scene.discovery.reference.is_none(),
                Some(_) => true,
            };
            if !is_known {
                verdict.broken(|| Finding {
                    place: format!("CR3 of CPU {number}"),
                    entry: None,
                    range: None,
                    area: None,
                    spaces: Spaces::new(&[root], scene.live.len()),
                    expected: "a live root with the kernel half of the others".into(),
                    found: match space {
                        Some(space) => format!("{root}: {}, {}", space.kind, space.evidence),
                        None => format!("{root}, which is none of the known roots"),
                    },
                    walks: Vec::new(),
                });
            }
        }
        named_roots_known(scene, verdict);
    },
};

/// A root that is foreign and that no CPU runs on can only have been named by the user.
fn named_roots_known(scene: &Scene<'_>, verdict: &mut Verdict) {
    let discovery = scene.discovery;
    // What a dump's notes name as the kernel's may be another kernel's in the same memory.
    let named = discovery.spaces.iter().filter(|space| {
        space.kind == Kind::Foreign && space.cpus.is_empty() && space.label != RootLabel::Kernel
    });
    // A recording's roots have owners; and with no kernel half to compare with, nothing is foreign.
    let counts = discovery.basis == Basis::Cr3 && discovery.reference.is_some();
    for space in named.filter(|_| counts) {
        verdict.checked(1);
        verdict.broken(|| Finding {
            place: format!("the root {} that was named", space.address),
            entry: None,
            range: None,
            area: None,
            spaces: Spaces::new(&[space.address], scene.live.len()),
            expected: "a root with the kernel half of the others".into(),
            found: format!("{}, {}", space.kind, space.evidence),
            walks: Vec::new(),
        });
    }
}
