//! Address spaces with the same kernel half, and what is below its entries.

use std::collections::HashMap;

use super::part::PartId;
use crate::memory::Words;
use heirloom_paging::addr::VirtRange;
use heirloom_paging::bits::EntrySet;
use heirloom_paging::entry::Entry;
use heirloom_paging::level::Depth;

/// Which group of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(u32);

/// Kernel-half words as software wrote them; `None` for roots that guest memory does not have.
type Key = Option<Box<[u64]>>;

/// Address spaces whose roots have the same kernel half, but for what the CPU writes there.
#[derive(Clone, Debug)]
pub struct Group {
    /// How many there are.
    pub members: u64,
    /// The place of the first in the order of address spaces.
    pub(super) first: usize,
    key: Key,
}

impl Group {
    /// Whether guest memory has their roots.
    pub fn has_root(&self) -> bool {
        self.key.is_some()
    }

    /// Kernel-half entry `index`, as software wrote it.
    pub fn entry(&self, index: u16) -> Entry {
        let word = self
            .key
            .as_ref()
            .and_then(|key| key.get(usize::from(index)));
        Entry::new(word.copied().unwrap_or(0))
    }

    fn present(&self) -> impl Iterator<Item = (u16, u64)> {
        let words = self.key.as_deref().unwrap_or(&[]);
        (0u16..)
            .zip(words.iter().copied())
            .filter(|(_, word)| Entry::new(*word).present())
    }
}

/// What is below one kernel-half entry, and who has that very entry.
#[derive(Clone, Debug)]
pub struct Subtree {
    /// Which entry of the root tables.
    pub index: u16,
    /// What software wrote there.
    pub entry: Entry,
    /// What the entry translates.
    pub range: VirtRange,
    /// In order; never empty.
    pub groups: Vec<GroupId>,
}

#[derive(Clone, Debug, Default)]
struct Below {
    groups: Vec<GroupId>,
    part: Option<PartId>,
}

/// All groups, and what is below their entries.
#[derive(Debug, Default)]
pub(super) struct Groups {
    all: Vec<Option<Group>>,
    free: Vec<u32>,
    by_key: HashMap<Key, GroupId>,
    order: Vec<GroupId>,
    below: HashMap<(u16, u64), Below>,
    subtrees: Vec<Subtree>,
    /// Groups came or went since the subtrees were put in order.
    changed: bool,
}

/// Kernel-half words as software wrote them; 0 for the others.
fn key_of(words: Option<&Words>, kernel: &EntrySet) -> Key {
    let words = words?;
    let mut key = vec![0; words.len()];
    for index in kernel.iter().map(usize::from) {
        key[index] = Entry::new(words[index]).as_written().get();
    }
    Some(key.into())
}

impl Groups {
    /// An address space with this root joins its group.
    pub(super) fn join(&mut self, words: Option<&Words>, kernel: &EntrySet) -> GroupId {
        // Most have the kernel half of the first.
        if let (Some(first), Some(words)) = (self.order.first().copied(), words)
            && self.is_of(first, words, kernel)
        {
            self.get_mut(first).members += 1;
            return first;
        }
        let key = key_of(words, kernel);
        if let Some(id) = self.by_key.get(&key).copied() {
            self.get_mut(id).members += 1;
            return id;
        }
        let group = Group {
            members: 1,
            first: usize::MAX,
            key: key.clone(),
        };
        let id = GroupId(self.free.pop().unwrap_or_else(|| {
            self.all.push(None);
            u32::try_from(self.all.len() - 1).unwrap_or(u32::MAX)
        }));
        for entry in group.present() {
            self.below.entry(entry).or_default().groups.push(id);
        }
        self.all[id.0 as usize] = Some(group);
        self.by_key.insert(key, id);
        self.order.push(id);
        self.changed = true;
        id
    }

    /// Whether a root with these words is of this group.
    pub(super) fn is_of(&self, id: GroupId, words: &Words, kernel: &EntrySet) -> bool {
        let Some(key) = self.get(id).key.as_deref() else {
            return false;
        };
        let mut pairs = (0u16..).zip(words.iter().zip(key));
        pairs.all(|(index, (word, key))| {
            let written = if kernel.contains(index) {
                Entry::new(*word).as_written().get()
            } else {
                0
            };
            written == *key
        })
    }

    /// An address space leaves its group.
    pub(super) fn leave(&mut self, id: GroupId) {
        let group = self.get_mut(id);
        group.members -= 1;
        if group.members > 0 {
            return;
        }
        if let Some(group) = self.all[id.0 as usize].take() {
            for entry in group.present() {
                if let Some(below) = self.below.get_mut(&entry) {
                    below.groups.retain(|known| *known != id);
                }
            }
            self.by_key.remove(&group.key);
        }
        self.free.push(id.0);
        self.order.retain(|known| *known != id);
        self.changed = true;
    }

    /// The parts of entries that nobody has any more.
    pub(super) fn drop_unused(&mut self) -> Vec<PartId> {
        if !self.changed {
            return Vec::new();
        }
        let unused = self.below.extract_if(|_, below| below.groups.is_empty());
        unused.filter_map(|(_, below)| below.part).collect()
    }

    /// Puts groups and subtrees in the order of the groups' first members. Whether another order, or
    /// others, came of it.
    pub(super) fn put_in_order(
        &mut self,
        depth: Depth,
        members: impl Iterator<Item = GroupId>,
    ) -> bool {
        let mut order: Vec<GroupId> = Vec::with_capacity(self.order.len());
        for id in &self.order {
            if let Some(group) = &mut self.all[id.0 as usize] {
                group.first = usize::MAX;
            }
        }
        for (at, id) in members.enumerate() {
            if let Some(group) = &mut self.all[id.0 as usize]
                && group.first == usize::MAX
            {
                group.first = at;
                order.push(id);
            }
        }
        if order == self.order && !self.changed {
            return false;
        }
        self.order = order;
        self.changed = false;
        let rank = |id: &GroupId| self.get(*id).first;
        let mut subtrees: Vec<Subtree> = self
            .below
            .iter()
            .map(|((index, entry), below)| {
                let mut groups = below.groups.clone();
                groups.sort_unstable_by_key(rank);
                Subtree {
                    index: *index,
                    entry: Entry::new(*entry),
                    range: VirtRange::of_top_entry(*index, depth),
                    groups,
                }
            })
            .collect();
        subtrees.sort_unstable_by_key(|subtree| (subtree.index, rank(&subtree.groups[0])));
        self.subtrees = subtrees;
        true
    }

    pub(super) fn subtrees(&self) -> &[Subtree] {
        &self.subtrees
    }

    pub(super) fn subtrees_at(&self, index: u16) -> &[Subtree] {
        let first = self
            .subtrees
            .partition_point(|subtree| subtree.index < index);
        let end = self
            .subtrees
            .partition_point(|subtree| subtree.index <= index);
        &self.subtrees[first..end]
    }

    /// The groups that have this entry.
    pub(super) fn having(&self, index: u16, entry: u64) -> &[GroupId] {
        self.below
            .get(&(index, entry))
            .map_or(&[], |below| below.groups.as_slice())
    }

    pub(super) fn part_below(&self, index: u16, entry: u64) -> Option<PartId> {
        self.below.get(&(index, entry))?.part
    }

    pub(super) fn set_part_below(&mut self, index: u16, entry: u64, part: PartId) {
        if let Some(below) = self.below.get_mut(&(index, entry)) {
            below.part = Some(part);
        }
    }

    pub(super) fn in_order(&self) -> impl Iterator<Item = (GroupId, &Group)> {
        self.order.iter().map(|id| (*id, self.get(*id)))
    }

    pub(super) fn count(&self) -> usize {
        self.order.len()
    }

    pub(super) fn get(&self, id: GroupId) -> &Group {
        static NONE: Group = Group {
            members: 0,
            first: 0,
            key: None,
        };
        self.all
            .get(id.0 as usize)
            .and_then(Option::as_ref)
            .unwrap_or(&NONE)
    }

    fn get_mut(&mut self, id: GroupId) -> &mut Group {
        self.all[id.0 as usize].get_or_insert(Group {
            members: 0,
            first: 0,
            key: None,
        })
    }
}
