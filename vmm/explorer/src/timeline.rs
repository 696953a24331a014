//! A guest over time: its address spaces, what happened, what is wrong, and the tables of every moment.

use std::collections::{BTreeSet, HashMap};

use heirloom_inspect::{Mode, PhysAddr, Root, RootLabel, Snapshot, VirtRange};
use serde::Serialize;

use crate::event::Event;
use crate::finding::{Finding, Sighting};
use crate::history::TableHistory;

/// Number of an address space on a timeline, in the order in which they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct SpaceId(usize);

/// A guest's timeline while it grows, moment by moment: [`Timeline::moment`].
#[derive(Debug)]
pub struct Timeline {
    pub(crate) about: About,
    pub(crate) tables: TableHistory,
    pub(crate) spaces: Vec<Space>,
    pub(crate) groups: Vec<Group>,
    pub(crate) modes: Vec<ModeFrom>,
    pub(crate) events: Vec<Event>,
    pub(crate) findings: Vec<Sighting>,
    /// The spaces of the last moment.
    present: HashMap<(RootLabel, PhysAddr), SpaceId>,
    /// Numbers of the findings, by identity.
    known: HashMap<String, usize>,
    start: Option<usize>,
    pub(crate) opened: Option<SpaceId>,
}

/// What the whole is about.
#[derive(Clone, Debug, Default, Serialize)]
pub struct About {
    /// In a few words: `propagation=none`, `core:guest.core`.
    pub title: String,
    /// What was found, in a sentence; empty where nothing was judged.
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
    /// `direct map`.
    pub name: String,
    /// Where it is.
    #[serde(flatten)]
    pub range: VirtRange,
}

/// Address spaces that are listed together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// `family`, `kernel roots`.
    pub name: String,
    /// Why these belong together, in a sentence; may be empty.
    pub note: String,
}

/// What an address space is, as people call it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct SpaceInfo {
    /// `process 4`, `kernel`, `root 0x1234000`.
    pub name: String,
    /// More, where there is more to say: `user root of a KPTI pair`.
    pub kind: String,
    /// Number of its group, in the order in which [`Timeline::new`] was given them.
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
    pub(crate) parent: Option<SpaceId>,
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

impl Timeline {
    /// A timeline without moments.
    pub fn new(about: About, groups: Vec<Group>) -> Timeline {
        Timeline {
            about,
            tables: TableHistory::default(),
            spaces: Vec::new(),
            groups,
            modes: Vec::new(),
            events: Vec::new(),
            findings: Vec::new(),
            present: HashMap::new(),
            known: HashMap::new(),
            start: None,
            opened: None,
        }
    }

    /// What the whole is about, to be changed until it is rendered.
    pub fn about_mut(&mut self) -> &mut About {
        &mut self.about
    }

    /// Moments so far.
    pub fn moments(&self) -> usize {
        self.events.len()
    }

    /// Table frames of the last moment, and different contents of tables at all moments.
    pub fn table_counts(&self) -> (usize, usize) {
        (self.tables.frames(), self.tables.pages())
    }

    /// The page opens at the moment of the event that the guest counts as `number`.
    pub fn start_at(&mut self, number: u64) {
        self.start = self.events.iter().position(|event| event.number == number);
    }

    /// The page opens with the space of the last moment that has this root, if there is one.
    pub fn open_in(&mut self, root: PhysAddr) {
        self.opened = self.spaces_at(&[root]).first().copied();
    }

    pub(crate) fn start(&self) -> usize {
        self.start.unwrap_or(0)
    }

    /// The next moment: its tables, what happened, and what the new address spaces are.
    pub fn moment(
        &mut self,
        snapshot: &Snapshot,
        mut event: Event,
        mut describe: impl FnMut(&Root) -> SpaceInfo,
    ) {
        let now = self.events.len();
        self.tables.add(snapshot);
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
            self.spaces[gone.0].until = Some(now);
        }
        self.present = present;
        event.space = event.who.and_then(|who| self.space_of(who));
        self.events.push(event);
    }

    fn add_space(&mut self, root: &Root, info: SpaceInfo, now: usize) -> SpaceId {
        let parent = info.parent.and_then(|parent| self.space_of(parent));
        self.spaces.push(Space {
            name: info.name,
            kind: info.kind,
            group: info.group,
            set: info.set,
            parent,
            reference: info.reference,
            root: root.address,
            from: now,
            until: None,
            label: root.label,
        });
        SpaceId(self.spaces.len() - 1)
    }

    /// Adds what is wrong at the moment that was added last, or says that it is still wrong then.
    pub fn finding(&mut self, finding: Finding) {
        let now = self.events.len().saturating_sub(1);
        if let Some(&number) = self.known.get(&finding.identity) {
            self.findings[number].seen_at(now);
        } else {
            self.known
                .insert(finding.identity.clone(), self.findings.len());
            self.findings.push(Sighting::new(finding, now));
        }
    }

    /// The last space with this label, whether it is still there or not.
    pub fn space_of(&self, label: RootLabel) -> Option<SpaceId> {
        let last = self.spaces.iter().rposition(|space| space.label == label);
        last.map(SpaceId)
    }

    /// The spaces of the last moment that have these roots, in the order in which they came.
    pub fn spaces_at(&self, roots: &[PhysAddr]) -> Vec<SpaceId> {
        self.present
            .iter()
            .filter(|((_, address), _)| roots.contains(address))
            .map(|(_, space)| *space)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sign;
    use heirloom_inspect::testing::FakeMemory;
    use heirloom_inspect::{Capturer, Depth};

    #[test]
    fn spaces_come_and_go_and_are_found_by_label_and_by_root() {
        let mut memory = FakeMemory::new();
        let roots = [memory.root(), memory.root(), memory.root()];
        let mut timeline = Timeline::new(About::default(), Vec::new());
        let mut capturer = Capturer::new();
        let of = |pid, number: usize| (RootLabel::Process(pid), roots[number]);
        // Process 2 ends; its number, and later its root, are used again.
        for named in [
            &[of(1, 0), of(2, 1)][..],
            &[of(1, 0)],
            &[of(1, 0), of(2, 2), of(3, 1)],
        ] {
            let snapshot = capturer.capture(&memory, Mode::typical(Depth::Four), named);
            let mut event = Event::new(0, Sign::Created, "");
            event.who = Some(RootLabel::Process(2));
            timeline.moment(&snapshot, event, |root| SpaceInfo {
                parent: Some(RootLabel::Process(1)).filter(|parent| *parent != root.label),
                ..SpaceInfo::default()
            });
        }
        let lives: Vec<_> = timeline
            .spaces
            .iter()
            .map(|space| (space.label, space.from, space.until, space.parent))
            .collect();
        let first = Some(SpaceId(0));
        assert_eq!(
            lives,
            [
                (RootLabel::Process(1), 0, None, None),
                (RootLabel::Process(2), 0, Some(1), first),
                (RootLabel::Process(2), 2, None, first),
                (RootLabel::Process(3), 2, None, first),
            ]
        );
        let who: Vec<_> = timeline.events.iter().map(|event| event.space).collect();
        assert_eq!(who, [1, 1, 2].map(|number| Some(SpaceId(number))));
        assert_eq!(
            timeline.spaces_at(&[roots[1], roots[0]]),
            [SpaceId(0), SpaceId(3)]
        );
        assert_eq!(timeline.space_of(RootLabel::Kernel), None);
        timeline.open_in(roots[1]);
        assert_eq!(timeline.opened, Some(SpaceId(3)));
        timeline.open_in(PhysAddr::new(0x1000_0000));
        assert_eq!(timeline.opened, None);
        assert_eq!(timeline.modes.len(), 1);
    }

    #[test]
    fn a_finding_that_stays_is_shown_once() {
        let mut memory = FakeMemory::new();
        let named = [(RootLabel::Kernel, memory.root())];
        let mut timeline = Timeline::new(About::default(), Vec::new());
        let mut capturer = Capturer::new();
        for identities in [&["a"][..], &["a", "b"], &["b"]] {
            let snapshot = capturer.capture(&memory, Mode::typical(Depth::Four), &named);
            let event = Event::new(0, Sign::Checkpoint, "");
            timeline.moment(&snapshot, event, |_| SpaceInfo::default());
            for identity in identities {
                timeline.finding(Finding {
                    identity: (*identity).to_owned(),
                    ..Finding::default()
                });
            }
        }
        let json = serde_json::to_value(&timeline.findings).unwrap();
        assert_eq!(json.as_array().unwrap().len(), 2);
        assert_eq!(json[0]["moments"], serde_json::json!([[0, 2]]));
        assert_eq!(json[1]["moments"], serde_json::json!([[1, 3]]));
    }
}
