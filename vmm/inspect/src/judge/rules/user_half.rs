//! The user half is each process's own.

use std::collections::HashMap;

use crate::addr::Pfn;
use crate::judge::finding::{Evidence, Finding};
use crate::judge::rule::{Moment, Rule, RuleInfo};
use crate::level::Half;
use crate::snapshot::{RootId, RootLabel};

/// No user table is shared, and a page that two processes have is writable in neither.
pub(super) struct UserHalfPrivate;

/// Who has a user frame, and whether it may be written there.
struct Holder {
    root: RootId,
    writable: bool,
}

impl Rule for UserHalfPrivate {
    fn info(&self) -> RuleInfo {
        RuleInfo {
            name: "user-half-private",
            statement: "no two processes share a user table, or a page that one of them may write to; the kernel's own root has no user half",
            source: "lecture: every process owns its own pgd entries; copy on write: POSIX fork",
        }
    }

    fn judge(&mut self, moment: &Moment<'_>, evidence: &mut Evidence) {
        let snapshot = moment.snapshot;
        let mut tables: HashMap<Pfn, RootId> = HashMap::new();
        let mut pages: HashMap<Pfn, Holder> = HashMap::new();
        for root in snapshot.roots() {
            let label = root.label;
            let Some(top) = snapshot.root_table(root.id) else {
                continue;
            };
            if label == RootLabel::Kernel {
                let entry = top
                    .present()
                    .iter()
                    .find(|index| Half::of_index(*index) == Half::User);
                evidence.check(entry.is_none(), || Finding {
                    whose: Some(label),
                    place: format!("PGD[{}]", entry.unwrap_or_default()),
                    address: None,
                    expected: "an empty user half: the boot's identity map is gone".into(),
                    found: "a present entry".into(),
                    walks: Vec::new(),
                });
            }
            let mut below: Vec<_> = Half::User
                .indices()
                .filter_map(|index| snapshot.child(top, index))
                .collect();
            while let Some(table) = below.pop() {
                evidence.checked(1);
                if let Some(other) = tables.insert(table.pfn(), root.id)
                    && other != root.id
                {
                    evidence.broken(|| Finding {
                        whose: Some(label),
                        place: format!("{} in frame {}", table.level(), table.pfn()),
                        address: None,
                        expected: "a table of its own".into(),
                        found: format!("the table of {}", moment.label(other)),
                        walks: Vec::new(),
                    });
                    // What is below is shared, too; one finding says it.
                    continue;
                }
                below.extend(
                    table
                        .pointers()
                        .iter()
                        .filter_map(|index| snapshot.child(table, index)),
                );
            }
        }
        for (root, page) in moment.user_pages {
            evidence.checked(1);
            let holder = Holder {
                root: *root,
                writable: page.rights.write,
            };
            let Some(other) = pages.get_mut(&page.pa.pfn()) else {
                pages.insert(page.pa.pfn(), holder);
                continue;
            };
            if other.root != holder.root && (other.writable || holder.writable) {
                let (pfn, other_root, label) = (page.pa.pfn(), other.root, moment.label(*root));
                evidence.broken(|| Finding {
                    whose: Some(label),
                    place: format!("user page in frame {pfn}"),
                    address: Some(page.va),
                    expected: "a page of its own, or one that nobody may write to".into(),
                    found: format!("shared with {}, writable", moment.label(other_root)),
                    walks: vec![(label, snapshot.translate(*root, page.va))],
                });
            }
            other.writable |= holder.writable;
        }
    }
}
