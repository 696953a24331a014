//! Where the search starts: how the tables are read, and the first root, from which all others are found.

use std::collections::HashSet;

use crate::capture::Capturer;
use crate::memory::translate_in_memory;
use crate::profile::Profile;
use crate::snapshot::{RootLabel, Snapshot};
use crate::tally::Tallier;
use crate::target::Target;
use heirloom_paging::addr::{Pfn, PhysAddr, VirtAddr};
use heirloom_paging::level::{Depth, Half};
use heirloom_paging::mode::{CpuState, Mode, ModeError, PhysBits};

use super::anchors::Anchors;
use super::blind::{Found, LEAST_SHOWN, MAX_TRIED};
use super::budget::Budget;
use super::reference::{Alike, Best, Reference};
use super::{Basis, DiscoverError, blind, pairs, part};

/// Leaves of 1 GiB are read as such even where CPUID denies them: QEMU walks them on every CPU that it emulates,
/// and so does the host's CPU where it walks the tables of KVM's guests; only a KVM with shadow tables faults.
/// A note says so.
const GIGABYTE_PAGES: bool = true;

/// Where the search starts.
pub(super) struct Start {
    pub(super) mode: Mode,
    pub(super) basis: Basis,
    /// The roots that are known already.
    pub(super) named: Vec<Pfn>,
    /// `None` if none of them has a kernel half.
    pub(super) reference: Option<Reference>,
    /// The reference's tables.
    pub(super) snapshot: Option<Snapshot>,
    /// What was found without a CR3 is no kernel half, but memory at its own address that ring 3 may use, too.
    pub(super) is_open_identity: bool,
}

impl Start {
    /// Holds the reference to the entries that by its profile all address spaces have in common.
    pub(super) fn keep_to(&mut self, profile: &Profile) {
        let Some(part) = profile.common_entries(self.mode.depth) else {
            return;
        };
        let (Some(reference), Some(snapshot)) = (&self.reference, &self.snapshot) else {
            return;
        };
        let mut roots = snapshot.roots().iter();
        let root = roots.find(|root| root.address == reference.pfn.base());
        let table = root.and_then(|root| snapshot.root_table(root.id));
        if let Some(kept) =
            table.and_then(|table| Reference::new(reference.pfn, table.words(), part))
        {
            self.reference = Some(kept);
        }
    }
}

/// Finds the mode and the first root of `target`.
pub(super) fn find(target: &Target, notes: &mut Vec<String>) -> Result<Start, DiscoverError> {
    let mut seeds: Vec<Pfn> = target.roots.iter().map(|(_, root)| root.pfn()).collect();
    let mode = mode_of_cpus(target, &mut seeds, notes)?;
    let basis = match (target.is_recorded, seeds.is_empty()) {
        (true, _) => Basis::Given,
        (false, false) => Basis::Cr3,
        (false, true) => Basis::Blind,
    };
    seeds.sort_unstable();
    seeds.dedup();
    if target.is_recorded {
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
    let (mut open, mut is_recursive) = (None, false);
    let first = match basis {
        Basis::Blind => match blind::find(target, &modes) {
            Some((mode, Found::Kernel(best))) => Some((mode, best)),
            Some((mode, Found::Recursive(best))) => {
                is_recursive = true;
                Some((mode, best))
            }
            Some((mode, Found::OpenIdentity(found))) => {
                seeds.push(found.pfn);
                open = Some((mode, found));
                None
            }
            None => None,
        },
        Basis::Given | Basis::Cr3 => {
            let best = modes
                .iter()
                .filter_map(|mode| {
                    let best = best_of_cpus_first(target, *mode, &seeds)
                        .or_else(|| kernels_of_the_same_entries(target, *mode, &seeds))?;
                    Some((*mode, or_the_kernels(target, *mode, best)))
                })
                // Of equals, four levels.
                .max_by_key(|(mode, best)| (best.ram_bytes, mode.depth == Depth::Four));
            if basis == Basis::Cr3 && modes.iter().all(|mode| is_no_cpus_kernel(target, mode)) {
                or_what_is_found_blind(target, &modes, best, notes)
            } else {
                best
            }
        }
    };
    let found = first.as_ref().map(|(mode, best)| (*mode, best.ram_bytes));
    let found = found.or(open.map(|(mode, open)| (mode, open.ram_bytes)));
    let mode = found.map_or(modes[0], |(mode, _)| mode);
    if basis == Basis::Blind && found.is_none() {
        let bytes: u64 = target.ram.iter().map(|range| range.bytes).sum();
        return Err(DiscoverError::Nothing {
            name: target.name.clone(),
            mib: bytes >> 20,
        });
    }
    if target.cpus.is_empty() && target.depth.is_none() {
        let mib = found.map_or(0, |(_, bytes)| bytes >> 20);
        let what = match open {
            None if is_recursive => {
                "a root leads back to itself (recursive paging), and maps code".to_owned()
            }
            None => format!("a kernel half shows {mib} MiB of RAM in one linear mapping"),
            Some(_) => format!("{mib} MiB of RAM are mapped to their own address"),
        };
        notes.push(format!(
            "CR4 is not known: {} levels, because read so {what}",
            mode.depth.levels()
        ));
    }
    Ok(Start {
        mode,
        basis,
        named: seeds,
        snapshot: first.as_ref().map(|(_, best)| best.snapshot.clone()),
        reference: first.map(|(_, best)| best.reference),
        is_open_identity: open.is_some(),
    })
}

/// The mode of the first CPU that pages in long mode; `seeds` get the roots of all such CPUs.
fn mode_of_cpus(
    target: &Target,
    seeds: &mut Vec<Pfn>,
    notes: &mut Vec<String>,
) -> Result<Option<Mode>, DiscoverError> {
    let phys_bits = target.phys_bits.unwrap_or(PhysBits::MAX);
    let mut first: Option<(usize, Mode)> = None;
    let mut refused: Option<ModeError> = None;
    for (number, cpu) in target.cpus.iter().enumerate() {
        match Mode::of_cpu(cpu, phys_bits, GIGABYTE_PAGES) {
            Ok(mode) => {
                let mode = mode.with_encryption(target.encryption);
                let (first_number, Mode { depth, .. }) = *first.get_or_insert((number, mode));
                if mode.depth == depth {
                    seeds.push(cpu.cr3.without(target.encryption).root().pfn());
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

/// The best root of those that CPUs run on, if one shows a good part of RAM; else of all that are known. What
/// a dump's notes say may be of another kernel than the one that the CPUs run: a crash kernel's.
fn best_of_cpus_first(target: &Target, mode: Mode, seeds: &[Pfn]) -> Option<Best> {
    let all: u64 = target.ram.iter().map(|range| range.bytes).sum();
    let is_cpus = |seed: &&Pfn| {
        let mut cpus = target.cpus.iter();
        cpus.any(|cpu| cpu.cr3.without(target.encryption).root().pfn() == **seed)
    };
    let of_cpus: Vec<Pfn> = seeds.iter().filter(is_cpus).copied().collect();
    let best = best_of(target, mode, &of_cpus).filter(|best| best.ram_bytes >= all / LEAST_SHOWN);
    best.or_else(|| best_of(target, mode, seeds))
}

/// What a CPU needs by any root that it is on: in ring 0 the code that it is at, and the interrupt table.
fn needed(cpu: &CpuState) -> impl Iterator<Item = VirtAddr> {
    let code = (cpu.cpl == 0 && cpu.rip.get() != 0).then_some(cpu.rip);
    code.into_iter().chain(cpu.idt)
}

/// The CPUs that page in this mode.
fn paging<'t>(target: &'t Target, mode: &Mode) -> impl Iterator<Item = &'t CpuState> {
    let depth = mode.depth;
    let cpus = target.cpus.iter();
    cpus.filter(move |cpu| {
        Mode::of_cpu(cpu, PhysBits::MAX, true).is_ok_and(|mode| mode.depth == depth)
    })
}

/// Whether there are CPUs, and none can go on by its own root: what such a root has is no kernel's that runs.
fn is_no_cpus_kernel(target: &Target, mode: &Mode) -> bool {
    let mut cpus = paging(target, mode).peekable();
    cpus.peek().is_some()
        && cpus.all(|cpu| {
            let root = cpu.cr3.without(target.encryption).root();
            let walk = |va| translate_in_memory(&*target.memory, mode, root, va);
            needed(cpu).any(|va| walk(va).translation().is_none())
        })
}

/// `best`, which no CPU can go on with, or the kernel half that shows more of RAM, and by which a CPU could: what it needs
/// is there, and not by memory at its own address, which may be left of anything.
fn or_what_is_found_blind(
    target: &Target,
    modes: &[Mode],
    best: Option<(Mode, Best)>,
    notes: &mut Vec<String>,
) -> Option<(Mode, Best)> {
    let Some((mode, Found::Kernel(other))) = blind::find(target, modes) else {
        return best;
    };
    let root = other.reference.pfn.base();
    let is_there = |va: VirtAddr| {
        let walk = translate_in_memory(&*target.memory, &mode, root, va);
        walk.translation()
            .is_some_and(|found| found.pa.get() != va.get())
    };
    let shown = best.as_ref().map(|(_, best)| best.ram_bytes);
    let may_go_on = paging(target, &mode).any(|cpu| needed(cpu).all(is_there));
    if !may_go_on || shown.is_some_and(|shown| shown >= other.ram_bytes) {
        return best;
    }
    notes.push(format!(
        "no CPU finds its code and its interrupt table by its own root: the kernel is that of {root}, which was \
         looked for in all of memory"
    ));
    Some((mode, other))
}

/// A root without a page for ring 3 that shows what one of `seeds` has for ring 0 alone, where that has pages of
/// ring 3 below every entry of its kernel's: a kernel in the lower half, in the same entries as its processes.
fn kernels_of_the_same_entries(target: &Target, mode: Mode, seeds: &[Pfn]) -> Option<Best> {
    let snapshot = capture(target, mode, seeds);
    let lower = part::all_but(&part::upper_half());
    seeds.iter().find_map(|seed| {
        let mut roots = snapshot.roots().iter();
        let root = roots.find(|root| root.address.pfn() == *seed)?;
        let table = snapshot.root_table(root.id)?;
        let reference = Reference::new(*seed, table.words(), lower)?;
        let anchors = Anchors::of(target, mode, &reference, snapshot.clone())?;
        let known = HashSet::from([*seed]);
        let mut frames = anchors.roots_among(target, &anchors.suspects(target), &known);
        frames.truncate(MAX_TRIED);
        best_of(target, mode, &frames)
    })
}

/// Of `seeds` and the kernel roots of those that are user roots of a pair, the one whose part of the kernel
/// shows most of RAM.
fn best_of(target: &Target, mode: Mode, seeds: &[Pfn]) -> Option<Best> {
    let memory = &*target.memory;
    let mut words = [0; 512];
    // With the kernel roots of user roots, whose part of the kernel is the upper half.
    let mut roots: Vec<Pfn> = seeds.to_vec();
    for &seed in seeds {
        if memory.read_table(seed, &mut words).is_ok() {
            let kernel = pairs::kernel_root_of(memory, seed, &words);
            roots.extend(kernel.map(|kernel| kernel.pfn));
        }
    }
    let snapshot = capture(target, mode, &roots);
    let mut halves = HashSet::new();
    let mut budget = Budget::default();
    let mut tallier = Tallier::new(&snapshot);
    let mut candidates: Vec<(bool, Best)> = Vec::new();
    for root in snapshot.roots() {
        let Some(table) = snapshot.root_table(root.id) else {
            continue;
        };
        let part = part::of_root(&snapshot, root.id, &mut budget);
        let reference = Reference::new(root.address.pfn(), table.words(), part);
        if let Some(reference) = reference
            && halves.insert(reference.half.clone())
        {
            // What a kernel only booted on may be open to ring 3.
            let pages = tallier.count_entries(root.id, &reference.part);
            let best = Best {
                ram_bytes: budget.ram_shown_by(&snapshot, root.id, &reference.part, &target.ram),
                reference,
                snapshot: snapshot.clone(),
            };
            candidates.push((pages.user <= pages.supervisor, best));
        }
    }
    let (_, best) = candidates
        .into_iter()
        .max_by_key(|(is_closed, best)| (*is_closed, best.ram_bytes, best.reference.present()))?;
    Some(best)
}

/// All that these roots reach.
fn capture(target: &Target, mode: Mode, roots: &[Pfn]) -> Snapshot {
    let roots: Vec<(RootLabel, PhysAddr)> = roots
        .iter()
        .map(|pfn| (RootLabel::Found(pfn.base()), pfn.base()))
        .collect();
    Capturer::new().capture(&*target.memory, mode, &roots)
}

/// `best`, or, if that shows little of RAM, a root that has its entries and shows more: a CPU in ring 3 may
/// run on a root with hardly anything of the kernel, the kernel having one of its own.
fn or_the_kernels(target: &Target, mode: Mode, best: Best) -> Best {
    let all: u64 = target.ram.iter().map(|range| range.bytes).sum();
    if best.ram_bytes >= all / LEAST_SHOWN {
        return best;
    }
    let mut frames = Alike::find(target, &best.reference).frames;
    frames.truncate(MAX_TRIED);
    match best_of(target, mode, &frames) {
        Some(other) if other.ram_bytes > best.ram_bytes => other,
        _ => or_what_shows_the_same(target, mode, best),
    }
}

/// `best`, or a root that has tables of its own for what that shows of the kernel, and shows more of RAM. A kernel
/// in the lower half is left alone: what shows the same and more is what the machine booted on, which maps all
/// of memory to its own address.
fn or_what_shows_the_same(target: &Target, mode: Mode, best: Best) -> Best {
    let mut columns = best.reference.columns().into_iter();
    if columns.all(|index| Half::of_index(index) == Half::User) {
        return best;
    }
    let anchors = Anchors::of(target, mode, &best.reference, best.snapshot.clone());
    let Some(anchors) = anchors else {
        return best;
    };
    let known = HashSet::from([best.reference.pfn]);
    let mut frames = anchors.roots_among(target, &anchors.suspects(target), &known);
    frames.truncate(MAX_TRIED);
    match best_of(target, mode, &frames) {
        Some(other) if other.ram_bytes > best.ram_bytes => other,
        _ => best,
    }
}

/// The mode for tables whose CPU is not known.
fn assumed_mode(target: &Target, depth: Depth) -> Mode {
    let typical = Mode::typical(depth);
    Mode {
        phys_bits: target.phys_bits.unwrap_or(PhysBits::MAX),
        gigabyte_pages: GIGABYTE_PAGES,
        encryption: target.encryption,
        ..typical
    }
}
