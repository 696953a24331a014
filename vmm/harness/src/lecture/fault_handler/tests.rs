//! Doctored page faults: each thing that is wrong with one breaks the claim.

use heirloom_inspect::paging::mode::Mode;
use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{Capturer, Depth, PageSize, RootLabel};

use super::*;
use crate::event::{Counters, Event};

const DEPTH: Depth = Depth::Four;
const USER_PAGE: u64 = 1 << 63 | 0b111;
const READ_ONLY: u64 = 1 << 63 | 1 << 9 | 0b101;

/// The four faults as they should be.
fn good() -> [Handled; 4] {
    let fault = |process, address, error_code, before, after| Handled {
        process,
        address: VirtAddr::new(address),
        error_code,
        entry_address: VirtAddr::new(Region::DirectMap.start(DEPTH)),
        before: Entry::new(before),
        after: Entry::new(after),
    };
    [
        fault(1, PAGES, WRITE_ABSENT, 0, 0x1000 | USER_PAGE),
        fault(1, PAGES + PAGE_SIZE, READ_ABSENT, 0, 0x2000 | USER_PAGE),
        fault(
            2,
            PAGES,
            WRITE_READ_ONLY,
            0x1000 | READ_ONLY,
            0x3000 | USER_PAGE,
        ),
        fault(
            1,
            PAGES,
            WRITE_READ_ONLY,
            0x1000 | READ_ONLY,
            0x1000 | USER_PAGE,
        ),
    ]
}

fn holds(handled: &[Handled]) -> bool {
    let mut proof = Proof::default();
    judge_kinds(handled, &mut proof).is_ok() && proof.holds()
}

#[test]
fn each_kind_of_fault_must_happen_once_and_change_what_it_must() {
    assert!(holds(&good()));
    assert!(!holds(&good()[..3]));
    let doctored: [fn(&mut [Handled; 4]); 6] = [
        // Copied though the page is not shared, and not copied though it is.
        |handled| handled[3].after = Entry::new(0x4000 | USER_PAGE),
        |handled| handled[2].after = Entry::new(0x1000 | USER_PAGE),
        |handled| handled[0].before = Entry::new(0x1000 | READ_ONLY),
        |handled| handled[1].after = Entry::new(0x2000 | READ_ONLY),
        |handled| handled[1].process = 2,
        |handled| handled[3] = handled[2],
    ];
    for (number, doctor) in doctored.into_iter().enumerate() {
        let mut handled = good();
        doctor(&mut handled);
        assert!(!holds(&handled), "{number}");
    }
}

/// Copy on write, as it should be: process 1's page becomes writable, in another frame.
fn fault_seen(doctor: impl FnOnce(&mut FakeMemory, &mut Handled, PhysAddr)) -> FaultSeen {
    let user = VirtAddr::new(PAGES);
    let mut memory = FakeMemory::new();
    let root = memory.root();
    let table = memory.table_for(DEPTH, root, user, Level::Pt);
    let window = VirtAddr::new(Region::DirectMap.start(DEPTH)).wrapping_add(table.base().get());
    let written = FakeMemory::KERNEL_DATA | Entry::ACCESSED | Entry::DIRTY;
    let size = PageSize::Size4KiB;
    memory.map(DEPTH, root, window, table.base(), size, written);
    let (before, after) = (
        Entry::new(0x5000 | READ_ONLY),
        Entry::new(0x6000 | USER_PAGE),
    );
    memory.poke(table, user.index(Level::Pt), before);
    let moment = |memory: &FakeMemory| {
        let roots = [(RootLabel::Process(1), root)];
        Observation {
            event: Event {
                sequence: 0,
                cpu: 0,
                pid: 1,
                claim: EventKind::Done { status: 0 },
                counters: Counters::default(),
            },
            cr3: root,
            snapshot: Capturer::new().capture(memory, Mode::typical(DEPTH), &roots),
        }
    };
    let earlier = moment(&memory);
    memory.poke(table, user.index(Level::Pt), after);
    let offset = 8 * u64::from(user.index(Level::Pt));
    let mut handled = Handled {
        process: 1,
        address: user,
        error_code: WRITE_READ_ONLY,
        entry_address: window.wrapping_add(offset),
        before,
        after,
    };
    doctor(&mut memory, &mut handled, root);
    FaultSeen {
        handled,
        before: earlier,
        after: moment(&memory),
        by_machine: Some(table.base().wrapping_add(offset)),
    }
}

fn fault_holds(fault: &FaultSeen) -> bool {
    let mut proof = Proof::default();
    let judged = judge(fault, &mut proof).is_ok();
    judge_by_machine(fault, "KVM", &mut proof);
    judged && proof.holds()
}

#[test]
fn an_entry_that_was_not_written_where_or_as_the_kernel_says_breaks_the_claim() {
    assert!(fault_holds(&fault_seen(|_, _, _| {})));
    let doctored: [fn(&mut FakeMemory, &mut Handled, PhysAddr); 7] = [
        |_, handled, _| handled.entry_address = handled.entry_address.wrapping_add(8),
        |_, handled, _| handled.entry_address = VirtAddr::new(PAGES),
        |_, handled, _| handled.before = Entry::ABSENT,
        |_, handled, _| handled.after = handled.before,
        |memory, handled, root| {
            memory.change(Depth::Four, root, handled.address, Level::Pt, |_| {
                handled.before
            });
        },
        // The CPU has not written through the direct map's page.
        |memory, handled, root| {
            memory.change(
                Depth::Four,
                root,
                handled.entry_address,
                Level::Pt,
                |entry| entry.without(Entry::DIRTY),
            );
        },
        |memory, handled, root| {
            memory.change(
                Depth::Four,
                root,
                handled.entry_address,
                Level::Pt,
                |entry| entry | Entry::USER,
            );
        },
    ];
    for (number, doctor) in doctored.into_iter().enumerate() {
        assert!(!fault_holds(&fault_seen(doctor)), "{number}");
    }
    let elsewhere = FaultSeen {
        by_machine: None,
        ..fault_seen(|_, _, _| {})
    };
    assert!(!fault_holds(&elsewhere));
}
