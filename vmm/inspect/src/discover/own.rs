//! Which root is the kernel's own.

use std::collections::HashMap;

use super::Role;
use super::look::Look;
use crate::layout::Layout;
use crate::snapshot::{Root, RootId, RootLabel, Snapshot};

/// Which root is the kernel's own, and why. Linux makes it with the kernel's image, where the table
/// for the image itself lies beside it.
pub(super) fn kernels_own(
    snapshot: &Snapshot,
    layout: &Layout,
    looks: &[Look],
    cpus_of: impl Fn(&Root) -> usize,
) -> HashMap<RootId, String> {
    let mut own = HashMap::new();
    let alone = || {
        looks
            .iter()
            .zip(snapshot.roots())
            .filter(|(look, _)| look.is_kernel_half_alone())
            .map(|(_, root)| root)
    };
    for root in alone() {
        if root.label == RootLabel::Kernel {
            own.insert(root.id, "the guest says so".into());
        } else if cpus_of(root) > 0 {
            own.insert(root.id, "no user half, and a CPU runs on it".into());
        }
    }
    if own.values().any(|why| why == "the guest says so") {
        return own;
    }
    // A kernel that keeps what its CPUs came up on in the lower half, or has more there for ring 0 alone, has no
    // root without that.
    let without_pages = || {
        looks
            .iter()
            .zip(snapshot.roots())
            .filter(|(look, _)| look.role == Role::Full && look.user_pages == 0)
            .filter(|(look, root)| {
                look.user_entries == 0
                    || look.is_identity()
                    || (look.supervisor_pages > 0 && cpus_of(root) > 0)
            })
            .map(|(_, root)| root)
    };
    if alone().next().is_none()
        && let (Some(only), None) = (without_pages().next(), without_pages().nth(1))
    {
        let why = match cpus_of(only) {
            0 => "no page for ring 3, and the only one without",
            _ => "no page for ring 3, the only one without, and a CPU runs on it",
        };
        own.insert(only.id, why.into());
        return own;
    }
    let image = layout.kernel_image.map(|image| image.physical());
    let distance = |root: &Root| {
        let table = snapshot.root_table(root.id)?;
        let beside = table.entry(511).address_in(snapshot.mode()).pfn().get();
        Some(beside.abs_diff(root.address.pfn().get()))
    };
    let in_image = |root: &&Root| {
        image.is_some_and(|image| image.start <= root.address && root.address < image.end())
    };
    if let Some(root) = without_pages()
        .filter(in_image)
        .min_by_key(|root| (distance(root), root.id))
    {
        let look = looks.get(root.id.0 as usize);
        let what = if look.is_some_and(Look::is_kernel_half_alone) {
            "no user half"
        } else {
            "no page for ring 3"
        };
        own.entry(root.id).or_insert_with(|| {
            format!("{what}; in the kernel image, next to the table that maps the image")
        });
    } else if own.is_empty()
        && let (Some(only), None) = (alone().next(), alone().nth(1))
    {
        own.insert(only.id, "no user half, and the only one without".into());
    }
    own
}
