//! The rules for our own guest, one file for each thing they are about.

mod accounting;
mod claims;
mod direct_map;
mod kernel_half;
mod propagation;
mod protection;
mod sanity;
mod user_half;

use super::rule::{Moment, Rule};
use std::collections::HashSet;

use crate::addr::{GuestVirt, Pfn};
use crate::entry::Entry;
use crate::snapshot::{RootId, RootLabel};
use crate::walk::Walk;

/// All rules, in the order in which they are shown.
pub fn all() -> Vec<Box<dyn Rule>> {
    vec![
        Box::new(kernel_half::KernelHalfShared),
        Box::new(kernel_half::KernelTablesSameFrames),
        Box::new(propagation::Propagated),
        Box::new(propagation::Revoked),
        Box::new(user_half::UserHalfPrivate),
        Box::new(direct_map::DirectMapComplete::default()),
        Box::new(direct_map::DirectMapExact::default()),
        Box::new(protection::KernelNotUser),
        Box::new(protection::WriteXorExecute),
        Box::new(protection::NoWritableTextAlias),
        Box::new(protection::TablesNotUserMapped),
        Box::new(sanity::ReservedBitsClear),
        Box::new(sanity::Canonical),
        Box::new(sanity::Cr3Known),
        Box::new(claims::ClaimsMatchTables),
        Box::new(accounting::FramesReleased),
        Box::new(accounting::NoDanglingTable),
    ]
}

impl Moment<'_> {
    /// The label of an address space.
    fn label(&self, root: RootId) -> RootLabel {
        self.snapshot.root(root).label
    }

    /// Different frames that user halves map.
    fn user_frames(&self) -> usize {
        let frames: HashSet<Pfn> = self
            .user_pages
            .iter()
            .map(|(_, page)| page.pa.pfn())
            .collect();
        frames.len()
    }

    /// Walks of `va` in the kernel's own address space and in `other`.
    fn walks(&self, other: RootId, va: GuestVirt) -> Vec<(RootLabel, Walk)> {
        let kernel = self.snapshot.root_of(RootLabel::Kernel).map(|root| root.id);
        kernel
            .into_iter()
            .filter(|kernel| *kernel != other)
            .chain([other])
            .map(|root| (self.label(root), self.snapshot.translate(root, va)))
            .collect()
    }

    /// The address to show for top-level entry `index`: of the first kernel memory below it, or the
    /// first that the entry translates.
    fn address_below(&self, index: u16) -> GuestVirt {
        let depth = self.snapshot.mode().depth;
        let all = crate::addr::VirtRange::of_top_entry(index, depth);
        self.world
            .allocations()
            .flat_map(|allocation| {
                // The allocation may begin below an entry before.
                [allocation.range.first, all.first].map(|at| (allocation, at))
            })
            .find(|(allocation, at)| allocation.range.contains(*at) && all.contains(*at))
            .map_or(all.first, |(_, at)| at)
    }
}

/// An entry as people read it.
fn shown(entry: Entry) -> String {
    if entry.present() {
        format!("{entry} ({})", entry.flags())
    } else {
        "absent".into()
    }
}
