//! Files that are cut, damaged, or no recordings at all.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::LazyLock;

use heirloom_source::recording::{
    End, Ending, Problem, ReadError, RecordError, Recorder, Recording,
};
use proptest::prelude::*;

use crate::story::{Act, Story, header, open};

/// A short recording.
static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let acts = [
        Act::Fork(0),
        Act::Fork(1),
        Act::Map(1, 0x1234),
        Act::Exit(0),
        Act::SelfMap(1),
    ];
    Story::of(&acts).end().0
});

/// Opens bytes that may be no recording, and plays all of it.
fn play(bytes: &[u8]) -> Result<(usize, Ending), ReadError> {
    let recording = Recording::from_bytes(Path::new("file"), bytes.to_vec())?;
    let mut played = 0;
    for moment in recording.moments() {
        moment?;
        played += 1;
    }
    for listed in recording.events() {
        listed?;
    }
    assert_eq!(played, recording.len());
    Ok((played, recording.ending().clone()))
}

#[test]
fn a_recording_cut_anywhere_is_read_up_to_the_cut_or_says_that_its_header_is_missing() {
    let mut most = 0;
    for length in 0..BYTES.len() {
        match play(&BYTES[..length]) {
            Ok((played, ending)) => {
                assert!(played >= most, "{length}");
                most = played;
                match ending {
                    Ending::Unfinished => {}
                    Ending::Cut { chunk, bytes } => {
                        assert!(chunk < bytes, "{length}");
                        assert_eq!(bytes, length as u64);
                    }
                    other => panic!("{length}: {other}"),
                }
            }
            Err(error) => {
                assert!(matches!(error.problem, Problem::NoHeader { .. }), "{error}");
                assert_eq!(most, 0);
            }
        }
    }
    assert_eq!(most, 5);
    let (_, ending) = play(&BYTES).unwrap();
    assert_eq!(ending, Ending::Ended(End::Done { status: 0 }));
}

#[test]
fn every_flipped_bit_is_found_and_the_moments_before_it_are_read() {
    for bit in 0..8 * BYTES.len() {
        let mut damaged = BYTES.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        match play(&damaged) {
            Ok((played, Ending::Damaged { chunk, .. })) => {
                assert!(chunk <= bit as u64 / 8, "{bit}");
                assert!(played <= 5);
            }
            Ok((_, ending)) => panic!("bit {bit}: {ending}"),
            Err(error) => {
                let is_clear = matches!(
                    error.problem,
                    Problem::Magic | Problem::Version { .. } | Problem::Damaged { .. }
                );
                assert!(is_clear, "{bit}: {error}");
            }
        }
    }
}

/// Replaces bytes of one chunk's contents, and mends its checksums: what a program that writes nonsense
/// would leave.
fn forge(bytes: &mut [u8], chunk: usize, edits: &[(usize, u8)]) {
    let mut at = 12;
    let mut starts = Vec::new();
    while at + 20 <= bytes.len() {
        starts.push(at);
        let stored = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap());
        at += 20 + stored as usize;
    }
    let start = starts[chunk % starts.len()];
    let end = starts
        .iter()
        .copied()
        .find(|other| *other > start)
        .unwrap_or(bytes.len());
    let body = start + 20;
    if body == end {
        return;
    }
    for (offset, byte) in edits {
        bytes[body + offset % (end - body)] = *byte;
    }
    let contents = crc32fast::hash(&bytes[body..end]);
    bytes[start + 12..start + 16].copy_from_slice(&contents.to_le_bytes());
    let head = crc32fast::hash(&bytes[start..start + 16]);
    bytes[start + 16..start + 20].copy_from_slice(&head.to_le_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nonsense_with_the_right_checksums_is_an_error_and_never_a_panic(
        chunk: usize,
        edits in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = BYTES.clone();
        forge(&mut bytes, chunk, &edits);
        if let Err(error) = play(&bytes) {
            prop_assert!(error.to_string().contains("byte "), "{}", error);
        }
    }

    #[test]
    fn bytes_of_any_kind_are_no_recording(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(play(&bytes).is_err());
    }
}

#[test]
fn what_is_no_recording_is_called_so_and_a_later_version_by_its_number() {
    let message = |bytes: &[u8]| play(bytes).unwrap_err().to_string();
    assert!(message(b"\x7fELF and more").contains("no recording of heirloom"));
    let mut later = BYTES.clone();
    later[8] = 7;
    assert!(
        message(&later).contains("has version 7"),
        "{}",
        message(&later)
    );
    assert!(message(b"").contains("ends after 0 bytes"));
}

#[test]
fn bytes_behind_the_end_do_not_matter_to_what_was_recorded() {
    let mut longer = BYTES.clone();
    longer.extend(b"more");
    let (played, ending) = play(&longer).unwrap();
    assert_eq!(played, 5);
    assert!(matches!(ending, Ending::Ended(_)));
}

#[test]
fn a_file_that_exists_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run.rec");
    fs::write(&path, "precious").unwrap();
    let error = Recorder::create(&path, &header()).err().unwrap();
    assert!(matches!(error, RecordError::Exists { .. }), "{error}");
    assert!(error.to_string().contains("run.rec"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[test]
fn where_no_file_can_be_made_the_error_names_it() {
    let path = Path::new("/nonexistent/run.rec");
    let error = Recorder::create(path, &header()).err().unwrap();
    assert!(
        error.to_string().contains("/nonexistent/run.rec"),
        "{error}"
    );
    assert!(
        Recorder::create(Path::new("/dev/full"), &header())
            .err()
            .unwrap()
            .to_string()
            .contains("/dev/full")
    );
}

#[test]
fn a_recording_on_disk_is_read_from_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run.rec");
    fs::write(&path, &*BYTES).unwrap();
    let recording = Recording::open(&path).unwrap();
    assert_eq!(recording.moments().flatten().count(), 5);
    assert_eq!(recording.header().command, ["heirloom", "run"]);

    // Cut while it is open: what was there and is not any more is an error with the file's name.
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(200).unwrap();
    let error = recording.moment(4).unwrap_err();
    assert!(error.to_string().contains("run.rec"), "{error}");
    let io = matches!(&error.problem, Problem::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof);
    assert!(io, "{error}");

    for path in [directory.path(), Path::new("/dev/null")] {
        let error = Recording::open(path).unwrap_err();
        assert!(matches!(error.problem, Problem::NotAFile), "{error}");
    }
    assert!(Recording::open(&directory.path().join("none")).is_err());
    drop(open(BYTES.clone()));
}
