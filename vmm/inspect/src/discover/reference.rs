//! The first root, from which all others are found.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use crate::addr::{GuestPhys, Pfn};
use crate::capture::Capturer;
use crate::entry::Entry;
use crate::level::{Depth, Half};
use crate::memory::Words;
use crate::mode::{Mode, ModeError, PhysBits};
use crate::snapshot::RootLabel;
use crate::target::Target;

use super::budget::Budget;
use super::{Basis, DiscoverError, KernelHalf, Role, assumed_mode, blind, kernel_half_of, pairs};

/// Entries of a trampoline's root that has not the whole kernel half. A single word may be anybody's data.
const FEW: RangeInclusive<usize> = 2..=16;

/// Where the search starts.
pub(super) struct Start {
    pub(super) mode: Mode,
    pub(super) basis: Basis,
    /// The roots that are known already.
    pub(super) named: Vec<Pfn>,
    /// `None` if none of them has a kernel half.
    pub(super) reference: Option<Reference>,
}

/// A root and its kernel half.
#[derive(Clone, Debug)]
pub(super) struct Reference {
    pub(super) pfn: Pfn,
    half: KernelHalf,
    present: usize,
}

impl Reference {
    pub(super) fn new(pfn: Pfn, words: &Words) -> Option<Reference> {
        let half = kernel_half_of(words);
        let present = half.iter().filter(|entry| entry.present()).count();
        (present > 0).then_some(Reference { pfn, half, present })
    }

    /// Entry `index` of the kernel half, 256 to 511, as software wrote it.
    pub(super) fn entry(&self, index: u16) -> Entry {
        usize::from(index)
            .checked_sub(256)
            .and_then(|at| self.half.get(at))
            .copied()
            .unwrap_or(Entry::ABSENT)
    }

    /// Entries by which roots are looked for: three, so that a root that lacks one is found, too.
    pub(super) fn columns(&self) -> Vec<u16> {
        let present: Vec<u16> = Half::Kernel
            .indices()
            .filter(|index| self.entry(*index).present())
            .collect();
        let mut columns = vec![0, present.len() / 2, present.len() - 1];
        columns.dedup();
        columns.into_iter().map(|at| present[at]).collect()
    }

    /// What a frame with these words is.
    pub(super) fn role_of(&self, words: &Words) -> Option<Role> {
        let half = kernel_half_of(words);
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

    /// How many entries of the kernel half are present.
    pub(super) fn present(&self) -> usize {
        self.present
    }
}

/// Finds the mode and the first root of `target`.
pub(super) fn find(target: &Target, notes: &mut Vec<String>) -> Result<Start, DiscoverError> {
    let is_complete = target
        .roots
        .iter()
        .any(|(label, _)| matches!(label, RootLabel::Process(_)));
    let mut seeds: Vec<Pfn> = target.roots.iter().map(|(_, root)| root.pfn()).collect();
    let mode = mode_of_cpus(target, &mut seeds, notes)?;
    let basis = match (is_complete, seeds.is_empty()) {
        (true, _) => Basis::Given,
        (false, false) => Basis::Cr3,
        (false, true) => Basis::Blind,
    };
    seeds.sort_unstable();
    seeds.dedup();
    if is_complete {
        // As the recording has them, each once.
        let mut order: Vec<Pfn> = Vec::new();
        for (_, root) in &target.roots {
            if !order.contains(&root.pfn()) {
                order.push(root.pfn());
            }
        }
        seeds = order;
    }
    let modes = match (mode, target.depth) {
        (Some(mode), _) => vec![mode],
        (None, Some(depth)) => vec![assumed_mode(target, depth)],
        (None, None) => [Depth::Four, Depth::Five]
            .map(|depth| assumed_mode(target, depth))
            .to_vec(),
    };
    let first = match basis {
        Basis::Blind => blind::find(target, &modes),
        Basis::Given | Basis::Cr3 => modes
            .iter()
            .filter_map(|mode| Some((*mode, best_of(target, *mode, &seeds)?)))
            // Of equals, four levels.
            .max_by_key(|(mode, best)| (best.ram_bytes, mode.depth == Depth::Four)),
    };
    let mode = first.as_ref().map_or(modes[0], |(mode, _)| *mode);
    if basis == Basis::Blind && first.is_none() {
        let bytes: u64 = target.ram.iter().map(|range| range.bytes).sum();
        return Err(DiscoverError::Nothing {
            name: target.name.clone(),
            mib: bytes >> 20,
        });
    }
    if target.cpus.is_empty() && target.depth.is_none() {
        let mib = first.as_ref().map_or(0, |first| first.1.ram_bytes >> 20);
        notes.push(format!(
            "CR4 is not known: {} levels, because read so a kernel half shows {mib} MiB of RAM in one linear mapping",
            mode.depth.levels()
        ));
    }
    Ok(Start {
        mode,
        basis,
        named: seeds,
        reference: first.map(|(_, best)| best.reference),
    })
}

/// The mode of the first CPU that pages in long mode; `seeds` get the roots of all such CPUs.
fn mode_of_cpus(
    target: &Target,
    seeds: &mut Vec<Pfn>,
    notes: &mut Vec<String>,
) -> Result<Option<Mode>, DiscoverError> {
    let phys_bits = target.phys_bits.unwrap_or(PhysBits::MAX);
    let gigabyte_pages = target.gigabyte_pages.unwrap_or(true);
    let mut first: Option<(usize, Mode)> = None;
    let mut refused: Option<ModeError> = None;
    for (number, cpu) in target.cpus.iter().enumerate() {
        match Mode::of_cpu(cpu, phys_bits, gigabyte_pages) {
            Ok(mode) => {
                let (first_number, Mode { depth, .. }) = *first.get_or_insert((number, mode));
                if mode.depth == depth {
                    seeds.push(cpu.cr3.root().pfn());
                } else {
                    notes.push(format!(
                        "CPU {number} pages with {} levels, CPU {first_number} with {}: its root is left out",
                        mode.depth.levels(),
                        depth.levels()
                    ));
                }
            }
            Err(error) => {
                refused.get_or_insert(error);
                if target.cpus.len() > 1 {
                    notes.push(format!("CPU {number} is left out: {error}"));
                }
            }
        }
    }
    match (first, refused) {
        (None, Some(source)) => Err(DiscoverError::Mode {
            name: target.name.clone(),
            source,
        }),
        (first, _) => Ok(first.map(|(_, mode)| mode)),
    }
}

/// The best root to begin with.
pub(super) struct Best {
    pub(super) reference: Reference,
    /// How much of RAM its kernel half shows in one linear mapping.
    pub(super) ram_bytes: u64,
}

/// Of `seeds` and the kernel roots of those that are user roots of a pair, the one whose kernel half
/// shows most of RAM.
fn best_of(target: &Target, mode: Mode, seeds: &[Pfn]) -> Option<Best> {
    let memory = &*target.memory;
    let mut words = [0; 512];
    let mut candidates: Vec<Reference> = Vec::new();
    for &seed in seeds {
        if memory.read_table(seed, &mut words).is_err() {
            continue;
        }
        candidates.extend(Reference::new(seed, &words));
        candidates.extend(pairs::kernel_root_of(memory, seed, &words));
    }
    let mut halves = HashSet::new();
    candidates.retain(|candidate| halves.insert(candidate.half.clone()));
    let roots: Vec<(RootLabel, GuestPhys)> = candidates
        .iter()
        .map(|candidate| {
            let address = candidate.pfn.base();
            (RootLabel::Found(address), address)
        })
        .collect();
    let snapshot = Capturer::new().capture(memory, mode, &roots);
    let mut budget = Budget::default();
    candidates
        .into_iter()
        .zip(snapshot.roots())
        .map(|(reference, root)| Best {
            reference,
            ram_bytes: budget.ram_shown_by(&snapshot, root.id, &target.ram),
        })
        .max_by_key(|best| (best.ram_bytes, best.reference.present))
}
