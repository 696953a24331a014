//! An address space, as it was found.

use serde::Serialize;

use super::{Kind, SelfMap};
use crate::compare::EntryDifference;
use crate::linux::Owner;
use crate::snapshot::{RootId, RootLabel};
use heirloom_paging::addr::PhysAddr;

/// One address space.
#[derive(Clone, Debug, Serialize)]
pub struct Space {
    /// Its root in the snapshot.
    #[serde(skip)]
    pub root: RootId,
    /// Where the root table is: what CR3 would hold.
    pub address: PhysAddr,
    /// Whose it is, where that is known.
    pub label: RootLabel,
    /// What it is taken for.
    pub kind: Kind,
    /// Why it is taken for that.
    pub evidence: String,
    /// The other root of a KPTI pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partner: Option<PhysAddr>,
    /// The CPUs whose CR3 it is.
    pub cpus: Vec<u32>,
    /// Number of its cluster: address spaces with the very same kernel half. 0 is the largest.
    pub cluster: usize,
    /// Present entries of the root in each half.
    pub kernel_entries: usize,
    /// Present entries of the root's user half.
    pub user_entries: usize,
    /// Leaves of the user half that ring 3 can access.
    pub user_pages: u64,
    /// Where its kernel half differs from that of most of its kind.
    pub differences: Vec<EntryDifference>,
    /// Entries of the root that point to a root, its own mostly, where the kernel uses recursive paging.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub self_maps: Vec<SelfMap>,
    /// Its kernel half is a user root's, a way into the kernel: also that of a pair that is idle or freed.
    #[serde(skip)]
    pub(super) is_way_in: bool,
    /// Nothing is said of where its kernel half differs: the kernel only booted on it.
    #[serde(skip)]
    pub(super) is_boot_map: bool,
    /// Whose it is, as the kernel's own data have it, where [`Discovery::read_names`](crate::Discovery::read_names) found them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub owners: Vec<Owner>,
}

impl Space {
    /// The root that its kernel half is held against, of the kernel's and the user roots' own; none where it needs to
    /// have neither.
    pub(crate) fn compared_with(
        &self,
        kernel: Option<RootId>,
        user: Option<RootId>,
    ) -> Option<RootId> {
        match self.kind {
            Kind::UserRoot => user,
            Kind::Idle if self.is_boot_map => None,
            Kind::Idle if self.is_way_in => user,
            kind if kind.is_compared() => kernel,
            _ => None,
        }
    }
}
