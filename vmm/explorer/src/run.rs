//! The story of our own guest: a family of processes, and the events that it tells.

use heirloom_inspect::judge::{Claim, Expectation, Sharing, Told, World};
use heirloom_inspect::region::Region;
use heirloom_inspect::show::describe;
use heirloom_inspect::{Root, RootLabel, VirtAddr, VirtRange};

use crate::story::{Described, Event, Group, Kind, NamedRange};

/// An event that the guest told.
pub fn event_of(told: &Told) -> Event {
    let (kind, range) = match &told.claim {
        Claim::Boot { .. } => (Kind::Boot, None),
        Claim::ProcessCreated { .. } => (Kind::Born, None),
        Claim::ProcessExecuted { .. } => (Kind::Program, None),
        Claim::ProcessExited { .. } => (Kind::Ended, None),
        Claim::ProcessKilled { address, .. } => (Kind::Killed, VirtRange::new(*address, 1)),
        Claim::KernelMapped { address, pages, .. } => (Kind::Mapped, pages_at(*address, *pages)),
        Claim::KernelUnmapped { address, pages } => (Kind::Unmapped, pages_at(*address, *pages)),
        Claim::KernelProtected { address, pages, .. } => {
            (Kind::Protected, pages_at(*address, *pages))
        }
        Claim::KernelAccess {
            address,
            write,
            fault,
            ..
        } => {
            let kind = match (fault, write) {
                (Some(_), _) => Kind::Refused,
                (None, true) => Kind::Written,
                (None, false) => Kind::Read,
            };
            (kind, VirtRange::new(VirtAddr::new(*address), 8))
        }
        Claim::PageFaultHandled { address, .. } => (Kind::Faulted, VirtRange::new(*address, 1)),
        Claim::Checkpoint { .. } => (Kind::Checkpoint, None),
        Claim::Crash { address, .. } => (Kind::Crash, VirtRange::new(*address, 1)),
        Claim::Done { .. } => (Kind::Done, None),
    };
    let mut event = Event::new(told.sequence, kind, describe(told));
    event.who = Some(match told.claim {
        Claim::ProcessCreated { child, .. } => RootLabel::Process(child),
        Claim::ProcessExited { process, .. } => RootLabel::Process(process),
        _ => told.label(),
    });
    event.range = range;
    if let Claim::KernelAccess { value, fault, .. } = told.claim {
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

/// How the address spaces of our own guest are told, given what was asked of it.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// The kernel has an address space of its own.
    isolated: bool,
}

impl Family {
    /// The family of a guest of which this is expected.
    pub fn new(expectation: Expectation) -> Family {
        Family {
            isolated: expectation.sharing() == Sharing::EntryAreaOnly,
        }
    }

    /// Its groups.
    pub fn groups(self) -> Vec<Group> {
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

    /// Who an address space is.
    pub fn describe(self, world: &World, root: &Root) -> Described {
        let process = match root.label {
            RootLabel::Process(pid) => world.process(pid),
            _ => None,
        };
        let is_kernel = root.label == RootLabel::Kernel;
        let number = usize::from(self.isolated && !is_kernel);
        Described {
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
pub fn regions_of_our_layout() -> Vec<NamedRange> {
    Region::ALL
        .into_iter()
        .map(|region| NamedRange {
            name: region.name().to_owned(),
            range: heirloom_inspect::region::range_of_region(region),
        })
        .collect()
}
