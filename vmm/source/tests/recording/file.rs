//! Files that are cut, damaged, or no recordings at all.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::LazyLock;

use heirloom_source::recording::{
    End, Ending, Listed, Moment, Problem, ReadError, RecordError, Recorder, Recording,
};
use proptest::prelude::*;

use crate::chunks;
use crate::guest::{Act, Guest, Live, header, open};
use crate::play::{is_played, is_same};

/// A short recording, and what was captured live.
pub(crate) static SHORT: LazyLock<(Vec<u8>, Vec<Live>)> = LazyLock::new(|| {
    let acts = [
        Act::Fork(0),
        Act::Fork(1),
        Act::Map(1, 0x1234),
        Act::Exit(0),
        Act::SelfMap(1),
    ];
    Guest::of(&acts).end()
});

/// Its bytes.
static BYTES: LazyLock<&Vec<u8>> = LazyLock::new(|| &SHORT.0);

/// Opens bytes that may be no recording, and plays all of it: how many of its moments, from the first on,
/// are those of the short recording, and how many there are.
pub(crate) fn play(bytes: &[u8]) -> Result<(usize, usize, Ending), ReadError> {
    let recording = Recording::from_bytes(Path::new("file"), bytes.to_vec())?;
    let moments: Vec<Moment> = recording.moments().collect::<Result<_, _>>()?;
    let listed: Vec<Listed> = recording.events().collect::<Result<_, _>>()?;
    assert_eq!(moments.len(), recording.len());
    assert_eq!(listed.len(), recording.len());
    for (index, (moment, listed)) in moments.iter().zip(&listed).enumerate() {
        assert_eq!((moment.index, listed.index), (index, index));
        assert_eq!((moment.number, moment.at), (listed.number, listed.at));
        assert_eq!(moment.event, listed.event);
        assert_eq!(moment.tables.is_some(), listed.captured);
        // From anywhere it is the same moment.
        assert!(is_same(&recording.moment(index)?, moment), "{index}");
        assert!(recording.position(moment.number)? <= index);
    }
    let live = moments.iter().zip(&SHORT.1);
    let as_recorded = live.take_while(|(moment, live)| is_played(moment, live));
    Ok((
        as_recorded.count(),
        moments.len(),
        recording.ending().clone(),
    ))
}

#[test]
fn a_recording_cut_anywhere_is_read_up_to_the_cut_or_says_that_its_header_is_missing() {
    let mut most = 0;
    for length in 0..BYTES.len() {
        match play(&BYTES[..length]) {
            Ok((played, all, ending)) => {
                assert_eq!(played, all, "{length}");
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
    let whole = play(&BYTES).unwrap();
    assert_eq!(whole, (5, 5, Ending::Ended(End::Done { status: 0 })));
}

#[test]
fn every_flipped_bit_is_found_and_the_moments_before_it_are_read() {
    let chunks = chunks::split(&BYTES);
    let starts: Vec<usize> = chunks.iter().map(|chunk| chunk.start).collect();
    for bit in 0..8 * BYTES.len() {
        let mut damaged = BYTES.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        match play(&damaged) {
            Ok((played, all, Ending::Damaged { chunk, .. })) => {
                let damaged = starts.iter().rposition(|start| *start <= bit / 8).unwrap();
                assert_eq!(chunk, starts[damaged] as u64, "{bit}");
                let before = chunks[..damaged].iter().filter(|chunk| chunk.kind == b'M');
                assert_eq!((played, all), (before.count(), all), "{bit}");
                assert_eq!(played, all, "{bit}");
            }
            Ok((.., ending)) => panic!("bit {bit}: {ending}"),
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nonsense_with_the_right_checksums_is_an_error_or_other_moments_and_never_a_panic(
        chunk: proptest::sample::Index,
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut chunks = chunks::split(&BYTES);
        let edited = chunk.index(chunks.len());
        let contents = &mut chunks[edited].contents;
        for (at, byte) in edits {
            let at = at.index(contents.len());
            contents[at] = byte;
        }
        match play(&chunks::join(&chunks)) {
            Err(error) => prop_assert!(error.to_string().contains("byte "), "{}", error),
            // What comes before the forged chunk is as it was.
            Ok((played, _, _)) => {
                let before = chunks[..edited].iter().filter(|chunk| chunk.kind == b'M').count();
                prop_assert!(played >= before, "{} of {}", played, before);
            }
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
    let mut later = BYTES.to_vec();
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
    let mut longer = BYTES.to_vec();
    longer.extend(b"more");
    let (played, all, ending) = play(&longer).unwrap();
    assert_eq!((played, all), (5, 5));
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
    fs::write(&path, &**BYTES).unwrap();
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
    drop(open(BYTES.to_vec()));
}
