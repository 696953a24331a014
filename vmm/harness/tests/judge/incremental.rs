//! Whatever a guest does to its tables, what is remembered of one moment is so at the next: every event
//! that a scene tells compares the verdict with one that is found with nothing remembered.

use heirloom_abi::propagation::Strategy as Propagation;
use heirloom_harness::event::EventKind;
use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{Entry, Pfn, PhysAddr, PhysicalMemory};
use proptest::prelude::*;

use crate::scene::{DATA, STACK, Scene, TEXT, VMALLOC, pa};

/// Something that happens between two events.
#[derive(Clone, Copy, Debug)]
enum Step {
    Fork,
    Exit,
    Map(u64),
    Unmap,
    Touch,
    Read,
    /// An entry of a table that is reached, what it points to, and its flags.
    Poke(u16, u16, u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Fork),
        Just(Step::Exit),
        (1_u64..4).prop_map(Step::Map),
        Just(Step::Unmap),
        Just(Step::Touch),
        Just(Step::Read),
        (any::<u16>(), any::<u16>(), any::<u8>())
            .prop_map(|(at, to, flags)| Step::Poke(at, to, flags)),
    ]
}

/// Frames that are tables now.
fn tables(scene: &Scene) -> Vec<Pfn> {
    let snapshot = scene.judge.snapshot().unwrap();
    snapshot.tables().map(|table| table.pfn()).collect()
}

fn poke(scene: &mut Scene, at: u16, to: u16, flags: u8) {
    let tables = tables(scene);
    let table = tables[usize::from(at) % tables.len()];
    let mut words = [0; 512];
    scene.memory.read_table(table, &mut words).unwrap();
    // Mostly where something is already, so that what is pointed to changes.
    let used: Vec<u16> = (0..512)
        .filter(|index| words[usize::from(*index)] != 0)
        .collect();
    let index = match used.get(usize::from(to) % (used.len() + 2)) {
        Some(index) => *index,
        None => to % 512,
    };
    let target: PhysAddr = match flags % 4 {
        0 => pa(0),
        1 => tables[usize::from(to) % tables.len()].base(),
        2 => Entry::new(words[usize::from(index)]).address(),
        _ => pa(u64::from(to) << 12),
    };
    let flags = match (flags >> 2) % 6 {
        0 => Entry::ABSENT,
        1 => FakeMemory::POINTER,
        2 => FakeMemory::USER_DATA,
        3 => FakeMemory::KERNEL_DATA,
        4 => FakeMemory::POINTER | Entry::ACCESSED | Entry::DIRTY,
        _ => FakeMemory::USER_TEXT,
    };
    scene
        .memory
        .poke(table, index, Entry::pointing_to(target, flags));
}

/// `wild`: entries were written at random, so that the kernel can no longer work on its tables.
fn take(scene: &mut Scene, step: Step, number: usize, wild: bool) {
    let pids = scene.pids();
    let Some(&pid) = pids.get(number % pids.len().max(1)) else {
        return scene.checkpoint(0);
    };
    match step {
        Step::Fork if wild => scene.adopt_bare(pid),
        Step::Fork => drop(scene.fork(pid)),
        Step::Exit => scene.exit(pid),
        Step::Read => scene.read(pid, VMALLOC),
        Step::Poke(at, to, flags) => {
            poke(scene, at, to, flags);
            scene.checkpoint(pid);
        }
        Step::Map(pages) if !wild => drop(scene.map(pid, pages)),
        Step::Unmap if !wild && !scene.mapped().is_empty() => scene.unmap(pid, scene.mapped()[0]),
        Step::Touch if !wild => {
            scene.touch(pid, [TEXT, DATA, STACK][number % 3]);
            scene.checkpoint(pid);
        }
        Step::Map(_) | Step::Unmap | Step::Touch => scene.checkpoint(pid),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_remembered_is_so(
        strategy in prop::sample::select(Propagation::ALL.to_vec()),
        steps in prop::collection::vec(step(), 1..24),
    ) {
        let mut scene = Scene::crowd_under(strategy);
        let mut wild = false;
        for (number, step) in steps.into_iter().enumerate() {
            wild |= matches!(step, Step::Poke(..));
            take(&mut scene, step, number, wild);
        }
    }
}

/// An entry that one lacks is shown by the kernel memory below it, while there is any: so that what is told of memory
/// may change what was found, though no table did.
#[test]
fn memory_that_is_only_said_to_be_gone_changes_where_a_missing_entry_is_shown() {
    let mut scene = Scene::family();
    scene.memory.poke(scene.root(5).pfn(), 402, Entry::ABSENT);
    scene.checkpoint(1);
    let address = Scene::memory_of_2();
    // What is left begins further up.
    scene.map(1, 1);
    scene.tell(1, EventKind::KernelUnmapped { address, pages: 4 });
}
