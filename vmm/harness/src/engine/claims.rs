//! What the guest says is what the tables show.

use super::Present;
use crate::event::{Event, EventKind};
use heirloom_inspect::history::{self, Access, History};
use heirloom_inspect::paging::addr::PAGE_SIZE;
use heirloom_inspect::rules::{Clause, Context, Evidence, Finding, Judge, Reads, Rule, RuleInfo};

/// Every claim of the guest that tables can confirm is confirmed by them.
pub(super) const CLAIMS_MATCH_TABLES: Rule = Rule {
    info: RuleInfo {
        name: "claims-match-tables",
        statement: "what the guest tells agrees with its tables, with the machine, and with what it told before",
        source: "design: the host trusts nothing that the guest says",
    },
    untried: "no event",
    clauses: &[
        Clause {
            reads: Reads::EVENT,
            judge: Judge::History(|context, history, evidence| {
                if let Some(event) = context.extension::<Present>() {
                    event_is_so(context, history, event, evidence);
                }
            }),
        },
        Clause {
            reads: Reads::KERNEL.and(Reads::MEMORY),
            judge: Judge::History(vmalloc_is_told),
        },
    ],
};

fn event_is_so(context: &Context<'_>, history: &History, event: &Present, evidence: &mut Evidence) {
    evidence.checked(1);
    let told = &event.event;
    for contradiction in history.contradictions() {
        evidence.broken(|| claim(told, "event", "no contradiction", contradiction));
    }
    boot(event, evidence);
    mapped_frames(context, history, told, evidence);
    access(context, history, evidence);
    counters(context, history, event, evidence);
}

/// The kernel runs with the strategy that was asked for.
fn boot(event: &Present, evidence: &mut Evidence) {
    if let EventKind::Boot { strategy, .. } = event.event.claim {
        let asked = event.expectation.strategy.name();
        evidence.check(strategy == Some(asked), || {
            let found = strategy.unwrap_or("a strategy that has no name");
            claim(&event.event, "propagation strategy", asked, found)
        });
    }
}

/// Where no kernel memory was told of, and none was freed, the CPU faults or not as the tables have
/// it. The rest is the concern of `propagated` and `revoked`.
fn access(context: &Context<'_>, history: &History, evidence: &mut Evidence) {
    let Some(Access {
        address,
        value,
        write,
        fault,
        in_memory,
    }) = history.present().access
    else {
        return;
    };
    let word = history::word_at(address);
    let told = history.allocation_holding(word).is_some();
    if told || history.revoked_in(word).is_some() {
        return;
    }
    let Some(root) = context.root_of(history.kernel_view()) else {
        return;
    };
    let walk = context.snapshot().translate(root.id, word.first);
    let found = match fault {
        Some(code) => format!("the CPU faulted with error code {code:#x}"),
        None => format!("the CPU had {value:#x} there"),
    };
    let (right, expected) = match (in_memory, fault) {
        (None, _) => (fault.is_some(), "a fault: nothing is mapped".to_owned()),
        (Some(_), Some(_)) => {
            let read_only = walk.translation().is_some_and(|end| !end.rights.write);
            (write && read_only, "no fault: memory is mapped".to_owned())
        }
        (Some(held), None) => (held == value, format!("{held:#x}, which memory holds")),
    };
    evidence.check(right, || Finding {
        whose: Some(root.label),
        place: "access where the guest told of no kernel memory".into(),
        address: Some(word.first),
        expected,
        found,
        walks: vec![(root.label, walk)],
        ..Finding::default()
    });
}

/// The frames that a mapping event lists are those that the maker's tables lead to, and RAM.
fn mapped_frames(context: &Context<'_>, history: &History, told: &Event, evidence: &mut Evidence) {
    let EventKind::KernelMapped {
        address,
        pages,
        writable,
        ref frames,
    } = told.claim
    else {
        return;
    };
    let Some(root) = context.root_of(history.maker_view()) else {
        return;
    };
    let listed = frames.len() as u64;
    evidence.check((1..=pages.max(1)).contains(&listed), || {
        let found = format!("{listed} frames for {pages} pages");
        claim(
            told,
            "frames of the mapping",
            "the frame of the first page, and at most one for each",
            &found,
        )
    });
    for (frame, page) in frames.iter().zip(0..pages) {
        let va = address.wrapping_add(page * PAGE_SIZE);
        let walk = context.snapshot().translate(root.id, va);
        let right = walk.translation().is_some_and(|found| {
            found.pa.pfn() == *frame
                && found.rights.write == writable
                && history.truth().is_ram(found.pa, PAGE_SIZE)
        });
        evidence.check(right, || Finding {
            whose: Some(root.label),
            place: format!("page {page} of the mapping at {address}"),
            address: Some(va),
            expected: format!("frame {frame}, as the guest says"),
            found: match &walk.result {
                Ok(end) => format!("frame {}, {}", end.pa.pfn(), end.rights),
                Err(fault) => fault.to_string(),
            },
            walks: vec![(root.label, walk)],
            ..Finding::default()
        });
    }
}

/// Whatever is mapped in the vmalloc area was told.
fn vmalloc_is_told(context: &Context<'_>, history: &History, evidence: &mut Evidence) {
    for (part, page) in context.index.dynamic_pages() {
        let told = history.allocation_holding(page.range()).is_some()
            || history.revoked_in(page.range()).is_some();
        evidence.check(told, || {
            let root = context.index.root_of(part);
            Finding {
                whose: Some(context.label(root)),
                place: format!("page at {}", page.va),
                address: Some(page.va),
                expected: "nothing: the guest told of no kernel memory there".into(),
                found: format!("frame {}, {}", page.pa.pfn(), page.rights),
                walks: vec![context.walk(root, page.va)],
                ..Finding::default()
            }
        });
    }
}

fn counters(context: &Context<'_>, history: &History, event: &Present, evidence: &mut Evidence) {
    let told = &event.event;
    let counters = &told.counters;
    if matches!(told.claim, EventKind::Crash { .. }) {
        // A kernel that cannot go on cannot count either.
        return;
    }
    let live = history.live_count() as u64;
    let sum = counters
        .frames_free
        .saturating_add(counters.frames_table)
        .saturating_add(counters.frames_user)
        .saturating_add(counters.frames_kernel)
        .saturating_add(counters.frames_reserved);
    let kernel = history
        .allocated_pages()
        .saturating_add(live)
        .saturating_add(counters.processes_zombie);
    let ram = history.truth().frames();
    let at_boot = event.at_boot.as_ref().unwrap_or(counters);
    for (what, claimed, known) in [
        ("processes", counters.processes_live, live),
        ("frames of RAM", counters.frames_total, ram),
        ("sum of all frames' uses", sum, ram),
        (
            "frames in use before the allocator",
            counters.frames_reserved,
            at_boot.frames_reserved,
        ),
    ] {
        evidence.check(claimed == known, || {
            claim(told, what, &known.to_string(), &claimed.to_string())
        });
    }
    // Counting more frames than there are is a leak, and `frames-released` says so; counting fewer
    // is a lie.
    for (what, claimed, known) in [
        (
            "frames of page tables",
            counters.frames_table,
            context.index.table_frames(),
        ),
        (
            "frames of processes",
            counters.frames_user,
            context.index.user_frames(),
        ),
        ("frames of kernel memory", counters.frames_kernel, kernel),
    ] {
        evidence.check(claimed >= known, || {
            let expected = format!("at least {known}");
            claim(told, what, &expected, &claimed.to_string())
        });
    }
}

fn claim(told: &Event, place: &str, expected: &str, found: &str) -> Finding {
    Finding {
        whose: Some(told.label()),
        place: place.to_owned(),
        expected: expected.to_owned(),
        found: found.to_owned(),
        ..Finding::default()
    }
}
