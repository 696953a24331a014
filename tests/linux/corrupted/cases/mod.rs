//! The ways in which Linux's page tables are corrupted, each with what it must be reported as.

use heirloom_inspect::{Entry, Half, Level, PageSize, Pfn, PhysAddr, VirtAddr};

mod kpti;
mod protection;
mod sharing;
mod tables;

use super::copy::CorruptedImage;
use crate::common::corrupted::{
    BEYOND_RAM, Expected, KERNEL_PAGE, KERNEL_TABLE, Place, USER_PAGE, USER_TABLE, is_users_own,
    of_process, only, shared,
};

/// One way to corrupt page tables.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Only a kernel that isolates itself has what it corrupts.
    pub(crate) needs_kpti: bool,
    /// Corrupts them: what is to be reported, by these rules and no others.
    pub(crate) corrupt: fn(&CorruptedImage) -> Vec<Expected>,
}

const fn always(name: &'static str, corrupt: fn(&CorruptedImage) -> Vec<Expected>) -> Case {
    Case {
        name,
        needs_kpti: false,
        corrupt,
    }
}

const fn with_kpti(name: &'static str, corrupt: fn(&CorruptedImage) -> Vec<Expected>) -> Case {
    Case {
        name,
        needs_kpti: true,
        corrupt,
    }
}

/// All of them.
pub(crate) fn all() -> impl Iterator<Item = &'static Case> {
    [
        sharing::CASES,
        protection::CASES,
        tables::CASES,
        kpti::CASES,
    ]
    .into_iter()
    .flatten()
}

/// A page of the vmalloc area in RAM.
fn some_vmalloc_page(image: &CorruptedImage) -> VirtAddr {
    let is_ram = |pa: PhysAddr| pa < BEYOND_RAM.base() && pa < PhysAddr::new(512 << 20);
    let page = image.page(image.kernel, image.vmalloc, |page| {
        page.size == PageSize::Size4KiB && page.rights.write && is_ram(page.pa)
    });
    page.va
}

/// An entry of the process's root for a kernel table that is there and has nothing in it: Linux makes
/// those of the vmalloc area at boot.
fn empty_kernel_entry(image: &CorruptedImage) -> Place {
    let table = image.process.pfn();
    let has_nothing = |place: &Place| {
        let entry = image.entry(*place);
        let below = entry.address().pfn();
        let is_empty = |index| {
            let place = Place {
                table: below,
                index,
            };
            image.entry(place) == Entry::ABSENT
        };
        entry.present() && (0..512).all(is_empty)
    };
    Half::Kernel
        .indices()
        .map(|index| Place { table, index })
        .find(has_nothing)
        .unwrap()
}

/// Gives a root tables of its own on the way to `va`: the leaf's place in them.
fn private_path(image: &CorruptedImage, root: PhysAddr, va: VirtAddr) -> Place {
    let walk = image.walk(root, va);
    let (leaf, above) = walk.steps().split_last().unwrap();
    let mut table = root.pfn();
    for step in above {
        let place = Place {
            table,
            index: step.index,
        };
        table = image.copy_table(image.below(place));
        image.point(place, table);
    }
    Place {
        table,
        index: leaf.index,
    }
}

/// A page that a process alone has.
fn user_page(image: &CorruptedImage, root: PhysAddr) -> VirtAddr {
    let page = image.page(root, VirtAddr::new(0), is_users_own);
    page.va
}

/// The first entry of a root's user half.
fn top_user_entry(image: &CorruptedImage, root: PhysAddr) -> Place {
    Half::User
        .indices()
        .map(|index| Place {
            table: root.pfn(),
            index,
        })
        .find(|place| image.entry(*place).present())
        .unwrap()
}

/// The direct map's address of a frame.
fn in_direct_map(image: &CorruptedImage, pa: PhysAddr) -> VirtAddr {
    image.direct_map.wrapping_add(pa.get())
}

/// Sets U/S in all entries of the walk of `va`: where the leaf stands.
fn for_ring_3(image: &CorruptedImage, va: VirtAddr) -> Place {
    for step in image.walk(image.kernel, va).steps() {
        let place = Place {
            table: step.table,
            index: step.index,
        };
        image.add(place, Entry::USER);
    }
    image.leaf(image.kernel, va)
}
