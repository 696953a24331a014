//! Frames come back.

use super::Present;
use crate::event::EventKind;
use heirloom_inspect::history::History;
use heirloom_inspect::rules::{Clause, Context, Evidence, Finding, Judge, Reads, Rule, RuleInfo};

/// Whatever the guest counts as in use is reachable: nothing of the dead is left over.
pub(super) const FRAMES_RELEASED: Rule = Rule {
    info: RuleInfo {
        name: "frames-released",
        statement: "every frame that counts as table, user or kernel memory is reachable from a living address space: what the dead had came back",
        source: "lecture: processes and memory are dynamically created and destroyed",
    },
    untried: "no event",
    clauses: &[Clause {
        reads: Reads::EVENT,
        judge: Judge::History(|context, history, evidence| {
            if let Some(event) = context.extension::<Present>() {
                frames_released(context, history, event, evidence);
            }
        }),
    }],
};

fn frames_released(
    context: &Context<'_>,
    history: &History,
    event: &Present,
    evidence: &mut Evidence,
) {
    if matches!(event.event.claim, EventKind::Crash { .. }) {
        return;
    }
    let counters = &event.event.counters;
    let tables = context.index.table_frames();
    let user = context.index.user_frames();
    let allocated = history.allocated_pages();
    // A process's own data is one frame, until it is waited for.
    let live = history.live_count() as u64;
    let processes = live.saturating_add(counters.processes_zombie);
    let kernel = allocated.saturating_add(processes);
    for (what, counted, known, right) in [
        (
            "frames of page tables",
            counters.frames_table,
            tables,
            counters.frames_table <= tables,
        ),
        (
            "frames of processes",
            counters.frames_user,
            user,
            counters.frames_user <= user,
        ),
        (
            "frames of kernel memory",
            counters.frames_kernel,
            kernel,
            counters.frames_kernel <= kernel,
        ),
    ] {
        evidence.check(right, || Finding {
            place: what.to_owned(),

            expected: format!("{known}, which are reachable"),
            found: format!("{counted} in use"),
            ..Finding::default()
        });
    }
    let ended = history.ended_count() as u64;
    evidence.check(counters.processes_zombie <= ended, || Finding {
        place: "zombies".into(),

        expected: format!("at most {ended}, who ended"),
        found: counters.processes_zombie.to_string(),
        ..Finding::default()
    });
}
