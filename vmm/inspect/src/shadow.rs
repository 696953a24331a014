//! One page that many addresses show, by tables that are used over and over: a shadow, as KASAN has of memory
//! that it does not check. A few frames map terabytes so; nothing is learnt by looking at each address.

use crate::leaves::Mapping;
use crate::snapshot::{RootId, Snapshot};
use crate::table::Slot;
use crate::traverse::{Fold, Folder};
use heirloom_paging::addr::{PhysAddr, VirtRange};
use heirloom_paging::bits::EntrySet;
use heirloom_paging::entry::{Decoded, Leaf};
use heirloom_paging::level::PageSize;

/// Below a root with fewer entries than this no shadow is looked for: all can be looked at.
const FEW: u64 = 1 << 20;

/// Which pages a table leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Pages {
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

/// What is below a table.
#[derive(Clone, Copy, Debug, Default)]
struct Below {
    pages: Pages,
    /// Present entries that a walk passes, what is below a shadow left out.
    entries: u64,
}

#[derive(Debug)]
struct Different;

impl Fold for Different {
    type Found = Below;

    fn leaf(&self, found: &mut Below, leaf: Leaf, _: bool) {
        found.pages = found.pages.and(Pages::One(leaf.pa, leaf.size));
    }

    fn table(&self, found: &mut Below, below: Below) {
        found.pages = found.pages.and(below.pages);
        if !is_shadow(below) {
            found.entries = found.entries.saturating_add(below.entries);
        }
    }

    fn entry(&self, found: &mut Below) {
        found.entries = found.entries.saturating_add(1);
    }
}

/// Whether one page is shown, more than once.
fn is_shadow(below: Below) -> bool {
    matches!(below.pages, Pages::One(..)) && below.entries > 1
}

/// Looks for tables that show one page, each table once.
pub(crate) struct Shadows<'s>(Folder<'s, Different>);

impl<'s> Shadows<'s> {
    pub(crate) fn new(snapshot: &'s Snapshot) -> Self {
        Shadows(Folder::new(snapshot, Different))
    }

    /// Whether all that the table in `slot` maps, at whatever addresses, is one page, more than once.
    pub(crate) fn show_one_page(&mut self, slot: Slot) -> bool {
        is_shadow(self.0.below(slot, true))
    }
}

impl Snapshot {
    /// How many entries a walk of these entries of a root passes that leaves out what is below shadows, if
    /// there are so many that shadows matter; [`Snapshot::distinct_leaves`] leaves them out from then on.
    pub(crate) fn distinct_entries(&self, root: RootId, part: &EntrySet) -> u64 {
        let all = crate::tally::Tallier::new(self).count_entries(root, part);
        if all.entries < FEW {
            return all.entries;
        }
        let mut shadows = Shadows::new(self);
        self.shadows().get_or_init(|| {
            let slots = self.tables().flat_map(|table| table.links());
            slots.filter(|slot| shadows.show_one_page(*slot)).collect()
        });
        let table = self.root_table(root);
        table.map_or(0, |table| shadows.0.entries(table, part, true).entries)
    }

    /// Whether shadows were looked for and found.
    pub(crate) fn has_shadows(&self) -> bool {
        self.shadows().get().is_some_and(|all| !all.is_empty())
    }

    /// The leaves of address space `root` that map at least one address of `range`, without those below
    /// shadows, where there are.
    pub(crate) fn distinct_leaves(
        &self,
        root: RootId,
        range: VirtRange,
    ) -> impl Iterator<Item = Mapping> {
        let shadows = self.shadows().get();
        let shadows = shadows.filter(|shadows| !shadows.is_empty());
        let mut traversal = self.traverse(root, range);
        std::iter::from_fn(move || {
            loop {
                let visited = traversal.next()?;
                match visited.at.decoded {
                    Decoded::Leaf(leaf) => return Some(Mapping::of(&visited, leaf)),
                    Decoded::Table(_) => {
                        let below = visited.table.link(visited.at.index);
                        let is_shadow = shadows
                            .zip(below)
                            .is_some_and(|(shadows, below)| shadows.contains(&below));
                        if is_shadow {
                            traversal.skip_below();
                        }
                    }
                    _ => {}
                }
            }
        })
    }
}
