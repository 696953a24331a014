//! What is played is what was captured.

use std::collections::BTreeSet;
use std::sync::Arc;

use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{Capturer, CpuState, Entry, PhysAddr, RootLabel, Snapshot};
use heirloom_source::recording::{
    Capture, End, Ending, MAX_CPUS, Moment, Problem, RecordError, Recorder,
};
use proptest::prelude::*;

use crate::guest::{Act, Guest, Live, MODE, Shared, header, open};

fn act() -> impl Strategy<Value = Act> {
    let position = || 0..12_usize;
    prop_oneof![
        4 => position().prop_map(Act::Fork),
        2 => position().prop_map(Act::Exit),
        4 => (position(), any::<u64>()).prop_map(|(position, page)| Act::Map(position, page)),
        2 => (position(), any::<u16>(), any::<u64>())
            .prop_map(|(position, index, word)| Act::Poke(position, index, word)),
        1 => (position(), any::<u64>()).prop_map(|(position, page)| Act::Empty(position, page)),
        1 => position().prop_map(Act::SelfMap),
        1 => (position(), position()).prop_map(|(position, other)| Act::Alias(position, other)),
    ]
}

/// What a snapshot shows: roots, mode, every table and every missing one.
fn shown(snapshot: &Snapshot) -> impl PartialEq + std::fmt::Debug + use<> {
    let roots = snapshot.roots().iter();
    let roots: Vec<_> = roots.map(|root| (root.label, root.address)).collect();
    let tables = snapshot.tables();
    let tables: BTreeSet<_> = tables
        .map(|table| (table.pfn(), table.level(), table.words().to_vec()))
        .collect();
    let missing: BTreeSet<_> = snapshot.missing().collect();
    (roots, *snapshot.mode(), snapshot.omitted(), tables, missing)
}

/// Whether the two have the same tables and registers, or neither has any.
pub(crate) fn is_same(one: &Moment, other: &Moment) -> bool {
    let tables = |moment: &Moment| {
        let tables = moment.tables.as_ref();
        tables.map(|tables| (shown(&tables.snapshot), tables.cpus.clone(), tables.cpu()))
    };
    tables(one) == tables(other)
        && (one.number, one.at, &one.event) == (other.number, other.at, &other.event)
        && one.memory.pieces() == other.memory.pieces()
}

/// Whether a moment is what was captured live.
pub(crate) fn is_played(moment: &Moment, live: &Live) -> bool {
    let tables = match (&moment.tables, &live.snapshot) {
        (Some(tables), Some(snapshot)) => {
            shown(&tables.snapshot) == shown(snapshot)
                && tables.cpus == live.cpus
                && Some(&tables.cpu()) == live.cpus.last()
        }
        (None, None) => true,
        _ => false,
    };
    tables
        && moment.number.to_le_bytes() == live.page[8..16]
        && moment.event.as_deref() == Some(&live.page)
        && moment.memory.pieces() == live.pieces
}

fn assert_played(moment: &Moment, live: &Live) {
    assert!(
        is_played(moment, live),
        "moment {}: {moment:?}",
        moment.index
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_moment_is_played_as_it_was_in_order_and_out_of_order(
        acts in proptest::collection::vec(act(), 1..60),
        jumps in proptest::collection::vec(any::<proptest::sample::Index>(), 1..20),
    ) {
        let (bytes, lives) = Guest::of(&acts).end();
        let recording = open(bytes);
        prop_assert_eq!(recording.len(), lives.len());
        for (moment, live) in recording.moments().zip(&lives) {
            assert_played(&moment.unwrap(), live);
        }
        let mut player = recording.player();
        for jump in jumps {
            let index = jump.index(lives.len());
            assert_played(&player.moment(index).unwrap(), &lives[index]);
            assert_played(&recording.moment(index).unwrap(), &lives[index]);
        }
    }
}

/// Some hundred kilobytes of tables that change all the time, with events that have no tables.
fn long_run(moments: u64) -> Guest {
    let mut guest = Guest::new();
    for round in 0..moments {
        let position = usize::try_from(round).unwrap();
        guest.act(match round % 7 {
            0 | 3 => Act::Fork(position),
            5 => Act::Exit(position),
            _ => Act::Map(position, round.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40),
        });
        if round % 5 == 4 {
            guest.event_alone();
        } else {
            guest.moment();
        }
    }
    guest
}

#[test]
fn a_long_recording_is_played_from_anywhere_over_keys_and_chunks_of_pages() {
    let (bytes, lives) = long_run(1500).end();
    let recording = open(bytes);
    for (moment, live) in recording.moments().zip(&lives) {
        assert_played(&moment.unwrap(), live);
    }
    for index in [1499, 0, 700, 701, 699, 1023, 1024, 1025, 3] {
        assert_played(&recording.moment(index).unwrap(), &lives[index]);
    }
}

#[test]
fn tables_that_stay_are_shared_between_moments_and_between_jumps() {
    let (bytes, _) = Guest::of(&[Act::Fork(0), Act::Map(1, 5), Act::Fork(1)]).end();
    let recording = open(bytes);
    let mut player = recording.player();
    let mut shared = |one: usize, other: usize| {
        let mut tables = |index| player.moment(index).unwrap().tables.unwrap().snapshot;
        let (one, other) = (tables(one), tables(other));
        let kernel = |snapshot: &Snapshot| {
            let root = snapshot.roots()[0].id;
            Arc::clone(snapshot.root_table(root).unwrap())
        };
        Arc::ptr_eq(&kernel(&one), &kernel(&other))
    };
    assert!(shared(0, 1), "forward");
    assert!(shared(2, 0), "backward");
}

#[test]
fn the_list_of_events_needs_no_tables_and_knows_them_all() {
    let (bytes, lives) = long_run(400).end();
    let recording = open(bytes);
    assert_eq!(recording.events().count(), lives.len());
    for ((index, listed), live) in recording.events().enumerate().zip(&lives) {
        let listed = listed.unwrap();
        assert_eq!(listed.index, index);
        assert_eq!(listed.event.as_deref(), Some(&live.page));
        assert_eq!(listed.number, index as u64);
        assert_eq!(listed.captured, live.snapshot.is_some());
    }
}

#[test]
fn a_moment_is_a_target_with_its_roots_registers_and_memory() {
    let mut guest = Guest::of(&[Act::Fork(0), Act::Fork(1), Act::Exit(0)]);
    let root_frame = guest.lives[1].snapshot.as_ref().unwrap().roots()[2].address;
    guest.event_alone();
    let (bytes, lives) = guest.end();
    let recording = open(bytes);
    let target = recording.target_at(Some(1)).unwrap();
    assert_eq!(target.name, "rec:guest@1");
    assert_eq!(target.cpus, lives[1].cpus);
    assert_eq!(target.roots.len(), 3);
    assert_eq!(target.ram, recording.header().ram());
    assert_eq!(target.depth, Some(heirloom_inspect::Depth::Four));
    let mut bytes = [0; 3];
    let piece = &lives[1].pieces[0];
    target.memory.read_bytes(piece.at, &mut bytes).unwrap();
    assert_eq!(&bytes[..], piece.bytes);
    assert!(target.memory.read_u64(root_frame).is_ok());
    assert!(target.memory.read_u64(PhysAddr::new(0x3000_0000)).is_err());

    // Without a number it is the last moment that has tables.
    let last = recording.target_at(None).unwrap();
    assert_eq!(last.name, "rec:guest@2");
    assert_eq!(last.roots.len(), 2);
    for (number, expected) in [
        (3, "event 3 has no page tables"),
        (9, "no event 9; it has events 0 to 3"),
    ] {
        let error = recording.target_at(Some(number)).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn moments_without_events_are_numbered_by_their_position_and_nobody_judges_them() {
    let file = Shared::default();
    let name = std::path::Path::new("foreign");
    let mut header = header();
    header.strategy = None;
    let mut recorder = Recorder::new(name, Box::new(file.clone()), &header).unwrap();
    let guest = Guest::of(&[Act::Fork(0), Act::Fork(1)]);
    for live in &guest.lives {
        let snapshot = live.snapshot.as_ref().unwrap();
        let capture = Capture {
            snapshot,
            cpus: &live.cpus,
            reporting_cpu: 0,
            pieces: &[],
        };
        recorder.record(None, Some(capture)).unwrap();
    }
    recorder.finish(&End::Done { status: 0 }).unwrap();
    let recording = open(file.bytes());
    assert_eq!(recording.header().strategy, None);
    for (moment, live) in recording.moments().zip(&guest.lives) {
        let moment = moment.unwrap();
        assert_eq!(moment.event, None);
        assert_eq!(moment.number, moment.index as u64);
        assert_eq!(
            shown(&moment.tables.unwrap().snapshot),
            shown(live.snapshot.as_ref().unwrap())
        );
    }
    assert_eq!(recording.target_at(Some(1)).unwrap().roots.len(), 3);
}

#[test]
fn a_recording_is_readable_while_it_grows() {
    let mut guest = Guest::new();
    for round in 0..20 {
        let recording = open(guest.file.bytes());
        assert_eq!(recording.len(), round);
        assert_eq!(recording.ending(), &Ending::Unfinished);
        guest.act(Act::Fork(round));
        guest.moment();
    }
    let (bytes, _) = guest.end();
    assert!(matches!(open(bytes).ending(), Ending::Ended(_)));
}

#[test]
fn a_recording_without_a_moment_is_no_target_and_says_why() {
    let recording = open(Guest::new().file.bytes());
    let error = recording.target_at(None).unwrap_err();
    assert!(matches!(error.problem, Problem::Empty { .. }), "{error}");
    assert!(error.to_string().contains("was not ended"), "{error}");
}

#[test]
fn events_that_have_the_same_number_are_found_by_it_the_first_first() {
    let mut guest = Guest::of(&[Act::Fork(0), Act::Fork(0)]);
    guest.repeat(1);
    let recording = open(guest.file.bytes());
    assert_eq!(recording.len(), 3);
    assert_eq!(recording.moment(2).unwrap().number, 1);
    assert_eq!(recording.position(1).unwrap(), 1);
}

#[test]
fn the_encryption_bit_is_recorded_and_more_than_one_is_refused() {
    let memory = FakeMemory::new();
    let capture = |encryption: u64| {
        let mode = MODE.with_encryption(Entry::new(encryption));
        let file = Shared::default();
        let name = std::path::Path::new("encrypted");
        let mut recorder = Recorder::new(name, Box::new(file.clone()), &header()).unwrap();
        let roots = [(RootLabel::Kernel, PhysAddr::new(0x1000))];
        let snapshot = Capturer::new().capture(&memory, mode, &roots);
        let capture = Capture {
            snapshot: &snapshot,
            cpus: &[],
            reporting_cpu: 0,
            pieces: &[],
        };
        recorder.record(None, Some(capture))?;
        Ok(open(file.bytes()))
    };
    for encryption in [0, 1 << 12, 1 << 47, 1 << 51] {
        let recording: Result<_, RecordError> = capture(encryption);
        let tables = recording.unwrap().moment(0).unwrap().tables.unwrap();
        assert_eq!(tables.snapshot.mode().encryption.get(), encryption);
    }
    for encryption in [1 << 11, 1 << 52, 3 << 46] {
        let error = capture(encryption).unwrap_err();
        assert!(error.to_string().contains("encryption bits 0x"), "{error}");
    }
}

#[test]
fn more_cpus_than_a_moment_has_are_refused_and_as_many_are_not() {
    let guest = Guest::of(&[Act::Fork(0)]);
    let snapshot = guest.lives[0].snapshot.as_ref().unwrap();
    for (count, fits) in [(MAX_CPUS, true), (MAX_CPUS + 1, false)] {
        let file = Shared::default();
        let name = std::path::Path::new("many");
        let mut recorder = Recorder::new(name, Box::new(file.clone()), &header()).unwrap();
        let cpus = vec![CpuState::default(); count];
        let capture = Capture {
            snapshot,
            cpus: &cpus,
            reporting_cpu: count,
            pieces: &[],
        };
        let result = recorder.record(None, Some(capture));
        assert_eq!(result.is_ok(), fits, "{count}");
        if fits {
            let tables = open(file.bytes()).moment(0).unwrap().tables.unwrap();
            assert_eq!(tables.cpus.len(), count);
            assert_eq!(tables.reporting_cpu, count - 1, "there is no such CPU");
        }
    }
}
