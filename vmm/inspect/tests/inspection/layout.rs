//! What lies where, told by the tables alone.

use heirloom_inspect::layout::{Area, Layout};
use heirloom_inspect::{Depth, Entry, PageSize, PhysAddr, VirtAddr, VirtRange};

use crate::scene::{
    Bases, CPU_ENTRY_AREA, ESPFIX, GIB, Guest, IMAGE_TEXT, MIB, MODULES, PAGE, Plan, VSYSCALL, bits,
};

fn layout(guest: &Guest) -> Layout {
    guest.discover().layout
}

#[track_caller]
fn range_of(layout: &Layout, area: Area) -> VirtRange {
    let mut found = layout.regions.iter().filter(|region| region.area == area);
    let region = found.next().unwrap_or_else(|| panic!("no {area}"));
    assert!(found.next().is_none(), "{area} twice");
    region.range
}

fn evidence_of(layout: &Layout, area: Area) -> &str {
    let mut regions = layout.regions.iter();
    &regions.find(|region| region.area == area).unwrap().evidence
}

fn areas(layout: &Layout) -> Vec<Area> {
    layout.regions.iter().map(|region| region.area).collect()
}

#[test]
fn every_area_is_found_wherever_kaslr_moves_it_with_what_tells_so() {
    for mut plan in Plan::all() {
        for bases in [Bases::moved(plan.depth), Bases::fixed(plan.depth)] {
            plan.bases = bases;
            let guest = Guest::new(plan.clone());
            let layout = layout(&guest);
            assert_eq!(
                areas(&layout),
                [
                    Area::User,
                    Area::DirectMap,
                    Area::Vmalloc,
                    Area::Vmemmap,
                    Area::CpuEntryArea,
                    Area::KernelImage,
                    Area::Modules,
                    Area::Fixmap,
                ],
                "{plan}"
            );
            let first = |area| range_of(&layout, area).first;
            assert_eq!(first(Area::DirectMap), bases.direct_map);
            assert_eq!(first(Area::Vmalloc), bases.vmalloc);
            assert_eq!(first(Area::Vmemmap), bases.vmemmap);
            assert_eq!(first(Area::CpuEntryArea), CPU_ENTRY_AREA);
            assert_eq!(first(Area::KernelImage), bases.image);
            assert_eq!(first(Area::Modules), MODULES);
            let bytes = |area| range_of(&layout, area).bytes();
            assert_eq!(bytes(Area::DirectMap), 64 * MIB - (128 << 10));
            assert_eq!(bytes(Area::Vmemmap), 2 * MIB);
            assert_eq!(bytes(Area::KernelImage), 8 * MIB);
            let user = range_of(&layout, Area::User);
            assert_eq!(user.bytes(), 1 << (plan.depth.virtual_bits() - 1));

            let map = layout.direct_map.unwrap();
            assert_eq!(map.base, bases.direct_map);
            assert_eq!(map.ram_bytes, 64 * MIB - (128 << 10));
            let physical = PhysAddr::new(0x123_4000);
            assert_eq!(map.physical(guest.direct(physical)), physical);
            assert_eq!(layout.kernel_image.unwrap().pa, IMAGE_TEXT);
            assert_eq!(layout.vmemmap.unwrap().element_bytes, 64);
            let evidence = evidence_of(&layout, Area::DirectMap);
            let moved = if bases == Bases::fixed(plan.depth) {
                "Linux's base without KASLR"
            } else {
                "GiB above Linux's base without KASLR"
            };
            assert!(evidence.contains(moved), "{evidence}");
            assert!(
                evidence.contains("shows 63 of 64 MiB of RAM in 30 pages of 2 MiB, 992 of 4 KiB")
            );
            let evidence = evidence_of(&layout, Area::KernelImage);
            assert!(evidence.contains("physical 0x1000000"), "{evidence}");
            assert!(evidence.contains("4096 KiB of it executable"), "{evidence}");
            let evidence = evidence_of(&layout, Area::Vmalloc);
            assert!(
                evidence.starts_with("15 pages in 8 ranges between the direct map and vmemmap"),
                "{evidence}"
            );
        }
    }
}

#[test]
fn regions_ascend_and_do_not_overlap() {
    for plan in Plan::all()
        .into_iter()
        .chain([Plan::large(Depth::Four, true)])
    {
        let layout = layout(&Guest::new(plan));
        for pair in layout.regions.windows(2) {
            assert!(pair[0].range.last < pair[1].range.first, "{pair:?}");
        }
    }
}

#[test]
fn a_pc_with_a_pci_hole_and_ram_above_4_gib_has_one_direct_map_over_all() {
    for depth in [Depth::Four, Depth::Five] {
        for gigabyte_pages in [false, true] {
            let plan = Plan {
                gigabyte_pages,
                ..Plan::large(depth, false)
            };
            let guest = Guest::new(plan);
            let layout = layout(&guest);
            let map = layout.direct_map.unwrap();
            assert_eq!(map.base, guest.plan.bases.direct_map);
            assert_eq!(map.ram_bytes, 3 * GIB - 0x6_0000);
            assert_eq!(map.range.bytes(), 5 * GIB);
            assert_eq!(map.pages.size_1_gib, if gigabyte_pages { 2 } else { 0 });
            // 2 MiB for each section of 128 MiB that has RAM, and none for the hole.
            let vmemmap = layout.vmemmap.unwrap();
            assert_eq!(vmemmap.element_bytes, 64);
            assert_eq!(vmemmap.mapped_bytes, 3 * GIB / 64);
            assert_eq!(vmemmap.range.bytes(), 5 * GIB / 64);
        }
    }
}

#[test]
fn a_kernel_without_vmemmap_has_none() {
    for mut plan in Plan::all() {
        plan.vmemmap = false;
        let layout = layout(&Guest::new(plan.clone()));
        assert!(!areas(&layout).contains(&Area::Vmemmap), "{plan}");
        assert_eq!(layout.vmemmap, None);
        assert_eq!(range_of(&layout, Area::Vmalloc).first, plan.bases.vmalloc);
        let evidence = evidence_of(&layout, Area::Vmalloc);
        assert!(
            evidence.contains("between the direct map and the cpu entry area"),
            "{evidence}"
        );
    }
}

#[test]
fn an_array_that_is_too_short_or_too_long_for_ram_or_read_only_is_no_vmemmap() {
    for doctor in [
        // Of RAM's 64 MiB only 32 have elements.
        |guest: &mut Guest| {
            let va = guest.plan.bases.vmemmap;
            guest.change(guest.init, va, heirloom_inspect::Level::Pd, |_| {
                Entry::ABSENT
            });
            for page in 0..128 {
                let to = PhysAddr::new(52 * MIB + page * PAGE);
                guest.map(
                    guest.init,
                    va.wrapping_add(page * PAGE),
                    to,
                    PageSize::Size4KiB,
                    bits::DATA,
                );
            }
        },
        |guest: &mut Guest| {
            for page in 1..4 {
                let va = guest.plan.bases.vmemmap.wrapping_add(page * 2 * MIB);
                let to = PhysAddr::new(52 * MIB);
                guest.map(guest.init, va, to, PageSize::Size2MiB, bits::DATA);
            }
        },
        |guest: &mut Guest| {
            let va = guest.plan.bases.vmemmap;
            guest.change(guest.init, va, heirloom_inspect::Level::Pd, |entry| {
                entry.without(Entry::WRITABLE)
            });
        },
    ] {
        let mut guest = Guest::new(Plan::new(Depth::Four, false));
        let before = layout(&guest).vmemmap.unwrap().element_bytes;
        doctor(&mut guest);
        let after = layout(&guest).vmemmap;
        assert!(
            after.is_none_or(|found| found.element_bytes != before),
            "{after:?}"
        );
    }
}

#[test]
fn areas_that_only_some_kernels_use_are_named_where_they_are_used() {
    for mut guest in Guest::all() {
        for (va, flags) in [(VSYSCALL, bits::USER_CONSTANTS), (ESPFIX, bits::CONSTANTS)] {
            let page = guest.data_page();
            guest.map(guest.init, va, page, PageSize::Size4KiB, flags);
        }
        let layout = layout(&guest);
        assert_eq!(range_of(&layout, Area::Vsyscall).bytes(), PAGE);
        let espfix = range_of(&layout, Area::EspFix);
        assert_eq!((espfix.first, espfix.bytes()), (ESPFIX, PAGE));
        assert_eq!(layout.area_of(VSYSCALL), Some(Area::Vsyscall));
        assert_eq!(layout.area_of(VirtAddr::new(0xffff_ffff_ffff_f000)), None);
    }
}
