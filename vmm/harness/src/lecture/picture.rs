//! The moment of an experiment that shows what a claim is about, and the walks to look at then.

use heirloom_abi::layout::Region;
use heirloom_abi::options::Strategy;
use heirloom_inspect::{Budget, PhysAddr, RootLabel, Snapshot, VirtAddr};

use super::remote_memory::{BUFFER, THEIRS};
use super::trace::Observation;
use crate::event::{Event, EventKind};

/// A moment of a real run.
#[derive(Clone)]
pub struct Picture {
    /// How the kernel was booted.
    pub strategy: Strategy,
    /// What had just happened.
    pub event: Event,
    /// The tables of every address space.
    pub snapshot: Snapshot,
    /// The walks to look at: in which address space, of which address.
    pub walks: Vec<(RootLabel, VirtAddr)>,
}

/// Where programs are linked to.
const PROGRAM: VirtAddr = VirtAddr::new(0x40_0000);

const KERNEL: RootLabel = RootLabel::Kernel;
const FIRST: RootLabel = RootLabel::Process(1);
const SECOND: RootLabel = RootLabel::Process(2);

impl Picture {
    /// The moment, if it is one that shows claim `claim`.
    pub(super) fn of(
        claim: u8,
        strategy: Strategy,
        event: &Event,
        snapshot: &Snapshot,
    ) -> Option<Picture> {
        let walks = walks(claim, strategy, event, snapshot)?;
        let are_there = walks
            .iter()
            .all(|(whose, _)| snapshot.root_of(*whose).is_some());
        are_there.then(|| Picture {
            strategy,
            event: event.clone(),
            // It is drawn when all claims are judged, and the time of this one is over.
            snapshot: snapshot.with_budget(Budget::default()),
            walks,
        })
    }

    /// The same for an event that was kept.
    pub(super) fn observed(claim: u8, strategy: Strategy, seen: &Observation) -> Option<Picture> {
        Picture::of(claim, strategy, &seen.event, &seen.snapshot)
    }
}

/// What shows a claim at this event; nothing where it does not.
fn walks(
    claim: u8,
    strategy: Strategy,
    event: &Event,
    snapshot: &Snapshot,
) -> Option<Vec<(RootLabel, VirtAddr)>> {
    use Strategy::{CopyAll, Isolated, None as Kept, Prealloc, Sync};
    let depth = snapshot.mode().depth;
    let text = VirtAddr::new(Region::KernelImage.start(depth)).wrapping_add(0x20_0000);
    let direct_map = VirtAddr::new(Region::DirectMap.start(depth));
    // The page at the far end of a mapping: where it needs a new entry, it is below that one.
    let mapped = |least: u64| match event.claim {
        EventKind::KernelMapped { address, pages, .. } if pages >= least => {
            Some(address.wrapping_add((pages - 1) * heirloom_abi::PAGE_SIZE))
        }
        _ => None,
    };
    let both = |address| vec![(FIRST, address), (SECOND, address)];
    let is_checkpoint = matches!(event.claim, EventKind::Checkpoint { .. });
    match (claim, strategy) {
        (1, Isolated) if is_checkpoint => Some(vec![(FIRST, text), (KERNEL, text)]),
        (2, Prealloc) if is_checkpoint => Some(vec![
            (FIRST, VirtAddr::new(BUFFER)),
            (SECOND, VirtAddr::new(THEIRS)),
        ]),
        (3, Prealloc) | (8, Kept) => mapped(16).map(both),
        (4, CopyAll) | (7, Prealloc) => mapped(1).map(both),
        (5, Prealloc) => match event.claim {
            EventKind::ProcessCreated { child, parent, .. } if parent > 1 => Some(vec![
                (RootLabel::Process(parent), direct_map),
                (RootLabel::Process(child), direct_map),
            ]),
            _ => None,
        },
        (6, Sync) | (12, Prealloc) => mapped(16).map(|page| vec![(FIRST, page), (KERNEL, page)]),
        (9, Prealloc) if is_checkpoint => Some(vec![(FIRST, PROGRAM), (FIRST, direct_map)]),
        (10, Prealloc) if is_checkpoint => {
            let root: PhysAddr = snapshot.root_of(FIRST)?.address;
            let shown = direct_map.wrapping_add(root.get());
            Some(vec![(FIRST, shown), (KERNEL, shown)])
        }
        (11, Prealloc) => match event.claim {
            EventKind::PageFaultHandled {
                process,
                address,
                entry_address,
                ..
            } if process > 1 => Some(vec![
                (RootLabel::Process(process), address),
                (RootLabel::Process(process), entry_address),
            ]),
            _ => None,
        },
        (13, Prealloc) if is_checkpoint => Some(vec![(FIRST, PROGRAM), (FIRST, text)]),
        _ => None,
    }
}
