//! The rules for any kernel, one file for each thing they are about.

mod cpus;
mod kpti;
mod memory;
mod protection;
mod self_map;
mod sharing;
mod tables;

use super::evidence::Verdict;
use super::scene::Scene;
use crate::judge::RuleInfo;

/// A rule: what it states, and how it is held against the tables.
pub(super) struct Rule {
    pub(super) info: RuleInfo,
    pub(super) judge: fn(&Scene<'_>, &mut Verdict),
}

/// All rules, in the order in which they are shown.
pub(super) const ALL: [Rule; 21] = [
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
    memory::DIRECT_MAP_EXACT,
    memory::USER_PAGES_IN_RAM,
    cpus::CR3_KNOWN,
    protection::USER_WRITE_XOR_EXECUTE,
];
