//! Claim 6: "one (or more) entries in PGD-level (level-4) reserved for kernel mapping: how many?"

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use crate::region::Region;
use heirloom_abi::PAGE_SIZE;
use heirloom_abi::layout::{CPU_ENTRY_AREA, Depth, pgd_index};
use heirloom_abi::options::Strategy;
use heirloom_inspect::history::GroundTruth;
use heirloom_inspect::{Entry, Half, RootLabel};

use super::Claim;
use super::proof::{ClaimError, Proof, missing};
use super::propagation::{E1_CHECKPOINT, NEW_ENTRY_CHECKPOINT, experiment};
use super::runner::Runner;
use super::trace::{Observation, Trace, readings};

pub(crate) const CLAIM: Claim = Claim {
    number: 6,
    statement: "One (or more) PGD entries reserved for kernel mapping. How many? Depends on VA-range \
            covered by one entry and the kernel VA size",
    experiment: "entries computed and seen: vmalloc with 1 and 2 (sync), with all (prealloc)",
    prove,
};

fn prove(runner: &mut Runner, proof: &mut Proof) -> Result<(), ClaimError> {
    let grown = runner.trace(&experiment(Strategy::Sync))?;
    let reserved = runner.trace(&experiment(Strategy::Prealloc))?;
    judge_layout(grown.depth()?, proof);
    judge_grown(&grown, proof)?;
    judge_reserved(&reserved, proof)
}

/// The regions' sizes, divided by what one entry covers, are the entries that the layout gives them.
fn judge_layout(depth: Depth, proof: &mut Proof) {
    let span = depth.top().entry_span();
    let mut parts = Vec::new();
    for region in [Region::DirectMap, Region::Vmalloc, Region::CpuEntryArea] {
        let needed = (region.end(depth) - region.start(depth)).div_ceil(span);
        let (first, last) = region.pgd_entries(depth);
        proof.require_equal(region.name(), &needed, &((last - first + 1) as u64));
        parts.push(format!("{} {needed}", region.name()));
    }
    proof.tables(format!(
        "computed at {} each: {}",
        size(span),
        parts.join(", ")
    ));
}

/// 512 GiB, 256 TiB.
fn size(span: u64) -> String {
    match span >> 40 {
        0 => format!("{} GiB", span >> 30),
        tebibytes => format!("{tebibytes} TiB"),
    }
}

/// Bytes that the kernel keeps of each frame, in the vmemmap area.
const BYTES_OF_A_FRAME: u64 = 16;

/// The entries that the kernel half needs: direct map, vmemmap and image for what there is, vmalloc as
/// given.
fn computed(truth: &GroundTruth, vmalloc: RangeInclusive<usize>, depth: Depth) -> BTreeSet<usize> {
    let pgd_index = |va| pgd_index(va, depth);
    let ram = truth.ram.iter().map(|range| range.end().get()).max();
    let direct_map = Region::DirectMap.start(depth);
    let last = ram.unwrap_or(0).saturating_sub(1);
    let vmemmap = Region::Vmemmap.start(depth);
    let last_of_frames = vmemmap + last / PAGE_SIZE * BYTES_OF_A_FRAME;
    let image = truth.image.iter().map(|part| pgd_index(part.va.get()));
    (pgd_index(direct_map)..=pgd_index(direct_map + last))
        .chain(vmalloc)
        .chain(pgd_index(vmemmap)..=pgd_index(last_of_frames))
        .chain([pgd_index(CPU_ENTRY_AREA)])
        .chain(image)
        .collect()
}

/// The kernel-half entries in use, the same in every address space.
fn seen(moment: &Observation, proof: &mut Proof) -> Result<BTreeSet<usize>, ClaimError> {
    let in_use = |id| {
        let table = moment.snapshot.root_table(id)?;
        Some(
            Half::Kernel
                .indices()
                .filter(|index| table.entry(*index).present())
                .map(usize::from)
                .collect::<BTreeSet<usize>>(),
        )
    };
    let kernel = moment.root(RootLabel::Kernel)?;
    let wanted = in_use(kernel.id).ok_or_else(|| missing("the kernel's PGD"))?;
    for root in moment.processes() {
        proof.require(in_use(root.id).as_ref() == Some(&wanted), || {
            format!(
                "{} has other entries than the kernel's {wanted:?}",
                root.label
            )
        });
    }
    let own = moment.snapshot.root_table(kernel.id);
    let below: BTreeSet<_> = Half::Kernel
        .indices()
        .filter_map(|index| Some(own?.entry(index)))
        .filter(|entry| entry.present())
        .map(Entry::address)
        .collect();
    proof.require_equal(
        "different tables below the kernel's entries",
        &below.len(),
        &wanted.len(),
    );
    Ok(wanted)
}

/// One vmalloc entry while the allocations lie below it, two once one crosses the boundary.
fn judge_grown(trace: &Trace, proof: &mut Proof) -> Result<(), ClaimError> {
    let mut counts = Vec::new();
    for (checkpoint, entries) in [(E1_CHECKPOINT, 1), (NEW_ENTRY_CHECKPOINT, 2)] {
        let mapping = trace.mapping(checkpoint)?;
        let depth = mapping.made.depth();
        let first = pgd_index(mapping.address.get(), depth);
        let last = pgd_index(mapping.last_page().get(), depth);
        proof.require_equal(
            "entries that the allocation lies below",
            &(first..=last).count(),
            &entries,
        );
        let found = seen(mapping.made, proof)?;
        let expected = computed(trace.truth(), first..=last, depth);
        require_entries("sync", &found, &expected, proof);
        counts.push((entries, found.len()));
        let readings = readings(mapping.after);
        let good = readings.iter().filter(|reading| reading.result.is_ok());
        let good = good.count();
        proof.require(good > 0 && good == readings.len(), || {
            format!("reads below PGD[{last}]: {readings:?}")
        });
        proof.cpu(format!(
            "{good} of {} reads below PGD[{last}] bring a value",
            readings.len()
        ));
    }
    for (vmalloc, all) in counts {
        proof.tables(format!("sync: {vmalloc} for vmalloc, {all} in all"));
    }
    Ok(())
}

/// With all entries reserved, an allocation changes none.
fn judge_reserved(trace: &Trace, proof: &mut Proof) -> Result<(), ClaimError> {
    let mapping = trace.mapping(NEW_ENTRY_CHECKPOINT)?;
    let depth = mapping.made.depth();
    let (first, last) = Region::Vmalloc.pgd_entries(depth);
    let expected = computed(trace.truth(), first..=last, depth);
    for moment in [mapping.before, mapping.made] {
        let found = seen(moment, proof)?;
        require_entries("prealloc", &found, &expected, proof);
    }
    proof.tables(format!(
        "prealloc: {} for vmalloc, {} in all, of the kernel half's 256",
        last - first + 1,
        expected.len()
    ));
    Ok(())
}

fn require_entries(
    name: &str,
    found: &BTreeSet<usize>,
    expected: &BTreeSet<usize>,
    proof: &mut Proof,
) {
    proof.require(found == expected, || {
        let (more, fewer) = (found - expected, expected - found);
        format!(
            "{name}: of the kernel's PGD entries, {more:?} are too many and {fewer:?} are missing"
        )
    });
}

#[cfg(test)]
mod tests {
    use heirloom_inspect::PhysAddr;
    use heirloom_inspect::PhysRange;

    use super::*;

    #[test]
    fn memory_beyond_512_gib_needs_a_second_entry_of_the_direct_map() {
        let truth = |bytes| GroundTruth {
            ram: vec![PhysRange {
                start: PhysAddr::new(0),
                bytes,
            }],
            image: Vec::new(),
        };
        let entries = |bytes| computed(&truth(bytes), 402..=402, Depth::Four);
        assert_eq!(entries(1 << 39), BTreeSet::from([273, 402, 468, 508]));
        assert_eq!(
            entries((1 << 39) + 1),
            BTreeSet::from([273, 274, 402, 468, 508])
        );
        let entries = |bytes| computed(&truth(bytes), 416..=416, Depth::Five);
        assert_eq!(entries((1 << 39) + 1), BTreeSet::from([273, 416, 468, 511]));
    }
}
