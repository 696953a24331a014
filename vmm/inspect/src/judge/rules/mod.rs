//! The rules for our own guest, one file for each thing they are about.

mod accounting;
mod claims;
mod direct_map;
mod isolation;
mod kernel_half;
mod propagation;
mod protection;
mod sanity;
mod tables;
mod user_half;

use super::rule::Rule;
use super::truth::Sharing;
use heirloom_paging::entry::Entry;
use heirloom_paging::walk::Walk;

/// All rules that a strategy is held to, in the order in which they are shown.
pub fn all(sharing: Sharing) -> Vec<Box<dyn Rule>> {
    let mut rules: Vec<Box<dyn Rule>> = vec![
        Box::new(kernel_half::KernelHalfShared),
        Box::new(kernel_half::KernelTablesSameFrames),
        Box::new(propagation::Propagated),
        Box::new(propagation::Revoked),
        Box::new(user_half::UserHalfPrivate),
        Box::new(direct_map::DirectMapComplete),
        Box::new(direct_map::DirectMapExact),
        Box::new(protection::KernelNotUser),
        Box::new(protection::WriteXorExecute),
        Box::new(protection::NoWritableTextAlias),
        Box::new(protection::TablesNotUserMapped),
        Box::new(sanity::ReservedBitsClear),
        Box::new(sanity::Canonical),
        Box::new(sanity::Cr3Known),
        Box::new(claims::ClaimsMatchTables),
        Box::new(accounting::FramesReleased),
        Box::new(tables::NoDanglingTable),
    ];
    if sharing == Sharing::EntryAreaOnly {
        rules.push(Box::new(isolation::UserRootIsolated));
    }
    rules
}

/// An entry as people read it.
fn shown(entry: Entry) -> String {
    if entry.present() {
        format!("{entry} ({})", entry.flags())
    } else {
        "absent".into()
    }
}

/// Where a walk ended, as people read it.
fn shown_end(walk: &Walk) -> String {
    match &walk.result {
        Ok(found) => format!("frame {}, {}", found.pa.pfn(), found.rights),
        Err(fault) => fault.to_string(),
    }
}
