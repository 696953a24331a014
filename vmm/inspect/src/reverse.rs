//! From a physical address back to all virtual addresses that reach it.

use serde::Serialize;

use crate::addr::{GuestPhys, GuestVirt};
use crate::leaves::Mapping;
use crate::level::Half;
use crate::snapshot::{RootId, Snapshot};

/// A page through which a physical address is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reached {
    /// The virtual address of the very byte.
    pub va: GuestVirt,
    /// The page it is in.
    pub mapping: Mapping,
    /// The address spaces that have the page there, by the same top-level entry.
    #[serde(skip)]
    pub roots: Vec<RootId>,
}

impl Snapshot {
    /// Every virtual address, in every address space, that reaches the byte at `pa`: ascending in the
    /// kernel half, then in the user half; what address spaces share comes once.
    pub fn reverse(&self, pa: GuestPhys) -> impl Iterator<Item = Reached> + use<'_> {
        [Half::Kernel, Half::User]
            .into_iter()
            .flat_map(|half| self.subtrees(half))
            .flat_map(move |subtree| {
                let pages = self.leaves(subtree.roots[0], subtree.range);
                pages.filter_map(move |page| {
                    let offset = pa.get().checked_sub(page.pa.get())?;
                    (offset < page.size.bytes()).then(|| Reached {
                        va: page.va.wrapping_add(offset),
                        mapping: page,
                        roots: subtree.roots.clone(),
                    })
                })
            })
    }
}
