//! Each rule is broken by one change and by nothing else, and says where.

mod cpus;
mod isolation;
mod memory;
mod protection;
mod sharing;
mod tables;

use crate::scene::{Guest, broken};

/// Makes `change` in each of the four guests, and asserts that exactly `rules` are broken.
#[track_caller]
fn assert_breaks(rules: &[&str], change: impl Fn(&mut Guest)) {
    assert_breaks_in(Guest::all(), rules, change);
}

#[track_caller]
fn assert_breaks_in(guests: Vec<Guest>, rules: &[&str], change: impl Fn(&mut Guest)) {
    for mut guest in guests {
        change(&mut guest);
        let found = broken(&guest);
        assert_eq!(found, rules, "{}", guest.plan);
    }
}

/// The guests that isolate the kernel.
fn isolated() -> Vec<Guest> {
    let guests = Guest::all().into_iter();
    guests.filter(|guest| guest.plan.kpti).collect()
}
