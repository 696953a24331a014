//! Claim 13: "compromised isolation!", tried from ring 3.

use crate::event::EventKind;
use crate::region::Region;
use heirloom_abi::options::Strategy;
use heirloom_inspect::{Half, Mapping, Root, RootLabel, VirtAddr, VirtRange};

use super::Claim;
use super::attempts::{self, Access, AccessKind, Attempt};
use super::isolated_context;
use super::proof::{ClaimError, Proof, missing};
use super::runner::Runner;
use super::trace::{Observation, Trace};

pub(crate) const CLAIM: Claim = Claim {
    number: 13,
    statement: "Let kernel use the same MM context of the user process. However: compromised isolation?",
    experiment: "ring 3 reads, writes, executes five parts of the kernel: prealloc, isolated",
    prove,
};

/// A part of the kernel, and an address in it that the kernel has mapped.
type Part = (&'static str, VirtAddr);

fn prove(runner: &mut Runner, proof: &mut Proof) -> Result<(), ClaimError> {
    for strategy in [Strategy::Prealloc, Strategy::Isolated] {
        let trace = runner.trace(&isolated_context::experiment(strategy))?;
        let parts = parts(&trace)?;
        let own_text = first_executable(&trace)?;
        let attacks = parts.iter().flat_map(|(_, address)| {
            AccessKind::ALL.map(|how| Access {
                how,
                address: *address,
            })
        });
        // A process that does nothing forbidden must go on, or the other deaths would prove nothing.
        let innocent = Access {
            how: AccessKind::Read,
            address: own_text,
        };
        let accesses: Vec<Access> = attacks.chain([innocent]).collect();
        let trace = runner.trace(&attempts::experiment(strategy, &accesses))?;
        let tried = attempts::find(&trace, &accesses)?;
        judge(strategy, &parts, &tried, innocent, proof)?;
    }
    Ok(())
}

/// Addresses in each part of the kernel, as the kernel's own root maps them.
fn parts(trace: &Trace) -> Result<[Part; 5], ClaimError> {
    let moment = trace.checkpoint("calls")?;
    let kernel = moment.root(RootLabel::Kernel)?;
    let find = |what, region, wanted: fn(&Mapping) -> bool| {
        moment
            .snapshot
            .leaves(
                kernel.id,
                crate::region::range_of_region(region, moment.depth()),
            )
            .find(wanted)
            .ok_or_else(|| missing(what))
    };
    let text = find("kernel text", Region::KernelImage, |page| {
        page.rights.execute
    })?;
    let data = find("kernel data", Region::KernelImage, |page| page.rights.write)?;
    let entry = find("entry text", Region::CpuEntryArea, |page| {
        page.rights.execute
    })?;
    // The most rewarding place to write to: the process's own PGD.
    let pgd = moment.process(1)?.address;
    let direct_map = VirtAddr::new(Region::DirectMap.start(moment.depth())).wrapping_add(pgd.get());
    let vmalloc = trace
        .observations()
        .iter()
        .find_map(|moment| match moment.event.claim {
            EventKind::Boot { vmalloc_start, .. } => Some(vmalloc_start),
            _ => None,
        })
        .ok_or_else(|| missing("the boot"))?;
    Ok([
        ("kernel text", text.va),
        ("kernel data", data.va),
        ("direct map", direct_map),
        ("vmalloc", vmalloc),
        // Not its first address: the place that `syscall` goes to is what ring 3 may call.
        (
            "entry trampoline",
            entry.va.wrapping_add(entry.size.bytes() - 16),
        ),
    ])
}

fn first_executable(trace: &Trace) -> Result<VirtAddr, ClaimError> {
    let moment = trace.checkpoint("calls")?;
    let process = moment.process(1)?;
    moment
        .snapshot
        .leaves(
            process.id,
            crate::region::range_of_region(Region::User, moment.depth()),
        )
        .find(|page| page.rights.execute)
        .map(|page| page.va)
        .ok_or_else(|| missing("text of process 1"))
}

fn judge(
    strategy: Strategy,
    parts: &[Part],
    tried: &[Attempt<'_>],
    innocent: Access,
    proof: &mut Proof,
) -> Result<(), ClaimError> {
    let name = strategy.name();
    let mut killed = 0;
    for attempt in tried.iter().filter(|attempt| attempt.access != innocent) {
        let part = parts
            .iter()
            .find(|(_, address)| *address == attempt.access.address)
            .map_or("", |(part, _)| part);
        let mapped = judge_mapping(name, strategy == Strategy::Isolated, part, attempt, proof)?;
        let died = attempt.is_page_fault(mapped);
        killed += usize::from(died);
        proof.require(died, || {
            format!(
                "{name}: {:?} of {part}: {:?}",
                attempt.access.how, attempt.outcome
            )
        });
    }
    let mut leaves_seen = KernelLeaves::default();
    for moment in tried.iter().flat_map(|attempt| attempt.section) {
        judge_leaves(name, moment, &mut leaves_seen, proof);
    }
    let survived = tried.iter().any(|attempt| {
        attempt.access == innocent && attempt.outcome == attempts::Outcome::Survived
    });
    proof.require(survived, || {
        format!("{name}: the process that reads its own text should go on")
    });
    let visible = parts
        .iter()
        .filter(|(_, address)| {
            tried
                .first()
                .and_then(|attempt| mapped(attempt.before, *address).ok())
                .is_some_and(|(own, _)| own)
        })
        .map(|(part, _)| *part);
    let visible: Vec<&str> = visible.collect();
    proof.tables(format!(
        "{name}: mapped in the process's root: {}; at any moment at most {} kernel leaves in a process, {} \
         for ring 3",
        visible.join(", "),
        leaves_seen.kernel,
        leaves_seen.for_ring_3,
    ));
    proof.cpu(format!(
        "{name}: {killed} of {} accesses end in a page fault that kills the process",
        parts.len() * AccessKind::ALL.len()
    ));
    Ok(())
}

/// Leaves of the kernel half.
#[derive(Default)]
struct KernelLeaves {
    /// Of the process that has most.
    kernel: usize,
    /// Those that ring 3 may access, of all processes.
    for_ring_3: usize,
}

/// No process has a page of the kernel half, nor of its own half a page table, that ring 3 may access.
fn judge_leaves(
    name: &str,
    moment: &Observation,
    leaves_seen: &mut KernelLeaves,
    proof: &mut Proof,
) {
    for root in moment.processes() {
        let leaves = |half| moment.snapshot.leaves(root.id, VirtRange::half(half));
        let mut kernel = 0;
        for page in leaves(Half::Kernel) {
            kernel += 1;
            let closed = proof.require(!page.rights.user, || {
                format!(
                    "{name}: {} of the kernel is ring 3's in {}",
                    page.va, root.label
                )
            });
            leaves_seen.for_ring_3 += usize::from(!closed);
        }
        leaves_seen.kernel = leaves_seen.kernel.max(kernel);
        for page in leaves(Half::User).filter(|page| page.rights.user) {
            let table = moment.snapshot.levels_of(page.pa.pfn()).next();
            proof.require(table.is_none(), || {
                format!(
                    "{name}: {} has a page table at its own {}",
                    root.label, page.va
                )
            });
        }
    }
}

/// Whether process 1's root, and the kernel's, translate an address.
fn mapped(moment: &Observation, address: VirtAddr) -> Result<(bool, bool), ClaimError> {
    let has = |root: &Root| moment.walk(root, address).translation().is_some();
    Ok((
        has(moment.process(1)?),
        has(moment.root(RootLabel::Kernel)?),
    ))
}

/// The kernel has the address mapped; the process's root not at all, or not for ring 3. Which it is.
fn judge_mapping(
    name: &str,
    isolates: bool,
    part: &str,
    attempt: &Attempt<'_>,
    proof: &mut Proof,
) -> Result<bool, ClaimError> {
    let address = attempt.access.address;
    let process = attempt.before.process(1)?;
    let walk = attempt.before.walk(process, address);
    let (own, kernel) = mapped(attempt.before, address)?;
    proof.require(kernel, || {
        format!("{name}: the kernel has no {part} at {address}")
    });
    let should = !isolates
        || crate::region::region_of(address, attempt.before.depth()) == Some(Region::CpuEntryArea);
    proof.require(own == should, || {
        format!("{name}: {part} in the process's root: expected {should}, found {walk}")
    });
    proof.require(
        walk.translation().is_none_or(|found| !found.rights.user),
        || format!("{name}: {part} is ring 3's: {walk}"),
    );
    Ok(own)
}
