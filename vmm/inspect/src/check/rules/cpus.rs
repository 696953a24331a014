//! The CPUs: on which tables they run.

use super::Rule;
use crate::check::evidence::{Finding, Spaces};
use crate::discover::Kind;
use crate::judge::RuleInfo;

pub(super) const CR3_KNOWN: Rule = Rule {
    info: RuleInfo {
        name: "cr3-known",
        statement: "every CPU runs on a root that is one of the kernel's: not freed, not of another making",
        source: "SDM vol. 3A, 4.5: CR3 locates the root table",
    },
    judge: |scene, verdict| {
        for (number, cpu) in scene.discovery.running_cpus() {
            let root = cpu.cr3.root();
            let space = scene.discovery.space_at(root);
            let kind = space.map(|space| space.kind);
            verdict.checked(1);
            let is_known = match kind {
                None | Some(Kind::Freed) => false,
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
    },
};
