//! `kernel-not-user`, `write-xor-execute`, `no-writable-text-alias` and `tables-not-user-mapped`.

use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{Entry, Level, VirtAddr};

use crate::scene::{
    DATA, IMAGE, KERNEL_CONSTANTS, KERNEL_DATA, KERNEL_TEXT, Scene, TEXT, assert_evidence,
    assert_walks, direct_map, place_of,
};

const NOT_USER: &str = "kernel-not-user";
const W_XOR_X: &str = "write-xor-execute";
const NO_ALIAS: &str = "no-writable-text-alias";
const TABLES: &str = "tables-not-user-mapped";

fn in_image((start, _): (u64, u64)) -> VirtAddr {
    IMAGE.wrapping_add(start - KERNEL_TEXT.0)
}

/// A sound family but for one leaf of the kernel half.
fn with_leaf(at: VirtAddr, change: impl FnOnce(Entry) -> Entry) -> Scene {
    let mut scene = Scene::family();
    scene.change(scene.kernel, at, Level::Pt, change);
    scene.checkpoint(1);
    scene
}

#[track_caller]
fn assert_page(scene: &Scene, rule: &str, at: VirtAddr) {
    let finding = scene.finding(rule);
    assert_evidence(finding, 0, &place_of(finding, at), at);
    assert_eq!(finding.range.unwrap().first, at);
    assert_walks(scene.finding(rule), &[0]);
}

#[test]
fn a_user_bit_on_a_kernel_page_is_found() {
    for at in [
        in_image(KERNEL_DATA),
        in_image(KERNEL_TEXT),
        direct_map(0x1_0000),
    ] {
        let scene = with_leaf(at, |entry| entry | Entry::USER);
        scene.assert_broken(&[NOT_USER]);
        assert_page(&scene, NOT_USER, at);
    }
}

#[test]
fn a_user_bit_counts_only_if_every_entry_above_has_it_too() {
    let at = in_image(KERNEL_DATA);
    let mut scene = Scene::family();
    for pid in [0, 1, 2, 4, 5] {
        let root = scene.root(pid);
        scene.change(root, at, Level::Pml4, |entry| entry.without(Entry::USER));
    }
    scene.change(scene.kernel, at, Level::Pt, |entry| entry | Entry::USER);
    scene.checkpoint(1);
    scene.assert_broken(&[]);
}

#[test]
fn one_process_whose_entry_opens_the_kernel_to_ring_3_is_named() {
    let at = in_image(KERNEL_DATA);
    let mut scene = Scene::family();
    for pid in [0, 1, 2, 5] {
        let root = scene.root(pid);
        scene.change(root, at, Level::Pml4, |entry| entry.without(Entry::USER));
    }
    scene.change(scene.kernel, at, Level::Pt, |entry| entry | Entry::USER);
    scene.checkpoint(1);
    scene.assert_broken(&["kernel-half-shared", NOT_USER]);
    let finding = scene.finding(NOT_USER);
    assert_evidence(finding, 4, &place_of(finding, at), at);
    assert_walks(finding, &[4]);
}

#[test]
fn kernel_text_that_is_writable_is_writable_and_executable_and_text() {
    let at = in_image(KERNEL_TEXT);
    let scene = with_leaf(at, |entry| entry | Entry::WRITABLE);
    // The one mistake is both.
    scene.assert_broken(&[W_XOR_X, NO_ALIAS]);
    assert_page(&scene, W_XOR_X, at);
    assert_page(&scene, NO_ALIAS, at);
}

#[test]
fn kernel_data_that_is_executable_is_found() {
    let at = in_image(KERNEL_DATA);
    let scene = with_leaf(at, |entry| entry.without(Entry::NO_EXECUTE));
    scene.assert_broken(&[W_XOR_X]);
    assert_page(&scene, W_XOR_X, at);
}

#[test]
fn constants_that_are_executable_are_found_though_nobody_can_write_them() {
    let at = in_image(KERNEL_CONSTANTS);
    let scene = with_leaf(at, |entry| entry.without(Entry::NO_EXECUTE));
    scene.assert_broken(&[W_XOR_X]);
    assert_page(&scene, W_XOR_X, at);
    assert_eq!(
        scene.finding(W_XOR_X).expected,
        "no execute: this is not kernel text"
    );
}

#[test]
fn text_and_constants_that_are_writable_by_the_direct_map_are_found() {
    let last_page = (KERNEL_CONSTANTS.0 + KERNEL_CONSTANTS.1 - 4096, 4096);
    for ((at, _), what) in [
        (KERNEL_TEXT, "kernel text"),
        (KERNEL_CONSTANTS, "kernel constants"),
        (last_page, "kernel constants"),
    ] {
        let scene = with_leaf(direct_map(at), |entry| entry | Entry::WRITABLE);
        scene.assert_broken(&[NO_ALIAS]);
        assert_page(&scene, NO_ALIAS, direct_map(at));
        assert!(scene.finding(NO_ALIAS).expected.contains(what));
    }
}

#[test]
fn a_large_page_that_has_text_somewhere_inside_is_an_alias_too() {
    let mut scene = Scene::family();
    let large = FakeMemory::KERNEL_DATA | Entry::LARGE;
    let text = crate::scene::pa(KERNEL_TEXT.0);
    let at = direct_map(KERNEL_TEXT.0);
    scene.change(scene.kernel, at, Level::Pd, |_| {
        Entry::pointing_to(text, large)
    });
    scene.checkpoint(1);
    scene.assert_broken(&[NO_ALIAS]);
    assert_page(&scene, NO_ALIAS, at);
}

#[test]
fn a_page_table_that_ring_3_can_write_is_found() {
    let mut scene = Scene::family();
    let table = scene.table(scene.root(4), TEXT, Level::Pt);
    scene.change(scene.root(5), DATA, Level::Pt, |_| {
        Entry::pointing_to(table.base(), FakeMemory::USER_DATA)
    });
    scene.checkpoint(1);
    // A table that is a page as well is more than a table.
    scene.assert_broken(&[TABLES, "no-dangling-table"]);
    let finding = scene.finding(TABLES);
    assert_evidence(finding, 5, &place_of(finding, DATA), DATA);
    assert_walks(finding, &[5]);
}

#[test]
fn a_page_table_that_ring_3_can_reach_by_the_direct_map_is_found() {
    let mut scene = Scene::family();
    let table = scene.table(scene.root(4), TEXT, Level::Pt).base();
    let at = direct_map(table.get());
    scene.change(scene.kernel, at, Level::Pt, |entry| entry | Entry::USER);
    scene.checkpoint(1);
    scene.assert_broken(&[NOT_USER, TABLES]);
    assert_page(&scene, TABLES, at);
}
