//! What is wrong, as the page shows it: judged elsewhere, by our own guest's rules or the generic ones.

use heirloom_inspect::check::{self, Spaces};
use heirloom_inspect::judge::{self, RuleInfo};
use heirloom_inspect::{RootLabel, VirtAddr, Walk};
use serde::Serialize;

/// Something that is wrong, and at which moments.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ShownFinding {
    rule: String,
    statement: String,
    /// Numbers of the spaces that are wrong, or the first of them.
    spaces: Vec<usize>,
    /// The same in words.
    whose: String,
    place: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<VirtAddr>,
    expected: String,
    found: String,
    /// The walks that show it, as text.
    walks: Vec<String>,
    /// Stretches of moments at which it is there: first, and first at which it is not any more.
    moments: Vec<(usize, usize)>,
}

impl ShownFinding {
    /// A finding of the judge, about the space with this number, seen first at moment `now`.
    pub(crate) fn of_judge(
        rule: &RuleInfo,
        finding: &judge::Finding,
        space: Option<usize>,
        now: usize,
    ) -> ShownFinding {
        ShownFinding {
            rule: rule.name.to_owned(),
            statement: rule.statement.to_owned(),
            spaces: space.into_iter().collect(),
            whose: finding
                .whose
                .map_or_else(String::new, |whose| whose.to_string()),
            place: finding.place.clone(),
            address: finding.address,
            expected: finding.expected.clone(),
            found: finding.found.clone(),
            walks: walks_as_text(&finding.walks),
            moments: vec![(now, now + 1)],
        }
    }

    /// A finding of a generic rule, about the spaces with these numbers, at moment `now`.
    pub(crate) fn of_check(
        rule: &RuleInfo,
        finding: &check::Finding,
        spaces: Vec<usize>,
        now: usize,
    ) -> ShownFinding {
        ShownFinding {
            rule: rule.name.to_owned(),
            statement: rule.statement.to_owned(),
            spaces,
            whose: whose(&finding.spaces),
            place: finding.place.clone(),
            address: finding.range.map(|range| range.first),
            expected: finding.expected.clone(),
            found: finding.found.clone(),
            walks: walks_as_text(&finding.walks),
            moments: vec![(now, now + 1)],
        }
    }

    /// It is there at moment `now`, too.
    pub(crate) fn seen_at(&mut self, now: usize) {
        match self.moments.last_mut() {
            Some((_, end)) if *end == now => *end = now + 1,
            _ => self.moments.push((now, now + 1)),
        }
    }
}

/// Which address spaces a finding is about, in words.
fn whose(spaces: &Spaces) -> String {
    match (spaces.count, spaces.roots.first()) {
        (0, _) | (_, None) => String::new(),
        (1, Some(root)) => format!("root {root}"),
        (count, Some(root)) => format!("{count} of {} roots, {root} first", spaces.of),
    }
}

fn walks_as_text(walks: &[(RootLabel, Walk)]) -> Vec<String> {
    walks
        .iter()
        .map(|(whose, walk)| format!("{whose}: {walk}"))
        .collect()
}
