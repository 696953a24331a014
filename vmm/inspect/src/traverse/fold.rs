//! What is true of all that is below a table, found once for each table.

use crate::snapshot::Snapshot;
use crate::table::{Slot, Table};
use heirloom_paging::bits::EntrySet;
use heirloom_paging::entry::{Decoded, Leaf};

/// Something that is true of all that is below a table: what each entry adds to it.
pub(crate) trait Fold {
    /// What is found; the default is what nothing comes to.
    type Found: Copy + Default + std::fmt::Debug;

    /// A page, and whether ring 3 may access it.
    fn leaf(&self, found: &mut Self::Found, leaf: Leaf, user: bool);

    /// A table with this below it; the default, where the table is not there.
    fn table(&self, found: &mut Self::Found, below: Self::Found);

    /// Any present entry, whatever else it is.
    fn entry(&self, found: &mut Self::Found) {
        let _ = found;
    }

    /// Whether nothing can change any more what was found.
    fn is_decided(&self, found: &Self::Found) -> bool {
        let _ = found;
        false
    }
}

/// Folds tables, and remembers what it has found.
#[derive(Debug)]
pub(crate) struct Folder<'s, F: Fold> {
    snapshot: &'s Snapshot,
    fold: F,
    /// By slot: where ring 3 has been shut out above, and where it has not.
    known: Vec<[Option<F::Found>; 2]>,
}

impl<'s, F: Fold> Folder<'s, F> {
    pub(crate) fn new(snapshot: &'s Snapshot, fold: F) -> Self {
        Folder {
            snapshot,
            fold,
            known: vec![[None; 2]; snapshot.slots()],
        }
    }

    pub(crate) fn snapshot(&self) -> &'s Snapshot {
        self.snapshot
    }

    /// What these entries of a table come to, where the entries above let ring 3 through or not. Recurses
    /// one level down at a time, so at most five deep.
    pub(crate) fn entries(&mut self, table: &Table, entries: &EntrySet, user: bool) -> F::Found {
        let mut found = F::Found::default();
        for index in table.present().intersection(entries).iter() {
            let user = user && table.entry(index).user();
            self.fold.entry(&mut found);
            match table.decode(index) {
                Decoded::Leaf(leaf) => self.fold.leaf(&mut found, leaf, user),
                Decoded::Table(_) => {
                    let below = table.link(index).map(|slot| self.below(slot, user));
                    self.fold.table(&mut found, below.unwrap_or_default());
                }
                Decoded::Absent | Decoded::Reserved { .. } => {}
            }
            if self.fold.is_decided(&found) {
                break;
            }
        }
        found
    }

    /// What all that is below the table in `slot` comes to.
    pub(crate) fn below(&mut self, slot: Slot, user: bool) -> F::Found {
        let which = usize::from(user);
        if let Some(known) = self.known.get(slot.index()).and_then(|known| known[which]) {
            return known;
        }
        let Some(table) = self.snapshot.table_at(slot) else {
            return F::Found::default();
        };
        if !self.snapshot.budget().pay(table.present().len() as u64) {
            return F::Found::default();
        }
        let found = self.entries(table, &table.present(), user);
        if let Some(known) = self.known.get_mut(slot.index()) {
            known[which] = Some(found);
        }
        found
    }
}
