//! `heirloom reverse`: every address, in every address space, that leads to a frame, against all leaves of
//! all address spaces, which are the ones that QEMU finds.

use std::collections::BTreeSet;

use heirloom_inspect::{
    Capturer, Decoded, Mapping, PageSize, Pfn, PhysAddr, RootLabel, Snapshot, VirtRange,
};
use serde_json::Value;

use crate::command::{address, ask, list, number};
use crate::common::linux::Variant;
use crate::image::Image;

/// The tables of all roots that `heirloom roots` finds, freed ones and trampolines, too.
fn capture_all(image: &Image) -> Snapshot {
    let report = ask(&["roots", &image.target()]);
    let roots: Vec<(RootLabel, PhysAddr)> = list(&report, "roots")
        .iter()
        .map(|root| address(&root["address"]))
        .map(|root| (RootLabel::Found(root), root))
        .collect();
    Capturer::new().capture(&image.moment.open_core(), image.moment.mode(), &roots)
}

/// A virtual address and the root in which it leads to the frame.
type Reached = BTreeSet<(u64, PhysAddr)>;

/// What all leaves say.
fn expected(leaves: &[(PhysAddr, Mapping)], pa: PhysAddr) -> Reached {
    leaves
        .iter()
        .filter(|(_, page)| (0..page.size.bytes()).contains(&pa.get().wrapping_sub(page.pa.get())))
        .map(|(root, page)| (page.va.get() + (pa.get() - page.pa.get()), *root))
        .collect()
}

/// What the command says.
fn reported(report: &Value) -> Reached {
    let mut reached = Reached::new();
    for place in list(report, "reached") {
        for root in list(place, "roots") {
            let is_new = reached.insert((number(&place["va"]), address(root)));
            assert!(is_new, "{place} is said twice");
        }
    }
    reached
}

/// The entries that point to a frame as a table: the frame of their table, and their number.
fn parents(snapshot: &Snapshot, pfn: Pfn) -> BTreeSet<(Pfn, u64)> {
    snapshot
        .tables()
        .flat_map(|table| (0..512).map(move |index| (table, index)))
        .filter(|(table, index)| table.decode(*index) == Decoded::Table(pfn))
        .map(|(table, index)| (table.pfn(), index.into()))
        .collect()
}

/// Frames worth asking for: one that many processes share, one of a single process, one inside a large
/// page of a process, one of kernel text, a page table, a root, a device, one that nothing shows.
fn frames(snapshot: &Snapshot, leaves: &[(PhysAddr, Mapping)]) -> Vec<PhysAddr> {
    let page = |wanted: &dyn Fn(&Mapping) -> bool| {
        let (_, page) = leaves.iter().find(|(_, page)| wanted(page)).unwrap();
        page.pa
    };
    let users = |page: &Mapping| page.rights.user;
    let table = |level| {
        snapshot
            .tables()
            .filter(move |table| table.level() == level)
    };
    let root = snapshot.mode().depth.top();
    let large = page(&|page| users(page) && page.size == PageSize::Size2MiB);
    vec![
        page(&|page| users(page) && !page.rights.write),
        page(&|page| users(page) && page.rights.write && page.size == PageSize::Size4KiB),
        large.wrapping_add(0x12_3456),
        page(&|page| !users(page) && page.rights.execute && page.size == PageSize::Size2MiB),
        table(heirloom_inspect::Level::Pt)
            .next()
            .unwrap()
            .pfn()
            .base(),
        table(root).nth(5).unwrap().pfn().base(),
        PhysAddr::new(0xfed0_0000),
        PhysAddr::new(0xff_ffff_f000),
    ]
}

fn every_way_to_a_frame_is_found(variant: Variant) {
    let image = Image::of(variant);
    let snapshot = capture_all(image);
    let leaves: Vec<(PhysAddr, Mapping)> = snapshot
        .roots()
        .iter()
        .flat_map(|root| {
            let pages = snapshot.leaves(root.id, VirtRange::ALL);
            pages.map(|page| (root.address, page))
        })
        .collect();
    let mut most = 0;
    for pa in frames(&snapshot, &leaves) {
        let report = ask(&["reverse", &image.target(), &format!("{pa:#x}")]);
        let expected = expected(&leaves, pa);
        assert!(
            reported(&report) == expected,
            "{}: {pa}: {} ways, not {}",
            variant.name,
            reported(&report).len(),
            expected.len()
        );
        most = most.max(expected.len());
        let pointing: BTreeSet<(Pfn, u64)> = list(&report, "tables")
            .iter()
            .flat_map(|table| list(table, "entries"))
            .map(|entry| {
                (
                    Pfn::new(number(&entry["table"])),
                    entry["index"].as_u64().unwrap(),
                )
            })
            .collect();
        assert_eq!(
            pointing,
            parents(&snapshot, pa.pfn()),
            "{}: {pa}",
            variant.name
        );
    }
    assert!(most > 64, "no frame is in all processes");
}

#[test]
fn with_kpti_every_way_to_a_frame_in_any_address_space_is_found() {
    every_way_to_a_frame_is_found(Variant::PTI_ON);
}

#[test]
fn with_five_levels_every_way_to_a_frame_in_any_address_space_is_found() {
    every_way_to_a_frame_is_found(Variant::LA57_PTI_OFF);
}
