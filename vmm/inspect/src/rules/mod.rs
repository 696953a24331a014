//! What must hold in the page tables of a guest: the rules, and the engine that holds them against it.
//!
//! A [`Rule`] is a constant; [`FOR_ANY`] and [`WITH_HISTORY`] list the built-in ones. All are functions of one [`Context`]: the
//! indexed tables of a moment, the CPUs, the areas and RAM, and either what was found out of a guest that
//! is looked at once ([`crate::discover`]), or what must be so in one that is followed from its boot
//! ([`crate::history`]). An [`Examination`] holds a [`RuleSet`] against one context after the other, and
//! asks again only where something changed that a rule reads.
//!
//! A rule that had nothing to be held against does not hold: it was [not tried](Outcome::NotTried). What
//! kernels do on purpose is excepted by name ([`EXCEPTIONS`]), counted and shown.
//!
//! To add a rule of one's own, make a [`Rule`] and give it to [`RuleSet::with`]; facts that this library
//! does not know reach it by [`Context::extension`].

mod canonical;
mod context;
mod cpus;
mod dangling;
mod direct_map;
mod engine;
mod entry_area;
mod evidence;
pub(crate) mod exceptions;
mod finding;
mod isolation;
mod kernel_half;
mod kpti;
mod mixed_entries;
mod own_areas;
mod pages;
mod propagation;
mod protection;
mod rule;
mod self_map;
mod sharing;
mod stale;
mod tables;
mod user_half;
mod verdict;

pub use context::{Budget, Context, PageAt};
pub use engine::Examination;
pub use evidence::{Evidence, Excepted, MAX_FINDINGS, MAX_WALKED};
pub use exceptions::{ALL as EXCEPTIONS, Exception};
pub use finding::{EntryPlace, Finding, Seen, Spaces};
pub use rule::{Broken, Clause, Extension, Fact, Judge, Reads, Rule, RuleInfo, RuleSet};
pub use verdict::{GIVEN_UP, Outcome, Verdict, how_many_hold, not_tried};

pub use crate::index::Place;

/// The rules for any guest that is looked at once, in the order in which they are shown.
pub const FOR_ANY: [Rule; 21] = [
    sharing::KERNEL_MAPPINGS_EQUAL,
    sharing::KERNEL_TABLES_SHARED,
    sharing::USER_TABLES_PRIVATE,
    sharing::HALVES_SEPARATE,
    protection::WRITE_XOR_EXECUTE,
    protection::NO_WRITABLE_TEXT_ALIAS,
    protection::KERNEL_NOT_USER,
    protection::TABLES_NOT_USER_MAPPED,
    kpti::USER_ROOT_MINIMAL,
    kpti::USER_HALF_NX,
    kpti::USER_HALVES_MIRRORED,
    tables::RESERVED_BITS_CLEAR,
    tables::TABLES_IN_RAM,
    tables::NO_LOOP,
    self_map::SELF_MAP_SUPERVISOR,
    tables::ONE_LEVEL_PER_TABLE,
    tables::KERNEL_TABLES_ONCE,
    direct_map::DIRECT_MAP_EXACT,
    user_half::USER_PAGES_IN_RAM,
    cpus::CR3_KNOWN,
    protection::USER_WRITE_XOR_EXECUTE,
];

/// The rules for a guest that is followed from its boot, in the order in which they are shown.
pub const WITH_HISTORY: [Rule; 18] = [
    kernel_half::KERNEL_HALF_SHARED,
    kernel_half::KERNEL_TABLES_SAME_FRAMES,
    propagation::PROPAGATED,
    propagation::REVOKED,
    stale::NO_STALE_TRANSLATION,
    stale::FRAME_NOT_REUSED_EARLY,
    user_half::USER_HALF_PRIVATE,
    direct_map::DIRECT_MAP_COMPLETE,
    direct_map::DIRECT_MAP_EXACT,
    protection::KERNEL_NOT_USER,
    protection::WRITE_XOR_EXECUTE,
    protection::NO_WRITABLE_TEXT_ALIAS,
    protection::TABLES_NOT_USER_MAPPED,
    tables::RESERVED_BITS_CLEAR,
    canonical::CANONICAL,
    cpus::CR3_KNOWN,
    dangling::NO_DANGLING_TABLE,
    isolation::USER_ROOT_ISOLATED,
];
