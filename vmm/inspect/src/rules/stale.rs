//! What a CPU still holds of tables that were changed. Both witnesses count: what the CPU was asked to forget,
//! and what it read and wrote.

use super::context::{Context, shown_end};
use super::evidence::Evidence;
use super::finding::Finding;
use super::rule::{Clause, Judge, Reads, Rule, RuleInfo};
use crate::history::{Held, History, Key, Reused, Why};
use crate::index::Remembered;
use crate::snapshot::RootLabel;
use heirloom_paging::addr::{VirtAddr, VirtRange};

/// What the tables no longer say, no CPU does.
pub(super) const NO_STALE_TRANSLATION: Rule = Rule {
    info: RuleInfo {
        name: "no-stale-translation",
        statement: "a mapping that is gone, moved or has fewer rights was flushed, after its entry was written, on every CPU that may hold it, and no CPU accesses memory by it",
        source: "SDM vol. 3A, 4.10.4: software must invalidate what it changes; Linux flush_tlb_kernel_range",
    },
    untried: "nothing was unmapped, moved or restricted, or the kernel keeps no log of its flushes",
    clauses: &[
        Clause {
            reads: Reads::EVENT,
            judge: Judge::History(flushes_were_asked_for),
        },
        Clause {
            reads: Reads::EVENT,
            judge: Judge::History(cpu_uses_no_old_translation),
        },
    ],
};

/// A frame is given out again when no CPU reaches it any more.
pub(super) const FRAME_NOT_REUSED_EARLY: Rule = Rule {
    info: RuleInfo {
        name: "frame-not-reused-early",
        statement: "a frame that was a page or a table becomes something else only when no CPU may hold a translation that leads to it",
        source: "SDM vol. 3A, 4.10.4.2; Linux mmu_gather: pages are freed after the flush",
    },
    untried: "no page and no table was given back, or the kernel keeps no log of its flushes",
    clauses: &[Clause {
        reads: Reads::EVENT,
        judge: Judge::History(frames_are_free),
    }],
};

fn flushes_were_asked_for(context: &Context<'_>, history: &History, evidence: &mut Evidence) {
    let translations = history.translations();
    evidence.checked(translations.looked_at);
    evidence.unknown(translations.unknown);
    let held: Vec<(&Key, &Held)> = translations.held().collect();
    for run in held.chunk_by(continues) {
        evidence.broken_at(run.len() as u64, || not_flushed(context, run));
    }
}

/// Whether two pages are neighbours of which the same is to be said.
fn continues((one, held): &(&Key, &Held), (next, other): &(&Key, &Held)) -> bool {
    let is_page = |held: &Held| matches!(held.lost.was, Remembered::Page { .. });
    let end = held.lost.range.last.wrapping_add(1);
    (one.0, one.1) == (next.0, next.1)
        && (held.why, held.since) == (other.why, other.since)
        && is_page(held)
        && is_page(other)
        && end == other.lost.range.first
}

fn not_flushed(context: &Context<'_>, run: &[(&Key, &Held)]) -> Finding {
    let ((key, first), (_, end)) = (run[0], run[run.len() - 1]);
    let (cpu, lost) = (key.0, &first.lost);
    let used = match run.len() {
        1 => shown(context, first),
        2 => format!("{} and the page behind it", shown(context, first)),
        pages => format!(
            "{} and the {} pages behind it",
            shown(context, first),
            pages - 1
        ),
    };
    let change = match (lost.was, lost.now) {
        (Remembered::Table { .. }, _) => "the table was taken out",
        (_, None) => "it was unmapped",
        (Remembered::Page { pa, .. }, Some((now, _))) if pa != now => "it was moved",
        (Remembered::Page { .. }, Some(_)) => "it lost rights",
    };
    let (by, under) = match first.pcid {
        None => (String::new(), String::new()),
        Some(pcid) => (
            format!(" of it, or of all of PCID {pcid},"),
            format!(" under PCID {pcid}{}", new_owner(context, first)),
        ),
    };
    Finding {
        whose: Some(owner(context, first)),
        place: format!("CPU {cpu}, {}", what(context, first)),
        address: Some(lost.range.first),
        range: Some(VirtRange {
            first: lost.range.first,
            last: end.lost.range.last,
        }),
        expected: format!("a flush{by} on CPU {cpu} after {change}"),
        found: match first.why {
            Why::NotAsked | Why::Asleep | Why::Elsewhere => format!(
                "no flush that covers it since event {}: CPU {cpu} may still use {used}{under}",
                first.since
            ),
            Why::TooEarly => format!(
                "a flush before the last of the entries was written: CPU {cpu} may still use {used}{under}"
            ),
        },
        walks: walk(context, first),
        what: "not flushed",
        ..Finding::default()
    }
}

fn frames_are_free(context: &Context<'_>, history: &History, evidence: &mut Evidence) {
    let translations = history.translations();
    evidence.checked(translations.frames);
    for (key, held) in translations.held() {
        let Some(reused) = held.reused else { continue };
        let cpu = key.0;
        evidence.broken(|| Finding {
            whose: Some(owner(context, held)),
            place: format!("frame of {} on CPU {cpu}", what(context, held)),
            address: Some(held.lost.range.first),
            expected: format!(
                "a frame that is not used before CPU {cpu} has dropped what leads there"
            ),
            found: format!(
                "frame {} is {} now, and CPU {cpu} may still use {}",
                held.lost.frame(),
                match reused {
                    Reused::Table => "a table",
                    Reused::Page => "a page of something else",
                },
                shown(context, held)
            ),
            walks: walk(context, held),
            what: "reused",
            ..Finding::default()
        });
    }
}

/// What the CPU did where something else was before.
fn cpu_uses_no_old_translation(context: &Context<'_>, history: &History, evidence: &mut Evidence) {
    let translations = history.translations();
    evidence.checked(translations.accesses);
    let Some(stale) = &translations.stale_access else {
        return;
    };
    let (access, former) = (&stale.access, &stale.former);
    let did = if access.write { "wrote" } else { "read" };
    let root = context.root_of(history.kernel_view());
    let walk = root.map(|root| context.snapshot().translate(root.id, stale.page));
    evidence.broken(|| Finding {
        whose: Some(history.reporting()),
        place: if access.write {
            format!("write to {}", stale.page)
        } else {
            format!("read of {}", stale.page)
        },
        address: Some(stale.page),
        expected: match &walk {
            Some(walk) if walk.translation().is_some() => {
                format!("what the tables say: {}", shown_end(walk))
            }
            _ => "a page fault: the tables lead nowhere".into(),
        },
        found: format!(
            "the CPU {did} {:#x} by an old translation: until event {} the page was in frame {}, {}",
            access.value,
            former.until,
            former.pa.pfn(),
            former.rights
        ),
        walks: root
            .zip(walk)
            .map(|(root, walk)| (root.label, walk))
            .into_iter()
            .collect(),
        what: "stale",
        ..Finding::default()
    });
}

/// Whose it was; of the kernel half the kernel's.
fn owner(context: &Context<'_>, held: &Held) -> RootLabel {
    let Some(root) = held.lost.root else {
        return RootLabel::Kernel;
    };
    let mut roots = context.snapshot().roots().iter();
    let known = roots.find(|known| known.address == root);
    known.map_or(RootLabel::Found(root), |known| known.label)
}

/// Who has the PCID now, if it is somebody else.
fn new_owner(context: &Context<'_>, held: &Held) -> String {
    let Some(root) = held.has_pcid_now else {
        return String::new();
    };
    let mut roots = context.snapshot().roots().iter();
    match roots.find(|known| known.address == root) {
        Some(known) => format!(", which is that of {} now", known.label),
        None => format!(", which is that of root {root} now"),
    }
}

fn what(context: &Context<'_>, held: &Held) -> String {
    let first = held.lost.range.first;
    match held.lost.was {
        Remembered::Page { .. } => format!("page at {first}"),
        Remembered::Table { level, .. } => {
            format!("{} for {first}", context.level_name(level))
        }
    }
}

fn shown(context: &Context<'_>, held: &Held) -> String {
    match held.lost.was {
        Remembered::Page { pa, rights, .. } => format!("frame {}, {rights}", pa.pfn()),
        Remembered::Table { frame, level } => {
            format!("frame {frame} as a {}", context.level_name(level))
        }
    }
}

fn walk(context: &Context<'_>, held: &Held) -> Vec<(RootLabel, heirloom_paging::Walk)> {
    let at: VirtAddr = held.lost.range.first;
    let root = context.root_of(owner(context, held));
    root.map(|root| context.walk(root.id, at))
        .into_iter()
        .collect()
}
