//! What a snapshot holds in its slots, in chunks that consecutive snapshots share: copying costs a
//! pointer, changing a slot copies its chunk, and comparing two passes over the chunks that are the same.

use std::sync::Arc;

use crate::snapshot::MissingTable;
use crate::table::{Slot, Table};

/// Slots in a chunk.
const CHUNK: usize = 64;

/// What a slot holds.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    Free,
    Table(Arc<Table>),
    Missing(MissingTable),
}

impl Node {
    pub(crate) fn table(&self) -> Option<&Arc<Table>> {
        match self {
            Node::Table(table) => Some(table),
            Node::Free | Node::Missing(_) => None,
        }
    }

    /// Whether both are the same table (the same `Arc`), or none.
    fn is(&self, other: &Node) -> bool {
        match (self, other) {
            (Node::Free, Node::Free) => true,
            (Node::Table(one), Node::Table(other)) => Arc::ptr_eq(one, other),
            (Node::Missing(one), Node::Missing(other)) => one == other,
            _ => false,
        }
    }
}

type Chunk = [Node; CHUNK];

/// All slots; those behind the last one that was ever used are not there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Nodes {
    chunks: Arc<Vec<Arc<Chunk>>>,
    length: usize,
}

impl Nodes {
    /// One more than the highest slot that was ever used.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<&Node> {
        let chunk = self.chunks.get(slot.index() / CHUNK)?;
        Some(&chunk[slot.index() % CHUNK])
    }

    /// Puts `node` into a slot that is there.
    pub(crate) fn set(&mut self, slot: Slot, node: Node) {
        let chunks = Arc::make_mut(&mut self.chunks);
        if let Some(chunk) = chunks.get_mut(slot.index() / CHUNK) {
            Arc::make_mut(chunk)[slot.index() % CHUNK] = node;
        }
    }

    /// Puts `node` into a new slot; `None` if there are 2^32.
    pub(crate) fn push(&mut self, node: Node) -> Option<Slot> {
        let slot = Slot(u32::try_from(self.length).ok()?);
        if self.length.is_multiple_of(CHUNK) {
            let chunk = Arc::new([const { Node::Free }; CHUNK]);
            Arc::make_mut(&mut self.chunks).push(chunk);
        }
        self.length += 1;
        self.set(slot, node);
        Some(slot)
    }

    /// Every slot with what it holds.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slot, &Node)> {
        let nodes = self.chunks.iter().flat_map(|chunk| chunk.iter());
        (0u32..).map(Slot).zip(nodes)
    }

    /// The slots that hold something else in `earlier`, with what was there, and what is.
    pub(crate) fn changed_since<'n>(
        &'n self,
        earlier: &'n Nodes,
    ) -> impl Iterator<Item = (Slot, &'n Node, &'n Node)> + use<'n> {
        static FREE: Chunk = [const { Node::Free }; CHUNK];
        let count = self.chunks.len().max(earlier.chunks.len());
        let chunk = |nodes: &'n Nodes, number: usize| nodes.chunks.get(number);
        // Nothing at all was changed if even the list is the same.
        let count = if Arc::ptr_eq(&self.chunks, &earlier.chunks) {
            0
        } else {
            count
        };
        (0..count)
            .map(move |number| (number, chunk(earlier, number), chunk(self, number)))
            .filter(|(_, before, after)| match (before, after) {
                (Some(before), Some(after)) => !Arc::ptr_eq(before, after),
                _ => true,
            })
            .flat_map(|(number, before, after)| {
                let before = before.map_or(&FREE, |chunk| &**chunk);
                let after = after.map_or(&FREE, |chunk| &**chunk);
                // There are no more than 2^32 slots.
                let first = u32::try_from(number * CHUNK).unwrap_or(u32::MAX);
                let slots = (first..).map(Slot);
                let pairs = slots.zip(before.iter().zip(after));
                pairs.map(|(slot, (before, after))| (slot, before, after))
            })
            .filter(|(_, before, after)| !before.is(after))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heirloom_paging::addr::Pfn;
    use heirloom_paging::level::Level;

    fn missing(pfn: u64) -> Node {
        Node::Missing(MissingTable {
            pfn: Pfn::new(pfn),
            level: Level::Pt,
        })
    }

    fn frames(nodes: &Nodes) -> Vec<Option<u64>> {
        nodes.iter().map(|(_, node)| frame(node)).collect()
    }

    fn frame(node: &Node) -> Option<u64> {
        match node {
            Node::Missing(missing) => Some(missing.pfn.get()),
            Node::Table(_) | Node::Free => None,
        }
    }

    fn changed(now: &Nodes, before: &Nodes) -> Vec<(Option<u64>, Option<u64>)> {
        now.changed_since(before)
            .map(|(_, before, after)| (frame(before), frame(after)))
            .collect()
    }

    #[test]
    fn a_copy_keeps_what_it_holds_and_the_difference_is_what_was_set_since() {
        let mut nodes = Nodes::default();
        for pfn in 0..130 {
            nodes.push(missing(pfn)).unwrap();
        }
        let before = nodes.clone();
        assert_eq!(changed(&nodes, &before), []);
        nodes.set(Slot(1), Node::Free);
        nodes.set(Slot(64), missing(1000));
        nodes.set(Slot(65), missing(65));
        let slot = nodes.push(missing(130)).unwrap();
        assert_eq!((slot, nodes.len(), before.len()), (Slot(130), 131, 130));
        assert_eq!(
            changed(&nodes, &before),
            [(Some(1), None), (Some(64), Some(1000)), (None, Some(130))]
        );
        assert_eq!(
            changed(&before, &nodes),
            [(None, Some(1)), (Some(1000), Some(64)), (Some(130), None)]
        );
        assert_eq!(
            frames(&before)[..130],
            (0..130).map(Some).collect::<Vec<_>>()
        );
        // All that was not touched is one and the same.
        assert!(Arc::ptr_eq(&before.chunks[2], &before.clone().chunks[2]));
        assert!(!Arc::ptr_eq(&before.chunks[0], &nodes.chunks[0]));
    }

    #[test]
    fn against_nothing_every_slot_that_is_used_has_changed() {
        let mut nodes = Nodes::default();
        nodes.push(missing(7)).unwrap();
        nodes.push(Node::Free).unwrap();
        let nothing = Nodes::default();
        assert_eq!(changed(&nodes, &nothing), [(None, Some(7))]);
        assert_eq!(changed(&nothing, &nodes), [(Some(7), None)]);
        assert!(nodes.get(Slot(64)).is_none());
    }
}
