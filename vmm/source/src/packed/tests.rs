use std::io::Write;

use super::decoder::Decoder;
use super::unpack::{Job, UnpackError};
use super::*;

/// Pages of several kinds, zeros among them, and a last one that is short.
fn sound() -> Vec<u8> {
    let mut bytes = vec![0; (3 << 20) + 77];
    for (at, byte) in bytes.iter_mut().enumerate().skip(1 << 20).step_by(3) {
        *byte = (at / 1000).to_le_bytes()[0] | 1;
    }
    bytes[2 << 20..(2 << 20) + 5 * 4096].fill(0);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn way(limit: u64) -> Way<'static> {
    Way {
        limit,
        tell: &|_| {},
    }
}

fn job(limit: u64) -> Job<'static> {
    Job::new("f", "gzip", None, way(limit)).unwrap()
}

#[test]
fn what_is_unpacked_is_there_and_its_zeros_take_no_room() {
    use std::os::unix::fs::{FileExt, MetadataExt};
    let sound = sound();
    let packed = gzip(&sound);
    let done = job(LIMIT)
        .run(Decoder::new(Packing::Gzip, &packed[..]), Commands::NONE)
        .unwrap();
    assert!(!done.is_cut);
    assert_eq!(done.length, sound.len() as u64);
    let mut bytes = vec![1; sound.len()];
    done.file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == sound);
    let about = done.file.metadata().unwrap();
    assert!(
        about.blocks() * 512 <= (2 << 20) + 8192,
        "{}",
        about.blocks()
    );
    assert_eq!(about.nlink(), 0);
}

#[test]
fn an_early_end_is_told_from_damage() {
    let sound = sound();
    let packed = gzip(&sound);
    let run = |bytes: &[u8]| job(LIMIT).run(Decoder::new(Packing::Gzip, bytes), Commands::NONE);
    let cut = run(&packed[..packed.len() / 2]).unwrap();
    assert!(cut.is_cut && cut.length > 1 << 20, "{cut:?}");
    // Before the checksum, all bytes are there; whether they are right nobody knows.
    assert!(run(&packed[..packed.len() - 6]).unwrap().is_cut);
    let mut damaged = packed.clone();
    let last = damaged.len() - 6;
    damaged[last] ^= 1;
    let error = run(&damaged).unwrap_err();
    assert!(matches!(error, UnpackError::Damaged { .. }), "{error}");
}

#[test]
fn more_than_is_allowed_is_refused_with_what_allows_it() {
    let packed = gzip(&sound());
    let error = job(1 << 20)
        .run(Decoder::new(Packing::Gzip, &packed[..]), Commands::NONE)
        .unwrap_err();
    assert!(matches!(error, UnpackError::TooLong { .. }), "{error}");
    assert!(error.to_string().contains("unpack=1G"), "{error}");
}

#[test]
fn where_there_is_no_room_it_is_said_how_much_it_takes() {
    let sound = sound();
    let packed = gzip(&sound);
    let error = job(LIMIT)
        .with_room(|_| 1 << 20)
        .run(Decoder::new(Packing::Gzip, &packed[..]), Commands::NONE)
        .unwrap_err();
    let pages = sound.chunks(4096);
    let data = pages.filter(|page| page.iter().any(|byte| *byte != 0));
    let bytes: usize = data.map(<[u8]>::len).sum();
    let text = error.to_string();
    assert!(matches!(error, UnpackError::NoRoom { .. }), "{text}");
    assert!(text.contains(&format!("takes {bytes} bytes")), "{text}");
    assert!(text.contains("has room for 1048576"), "{text}");
}

#[test]
fn what_cannot_be_packed_bytes_is_not_taken_for_it() {
    for (start, packing) in [
        (&b"\x1f\x8b\x08\x00"[..], Some(Packing::Gzip)),
        (b"\x1f\x8b\x08\x20", None),
        (b"BZh91AY&SY", Some(Packing::Bzip2)),
        (b"BZh0", None),
        (b"BZhello", None),
        (b"\xfd7zXZ\0", Some(Packing::Xz)),
        (b"\x28\xb5\x2f\xfd", Some(Packing::Zstd)),
        (b"\x04\x22\x4d\x18", Some(Packing::Lz4)),
        (&[0; 64], None),
        (b"", None),
    ] {
        assert_eq!(Packing::of(start), packing, "{start:?}");
    }
}
