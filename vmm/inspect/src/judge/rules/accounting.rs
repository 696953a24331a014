//! Frames come back.

use crate::judge::event::Claim;
use crate::judge::finding::{Evidence, Finding};
use crate::judge::rule::{Moment, Rule, RuleInfo};

/// Whatever the guest counts as in use is reachable: nothing of the dead is left over.
pub(super) struct FramesReleased;

impl Rule for FramesReleased {
    fn info(&self) -> RuleInfo {
        RuleInfo {
            name: "frames-released",
            statement: "every frame that counts as table, user or kernel memory is reachable from a living address space: what the dead had came back",
            source: "lecture: processes and memory are dynamically created and destroyed",
        }
    }

    fn judge(&mut self, moment: &Moment<'_>, evidence: &mut Evidence) {
        if matches!(moment.told.claim, Claim::Crash { .. }) {
            return;
        }
        let counters = &moment.told.counters;
        let tables = moment.survey.table_frames.len() as u64;
        let user = moment.survey.user_frames;
        let allocated = moment.world.allocated_pages();
        // A process's own data is one frame, until it is waited for.
        let live = moment.world.live_count() as u64;
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
                whose: None,
                place: what.to_owned(),
                address: None,
                expected: format!("{known}, which are reachable"),
                found: format!("{counted} in use"),
                walks: Vec::new(),
            });
        }
        let ended = (moment.world.processes().count() - moment.world.live_count()) as u64;
        evidence.check(counters.processes_zombie <= ended, || Finding {
            whose: None,
            place: "zombies".into(),
            address: None,
            expected: format!("at most {ended}, who ended"),
            found: counters.processes_zombie.to_string(),
            walks: Vec::new(),
        });
    }
}
