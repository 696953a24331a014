//! Sound guests: no finding at all.

use heirloom_inspect::check::{Check, Strictness};

use crate::scene::{Guest, bits, broken};

/// The guest with all that a clean Linux has lying about.
fn with_leftovers(mut guest: Guest) -> Guest {
    guest.add_freed();
    guest.add_reused();
    guest.add_freed();
    if guest.plan.kpti {
        let root = guest.processes[2];
        guest.add_ldt(root, 1, bits::CONSTANTS);
    }
    guest
}

#[test]
fn a_clean_linux_breaks_no_rule() {
    for guest in Guest::all() {
        assert_eq!(broken(&guest), [""; 0], "{}", guest.plan);
        let guest = with_leftovers(guest);
        let discovery = guest.discover();
        let check = Check::of(&discovery, Strictness::default());
        assert!(check.holds, "{}: {:#?}", guest.plan, check);
    }
}
