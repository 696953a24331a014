//! What the guest says is what the tables show.

use super::shown_end;
use crate::judge::event::{Claim, Told};
use crate::judge::finding::{Evidence, Finding};
use crate::judge::rule::{Moment, Rule, RuleInfo};
use crate::judge::world;
use heirloom_paging::addr::PAGE_SIZE;

/// Every claim of the guest that tables can confirm is confirmed by them.
pub(super) struct ClaimsMatchTables;

impl Rule for ClaimsMatchTables {
    fn info(&self) -> RuleInfo {
        RuleInfo {
            name: "claims-match-tables",
            statement: "what the guest tells agrees with its tables, with the machine, and with what it told before",
            source: "design: the host trusts nothing that the guest says",
        }
    }

    fn judge(&mut self, moment: &Moment<'_>, evidence: &mut Evidence) {
        evidence.checked(1);
        for contradiction in moment.world.contradictions() {
            evidence.broken(|| claim(moment.told, "event", "no contradiction", contradiction));
        }
        boot(moment, evidence);
        mapped_frames(moment, evidence);
        access(moment, evidence);
        vmalloc_is_told(moment, evidence);
        counters(moment, evidence);
    }
}

/// The kernel runs with the strategy that was asked for.
fn boot(moment: &Moment<'_>, evidence: &mut Evidence) {
    if let Claim::Boot { strategy, .. } = moment.told.claim {
        let asked = moment.world.expectation().strategy.name();
        evidence.check(strategy == Some(asked), || {
            let found = strategy.unwrap_or("a strategy that has no name");
            claim(moment.told, "propagation strategy", asked, found)
        });
    }
}

/// Where no kernel memory was told of, and none was freed, the CPU faults or not as the tables have
/// it. The rest is the concern of `propagated` and `revoked`.
fn access(moment: &Moment<'_>, evidence: &mut Evidence) {
    let Claim::KernelAccess {
        address,
        value,
        write,
        fault,
    } = moment.told.claim
    else {
        return;
    };
    let word = world::word_at(address);
    let told = moment.world.allocation_holding(word).is_some();
    if told || moment.world.revoked_in(word).is_some() {
        return;
    }
    let Some(root) = moment
        .snapshot
        .root_of(moment.world.kernel_view(moment.told))
    else {
        return;
    };
    let walk = moment.snapshot.translate(root.id, word.first);
    let found = match fault {
        Some(code) => format!("the CPU faulted with error code {code:#x}"),
        None => format!("the CPU had {value:#x} there"),
    };
    let (right, expected) = match (moment.memory_value, fault) {
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
    });
}

/// The frames that a mapping event lists are those that the maker's tables lead to, and RAM.
fn mapped_frames(moment: &Moment<'_>, evidence: &mut Evidence) {
    let Claim::KernelMapped {
        address,
        pages,
        writable,
        ref frames,
    } = moment.told.claim
    else {
        return;
    };
    let Some(root) = moment
        .snapshot
        .root_of(moment.world.maker_view(moment.told))
    else {
        return;
    };
    let listed = frames.len() as u64;
    evidence.check((1..=pages.max(1)).contains(&listed), || {
        let found = format!("{listed} frames for {pages} pages");
        claim(
            moment.told,
            "frames of the mapping",
            "the frame of the first page, and at most one for each",
            &found,
        )
    });
    for (frame, page) in frames.iter().zip(0..pages) {
        let va = address.wrapping_add(page * PAGE_SIZE);
        let walk = moment.snapshot.translate(root.id, va);
        let right = walk.translation().is_some_and(|found| {
            found.pa.pfn() == *frame
                && found.rights.write == writable
                && moment.world.truth().is_ram(found.pa, PAGE_SIZE)
        });
        evidence.check(right, || Finding {
            whose: Some(root.label),
            place: format!("page {page} of the mapping at {address}"),
            address: Some(va),
            expected: format!("frame {frame}, as the guest says"),
            found: shown_end(&walk),
            walks: vec![(root.label, walk)],
        });
    }
}

/// Whatever is mapped in the vmalloc area was told.
fn vmalloc_is_told(moment: &Moment<'_>, evidence: &mut Evidence) {
    for page in moment.survey.vmalloc_pages() {
        let told = moment.world.allocation_holding(page.range()).is_some()
            || moment.world.revoked_in(page.range()).is_some();
        evidence.check(told, || Finding {
            whose: Some(moment.label(page.root)),
            place: format!("page at {}", page.va),
            address: Some(page.va),
            expected: "nothing: the guest told of no kernel memory there".into(),
            found: format!("frame {}, {}", page.pa.pfn(), page.rights),
            walks: vec![moment.walk(page.root, page.va)],
        });
    }
}

fn counters(moment: &Moment<'_>, evidence: &mut Evidence) {
    let counters = &moment.told.counters;
    if matches!(moment.told.claim, Claim::Crash { .. }) {
        // A kernel that cannot go on cannot count either.
        return;
    }
    let live = moment.world.live_count() as u64;
    let sum = counters
        .frames_free
        .saturating_add(counters.frames_table)
        .saturating_add(counters.frames_user)
        .saturating_add(counters.frames_kernel)
        .saturating_add(counters.frames_reserved);
    let kernel = moment
        .world
        .allocated_pages()
        .saturating_add(live)
        .saturating_add(counters.processes_zombie);
    let ram = moment.world.truth().frames();
    let at_boot = moment.world.counters_at_boot().unwrap_or(counters);
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
            claim(moment.told, what, &known.to_string(), &claimed.to_string())
        });
    }
    // Counting more frames than there are is a leak, and `frames-released` says so; counting fewer
    // is a lie.
    for (what, claimed, known) in [
        (
            "frames of page tables",
            counters.frames_table,
            moment.survey.table_frames.len() as u64,
        ),
        (
            "frames of processes",
            counters.frames_user,
            moment.survey.user_frames,
        ),
        ("frames of kernel memory", counters.frames_kernel, kernel),
    ] {
        evidence.check(claimed >= known, || {
            let expected = format!("at least {known}");
            claim(moment.told, what, &expected, &claimed.to_string())
        });
    }
}

fn claim(told: &Told, place: &str, expected: &str, found: &str) -> Finding {
    Finding {
        whose: Some(told.label()),
        place: place.to_owned(),
        address: None,
        expected: expected.to_owned(),
        found: found.to_owned(),
        walks: Vec::new(),
    }
}
