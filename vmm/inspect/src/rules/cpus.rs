//! The CPUs: on which tables they run.

use super::context::Context;
use super::evidence::Evidence;
use super::finding::Finding;
use super::rule::{Clause, Judge, Reads, Rule, RuleInfo};
use crate::discover::{Basis, Discovery, Kind};
use crate::history::History;
use crate::snapshot::{RootId, RootLabel};
use heirloom_paging::addr::PhysAddr;
use heirloom_paging::mode::{CpuState, Mode, PhysBits};
use heirloom_paging::walk::{Fault, Walk};

pub(super) const CR3_KNOWN: Rule = Rule {
    info: RuleInfo {
        name: "cr3-known",
        statement: "every CPU runs on a root that is one of the kernel's: that of the process that is running, or else one that is not freed, not of another making, and has the code that it is at in ring 0, and the interrupt descriptor table; a root that the user names is one, too",
        source: "SDM vol. 3A, 4.5: CR3 locates the root table",
    },
    untried: "no CPU that pages in long mode",
    clauses: &[
        Clause {
            reads: Reads::EVENT,
            judge: Judge::History(of_the_process),
        },
        Clause {
            reads: Reads::EVENT,
            judge: Judge::Found(of_the_kernel),
        },
        Clause {
            reads: Reads::EVENT,
            judge: Judge::Found(named_roots_known),
        },
    ],
};

/// Where it is known who runs.
fn of_the_process(context: &Context<'_>, history: &History, evidence: &mut Evidence) {
    let who = history.reporting();
    let expected = match history.kernel_view() {
        RootLabel::Kernel => history.kernel_root(),
        _ => history.root_of(history.present().pid),
    };
    let owner = |root: PhysAddr| {
        let mut known = context.snapshot().roots().iter();
        known.find(|known| known.address == root)
    };
    let found = |root: PhysAddr| {
        let owner = owner(root).map(|owner| owner.label.to_string());
        let owner = owner.unwrap_or_else(|| "nobody that is known".into());
        format!("{root}, the root of {owner}")
    };
    if let Some(cpu) = context.cpus.get(context.reporting) {
        let root = cpu.cr3.root();
        evidence.check(Some(root) == expected, || Finding {
            whose: Some(who),
            place: "CR3".into(),
            expected: match expected {
                Some(expected) => format!("{expected}, the root of {who}"),
                None => format!("a root: {who} has none"),
            },
            found: found(root),
            ..Finding::default()
        });
        evidence.check(cpu.cpl == 0, || Finding {
            whose: Some(who),
            place: "privilege level".into(),
            expected: "ring 0 at the doorbell".into(),
            found: format!("ring {}", cpu.cpl),
            ..Finding::default()
        });
    }
    let cpus = context.cpus.iter().enumerate();
    let others = cpus.filter(|(number, cpu)| *number != context.reporting && pages(context, cpu));
    for (number, cpu) in others {
        let root = cpu.cr3.root();
        evidence.check(owner(root).is_some(), || Finding {
            place: format!("CR3 of CPU {number}"),
            expected: "the root of the kernel or of a living process".into(),
            found: found(root),
            ..Finding::default()
        });
        // A process is at one place at a time.
        let shared = context.cpus.iter().enumerate().find(|(other, that)| {
            let told = *other < number || *other == context.reporting;
            told && *other != number && pages(context, that) && that.cr3.root() == root
        });
        let shared = shared.filter(|_| Some(root) != history.kernel_root());
        evidence.check(shared.is_none(), || Finding {
            place: format!("CR3 of CPU {number}"),
            expected: "a process on one CPU".into(),
            found: match shared {
                Some((other, _)) => format!("{}, which CPU {other} has, too", found(root)),
                None => found(root),
            },
            ..Finding::default()
        });
    }
}

/// Whether the CPU pages as the snapshot's tables are: one that was not started does not.
pub(super) fn pages(context: &Context<'_>, cpu: &CpuState) -> bool {
    let depth = context.snapshot().mode().depth;
    Mode::of_cpu(cpu, PhysBits::MAX, true).is_ok_and(|mode| mode.depth == depth)
}

/// Where that is not known, but whose the roots are.
fn of_the_kernel(context: &Context<'_>, found: &Discovery, evidence: &mut Evidence) {
    for (number, cpu) in found.running_cpus() {
        let root = cpu.cr3.root();
        let space = found.space_at(root);
        let is_known = match space.map(|space| space.kind) {
            None | Some(Kind::Freed | Kind::NotUnderstood) => false,
            // With no kernel half to compare with, nothing is foreign.
            Some(Kind::Foreign) => found.reference.is_none(),
            Some(_) => true,
        };
        evidence.check(is_known, || Finding {
            place: format!("CR3 of CPU {number}"),
            spaces: context.spaces(&[root]),
            expected: "a live root with the kernel half of the others".into(),
            found: match space {
                Some(space) => format!("{root}: {}, {}", space.kind, space.evidence),
                None => format!("{root}, which is none of the known roots"),
            },
            ..Finding::default()
        });
        if let Some(space) = space.filter(|_| is_known) {
            finds_its_way(context, (number, cpu), space.root, evidence);
        }
    }
}

/// Holds a CPU to what it needs next: in ring 0 the code that it is at, and where an interrupt can come, the table that
/// says what to do then (Intel SDM vol. 3A, 6.10).
fn finds_its_way(
    context: &Context<'_>,
    (number, cpu): (u32, &CpuState),
    root: RootId,
    evidence: &mut Evidence,
) {
    /// RFLAGS.IF.
    const INTERRUPTS: u64 = 1 << 9;
    let is_code = |walk: &Walk| match &walk.result {
        Ok(found) => found.rights.execute,
        Err(fault) => !matches!(fault, Fault::NotPresent { .. }),
    };
    let is_there = |walk: &Walk| !matches!(walk.result, Err(Fault::NotPresent { .. }));
    let code = (cpu.cpl == 0 && cpu.rip.get() != 0).then_some(cpu.rip);
    let table = cpu
        .idt
        .filter(|_| cpu.cpl == 3 || cpu.rflags & INTERRUPTS != 0);
    let needed = [
        code.map(|va| (va, "RIP", is_code(&context.snapshot().translate(root, va)))),
        table.map(|va| (va, "IDT", is_there(&context.snapshot().translate(root, va)))),
    ];
    for (va, what, is_found) in needed.into_iter().flatten() {
        evidence.check(is_found, || Finding {
            whose: Some(context.label(root)),
            place: format!("{what} of CPU {number}"),
            address: Some(va),
            spaces: context.only(root),
            expected: "mapped by the root that the CPU is on".into(),
            found: match context.snapshot().translate(root, va).result {
                Ok(found) => format!("a page that is no code, {}", found.rights),
                Err(_) => "not mapped: the CPU cannot go on".into(),
            },
            walks: vec![context.walk(root, va)],
            ..Finding::default()
        });
    }
}

/// A root that is foreign and that no CPU runs on can only have been named by the user.
fn named_roots_known(context: &Context<'_>, found: &Discovery, evidence: &mut Evidence) {
    // A recording's roots have owners; and with no kernel half to compare with, nothing is foreign.
    if found.basis != Basis::Cr3 || found.reference.is_none() {
        return;
    }
    // What a dump's notes name as the kernel's may be another kernel's in the same memory.
    let foreign = found.spaces.iter().filter(|space| {
        space.kind == Kind::Foreign && space.cpus.is_empty() && space.label != RootLabel::Kernel
    });
    for space in foreign {
        evidence.check(false, || Finding {
            place: format!("the root {} that was named", space.address),
            spaces: context.spaces(&[space.address]),
            expected: "a root with the kernel half of the others".into(),
            found: format!("{}, {}", space.kind, space.evidence),
            ..Finding::default()
        });
    }
}
