//! Claim 11: "how kernel updates the page tables in PF handler? (answered!)".

use crate::event::EventKind;
use heirloom_abi::PAGE_SIZE;
use heirloom_abi::layout::Region;
use heirloom_abi::options::{PROBE_FAULTS, Strategy};
use heirloom_inspect::{Entry, Level, PhysAddr, Step, VirtAddr, Walk};
use heirloom_machine::{GuestAddress, GuestVirtual};

use super::Claim;
use super::proof::{ClaimError, Proof, missing};
use super::runner::{Experiment, Runner, observation};
use super::trace::Observation;

pub(crate) const CLAIM: Claim = Claim {
    number: 11,
    statement: "How kernel updates the page tables in PF handler? (answered!) Through the direct map",
    experiment: "each page fault of demand paging and copy on write, under prealloc",
    prove,
};

/// Two pages that process 1 maps, and its child inherits.
const PAGES: u64 = 0x10_0000_0000;

/// Error codes of faults in ring 3 (Intel SDM vol. 3A, 4.7).
const READ_ABSENT: u64 = 4;
const WRITE_ABSENT: u64 = 6;
const WRITE_READ_ONLY: u64 = 7;

/// A page fault that was handled, as the kernel reports it.
#[derive(Clone, Copy, Debug)]
struct Handled {
    process: u32,
    address: VirtAddr,
    error_code: u64,
    entry_address: VirtAddr,
    before: Entry,
    after: Entry,
}

impl Handled {
    fn of(kind: &EventKind) -> Option<Handled> {
        match *kind {
            EventKind::PageFaultHandled {
                process,
                address,
                error_code,
                entry_address,
                before,
                after,
            } => Some(Handled {
                process,
                address,
                error_code,
                entry_address,
                before,
                after,
            }),
            _ => None,
        }
    }
}

/// A page fault with the moments around it.
struct FaultSeen {
    handled: Handled,
    before: Observation,
    after: Observation,
    /// Where the machine says that the direct map shows the entry.
    by_machine: Option<PhysAddr>,
}

fn prove(runner: &mut Runner, proof: &mut Proof) -> Result<(), ClaimError> {
    let experiment = Experiment {
        kernel_words: PROBE_FAULTS,
        ..Experiment::new(Strategy::Prealloc, &["faults", &PAGES.to_string()])
    };
    let mut last: Option<Observation> = None;
    let mut faults = Vec::new();
    runner.watch(&experiment, |seen| {
        let now = observation(seen);
        if let (Some(handled), Some(before), Some(after)) =
            (Handled::of(&seen.event.claim), last.take(), now.clone())
        {
            let address = GuestVirtual(handled.entry_address.get());
            let by_machine = seen.machine.translate(address).ok().flatten();
            faults.push(FaultSeen {
                handled,
                before,
                after,
                by_machine: by_machine.map(|GuestAddress(at)| PhysAddr::new(at)),
            });
        }
        last = now;
    })?;
    let (mut written, mut found) = (0, 0);
    for fault in &faults {
        written += usize::from(judge(fault, proof)?);
        found += usize::from(judge_by_machine(fault, runner.platform().name(), proof));
    }
    let handled: Vec<Handled> = faults.iter().map(|fault| fault.handled).collect();
    judge_kinds(&handled, proof)?;
    if let Some(fault) = faults
        .iter()
        .find(|fault| fault.handled.process != 1 && fault.handled.error_code == WRITE_READ_ONLY)
    {
        let Handled {
            address,
            entry_address,
            before,
            after,
            ..
        } = fault.handled;
        proof.tables(format!(
            "copy on write at {address}: the entry at direct-map address {entry_address} was {before}, \
             is {after}"
        ));
    }
    proof.tables(format!(
        "{written} of {} entries written are in their page table's frame, by a direct-map page with A and D",
        faults.len()
    ));
    proof.cpu(format!(
        "{} page faults handled; {} finds {found} of the entries at the same direct-map addresses",
        faults.len(),
        runner.platform().translator()
    ));
    Ok(())
}

/// The machine finds the entry where the kernel says that it wrote it.
fn judge_by_machine(fault: &FaultSeen, name: &str, proof: &mut Proof) -> bool {
    let address = fault.handled.entry_address;
    let depth = fault.after.depth();
    let offset = address.get().checked_sub(Region::DirectMap.start(depth));
    let expected = offset.map(PhysAddr::new);
    proof.require(
        fault.by_machine.is_some() && fault.by_machine == expected,
        || {
            format!(
                "{name} has the direct map's {address} at {:?}",
                fault.by_machine
            )
        },
    )
}

/// The entry that the walk of the faulting address ends at is the one that the kernel names, at an
/// address of the direct map that shows its table's frame and that the CPU has written through.
fn judge(fault: &FaultSeen, proof: &mut Proof) -> Result<bool, ClaimError> {
    let FaultSeen {
        handled,
        before,
        after,
        ..
    } = fault;
    let process = after.process(handled.process)?;
    let walk = after.walk(process, handled.address);
    let step = leaf(&walk).ok_or_else(|| missing(format!("a page table behind {walk}")))?;
    proof.require(
        step.entry.as_written() == handled.after.as_written(),
        || {
            format!(
                "after the fault: the kernel wrote {}, the tables have {walk}",
                handled.after
            )
        },
    );
    let entry_at = step.table.base().wrapping_add(8 * u64::from(step.index));
    let expected =
        VirtAddr::new(Region::DirectMap.start(after.depth())).wrapping_add(entry_at.get());
    let named = proof.require_equal(
        "the entry's address in the direct map",
        &handled.entry_address,
        &expected,
    );
    let window = after.walk(process, handled.entry_address);
    let found = window
        .translation()
        .ok_or_else(|| missing(format!("the direct map's page: {window}")))?;
    let shown = proof.require_equal("that address, by the tables", &found.pa, &entry_at);
    let through = proof.require(
        found.accessed && found.dirty && found.rights.write && !found.rights.user,
        || format!("the kernel, and no other, should have written through {window}"),
    );

    let walk = before.walk(before.process(handled.process)?, handled.address);
    let was = leaf(&walk).map_or(Entry::ABSENT, |step| step.entry);
    proof.require(was.as_written() == handled.before.as_written(), || {
        format!(
            "before the fault: the kernel found {}, the tables had {walk}",
            handled.before
        )
    });
    proof.require(
        handled.before.as_written() != handled.after.as_written(),
        || format!("nothing was changed at {}", handled.address),
    );
    Ok(named && shown && through)
}

/// The last step of a walk that reached a page table.
fn leaf(walk: &Walk) -> Option<&Step> {
    walk.steps().last().filter(|step| step.level == Level::Pt)
}

/// Each kind of fault that the program provokes happened once, and changed what it must.
fn judge_kinds(handled: &[Handled], proof: &mut Proof) -> Result<(), ClaimError> {
    let second = PAGES + PAGE_SIZE;
    let child = 2;
    // Process, page, error code; whether the page was there, and is the same frame afterwards.
    let kinds: [(&str, u32, u64, u64, bool, bool); 4] = [
        ("a first write", 1, PAGES, WRITE_ABSENT, false, false),
        ("a first read", 1, second, READ_ABSENT, false, false),
        (
            "the child's copy",
            child,
            PAGES,
            WRITE_READ_ONLY,
            true,
            false,
        ),
        (
            "the parent's, not shared any more",
            1,
            PAGES,
            WRITE_READ_ONLY,
            true,
            true,
        ),
    ];
    let mut seen = Vec::new();
    for (what, process, address, code, was_there, same_frame) in kinds {
        let found: Vec<Handled> = handled
            .iter()
            .copied()
            .filter(|handled| {
                handled.process == process
                    && handled.address.get() == address
                    && handled.error_code == code
            })
            .collect();
        let [handled] = found[..] else {
            return Err(missing(format!(
                "{what}: {} faults instead of one",
                found.len()
            )));
        };
        let Handled { before, after, .. } = handled;
        seen.push(what);
        proof.require(before.present() == was_there && !before.writable(), || {
            format!("{what}: the entry before was {before}")
        });
        proof.require(after.present() && after.user() && after.writable(), || {
            format!("{what}: the entry after is {after}")
        });
        proof.require((before.address() == after.address()) == same_frame, || {
            format!("{what}: from {before} to {after}, same frame expected: {same_frame}")
        });
    }
    proof.cpu(format!("one fault each: {}", seen.join(", ")));
    Ok(())
}

#[cfg(test)]
mod tests;
