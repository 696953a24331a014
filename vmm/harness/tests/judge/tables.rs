//! `no-dangling-table`.

use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{Capturer, Entry, Level, Pfn, VirtAddr};

use crate::scene::{DATA, Scene, TEXT, VMALLOC, assert_evidence, assert_walks, pa};

const RULE: &str = "no-dangling-table";
/// Nothing of a process is here, but the table above is.
const SPARE: VirtAddr = VirtAddr::new(0x80_0000);
const NO_RAM: Pfn = Pfn::new(0x900);

fn pointer(to: Pfn) -> Entry {
    Entry::pointing_to(to.base(), FakeMemory::POINTER)
}

#[test]
fn an_entry_that_points_outside_ram_is_named_where_it_stands() {
    let mut scene = Scene::family();
    scene.change(scene.root(5), SPARE, Level::Pd, |_| pointer(NO_RAM));
    let table = scene.table(scene.root(5), SPARE, Level::Pd);
    scene.checkpoint(1);
    scene.assert_broken(&[RULE]);
    let place = format!("PD[4] in frame {table}");
    assert_evidence(scene.finding(RULE), 5, &place, SPARE);
    assert_walks(scene.finding(RULE), &[5]);
}

#[test]
fn a_shared_entry_that_points_outside_ram_is_found_once() {
    let mut scene = Scene::family();
    for pid in [0, 1, 2, 4, 5] {
        scene
            .memory
            .poke(scene.root(pid).pfn(), 465, pointer(Pfn::new(1 << 30)));
    }
    scene.checkpoint(1);
    scene.assert_broken(&[RULE]);
    let finding = scene.finding(RULE);
    assert!(finding.place.starts_with("PGD[465] in frame"));
    assert_eq!(finding.found, "frame 0x40000000, which is not in RAM");
}

#[test]
fn a_table_in_memory_that_is_not_ram_is_no_table() {
    let mut scene = Scene::family();
    scene.memory.add(NO_RAM);
    scene.change(scene.root(5), SPARE, Level::Pd, |_| pointer(NO_RAM));
    scene.checkpoint(1);
    scene.assert_broken(&[RULE]);
    assert_eq!(scene.finding(RULE).place, "PT in frame 0x900");
}

#[test]
fn a_table_whose_frame_is_a_user_page_too_was_freed_too_early() {
    let mut scene = Scene::family();
    let page = scene.translate(4, DATA).unwrap().pfn();
    scene.change(scene.root(5), SPARE, Level::Pd, |_| pointer(page));
    scene.checkpoint(1);
    scene.assert_broken(&["tables-not-user-mapped", RULE]);
    let place = format!("table in frame {page}");
    assert_evidence(scene.finding(RULE), 4, &place, DATA);
}

#[test]
fn a_table_whose_frame_was_given_out_as_kernel_memory_is_found() {
    let mut scene = Scene::family();
    let table = scene.table(scene.root(5), TEXT, Level::Pt);
    let at = scene.map_frames(scene.kernel, 1, vec![table]);
    scene.assert_broken(&[RULE]);
    assert_evidence(
        scene.finding(RULE),
        0,
        &format!("table in frame {table}"),
        at,
    );
    assert_walks(scene.finding(RULE), &[0]);
}

#[test]
fn a_table_that_is_used_at_two_levels_is_found() {
    let mut scene = Scene::family();
    let pd = scene.table(scene.root(5), TEXT, Level::Pd);
    scene.change(scene.root(5), SPARE, Level::Pd, |_| pointer(pd));
    scene.checkpoint(1);
    // As a PT it makes pages of tables, and ring 3 can reach them.
    scene.assert_broken(&["tables-not-user-mapped", RULE]);
    let place = format!("table in frame {pd}");
    let both = scene
        .findings(RULE)
        .into_iter()
        .find(|finding| finding.place == place)
        .unwrap();
    assert!(both.found.contains("PD") && both.found.contains("PT"));
}

#[test]
fn a_table_that_a_process_has_in_two_places_is_found() {
    let mut scene = Scene::family();
    let table = scene.table(scene.root(5), TEXT, Level::Pt);
    scene.change(scene.root(5), SPARE, Level::Pd, |_| pointer(table));
    scene.checkpoint(1);
    scene.assert_broken(&[RULE]);
    let finding = scene.finding(RULE);
    assert_eq!(finding.place, format!("PT in frame {table}"));
    let places = finding.walks.iter().map(|(_, walk)| walk.va.get());
    let mut places: Vec<u64> = places.collect();
    places.sort_unstable();
    assert_eq!(places, [TEXT.get() & !0x1f_ffff, SPARE.get()]);
}

#[test]
fn a_kernel_table_in_a_user_half_is_found() {
    let mut scene = Scene::family();
    let entry = scene.memory.peek(scene.kernel.pfn(), 402);
    scene.memory.poke(scene.root(5).pfn(), 7, entry);
    scene.checkpoint(1);
    scene.assert_broken(&[RULE]);
    let finding = scene.finding(RULE);
    let place = format!("PDPT in frame {}", entry.address().pfn());
    assert_evidence(finding, 5, &place, VirtAddr::new(7 << 39));
    assert_walks(finding, &[0, 5]);
}

#[test]
fn an_alias_that_comes_of_sharing_a_table_that_is_too_high_is_found() {
    let mut scene = Scene::family();
    let entry = scene.memory.peek(scene.kernel.pfn(), 402);
    for pid in [0, 1, 2, 4, 5] {
        scene.memory.poke(scene.root(pid).pfn(), 404, entry);
    }
    scene.checkpoint(1);
    scene.assert_broken(&[RULE]);
    let finding = scene.finding(RULE);
    assert_eq!(finding.address, Some(VMALLOC.wrapping_add(2 << 39)));
    assert_walks(finding, &[0, 0]);
    // What hangs below both now is the same memory.
    let ends = finding.walks.iter().map(|(_, walk)| walk.steps()[1].table);
    assert!(ends.is_sorted_by(|a, b| a == b));
}

#[test]
fn tables_that_loop_end_and_are_found() {
    let mut scene = Scene::family();
    let table = scene.memory.frame();
    for index in 0..512 {
        scene.memory.poke(table, index, pointer(table));
    }
    scene.judge = Scene::unbooted().judge;
    scene.sequence = 0;
    scene.memory.poke(scene.kernel.pfn(), 300, pointer(table));
    scene.tell(0, scene.boot_claim());
    let broken = scene.broken();
    assert!(broken.contains(&RULE), "{broken:?}");
    assert!(broken.contains(&"direct-map-exact"), "{broken:?}");
}

#[test]
fn tables_that_were_not_captured_are_not_taken_for_sound() {
    let mut scene = Scene::family();
    let tables = scene.counters().frames_table;
    scene.capturer = Capturer::with_limit(usize::try_from(tables).unwrap());
    scene.checkpoint(1);
    scene.assert_broken(&[]);
    scene.capturer = Capturer::with_limit(usize::try_from(tables).unwrap() - 1);
    scene.checkpoint(1);
    let findings = scene.findings(RULE);
    let cut = findings
        .iter()
        .find(|finding| finding.place == "all tables");
    assert!(cut.unwrap().found.contains("not judged"));
}

#[test]
fn a_root_outside_ram_is_found_with_its_owner() {
    let mut scene = Scene::family();
    scene.tell(
        1,
        heirloom_harness::event::EventKind::ProcessCreated {
            child: 9,
            parent: 1,
            root: pa(NO_RAM.base().get()),
        },
    );
    // The claim contradicts the memory map, and there is no kernel half where there is no table.
    scene.assert_broken(&[
        "propagated",
        "direct-map-complete",
        "claims-match-tables",
        RULE,
    ]);
    let finding = scene.finding(RULE);
    assert_eq!(finding.place, "root in frame 0x900");
    assert_eq!(finding.whose, Some(crate::scene::label(9)));
}
