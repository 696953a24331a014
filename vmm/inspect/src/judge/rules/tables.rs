//! A table is one thing in one place while it is a table.

use std::collections::HashMap;

use crate::judge::finding::{Evidence, Finding};
use crate::judge::rule::{Moment, Rule, RuleInfo};
use crate::judge::survey::{Page, Place};
use crate::snapshot::RootLabel;
use heirloom_paging::addr::PAGE_SIZE;
use heirloom_paging::walk::Walk;

/// No entry points to a table that is gone or is something else as well.
pub(super) struct NoDanglingTable;

impl Rule for NoDanglingTable {
    fn info(&self) -> RuleInfo {
        RuleInfo {
            name: "no-dangling-table",
            statement: "every entry above a leaf points to RAM that is a table of that one level, in that one place, and no page of a process or of vmalloc",
            source: "SDM vol. 3A, 4.5; Linux: freed page tables and their use after free",
        }
    }

    fn judge(&mut self, moment: &Moment<'_>, evidence: &mut Evidence) {
        tables_are_in_ram(moment, evidence);
        tables_have_one_level(moment, evidence);
        tables_have_one_place(moment, evidence);
        tables_are_no_pages(moment, evidence);
        let survey = moment.survey;
        let cut = moment.snapshot.omitted() > 0 || survey.is_cut;
        evidence.check(!cut, || Finding {
            whose: None,
            place: "all tables".into(),
            address: None,
            expected: "tables that can be looked through".into(),
            found: format!(
                "more than {} tables and {} pages: the rest was not judged",
                survey.table_frames.len(),
                survey.user_pages.len() + survey.kernel_pages.len()
            ),
            walks: Vec::new(),
        });
    }
}

fn tables_are_in_ram(moment: &Moment<'_>, evidence: &mut Evidence) {
    for missing in moment.snapshot.missing() {
        evidence.broken(|| {
            let parent = moment.snapshot.parents(missing.pfn, missing.level).first();
            let place = parent.and_then(|parent| {
                let table = (parent.table, parent.level);
                moment.survey.place_of(moment.snapshot, table, parent.index)
            });
            let root = moment.snapshot.roots().iter().find(|root| {
                root.address.pfn() == missing.pfn && moment.snapshot.root_table(root.id).is_none()
            });
            Finding {
                whose: place
                    .map(|(root, _)| moment.label(root))
                    .or(root.map(|root| root.label)),
                place: match parent {
                    Some(parent) => format!(
                        "{}[{}] in frame {}",
                        parent.level, parent.index, parent.table
                    ),
                    None => format!("root in frame {}", missing.pfn),
                },
                address: place.map(|(_, at)| at),
                expected: format!("a {} in RAM", missing.level),
                found: format!("frame {}, which is not in RAM", missing.pfn),
                walks: walks(moment, place),
            }
        });
    }
    for table in moment.snapshot.tables() {
        let is_ram = moment.world.truth().is_ram(table.pfn().base(), PAGE_SIZE);
        evidence.check(is_ram, || Finding {
            whose: None,
            place: format!("{} in frame {}", table.level(), table.pfn()),
            address: None,
            expected: "a table in RAM".into(),
            found: "memory that the guest was not told of".into(),
            walks: Vec::new(),
        });
    }
}

fn walks(moment: &Moment<'_>, place: Option<Place>) -> Vec<(RootLabel, Walk)> {
    place.map_or_else(Vec::new, |(root, at)| vec![moment.walk(root, at)])
}

fn tables_have_one_level(moment: &Moment<'_>, evidence: &mut Evidence) {
    if moment.snapshot.tables().count() == moment.survey.table_frames.len() {
        return;
    }
    let mut level_of = HashMap::new();
    for table in moment.snapshot.tables() {
        let Some(other) = level_of.insert(table.pfn(), table.level()) else {
            continue;
        };
        evidence.broken(|| {
            let this = (table.pfn(), table.level());
            let place = moment.survey.place_of(moment.snapshot, this, 0);
            Finding {
                whose: place.map(|(root, _)| moment.label(root)),
                place: format!("table in frame {}", table.pfn()),
                address: place.map(|(_, at)| at),
                expected: "a table of one level".into(),
                found: format!("a {other} and a {}", table.level()),
                walks: walks(moment, place),
            }
        });
    }
}

fn tables_have_one_place(moment: &Moment<'_>, evidence: &mut Evidence) {
    let survey = moment.survey;
    evidence.checked(survey.kernel_tables + survey.user_tables);
    for twice in &survey.twice {
        if twice.is_shared_user_table() {
            // That is the concern of `user-half-private`.
            continue;
        }
        evidence.broken(|| {
            let (table, (owner, first), (root, again)) = (twice.table, twice.first, twice.again);
            Finding {
                whose: Some(moment.label(root)),
                place: format!("{} in frame {}", table.level(), table.pfn()),
                address: Some(again),
                expected: format!("a table for {first} and nothing else"),
                found: format!("what is at {first} is also at {again}"),
                walks: vec![moment.walk(owner, first), moment.walk(root, again)],
            }
        });
    }
}

fn tables_are_no_pages(moment: &Moment<'_>, evidence: &mut Evidence) {
    let survey = moment.survey;
    evidence.checked(survey.user_pages.len() as u64);
    let vmalloc = survey.vmalloc_pages().filter_map(|page| {
        evidence.checked(1);
        Some((page, survey.table_in(page)?))
    });
    let hits: Vec<(&Page, _)> = vmalloc.chain(survey.user_pages_on_tables()).collect();
    for (page, frame) in hits {
        evidence.broken(|| Finding {
            whose: Some(moment.label(page.root)),
            place: format!("table in frame {frame}"),
            address: Some(page.va),
            expected: "a table and nothing else".into(),
            found: format!("also the page at {}", page.va),
            walks: vec![moment.walk(page.root, page.va)],
        });
    }
}
