//! A root that is known, and the kernel half by which others are told.

use std::ops::RangeInclusive;

use crate::memory::Words;
use crate::snapshot::Snapshot;
use crate::target::Target;
use heirloom_paging::addr::Pfn;
use heirloom_paging::bits::EntrySet;
use heirloom_paging::entry::Entry;

use super::Role;
use super::clusters::{KernelHalf, kernel_half_of};
use super::scan;

/// Entries of a trampoline's root that has not the whole kernel half. A single word may be anybody's data.
const FEW: RangeInclusive<usize> = 2..=16;

/// A root and its kernel half.
#[derive(Clone, Debug)]
pub(super) struct Reference {
    pub(super) pfn: Pfn,
    /// Which of its entries are the kernel's …
    pub(super) part: EntrySet,
    /// … and what they are.
    pub(super) half: KernelHalf,
    present: usize,
}

impl Reference {
    pub(super) fn new(pfn: Pfn, words: &Words, part: EntrySet) -> Option<Reference> {
        let half = kernel_half_of(words, &part);
        let present = half.iter().filter(|entry| entry.present()).count();
        (present > 0).then_some(Reference {
            pfn,
            part,
            half,
            present,
        })
    }

    /// Entry `index` as software wrote it, if it is the kernel's; else absent.
    pub(super) fn entry(&self, index: u16) -> Entry {
        let entry = self.half.get(usize::from(index));
        entry.copied().unwrap_or(Entry::ABSENT)
    }

    /// Entries by which roots are looked for: three, so that a root that lacks one is found, too.
    pub(super) fn columns(&self) -> Vec<u16> {
        let present: Vec<u16> = self
            .part
            .iter()
            .filter(|index| self.entry(*index).present())
            .collect();
        let mut columns = vec![0, present.len() / 2, present.len() - 1];
        columns.dedup();
        columns.into_iter().map(|at| present[at]).collect()
    }

    /// What a frame with these words is.
    pub(super) fn role_of(&self, words: &Words) -> Option<Role> {
        let half = kernel_half_of(words, &self.part);
        let same = half
            .iter()
            .zip(self.half.iter())
            .filter(|(its, ours)| ours.present() && its == ours)
            .count();
        if 2 * same >= self.present {
            return Some(Role::Full);
        }
        let used: Vec<Entry> = words
            .iter()
            .filter(|word| **word != 0)
            .map(|word| Entry::new(*word))
            .collect();
        let is_ours = |entry: &Entry| entry.present() && self.half.contains(&entry.as_written());
        (FEW.contains(&used.len()) && used.iter().all(is_ours)).then_some(Role::Few)
    }

    /// How many present entries of `half` the reference does not have at the same index.
    pub(super) fn lacks(&self, half: &KernelHalf) -> usize {
        half.iter()
            .zip(self.half.iter())
            .filter(|(its, ours)| its.present() && !ours.present())
            .count()
    }

    /// Whether `half` has entries, whatever they are, where the reference has most of its own.
    pub(super) fn has_places_of(&self, half: &KernelHalf) -> bool {
        let both = half
            .iter()
            .zip(self.half.iter())
            .filter(|(its, ours)| its.present() && ours.present());
        2 * both.count() >= self.present
    }

    /// Whether each present entry of `half` is the reference's, too.
    pub(super) fn has_all_of(&self, half: &KernelHalf) -> bool {
        half.iter()
            .zip(self.half.iter())
            .all(|(its, ours)| !its.present() || its == ours)
    }

    /// How many entries of the kernel half are present.
    pub(super) fn present(&self) -> usize {
        self.present
    }
}

/// The best root to begin with.
pub(super) struct Best {
    pub(super) reference: Reference,
    /// How much of RAM its kernel half shows in one linear mapping.
    pub(super) ram_bytes: u64,
    /// Its tables, and maybe those of other roots.
    pub(super) snapshot: Snapshot,
}

/// The frames that have one of the entries [`Reference::columns`] as the reference has it.
pub(super) struct Alike<'r> {
    reference: &'r Reference,
    columns: Vec<u16>,
    pub(super) frames: Vec<Pfn>,
}

impl<'r> Alike<'r> {
    /// Looks through all of memory.
    pub(super) fn find(target: &Target, reference: &'r Reference) -> Self {
        let columns = reference.columns();
        let wanted = |index, entry| is_like(entry, reference.entry(index));
        let frames = scan::frames_where(&*target.memory, &target.ram, &columns, wanted);
        Alike {
            reference,
            columns,
            frames,
        }
    }

    /// The frames whose entry `index` is `wanted`, as software wrote it: of those that are known, if that says it.
    pub(super) fn with_entry(&self, target: &Target, index: u16, wanted: Entry) -> Vec<Pfn> {
        let memory = &*target.memory;
        if !self.columns.contains(&index) || self.reference.entry(index) != wanted {
            let wanted = |_, entry| is_like(entry, wanted);
            return scan::frames_where(memory, &target.ram, &[index], wanted);
        }
        let entry = |pfn: &Pfn| memory.read_entry(*pfn, index).unwrap_or(Entry::ABSENT);
        let mut frames = self.frames.clone();
        frames.retain(|pfn| is_like(entry(pfn), wanted));
        frames
    }
}

fn is_like(entry: Entry, wanted: Entry) -> bool {
    entry.present() && entry.as_written() == wanted
}
