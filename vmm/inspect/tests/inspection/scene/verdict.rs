//! What the generic rules say of the guest.

use heirloom_inspect::check::{Check, Finding, Strictness};

use super::Guest;

#[track_caller]
pub(crate) fn check(guest: &Guest) -> Check {
    Check::of(&guest.discover(), Strictness::default())
}

/// The rules that do not hold.
#[track_caller]
pub(crate) fn broken(guest: &Guest) -> Vec<&'static str> {
    broken_in(&check(guest))
}

/// The same where processes must not have pages that are writable and executable.
#[track_caller]
pub(crate) fn broken_strictly(guest: &Guest) -> Vec<&'static str> {
    broken_in(&Check::of(
        &guest.discover(),
        Strictness {
            user: true,
            ..Strictness::default()
        },
    ))
}

fn broken_in(check: &Check) -> Vec<&'static str> {
    let broken = check.rules.iter().filter(|rule| rule.violations > 0);
    let broken: Vec<_> = broken.map(|rule| rule.rule.name).collect();
    assert_eq!(check.holds, broken.is_empty());
    broken
}

/// All that a rule found.
#[track_caller]
pub(crate) fn findings(guest: &Guest, rule: &str) -> Vec<Finding> {
    let rules = check(guest).rules;
    let verdict = rules.into_iter().find(|verdict| verdict.rule.name == rule);
    verdict.unwrap_or_else(|| panic!("no rule {rule}")).findings
}

/// The only thing that a rule found.
#[track_caller]
pub(crate) fn finding(guest: &Guest, rule: &str) -> Finding {
    let mut found = findings(guest, rule);
    assert_eq!(found.len(), 1, "{rule}: {found:#?}");
    found.remove(0)
}
