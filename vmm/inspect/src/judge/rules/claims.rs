//! What the guest says is what the tables show.

use heirloom_abi::layout::Region;

use crate::addr::PAGE_SIZE;
use crate::judge::event::{Claim, Told};
use crate::judge::finding::{Evidence, Finding};
use crate::judge::rule::{Moment, Rule, RuleInfo};

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
        mapped_frames(moment, evidence);
        vmalloc_is_told(moment, evidence);
        counters(moment, evidence);
    }
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
    let Some(root) = moment.snapshot.root_of(moment.told.label()) else {
        return;
    };
    evidence.check(frames.len() as u64 <= pages, || {
        let found = format!("{} frames for {pages} pages", frames.len());
        claim(
            moment.told,
            "frames of the mapping",
            "at most one for each page",
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
            found: match &walk.result {
                Ok(found) => format!("frame {}, {}", found.pa.pfn(), found.rights),
                Err(fault) => fault.to_string(),
            },
            walks: vec![(root.label, walk)],
        });
    }
}

/// Whatever is mapped in the vmalloc area was told.
fn vmalloc_is_told(moment: &Moment<'_>, evidence: &mut Evidence) {
    let pages = moment
        .kernel_tables
        .iter()
        .flat_map(super::super::rule::KernelTable::pages);
    for page in pages.filter(|page| Region::Vmalloc.contains(page.va.get())) {
        let told = moment.world.allocation_of(page.va).is_some()
            || moment.world.revoked().any(|range| range.contains(page.va));
        evidence.check(told, || Finding {
            whose: Some(moment.label(page.root)),
            place: format!("page at {}", page.va),
            address: Some(page.va),
            expected: "nothing: the guest told of no kernel memory there".into(),
            found: format!("frame {}, {}", page.pa.pfn(), page.rights),
            walks: vec![(
                moment.label(page.root),
                moment.snapshot.translate(page.root, page.va),
            )],
        });
    }
}

fn counters(moment: &Moment<'_>, evidence: &mut Evidence) {
    let counters = &moment.told.counters;
    if matches!(moment.told.claim, Claim::Crash { .. }) {
        // A kernel that cannot go on cannot count either.
        return;
    }
    let live = moment.world.live().count() as u64;
    let sum = counters
        .frames_free
        .saturating_add(counters.frames_table)
        .saturating_add(counters.frames_user)
        .saturating_add(counters.frames_kernel)
        .saturating_add(counters.frames_reserved);
    let user = moment.user_frames() as u64;
    let tables = moment.table_frames.len() as u64;
    let ram = moment.world.truth().frames();
    // Counting more table and user frames than there are is a leak, and `frames-released` says so;
    // counting fewer is a lie.
    for (what, claimed, known, right) in [
        (
            "processes",
            counters.processes_live,
            live,
            counters.processes_live == live,
        ),
        (
            "frames of RAM",
            counters.frames_total,
            ram,
            counters.frames_total == ram,
        ),
        ("sum of all frames' uses", sum, ram, sum == ram),
        (
            "frames of page tables",
            counters.frames_table,
            tables,
            counters.frames_table >= tables,
        ),
        (
            "frames of processes",
            counters.frames_user,
            user,
            counters.frames_user >= user,
        ),
    ] {
        evidence.check(right, || {
            claim(moment.told, what, &known.to_string(), &claimed.to_string())
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
