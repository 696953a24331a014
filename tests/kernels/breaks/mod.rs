//! Each rule broken on purpose in a copy of a kernel's core, once at one entry: the command says that rule is broken,
//! there, and no other. A rule that cannot be broken in a kernel is named with the reason.

mod rules;
mod subject;

use std::path::Path;

use heirloom_inspect::rules::FOR_ANY;

use crate::booted::{Moment, ask_with};
use crate::common::corrupted::{Expected, Judge};
use crate::common::linux::core::Core;
use crate::common::machine::Machine;

use rules::{BREAKS, Break};
use subject::{Roots, Subject, user_root};

/// A rule that cannot be broken in a kernel, and why: what the command says of a rule that it has not tried.
pub(crate) type Unbreakable = (&'static str, &'static str);

pub(crate) const NO_USER_ROOT: &str = "no user root: the kernel is not isolated";
const NO_PAIR: &str = "no pair of a kernel root and a user root";

/// Of a kernel without pairs of roots, that has one window on its tables at most, the direct map.
pub(crate) const NO_PAIR_AND_NO_SELF_MAP: [Unbreakable; 3] = [
    ("user-half-nx", NO_PAIR),
    ("user-halves-mirrored", NO_PAIR),
    ("self-map-supervisor", "no self-map"),
];

/// Breaks one rule after the other in a core of the guest as it is now, as [`assert_caught_in`] does.
pub(crate) fn assert_caught(machine: &Machine, but: &[Unbreakable]) {
    let mut qmp = machine.qmp();
    qmp.stop();
    let core = machine.at("broken");
    qmp.dump(&core, false);
    assert_caught_in(&core, but);
    std::fs::remove_file(core).unwrap();
    qmp.resume();
}

/// Breaks one rule after the other in a core: each is reported as what it is, all but these.
pub(crate) fn assert_caught_in(core: &Path, but: &[Unbreakable]) {
    assert_eq!(
        BREAKS.each_ref().map(|broken| broken.rule),
        FOR_ANY.each_ref().map(|rule| rule.info.name)
    );
    let target = format!("core:{}", core.display());
    let moment = Moment::of(&target);
    let sound = moment.rules("broken");
    assert!(sound.is_empty(), "{sound:?}");
    let subject = Subject::of(Core::open_to_change(core), &moment);
    let (mut unbroken, mut wrong) = (Vec::new(), Vec::new());
    for Break { rule, apply } in BREAKS {
        match apply(&subject) {
            Some(expected) => {
                if let Err(error) = judge(&subject, &target, rule, expected) {
                    wrong.push(format!("{rule}: {error}"));
                }
            }
            None => unbroken.push(rule),
        }
        subject.tables.restore();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let sound = ask_with("check", &target, &["--strict-user"]);
    let reasons = unbroken.into_iter().map(|rule| {
        let given = but.iter().find(|(of, _)| *of == rule);
        let reason = given.map_or("not given", |(_, reason)| *reason);
        (rule, sound.why_not_tried(rule).unwrap_or(reason))
    });
    assert_eq!(reasons.collect::<Vec<_>>(), but);
}

/// What the command says of tables in which this rule is broken.
fn judge(
    subject: &Subject,
    target: &str,
    rule: &str,
    expected: Vec<Expected>,
) -> Result<(), String> {
    let is_strict = rule == "user-write-xor-execute";
    let words: &[&str] = if is_strict { &["--strict-user"] } else { &[] };
    let answer = ask_with("check", target, words);
    let judge = Judge {
        tables: &subject.tables,
        many: 0,
        user_root: (subject.roots == Roots::Isolated).then_some(user_root),
        has_names: false,
    };
    judge.judge(&answer.report, expected)?;
    match answer.code {
        1 => Ok(()),
        code => Err(format!("exit code {code}")),
    }
}
