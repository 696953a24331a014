//! One page that many addresses show, by tables that are used over and over: a shadow, as KASAN has of memory
//! that it does not check.

use crate::snapshot::Snapshot;
use crate::table::Slot;
use crate::traverse::{Fold, Folder};
use heirloom_paging::addr::PhysAddr;
use heirloom_paging::entry::Leaf;
use heirloom_paging::level::PageSize;

/// Which pages a table leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Pages {
    #[default]
    None,
    One(PhysAddr, PageSize),
    Several,
}

impl Pages {
    fn and(self, other: Pages) -> Pages {
        match (self, other) {
            (Pages::None, pages) | (pages, Pages::None) => pages,
            (one, other) if one == other => one,
            _ => Pages::Several,
        }
    }
}

#[derive(Debug)]
struct Different;

impl Fold for Different {
    type Found = Pages;

    fn leaf(&self, found: &mut Pages, leaf: Leaf, _: bool) {
        *found = found.and(Pages::One(leaf.pa, leaf.size));
    }

    fn table(&self, found: &mut Pages, below: Pages) {
        *found = found.and(below);
    }
}

/// Looks for tables that show one page, each table once.
pub(super) struct Shadows<'s>(Folder<'s, Different>);

impl<'s> Shadows<'s> {
    pub(super) fn new(snapshot: &'s Snapshot) -> Self {
        Shadows(Folder::new(snapshot, Different))
    }

    /// Whether all that the table in `slot` maps, at whatever addresses, is one page, more than once.
    pub(super) fn show_one_page(&mut self, slot: Slot) -> bool {
        let table = self.0.snapshot().table_at(slot);
        table.is_some_and(|table| table.present().len() > 1)
            && matches!(self.0.below(slot, true), Pages::One(..))
    }
}
