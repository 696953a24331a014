//! `cr3-known` and `canonical` in a guest with several CPUs, of which one tells.

use heirloom_abi::layout::CPU_ENTRY_AREA;
use heirloom_harness::event::{Event, EventKind};
use heirloom_inspect::{CpuState, Cr3, PhysAddr, VirtAddr};

use crate::scene::{IMAGE, MODE, Scene};

const CR3: &str = "cr3-known";
const CANONICAL: &str = "canonical";
/// The CPU that tells.
const REPORTING: usize = 1;

/// A CPU in long mode with four levels: CR0.PG and PE, CR4.PAE, EFER.LMA, LME and NXE.
fn cpu(root: PhysAddr, cpl: u8, rip: VirtAddr) -> CpuState {
    CpuState {
        cr0: 0x8001_0011,
        cr3: Cr3::new(root.get()),
        cr4: 0xa0,
        efer: 0xd00,
        cpl,
        rip,
        ..CpuState::default()
    }
}

fn in_kernel(root: PhysAddr) -> CpuState {
    cpu(root, 0, IMAGE.wrapping_add(0x1234))
}

fn in_ring_3(root: PhysAddr) -> CpuState {
    cpu(root, 3, VirtAddr::new(0x40_1000))
}

/// Process 1 tells something on CPU 1, while `first` and `last` are what CPUs 0 and 2 have.
fn tell(scene: &mut Scene, first: CpuState, last: CpuState) {
    let text = String::new();
    let event = Event {
        sequence: 0,
        cpu: u32::try_from(REPORTING).unwrap(),
        pid: 1,
        claim: EventKind::Checkpoint { text },
        counters: scene.counters(),
    };
    let cpus = [first, in_kernel(scene.root(1)), last];
    scene.judge.apply(&event);
    let roots = scene.judge.roots();
    let snapshot = scene.capturer.capture(&scene.memory, MODE, roots);
    let Scene { judge, memory, .. } = scene;
    judge.observe(&event, &cpus, REPORTING, &snapshot, memory);
    assert_eq!(judge.verify(), Ok(()));
}

#[test]
fn other_cpus_may_run_any_living_process_or_none_in_either_ring() {
    let scene = Scene::family();
    let (kernel, two, four) = (scene.root(0), scene.root(2), scene.root(4));
    for (first, last) in [
        (in_kernel(kernel), in_kernel(kernel)),
        (in_ring_3(two), in_kernel(four)),
        (in_ring_3(four), in_kernel(kernel)),
        // On its way into the kernel.
        (
            cpu(two, 0, VirtAddr::new(CPU_ENTRY_AREA + 0x7010)),
            in_ring_3(four),
        ),
        // Not started.
        (in_kernel(kernel), CpuState::default()),
    ] {
        let mut scene = Scene::family();
        tell(&mut scene, first, last);
        scene.assert_broken(&[]);
        assert_eq!(scene.judge.cpus(), 3);
    }
}

#[test]
fn a_cpu_that_was_left_on_a_dead_processs_root_is_found() {
    let mut scene = Scene::family();
    let dead = scene.root(5);
    scene.exit(5);
    let kernel = in_kernel(scene.root(0));
    tell(&mut scene, kernel, in_kernel(dead));
    scene.assert_broken(&[CR3]);
    let finding = scene.finding(CR3);
    assert_eq!(finding.place, "CR3 of CPU 2");
    assert!(
        finding.found.contains("nobody that is known"),
        "{finding:?}"
    );
}

#[test]
fn a_process_on_two_cpus_is_found_whether_one_of_them_tells_or_not() {
    for (roots, place, other) in [
        ([0, 1], "CR3 of CPU 2", "CPU 1"),
        ([1, 0], "CR3 of CPU 0", "CPU 1"),
        ([2, 2], "CR3 of CPU 2", "CPU 0"),
    ] {
        let mut scene = Scene::family();
        let [first, last] = roots.map(|pid| in_kernel(scene.root(pid)));
        tell(&mut scene, first, last);
        scene.assert_broken(&[CR3]);
        let finding = scene.finding(CR3);
        assert_eq!(finding.place, place);
        assert!(finding.found.contains(other), "{finding:?}");
    }
}

#[test]
fn another_cpu_that_executes_what_is_no_kernel_text_in_ring_0_is_found() {
    let mut scene = Scene::family();
    let root = scene.root(2);
    let kernel = in_kernel(scene.root(0));
    tell(&mut scene, kernel, cpu(root, 0, VirtAddr::new(0x40_1000)));
    scene.assert_broken(&[CANONICAL]);
    assert_eq!(scene.finding(CANONICAL).place, "RIP of CPU 2");
}

#[test]
fn what_a_process_did_on_several_cpus_is_counted() {
    let mut scene = Scene::family();
    let kernel = in_kernel(scene.root(0));
    assert_eq!(scene.judge.model().migrated(), 0);
    tell(&mut scene, kernel, kernel);
    let model = scene.judge.model();
    // The family was told of by CPU 0.
    assert_eq!((model.migrated(), model.events_of(1)), (1, 1));
    assert_eq!(model.events_of(0) + 1, model.events());
}
