//! What the explorer is told of a guest: its address spaces, what happened, what is wrong, and the
//! tables of every moment.

use std::collections::{BTreeSet, HashMap};

use heirloom_inspect::check::Check;
use heirloom_inspect::judge::{SeenFinding, Verdict};
use heirloom_inspect::{Mode, PhysAddr, Root, RootLabel, Snapshot, VirtRange};
use serde::Serialize;

use crate::film::Film;
use crate::finding::ShownFinding;

/// A guest's story while it is told, moment by moment: [`Story::moment`].
#[derive(Debug)]
pub struct Story {
    pub(crate) about: About,
    pub(crate) film: Film,
    pub(crate) spaces: Vec<Space>,
    pub(crate) groups: Vec<Group>,
    pub(crate) modes: Vec<ModeFrom>,
    pub(crate) events: Vec<Event>,
    pub(crate) findings: Vec<ShownFinding>,
    /// The spaces of the last moment.
    present: HashMap<(RootLabel, PhysAddr), usize>,
    /// Findings that are known, by rule and place in its list, and how often each was seen.
    seen: HashMap<(&'static str, usize), Sighting>,
    start: Option<usize>,
}

/// What the whole is about.
#[derive(Clone, Debug, Default, Serialize)]
pub struct About {
    /// In a few words: `propagation=none`, `core:guest.core`.
    pub title: String,
    /// How the story ends, in a sentence; empty where nothing was judged.
    pub verdict: String,
    /// Whether every rule holds; `None` where nothing was judged.
    pub holds: Option<bool>,
    /// Named parts of the virtual address space, ascending.
    pub regions: Vec<NamedRange>,
    /// What must be known of the source, in sentences.
    pub notes: Vec<String>,
}

/// A part of the virtual address space that has a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NamedRange {
    pub name: String,
    #[serde(flatten)]
    pub range: VirtRange,
}

/// Address spaces that are told together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// `family`, `kernel roots`.
    pub name: String,
    /// Why these belong together, in a sentence; may be empty.
    pub note: String,
}

/// Who an address space is, as people call it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Described {
    /// `process 4`, `kernel`, `root 0x1234000`.
    pub name: String,
    /// More, where there is more to say: `user root of a KPTI pair`.
    pub kind: String,
    /// Number of its group, in the order in which [`Story::new`] was given them.
    pub group: usize,
    /// Address spaces with the same number here are compared with each other; those without, with none.
    pub set: Option<usize>,
    /// Whose child it is.
    pub parent: Option<RootLabel>,
    /// The kernel halves of its set are compared with this one's, not with what most have.
    pub reference: bool,
}

/// An address space and the moments at which it is there.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Space {
    pub(crate) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) kind: String,
    pub(crate) group: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) set: Option<usize>,
    /// Number of the parent's space.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) parent: Option<usize>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) reference: bool,
    pub(crate) root: PhysAddr,
    /// First moment.
    pub(crate) from: usize,
    /// First moment at which it is not there any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<usize>,
    #[serde(skip)]
    pub(crate) label: RootLabel,
}

/// How tables are read from some moment on.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct ModeFrom {
    pub(crate) from: usize,
    #[serde(flatten)]
    pub(crate) mode: Mode,
}

/// What kind of thing happened; decides where the timeline shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The guest as it was found.
    Found,
    Boot,
    Born,
    Program,
    Ended,
    Killed,
    Mapped,
    Protected,
    Unmapped,
    Read,
    Written,
    /// An access that the CPU refused.
    Refused,
    /// A page fault that was handled.
    Faulted,
    Checkpoint,
    Crash,
    Done,
}

/// What happened at a moment.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// As the guest counts.
    pub number: u64,
    pub kind: Kind,
    /// In a sentence.
    pub text: String,
    /// Who did it: `process 4`; resolved to a space by its label.
    #[serde(skip)]
    pub who: Option<RootLabel>,
    /// The addresses concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<VirtRange>,
    /// What was read or written.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "hexadecimal"
    )]
    pub value: Option<u64>,
    /// The CPU's page-fault error code.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "hexadecimal"
    )]
    pub fault: Option<u64>,
    /// The number of its space; filled in by [`Story::moment`].
    #[serde(rename = "who", skip_serializing_if = "Option::is_none")]
    pub(crate) space: Option<usize>,
}

impl Event {
    /// An event about no address and nobody.
    pub fn new(number: u64, kind: Kind, text: impl Into<String>) -> Event {
        Event {
            number,
            kind,
            text: text.into(),
            who: None,
            range: None,
            value: None,
            fault: None,
            space: None,
        }
    }
}

#[derive(Debug)]
struct Sighting {
    shown: usize,
    events: u64,
}

impl Story {
    /// A story without moments.
    pub fn new(about: About, groups: Vec<Group>) -> Story {
        Story {
            about,
            film: Film::default(),
            spaces: Vec::new(),
            groups,
            modes: Vec::new(),
            events: Vec::new(),
            findings: Vec::new(),
            present: HashMap::new(),
            seen: HashMap::new(),
            start: None,
        }
    }

    /// What the whole is about, to be changed until it is rendered.
    pub fn about_mut(&mut self) -> &mut About {
        &mut self.about
    }

    /// Moments told so far.
    pub fn moments(&self) -> usize {
        self.events.len()
    }

    /// Table frames of the last moment, and different contents of tables at all moments.
    pub fn table_counts(&self) -> (usize, usize) {
        (self.film.tables(), self.film.pages())
    }

    /// The page opens at the moment of the event that the guest counts as `number`.
    pub fn start_at(&mut self, number: u64) {
        self.start = self.events.iter().position(|event| event.number == number);
    }

    pub(crate) fn start(&self) -> usize {
        self.start.unwrap_or(0)
    }

    /// The next moment: its tables, what happened, and who the new address spaces are.
    pub fn moment(
        &mut self,
        snapshot: &Snapshot,
        mut event: Event,
        mut describe: impl FnMut(&Root) -> Described,
    ) {
        let now = self.events.len();
        self.film.add(snapshot);
        if self
            .modes
            .last()
            .is_none_or(|last| last.mode != *snapshot.mode())
        {
            self.modes.push(ModeFrom {
                from: now,
                mode: *snapshot.mode(),
            });
        }
        let mut present = HashMap::with_capacity(snapshot.roots().len());
        for root in snapshot.roots() {
            let key = (root.label, root.address);
            let number = match self.present.remove(&key) {
                Some(number) => number,
                None if present.contains_key(&key) => continue,
                None => self.add_space(root, describe(root), now),
            };
            present.insert(key, number);
        }
        for gone in self.present.values() {
            self.spaces[*gone].until = Some(now);
        }
        self.present = present;
        event.space = event.who.and_then(|who| self.space_of(who));
        self.events.push(event);
    }

    fn add_space(&mut self, root: &Root, described: Described, now: usize) -> usize {
        let parent = described.parent.and_then(|parent| self.space_of(parent));
        self.spaces.push(Space {
            name: described.name,
            kind: described.kind,
            group: described.group,
            set: described.set,
            parent,
            reference: described.reference,
            root: root.address,
            from: now,
            until: None,
            label: root.label,
        });
        self.spaces.len() - 1
    }

    /// The last space with this label.
    fn space_of(&self, label: RootLabel) -> Option<usize> {
        self.spaces.iter().rposition(|space| space.label == label)
    }

    /// Takes in the verdicts as they are at the moment that was told last: new findings, and those
    /// that are still there.
    pub fn verdicts(&mut self, verdicts: &[Verdict]) {
        let now = self.events.len().saturating_sub(1);
        for verdict in verdicts {
            for (place, finding) in verdict.findings.iter().enumerate() {
                self.sight(verdict, place, finding, now);
            }
        }
    }

    fn sight(&mut self, verdict: &Verdict, place: usize, found: &SeenFinding, now: usize) {
        if let Some(sighting) = self.seen.get_mut(&(verdict.rule.name, place)) {
            if sighting.events != found.events {
                sighting.events = found.events;
                self.findings[sighting.shown].seen_at(now);
            }
            return;
        }
        self.seen.insert(
            (verdict.rule.name, place),
            Sighting {
                shown: self.findings.len(),
                events: found.events,
            },
        );
        let whose = found.finding.whose;
        let spaces = whose.and_then(|whose| self.space_of(whose));
        let shown = ShownFinding::of_judge(&verdict.rule, &found.finding, spaces, now);
        self.findings.push(shown);
    }

    /// Adds what generic rules found of the moment that was told last.
    pub fn check(&mut self, check: &Check) {
        let now = self.events.len().saturating_sub(1);
        for verdict in &check.rules {
            for finding in &verdict.findings {
                let spaces = self.spaces_at(&finding.spaces.roots);
                let found = ShownFinding::of_check(&verdict.rule, finding, spaces, now);
                self.findings.push(found);
            }
        }
    }

    /// The spaces of the last moment that have these roots.
    fn spaces_at(&self, roots: &[PhysAddr]) -> Vec<usize> {
        self.present
            .iter()
            .filter(|((_, address), _)| roots.contains(address))
            .map(|(_, space)| *space)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }
}

#[expect(clippy::ref_option, reason = "serde passes fields by reference")]
fn hexadecimal<S: serde::Serializer>(
    value: &Option<u64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(&format_args!("{value:#x}")),
        None => serializer.serialize_none(),
    }
}
