//! The timeline of our own guest: its processes, and the events that it reports.

use std::collections::HashMap;

use heirloom_explorer::{About, Event, Finding, Group, NamedRange, Sign, SpaceInfo, Timeline};
use heirloom_harness::event::{self, EventKind, describe};
use heirloom_harness::judge::Judge;
use heirloom_harness::model::{Expectation, Model};
use heirloom_harness::region::{Region, range_of_region};
use heirloom_harness::report::Report;
use heirloom_inspect::history::Sharing;
use heirloom_inspect::rules::{self, Verdict};
use heirloom_inspect::{Depth, Root, RootLabel, VirtAddr, VirtRange};

/// The timeline of a judged run, event by event.
pub(crate) struct RunTimeline {
    timeline: Timeline,
    processes: Processes,
    /// At how many events each finding of a rule was seen, by the rule's name and the finding's place in
    /// its list.
    seen: HashMap<(&'static str, usize), u64>,
}

impl RunTimeline {
    /// Before the first event.
    pub(crate) fn new(expectation: Expectation) -> RunTimeline {
        let processes = Processes::new(expectation);
        let about = About {
            title: format!("propagation={}", expectation.strategy.name()),
            ..About::default()
        };
        RunTimeline {
            timeline: Timeline::new(about, processes.groups()),
            processes,
            seen: HashMap::new(),
        }
    }

    /// Adds an event that was judged.
    pub(crate) fn event(&mut self, reported: &event::Event, judge: &Judge) {
        // A kernel that never came up has no tables to show.
        let Some(snapshot) = judge.snapshot() else {
            return;
        };
        // The first snapshot tells how deep the page tables are.
        let about = self.timeline.about_mut();
        if about.regions.is_empty() {
            about.regions = regions(snapshot.mode().depth);
        }
        self.timeline.moment(snapshot, event_of(reported), |root| {
            self.processes.describe(judge.model(), root)
        });
        for verdict in judge.verdicts() {
            for (place, finding) in verdict.findings.iter().enumerate() {
                let now = finding.seen.map_or(0, |seen| seen.events);
                let events = self.seen.insert((verdict.rule.name, place), now);
                if events != Some(now) {
                    let finding = finding_of(&self.timeline, verdict, place, finding);
                    self.timeline.finding(finding);
                }
            }
        }
    }

    /// The whole timeline, without a verdict.
    pub(crate) fn unjudged(self) -> Timeline {
        self.timeline
    }

    /// The whole timeline, with its verdict; the page opens at the event that the report shows in full.
    pub(crate) fn judged(mut self, report: &Report) -> Timeline {
        let about = self.timeline.about_mut();
        about.verdict = report.verdict();
        about.holds = Some(report.holds);
        self.timeline.start_at(report.shown_event);
        self.timeline
    }
}

/// A finding of a rule, which is at `place` in the rule's list.
fn finding_of(
    timeline: &Timeline,
    verdict: &Verdict,
    place: usize,
    finding: &rules::Finding,
) -> Finding {
    let rule = &verdict.rule;
    Finding {
        identity: format!("{} {place}", rule.name),
        rule: rule.name.to_owned(),
        statement: rule.statement.to_owned(),
        spaces: finding
            .whose
            .and_then(|whose| timeline.space_of(whose))
            .into_iter()
            .collect(),
        whose: finding
            .whose
            .map_or_else(String::new, |whose| whose.to_string()),
        place: finding.place.clone(),
        address: finding.address,
        expected: finding.expected.clone(),
        found: finding.found.clone(),
        walks: super::walks_as_text(&finding.walks),
    }
}

/// An event that the guest reported.
fn event_of(reported: &event::Event) -> Event {
    let (sign, range) = match &reported.claim {
        EventKind::Boot { .. } => (Sign::Boot, None),
        EventKind::ProcessCreated { .. } => (Sign::Created, None),
        EventKind::ProcessExecuted { .. } => (Sign::Executed, None),
        EventKind::ProcessExited { .. } => (Sign::Exited, None),
        EventKind::ProcessKilled { address, .. } => (Sign::Killed, VirtRange::new(*address, 1)),
        EventKind::KernelMapped { address, pages, .. } => {
            (Sign::Mapped, pages_at(*address, *pages))
        }
        EventKind::KernelUnmapped { address, pages } => {
            (Sign::Unmapped, pages_at(*address, *pages))
        }
        EventKind::KernelProtected { address, pages, .. } => {
            (Sign::Protected, pages_at(*address, *pages))
        }
        EventKind::KernelAccess {
            address,
            write,
            fault,
            ..
        } => {
            let sign = match (fault, write) {
                (Some(_), _) => Sign::Refused,
                (None, true) => Sign::Written,
                (None, false) => Sign::Read,
            };
            (sign, VirtRange::new(VirtAddr::new(*address), 8))
        }
        EventKind::PageFaultHandled { address, .. } => (Sign::Faulted, VirtRange::new(*address, 1)),
        EventKind::Checkpoint { .. } => (Sign::Checkpoint, None),
        EventKind::Crash { address, .. } => (Sign::Crash, VirtRange::new(*address, 1)),
        EventKind::Done { .. } => (Sign::Done, None),
    };
    let mut event = Event::new(reported.sequence, sign, describe(reported));
    event.who = Some(match reported.claim {
        EventKind::ProcessCreated { child, .. } => RootLabel::Process(child),
        EventKind::ProcessExited { process, .. } => RootLabel::Process(process),
        _ => reported.label(),
    });
    event.range = range;
    if let EventKind::KernelAccess { value, fault, .. } = reported.claim {
        event.value = fault.is_none().then_some(value);
        event.fault = fault;
    }
    event
}

fn pages_at(address: VirtAddr, pages: u64) -> Option<VirtRange> {
    VirtRange::new(
        address,
        pages.saturating_mul(heirloom_inspect::paging::addr::PAGE_SIZE),
    )
}

/// How the address spaces of our own guest are listed, given what was asked of it.
#[derive(Clone, Copy, Debug)]
struct Processes {
    /// The kernel has an address space of its own.
    isolated: bool,
}

impl Processes {
    /// Those of a guest of which this is expected.
    fn new(expectation: Expectation) -> Processes {
        Processes {
            isolated: expectation.sharing() == Sharing::EntryAreaOnly,
        }
    }

    /// Its groups.
    fn groups(self) -> Vec<Group> {
        let group = |name: &str, note: &str| Group {
            name: name.to_owned(),
            note: note.to_owned(),
        };
        if self.isolated {
            vec![
                group("kernel", "It has an address space of its own."),
                group(
                    "processes",
                    "Of the kernel each has the entry trampoline; they are compared with each other.",
                ),
            ]
        } else {
            vec![group(
                "family",
                "Every kernel half is compared with the kernel's own.",
            )]
        }
    }

    /// What an address space is.
    fn describe(self, world: &Model, root: &Root) -> SpaceInfo {
        let process = match root.label {
            RootLabel::Process(pid) => world.process(pid),
            _ => None,
        };
        let is_kernel = root.label == RootLabel::Kernel;
        let number = usize::from(self.isolated && !is_kernel);
        SpaceInfo {
            name: root.label.to_string(),
            kind: String::new(),
            group: number,
            set: Some(number),
            // The first process inherits from the kernel's own address space, unless that is isolated.
            parent: process.and_then(|process| match process.parent {
                0 => (!self.isolated).then_some(RootLabel::Kernel),
                parent => Some(RootLabel::Process(parent)),
            }),
            reference: is_kernel,
        }
    }
}

/// The named regions of our own guest's address space.
fn regions(depth: Depth) -> Vec<NamedRange> {
    Region::ALL
        .into_iter()
        .map(|region| NamedRange {
            name: region.name().to_owned(),
            range: range_of_region(region, depth),
        })
        .collect()
}
