//! `reserved-bits-clear`, `canonical` and `cr3-known`.

use heirloom_abi::layout::Region;
use heirloom_harness::event::EventKind;
use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{Depth, Entry, Level, VirtAddr, VirtRange};

use crate::scene::{
    DATA, IMAGE, KERNEL_DATA, KERNEL_TEXT, PAGE, Scene, VMALLOC, assert_evidence, assert_walks,
    label, pa, place_of,
};

const RESERVED: &str = "reserved-bits-clear";
const CANONICAL: &str = "canonical";
const CR3: &str = "cr3-known";
const ALL: [u32; 5] = [0, 1, 2, 4, 5];

#[test]
fn a_physical_address_wider_than_the_cpus_is_found_at_its_place() {
    let mut scene = Scene::family();
    let at = DATA.wrapping_add(0x3000);
    let flags = FakeMemory::USER_DATA | Entry::new(1 << 50);
    scene.map_in(scene.root(5), at, pa(0x40_0000), flags);
    let table = scene.table(scene.root(5), at, Level::Pt);
    scene.checkpoint(1);
    scene.assert_broken(&[RESERVED]);
    let finding = scene.finding(RESERVED);
    assert_evidence(finding, 5, "PT[4]", at);
    assert_eq!(finding.entry.unwrap().table, table);
    assert_walks(finding, &[5]);
}

#[test]
fn a_reserved_bit_in_a_shared_kernel_table_is_found_once() {
    let mut scene = Scene::family();
    // An address that is not aligned to a 1 GiB page.
    let at = VMALLOC.wrapping_add(7 << 30);
    scene.change(scene.kernel, at, Level::Pdpt, |_| {
        Entry::pointing_to(pa(0x20_0000), FakeMemory::KERNEL_DATA | Entry::LARGE)
    });
    scene.checkpoint(1);
    scene.assert_broken(&[RESERVED]);
    assert_eq!(scene.finding(RESERVED).address, Some(at));
    assert_eq!(scene.finding(RESERVED).whose, Some(label(0)));
}

#[test]
fn a_page_size_bit_in_the_top_table_is_found_in_each_root_that_has_it() {
    let mut scene = Scene::family();
    for pid in ALL {
        let root = scene.root(pid).pfn();
        let entry = scene.memory.peek(root, 465);
        scene.memory.poke(root, 465, entry | Entry::LARGE);
    }
    scene.checkpoint(1);
    scene.assert_broken(&[RESERVED]);
    let whose: Vec<_> = scene
        .findings(RESERVED)
        .iter()
        .map(|finding| finding.whose.unwrap())
        .collect();
    assert_eq!(whose.len(), 5);
    for pid in ALL {
        assert!(whose.contains(&label(pid)));
    }
}

#[test]
fn a_kernel_mapping_outside_every_region_is_found() {
    for index in [256, 401, 466, 509] {
        let mut scene = Scene::family();
        let table = scene.memory.frame();
        for pid in ALL {
            let entry = Entry::pointing_to(table.base(), FakeMemory::POINTER);
            scene.memory.poke(scene.root(pid).pfn(), index, entry);
        }
        scene.checkpoint(1);
        scene.assert_broken(&[CANONICAL]);
        let first = VirtRange::of_top_entry(index, Depth::Four).first;
        assert_evidence(scene.finding(CANONICAL), 0, &format!("PGD[{index}]"), first);
    }
}

#[test]
fn a_page_of_the_kernel_image_that_shows_another_frame_is_found() {
    let text = IMAGE.wrapping_add(0x1000);
    let data = IMAGE.wrapping_add(KERNEL_DATA.0 - KERNEL_TEXT.0);
    for (at, frame, flags) in [
        (text, KERNEL_TEXT.0, FakeMemory::KERNEL_TEXT),
        (data, 0x40_0000, FakeMemory::KERNEL_DATA),
    ] {
        let mut scene = Scene::family();
        scene.map_in(scene.kernel, at, pa(frame), flags);
        scene.checkpoint(1);
        scene.assert_broken(&[CANONICAL]);
        let place = place_of(scene.finding(CANONICAL), at);
        assert_evidence(scene.finding(CANONICAL), 0, &place, at);
        assert_walks(scene.finding(CANONICAL), &[0]);
    }
}

#[test]
fn a_cpu_that_is_not_in_kernel_text_is_found() {
    let end_of_text = IMAGE.wrapping_add(KERNEL_TEXT.1);
    for rip in [end_of_text, VMALLOC, DATA, VirtAddr::new(u64::MAX)] {
        let mut scene = Scene::family();
        scene.cpu.rip = rip;
        scene.checkpoint(4);
        scene.assert_broken(&[CANONICAL]);
        assert_evidence(scene.finding(CANONICAL), 4, "RIP", rip);
    }
}

#[test]
fn kernel_memory_outside_the_vmalloc_area_is_found() {
    let mut scene = Scene::family();
    let at = VirtAddr::new(0xffff_ea00_0010_0000);
    scene.allocate_from(at);
    scene.map(1, 2);
    scene.assert_broken(&[CANONICAL]);
    assert_evidence(scene.finding(CANONICAL), 1, "kernel memory", at);
}

#[test]
fn a_process_that_died_at_an_address_that_is_none_is_found() {
    let killed = |rip| EventKind::ProcessKilled {
        process: 4,
        vector: 13,
        error_code: 0,
        rip,
        address: VirtAddr::new(0),
    };
    let mut scene = Scene::family();
    // Ring 3 may jump into the kernel half, and die of it.
    scene.tell(4, killed(IMAGE));
    scene.assert_broken(&[]);
    let hole = VirtAddr::new(0x8000_0000_0000_0000);
    scene.tell(4, killed(hole));
    scene.assert_broken(&[CANONICAL]);
    assert_evidence(scene.finding(CANONICAL), 4, "RIP of ring 3", hole);
}

#[test]
fn the_root_of_another_process_in_cr3_is_found_with_its_owner() {
    let mut scene = Scene::family();
    scene.cr3 = Some(scene.root(5).get());
    scene.checkpoint(4);
    scene.assert_broken(&[CR3]);
    let finding = scene.finding(CR3);
    assert_eq!(finding.whose, Some(label(4)));
    assert_eq!(finding.place, "CR3");
    assert!(finding.expected.contains("process 4"));
    assert!(finding.found.contains("process 5"));
}

#[test]
fn a_root_that_nobody_has_is_found() {
    let mut scene = Scene::family();
    scene.cr3 = Some(0x12_3000);
    scene.checkpoint(0);
    scene.assert_broken(&[CR3]);
    assert!(scene.finding(CR3).found.contains("nobody that is known"));
}

#[test]
fn a_process_that_was_never_created_cannot_run() {
    let mut scene = Scene::family();
    scene.checkpoint(77);
    scene.assert_broken(&[CR3]);
    // Nor can one that has ended.
    scene.checkpoint(3);
    assert_eq!(scene.findings(CR3).len(), 2);
}

#[test]
fn a_process_context_identifier_in_cr3_is_no_part_of_the_root() {
    let mut scene = Scene::family();
    scene.cr3 = Some(scene.root(4).get() | 1 << 63 | 0x123);
    scene.checkpoint(4);
    scene.assert_broken(&[]);
}

#[test]
fn a_doorbell_that_ring_3_rings_is_found() {
    let mut scene = Scene::family();
    scene.cpu.cpl = 3;
    scene.checkpoint(4);
    scene.assert_broken(&[CR3]);
    assert_eq!(scene.finding(CR3).place, "privilege level");
}

#[test]
fn kernel_memory_may_end_with_the_vmalloc_area_and_not_a_page_behind_it() {
    let end = VirtAddr::new(Region::Vmalloc.end(Depth::Four));
    let mut scene = Scene::family();
    scene.allocate_from(end.wrapping_add(0_u64.wrapping_sub(2 * PAGE)));
    scene.map(1, 2);
    scene.assert_broken(&[]);

    let mut scene = Scene::family();
    let at = end.wrapping_add(0_u64.wrapping_sub(PAGE));
    scene.allocate_from(at);
    scene.map(1, 2);
    assert!(scene.broken().contains(&CANONICAL), "{:?}", scene.broken());
    let findings = scene.findings(CANONICAL);
    let memory = findings
        .iter()
        .find(|finding| finding.place == "kernel memory");
    assert_eq!(memory.unwrap().address, Some(at));
}

#[test]
fn the_kernel_itself_runs_on_its_own_root_and_no_other() {
    let mut scene = Scene::family();
    scene.cr3 = Some(scene.root(4).get());
    scene.checkpoint(0);
    scene.assert_broken(&[CR3]);
    assert_eq!(scene.finding(CR3).whose, Some(label(0)));
    assert!(scene.finding(CR3).found.contains("process 4"));
}
