//! `user-half-private`.

use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{Depth, Entry, Level, PageSize, PhysAddr, VirtAddr};

use crate::scene::{
    DATA, KERNEL_DATA, KERNEL_TEXT, STACK, Scene, TEXT, USER_READ_ONLY, assert_evidence,
    assert_walks, pa, place_of,
};

const PRIVATE: &str = "user-half-private";

fn leaf(at: PhysAddr, flags: Entry) -> impl FnOnce(Entry) -> Entry {
    move |_| Entry::pointing_to(at, flags)
}

#[test]
fn an_identity_map_left_in_the_kernels_own_root_is_found() {
    let mut scene = Scene::family();
    scene.memory.map(
        Depth::Four,
        scene.kernel,
        VirtAddr::new(0),
        pa(0),
        PageSize::Size2MiB,
        FakeMemory::KERNEL_DATA,
    );
    scene.checkpoint(0);
    scene.assert_broken(&[PRIVATE]);
    assert_evidence(scene.finding(PRIVATE), 0, "PGD[0]", VirtAddr::new(0));
    assert_walks(scene.finding(PRIVATE), &[0]);
}

#[test]
fn a_user_table_that_two_processes_share_is_named_with_both() {
    for level in [Level::Pdpt, Level::Pd, Level::Pt] {
        for (owner, other) in [(4, 5), (5, 4)] {
            let mut scene = Scene::family();
            scene.touch(owner, DATA);
            scene.checkpoint(1);
            let above = [Level::Pml4, Level::Pdpt, Level::Pd]
                .into_iter()
                .find(|above| above.next() == Some(level))
                .unwrap();
            let parent = scene.table(scene.root(owner), TEXT, above);
            let entry = scene.memory.peek(parent, TEXT.index(above));
            scene.change(scene.root(other), TEXT, above, |_| entry);
            scene.checkpoint(1);
            scene.assert_broken(&[PRIVATE]);
            // One finding for all that is below the table, whoever had it first.
            let finding = scene.finding(PRIVATE);
            let place = format!(
                "{} in frame {}",
                Depth::Four.name(level),
                entry.address().pfn()
            );
            let base = TEXT.get() & !(above.entry_span() - 1);
            assert_evidence(finding, 5, &place, VirtAddr::new(base));
            assert_walks(finding, &[4, 5]);
        }
    }
}

#[test]
fn a_page_that_two_processes_may_write_is_named_with_both() {
    let mut scene = Scene::family();
    scene.touch(5, STACK);
    let stack = scene.translate(5, STACK).unwrap();
    scene.change(
        scene.root(4),
        STACK,
        Level::Pt,
        leaf(stack, FakeMemory::USER_DATA),
    );
    scene.checkpoint(1);
    scene.assert_broken(&[PRIVATE]);
    let finding = scene.finding(PRIVATE);
    assert_evidence(
        finding,
        5,
        &format!("user page in frame {}", stack.pfn()),
        STACK,
    );
    assert_walks(finding, &[4, 5]);
}

#[test]
fn a_copy_on_write_page_that_one_process_may_write_is_found_whoever_it_is() {
    // Process 1's data was shared with 2 and 5.
    // Each process that comes to a page which somebody before it, or itself, may write is named.
    for (pid, findings) in [(1, 2), (2, 2), (5, 1)] {
        let mut scene = Scene::family();
        scene.change(scene.root(pid), DATA, Level::Pt, |entry| {
            entry | Entry::WRITABLE
        });
        scene.checkpoint(1);
        scene.assert_broken(&[PRIVATE]);
        assert_eq!(scene.findings(PRIVATE).len(), findings, "process {pid}");
        let finding = scene.findings(PRIVATE)[0];
        assert_eq!(finding.walks.len(), 2);
        let writable = finding
            .walks
            .iter()
            .any(|(_, walk)| walk.result.unwrap().rights.write);
        assert!(writable, "{finding:#?}");
    }
}

#[test]
fn a_page_that_a_process_has_twice_is_its_own_affair_until_another_has_it_too() {
    let mut scene = Scene::family();
    let shared = scene.translate(1, DATA).unwrap();
    let spare = VirtAddr::new(0x50_0000);
    scene.touch(4, spare);
    let own = scene.translate(4, spare).unwrap();
    let again = VirtAddr::new(0x50_1000);
    scene.map_in(scene.root(4), again, own, FakeMemory::USER_DATA);
    scene.map_in(scene.root(2), spare, shared, USER_READ_ONLY);
    scene.checkpoint(1);
    scene.assert_broken(&[]);
    scene.map_in(scene.root(2), again, shared, FakeMemory::USER_DATA);
    scene.checkpoint(1);
    scene.assert_broken(&[PRIVATE]);
}

#[test]
fn a_large_page_over_anothers_small_one_is_shared() {
    let mut scene = Scene::family();
    let stack = scene.translate(1, STACK).unwrap();
    scene.memory.map(
        Depth::Four,
        scene.root(5),
        VirtAddr::new(0x4000_0000),
        pa(stack.get() & !((2 << 20) - 1)),
        PageSize::Size2MiB,
        USER_READ_ONLY,
    );
    scene.touch(1, STACK);
    scene.checkpoint(1);
    // All tables are in that part of RAM, and so is kernel memory.
    scene.assert_broken(&[PRIVATE, "tables-not-user-mapped", "no-dangling-table"]);
}

/// Some memory of the scene.
type Memory = fn(&Scene) -> PhysAddr;

#[test]
fn kernel_memory_in_a_user_half_is_found_whatever_kind_it_is() {
    let vmalloc: Memory = |scene| scene.translate(0, Scene::memory_of_2()).unwrap();
    let cases: [(Memory, Entry, &str); 4] = [
        (|_| pa(KERNEL_DATA.0), FakeMemory::USER_DATA, "kernel image"),
        (|_| pa(KERNEL_TEXT.0), FakeMemory::USER_TEXT, "kernel image"),
        (vmalloc, USER_READ_ONLY, "kernel memory"),
        (|_| pa(0x90_0000), FakeMemory::USER_DATA, "no RAM"),
    ];
    for (memory, flags, what) in cases {
        let mut scene = Scene::family();
        let at = memory(&scene);
        scene.change(scene.root(5), STACK, Level::Pt, leaf(at, flags));
        scene.checkpoint(1);
        scene.assert_broken(&[PRIVATE]);
        let finding = scene.finding(PRIVATE);
        assert_evidence(finding, 5, &place_of(finding, STACK), STACK);
        assert_walks(finding, &[5]);
        assert!(finding.found.contains(what), "{finding:?}");
    }
}
