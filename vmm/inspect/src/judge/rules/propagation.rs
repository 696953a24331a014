//! A kernel mapping made during one process's system call is there in all, and gone in all when it
//! is freed. Both witnesses count: what the tables say, and what the CPU read.

use std::collections::HashMap;

use crate::addr::{GuestVirt, PAGE_SIZE, Pfn, VirtRange};
use crate::entry::Entry;
use crate::judge::event::Claim;
use crate::judge::finding::{Evidence, Finding};
use crate::judge::rule::{Moment, Rule, RuleInfo};
use crate::judge::world::Allocation;
use crate::snapshot::{Root, RootId};
use crate::walk::Translation;

/// Mapped for one is mapped for all.
pub(super) struct Propagated;

impl Rule for Propagated {
    fn info(&self) -> RuleInfo {
        RuleInfo {
            name: "propagated",
            statement: "every process translates every page of kernel memory to the same frame with the same rights, and reads there what was written",
            source: "lecture: if the kernel allocates memory while serving a syscall from process-1, process-2 in kernel mode should see it",
        }
    }

    fn judge(&mut self, moment: &Moment<'_>, evidence: &mut Evidence) {
        for allocation in moment.world.allocations() {
            tables_agree(moment, allocation, evidence);
        }
        cpu_agrees(moment, evidence);
    }
}

fn tables_agree(moment: &Moment<'_>, allocation: &Allocation, evidence: &mut Evidence) {
    for part in parts_by_top_entry(moment, allocation.range) {
        for (representative, roots) in groups(moment, part.first) {
            for page in pages_of(part) {
                evidence.checked(roots.len() as u64);
                let number = (page.get() - allocation.range.first.get()) / PAGE_SIZE;
                let frame = usize::try_from(number)
                    .ok()
                    .and_then(|number| allocation.frames.get(number))
                    .copied();
                let walk = moment.snapshot.translate(representative, page);
                let right = walk
                    .translation()
                    .is_some_and(|found| is_as_mapped(found, frame, allocation.writable));
                if right {
                    continue;
                }
                for root in &roots {
                    evidence.broken(|| Finding {
                        whose: Some(root.label),
                        place: format!("kernel memory of event {}", allocation.made),
                        address: Some(page),
                        expected: expected(frame, allocation),
                        found: match &walk.result {
                            Ok(found) => format!("frame {}, {}", found.pa.pfn(), found.rights),
                            Err(fault) => fault.to_string(),
                        },
                        walks: walks_of_maker_and(moment, allocation.maker, root, page),
                    });
                }
            }
        }
    }
}

fn is_as_mapped(found: &Translation, frame: Option<Pfn>, writable: bool) -> bool {
    Some(found.pa.pfn()) == frame
        && found.rights.write == writable
        && !found.rights.execute
        && !found.rights.user
}

fn expected(frame: Option<Pfn>, allocation: &Allocation) -> String {
    let rights = if allocation.writable {
        "writable"
    } else {
        "read-only"
    };
    let maker = allocation.maker;
    match frame {
        Some(frame) => format!("frame {frame}, {rights}, no execute, as process {maker} mapped it"),
        None => format!("a page, {rights}: process {maker} mapped it, says the guest"),
    }
}

/// The maker's walk, if it lives and is another one, and that of `root`.
fn walks_of_maker_and(
    moment: &Moment<'_>,
    maker: u32,
    root: &Root,
    page: GuestVirt,
) -> Vec<(crate::RootLabel, crate::Walk)> {
    let label = crate::judge::event::label(maker);
    let maker = moment
        .snapshot
        .root_of(label)
        .filter(|maker| maker.id != root.id);
    maker
        .into_iter()
        .chain([root])
        .map(|root| (root.label, moment.snapshot.translate(root.id, page)))
        .collect()
}

/// What the CPU read or wrote in the process's address space.
fn cpu_agrees(moment: &Moment<'_>, evidence: &mut Evidence) {
    let Claim::KernelAccess {
        address,
        value,
        write,
        fault,
    } = moment.told.claim
    else {
        return;
    };
    let at = GuestVirt::new(address);
    let Some(allocation) = moment.world.allocation_of(at) else {
        return;
    };
    let what = if write { "write" } else { "read" };
    let finding = |expected: String, found: String| Finding {
        whose: Some(moment.told.label()),
        place: format!("{what} of kernel memory of event {}", allocation.made),
        address: Some(at),
        expected,
        found,
        walks: moment
            .snapshot
            .root_of(moment.told.label())
            .map(|root| walks_of_maker_and(moment, allocation.maker, root, at))
            .unwrap_or_default(),
    };
    if let Some(code) = fault {
        let allowed = !write || allocation.writable;
        evidence.check(!allowed, || {
            finding(
                format!("the CPU to {what} it"),
                format!("the CPU faulted with error code {code:#x}"),
            )
        });
        return;
    }
    evidence.check(!write || allocation.writable, || {
        finding(
            "a fault: the memory is read-only".into(),
            "the CPU wrote to it".into(),
        )
    });
    let written = allocation.value_at(address);
    evidence.check(value == written, || {
        finding(
            format!("{written:#x}, which was written"),
            format!("the CPU read {value:#x}"),
        )
    });
    evidence.check(moment.memory_value == Some(written), || {
        let found = match moment.memory_value {
            Some(value) => format!("{value:#x} in memory where the process's tables lead"),
            None => "no memory where the process's tables lead".into(),
        };
        finding(format!("{written:#x}, which was written"), found)
    });
}

/// Freed for one is gone for all.
pub(super) struct Revoked;

impl Rule for Revoked {
    fn info(&self) -> RuleInfo {
        RuleInfo {
            name: "revoked",
            statement: "no process translates any page of freed kernel memory, and the CPU faults there",
            source: "lecture: memory is dynamically created and destroyed; Linux vunmap",
        }
    }

    fn judge(&mut self, moment: &Moment<'_>, evidence: &mut Evidence) {
        for range in moment.world.revoked() {
            for part in parts_by_top_entry(moment, range) {
                for (representative, roots) in groups(moment, part.first) {
                    for page in pages_of(part) {
                        evidence.checked(roots.len() as u64);
                        let walk = moment.snapshot.translate(representative, page);
                        let Some(found) = walk.translation() else {
                            continue;
                        };
                        for root in &roots {
                            evidence.broken(|| Finding {
                                whose: Some(root.label),
                                place: format!("freed kernel memory at {}", range.first),
                                address: Some(page),
                                expected: "nothing: the memory was freed".into(),
                                found: format!("frame {}, {}", found.pa.pfn(), found.rights),
                                walks: moment.walks(root.id, page),
                            });
                        }
                    }
                }
            }
        }
        if let Claim::KernelAccess {
            address,
            value,
            write,
            fault,
        } = moment.told.claim
        {
            let at = GuestVirt::new(address);
            if moment.world.revoked().any(|range| range.contains(at)) {
                let what = if write { "wrote" } else { "read" };
                evidence.check(fault.is_some(), || Finding {
                    whose: Some(moment.told.label()),
                    place: format!("access to freed kernel memory at {at}"),
                    address: Some(at),
                    expected: "a page fault: the memory was freed".into(),
                    found: format!("the CPU {what} {value:#x}"),
                    walks: Vec::new(),
                });
            }
        }
    }
}

/// The address spaces, grouped by the top-level entry that translates `at`: all of a group
/// translate it alike, as its first member does.
fn groups<'m>(moment: &'m Moment<'_>, at: GuestVirt) -> Vec<(RootId, Vec<&'m Root>)> {
    let top = moment.snapshot.mode().depth.top();
    let index = at.index(top);
    let mut groups: Vec<(RootId, Vec<&Root>)> = Vec::new();
    let mut by_entry: HashMap<Entry, usize> = HashMap::new();
    for root in moment.snapshot.roots() {
        let entry = match moment.snapshot.root_table(root.id) {
            Some(table) => table.entry(index).as_written(),
            None => Entry::ABSENT,
        };
        let group = *by_entry.entry(entry).or_insert_with(|| {
            groups.push((root.id, Vec::new()));
            groups.len() - 1
        });
        groups[group].1.push(root);
    }
    groups
}

/// `range` cut where the top-level entry changes.
fn parts_by_top_entry(moment: &Moment<'_>, range: VirtRange) -> Vec<VirtRange> {
    let span = moment.snapshot.mode().depth.top().entry_span();
    let mut parts = Vec::new();
    let mut first = range.first;
    loop {
        let end_of_entry = GuestVirt::new(first.get() | (span - 1));
        let last = end_of_entry.min(range.last);
        parts.push(VirtRange { first, last });
        if last == range.last {
            return parts;
        }
        first = last.wrapping_add(1);
    }
}

fn pages_of(range: VirtRange) -> impl Iterator<Item = GuestVirt> {
    (0..range.bytes() / PAGE_SIZE).map(move |page| range.first.wrapping_add(page * PAGE_SIZE))
}
