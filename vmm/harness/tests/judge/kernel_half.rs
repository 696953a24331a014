//! `kernel-half-shared` and `kernel-tables-same-frames`.

use heirloom_inspect::{Depth, Entry, Level, VirtAddr, VirtRange};

use crate::scene::{PAGE, Scene, VMALLOC, assert_evidence, assert_walks, direct_map};

const SHARED: &str = "kernel-half-shared";
const SAME_FRAMES: &str = "kernel-tables-same-frames";

fn first_of(index: u16) -> VirtAddr {
    VirtRange::of_top_entry(index, Depth::Four).first
}

#[test]
fn a_child_that_did_not_inherit_an_entry_is_named_with_both_walks() {
    let mut scene = Scene::family();
    scene.memory.poke(scene.root(5).pfn(), 465, Entry::ABSENT);
    scene.checkpoint(1);
    scene.assert_broken(&[SHARED]);
    let finding = scene.finding(SHARED);
    assert_evidence(finding, 5, "PGD[465]", first_of(465));
    assert_walks(finding, &[0, 5]);
    assert_eq!(finding.found, "absent");
}

#[test]
fn a_child_that_did_not_inherit_the_entry_above_kernel_memory_does_not_see_that_either() {
    let mut scene = Scene::family();
    scene.memory.poke(scene.root(5).pfn(), 402, Entry::ABSENT);
    scene.checkpoint(1);
    scene.assert_broken(&[SHARED, "propagated"]);
    assert_evidence(scene.finding(SHARED), 5, "PGD[402]", Scene::memory_of_2());
}

#[test]
fn a_child_that_did_not_inherit_the_direct_map_has_none() {
    let mut scene = Scene::family();
    scene.memory.poke(scene.root(4).pfn(), 273, Entry::ABSENT);
    scene.checkpoint(1);
    scene.assert_broken(&[SHARED, "direct-map-complete"]);
    assert_evidence(scene.finding(SHARED), 4, "PGD[273]", direct_map(0));
}

#[test]
fn an_entry_that_the_kernel_itself_lacks_is_found_in_everybody_else() {
    let mut scene = Scene::family();
    scene.memory.poke(scene.kernel.pfn(), 464, Entry::ABSENT);
    scene.checkpoint(1);
    scene.assert_broken(&[SHARED]);
    assert_eq!(scene.findings(SHARED).len(), 4);
}

#[test]
fn an_entry_with_other_flags_is_another_entry_though_the_table_is_the_same() {
    let mut scene = Scene::family();
    let root = scene.root(4).pfn();
    let entry = scene.memory.peek(root, 465);
    scene.memory.poke(root, 465, entry | Entry::NO_EXECUTE);
    scene.checkpoint(1);
    scene.assert_broken(&[SHARED]);
    assert_evidence(scene.finding(SHARED), 4, "PGD[465]", first_of(465));
}

#[test]
fn what_the_cpu_writes_into_an_entry_makes_no_difference() {
    let mut scene = Scene::family();
    let root = scene.root(4).pfn();
    let entry = scene.memory.peek(root, 402);
    scene.memory.poke(root, 402, entry | Entry::ACCESSED);
    // Nor does what software keeps in an absent entry.
    scene.memory.poke(root, 260, Entry::new(0xabc0));
    scene.checkpoint(1);
    scene.assert_broken(&[]);
}

#[test]
fn lower_tables_that_were_copied_privately_are_found_while_they_still_agree() {
    for level in [Level::Pdpt, Level::Pd, Level::Pt] {
        let mut scene = Scene::family();
        scene.privatize(scene.root(4), VMALLOC, level);
        scene.checkpoint(1);
        // Another table needs another PGD entry, so the first rule breaks with the second.
        scene.assert_broken(&[SHARED, SAME_FRAMES]);
        let finding = scene.finding(SAME_FRAMES);
        assert_evidence(finding, 4, "PGD[402]", Scene::memory_of_2());
        assert_walks(finding, &[0, 4]);
        let tables: Vec<_> = finding
            .walks
            .iter()
            .map(|(_, walk)| walk.steps()[1].table)
            .collect();
        assert_ne!(tables[0], tables[1]);
    }
}

#[test]
fn a_private_copy_agrees_until_the_first_change() {
    let mut scene = Scene::family();
    scene.privatize(scene.root(4), VMALLOC, Level::Pt);
    scene.map(1, 1);
    scene.assert_broken(&[SHARED, SAME_FRAMES, "propagated"]);
    assert_eq!(scene.findings("propagated").len(), 1);
}

#[test]
fn a_process_that_was_skipped_when_a_new_entry_was_written_to_all_is_named() {
    // `sync`: no entry from boot, but one for each process when it is needed.
    let mut scene = Scene::family();
    let pids = [0, 1, 2, 4, 5];
    for pid in pids {
        scene.memory.poke(scene.root(pid).pfn(), 403, Entry::ABSENT);
    }
    scene.checkpoint(1);
    scene.assert_broken(&[]);
    let at = first_of(403);
    scene.table(scene.kernel, at, Level::Pt);
    let entry = scene.memory.peek(scene.kernel.pfn(), 403);
    for pid in [1, 2, 5] {
        scene.memory.poke(scene.root(pid).pfn(), 403, entry);
    }
    scene.allocate_from(at);
    scene.map(2, 1);
    scene.assert_broken(&[SHARED, "propagated"]);
    assert_evidence(scene.finding(SHARED), 4, "PGD[403]", at);
    assert_eq!(
        scene.finding("propagated").whose,
        scene.finding(SHARED).whose
    );
}

#[test]
fn an_entry_that_stays_with_its_maker_is_the_bug_of_strategy_none() {
    let mut scene = Scene::family();
    for pid in [0, 1, 2, 4, 5] {
        scene.memory.poke(scene.root(pid).pfn(), 403, Entry::ABSENT);
    }
    // The second page needs the new entry.
    scene.allocate_from(first_of(403).wrapping_add(0_u64.wrapping_sub(PAGE)));
    let at = scene.map_below(scene.root(2), 2, 2);
    scene.read(5, at);
    scene.read(5, at.wrapping_add(PAGE));
    scene.assert_broken(&[SHARED, "propagated"]);
    let finding = scene.finding(SHARED);
    assert_evidence(finding, 2, "PGD[403]", at.wrapping_add(PAGE));
    assert_walks(finding, &[0, 2]);
    let propagated = scene.findings("propagated");
    // In the tables of all the others, and on the CPU of the one that read.
    assert_eq!(propagated.len(), 5);
    for finding in &propagated {
        assert_eq!(finding.address, Some(at.wrapping_add(PAGE)));
        assert_eq!(finding.walks.len(), 2);
        assert!(finding.walks[0].1.result.is_ok());
        assert!(finding.walks[1].1.result.is_err());
    }
    assert!(propagated[4].place.starts_with("read of"));
    assert_walks(propagated[4], &[2, 5]);
}

#[test]
fn one_entry_where_another_belongs_shows_one_area_twice() {
    let mut scene = Scene::family();
    let root = scene.root(5).pfn();
    let entry = scene.memory.peek(root, 464);
    scene.memory.poke(root, 465, entry);
    scene.checkpoint(1);
    // The table is in two places then, which is the third rule's concern.
    scene.assert_broken(&[SHARED, SAME_FRAMES, "no-dangling-table"]);
    assert_evidence(scene.finding(SAME_FRAMES), 5, "PGD[465]", first_of(465));
}
