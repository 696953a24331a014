//! Claim 10: the direct map, both ways.

use std::collections::HashMap;

use crate::region::Region;
use heirloom_abi::options::Strategy;
use heirloom_inspect::{Depth, PageSize, Pfn, PhysAddr, VirtAddr};
use heirloom_machine::{GuestAddress, GuestVirtual, Platform};

use super::Claim;
use super::isolated_context;
use super::proof::{ClaimError, Proof, missing};
use super::runner::{Runner, observation};
use super::trace::Observation;

pub(crate) const CLAIM: Claim = Claim {
    number: 10,
    statement: "Direct map virtual address maps the whole physical memory; every PFN has a direct mapped \
            kernel virtual address",
    experiment: "every PFN, VA→PFN and PFN→VA, by the tables and by the machine, under prealloc",
    prove,
};

/// Every frame of RAM, with what the machine (KVM, QEMU) says of its address in the direct map.
type Frames = Vec<(Pfn, Option<PhysAddr>)>;

fn prove(runner: &mut Runner, proof: &mut Proof) -> Result<(), ClaimError> {
    let mut shown: Option<(Observation, Frames)> = None;
    let experiment = isolated_context::experiment(Strategy::Prealloc);
    runner.watch(&experiment, |seen| {
        if shown.is_some() || seen.event.pid == 0 {
            return;
        }
        let frames = seen.judge.model().truth().ram.iter().flat_map(|range| {
            let bytes = range.whole_frames();
            bytes.step_by(4096).map(|at| PhysAddr::new(at).pfn())
        });
        let Some(depth) = seen.snapshot().map(|snapshot| snapshot.mode().depth) else {
            return;
        };
        let by_machine = frames
            .map(|pfn| {
                let address = GuestVirtual(address_of(pfn, depth).get());
                let found = seen.machine.translate(address).ok().flatten();
                (pfn, found.map(|GuestAddress(at)| PhysAddr::new(at)))
            })
            .collect();
        shown = observation(seen).map(|moment| (moment, by_machine));
    })?;
    let (moment, frames) = shown.ok_or_else(|| missing("a moment in a process"))?;
    judge(&moment, &frames, runner.platform(), proof)
}

/// Where the direct map must show a frame.
fn address_of(pfn: Pfn, depth: Depth) -> VirtAddr {
    VirtAddr::new(Region::DirectMap.start(depth)).wrapping_add(pfn.base().get())
}

fn judge(
    moment: &Observation,
    frames: &Frames,
    platform: &dyn Platform,
    proof: &mut Proof,
) -> Result<(), ClaimError> {
    let process = moment.process(1)?;
    let depth = moment.depth();
    let (mut there, mut back) = (0, 0);
    for (pfn, by_machine) in frames {
        let va = address_of(*pfn, depth);
        let walk = moment.walk(process, va);
        let found = walk.translation().map(|found| found.pa);
        there += u64::from(proof.require(found == Some(pfn.base()), || {
            format!("VA→PFN: {va} should be frame {pfn}: {walk}")
        }));
        proof.require(*by_machine == Some(pfn.base()), || {
            let name = platform.name();
            format!("{name} translates {va} to {by_machine:?}, not to frame {pfn}")
        });
    }
    let addresses = addresses(moment, proof)?;
    for (pfn, _) in frames {
        let found = addresses.get(pfn).map_or(&[][..], Vec::as_slice);
        back += u64::from(proof.require(found == [address_of(*pfn, depth)], || {
            format!(
                "PFN→VA: frame {pfn} should be at {} alone: {found:?}",
                address_of(*pfn, depth)
            )
        }));
    }
    proof.require_equal(
        "frames that the direct map shows",
        &addresses.len(),
        &frames.len(),
    );
    let mib = (frames.len() as u64 * PageSize::Size4KiB.bytes()) >> 20;
    let all = frames.len();
    proof.tables(format!(
        "VA→PFN: {there} of {all} frames of RAM ({mib} MiB) are at {:#x} + PFN × 4096",
        Region::DirectMap.start(depth)
    ));
    proof.tables(format!(
        "PFN→VA: {back} of {all} are there and nowhere else; the direct map has {} frames",
        addresses.len()
    ));
    proof.cpu(format!(
        "{} in process 1's address space agrees on {} of {}",
        platform.translator(),
        frames
            .iter()
            .filter(|(pfn, by_machine)| *by_machine == Some(pfn.base()))
            .count(),
        frames.len()
    ));
    Ok(())
}

/// Pages of 4 KiB beyond which a direct map is not looked at.
const MAX_PAGES: u64 = 1 << 24;

/// The addresses at which the direct map's leaves show each frame.
fn addresses(
    moment: &Observation,
    proof: &mut Proof,
) -> Result<HashMap<Pfn, Vec<VirtAddr>>, ClaimError> {
    let process = moment.process(1)?;
    let mut addresses: HashMap<Pfn, Vec<VirtAddr>> = HashMap::new();
    let mut left = MAX_PAGES;
    let region = crate::region::range_of_region(Region::DirectMap, moment.depth());
    for page in moment.snapshot.leaves(process.id, region) {
        let pages = page.size.bytes() / PageSize::Size4KiB.bytes();
        let Some(rest) = left.checked_sub(pages) else {
            proof.object(|| format!("the direct map has more than {MAX_PAGES} pages"));
            break;
        };
        left = rest;
        for offset in (0..page.size.bytes()).step_by(4096) {
            let pfn = page.pa.wrapping_add(offset).pfn();
            addresses
                .entry(pfn)
                .or_default()
                .push(page.va.wrapping_add(offset));
        }
    }
    Ok(addresses)
}
