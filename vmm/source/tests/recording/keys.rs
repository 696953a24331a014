//! When moments stand for themselves.

use crate::chunks::{self, Chunk};
use crate::guest::{Act, Guest};
use crate::play::is_played;

/// The bytes of each moment in a file, and whether it stands for itself.
fn moments(chunks: &[Chunk]) -> Vec<(usize, bool)> {
    let mut moments = Vec::new();
    let (mut bytes, mut key) = (0, false);
    for chunk in chunks {
        match chunk.kind {
            b'P' | b'M' => {
                // It is the first of its moment's chunks that says so.
                assert!(bytes == 0 || !chunk.key);
                key |= chunk.key;
                bytes += chunk.bytes;
            }
            _ => continue,
        }
        if chunk.kind == b'M' {
            moments.push((bytes, key));
            (bytes, key) = (0, false);
        }
    }
    moments
}

#[test]
fn small_moments_stand_for_themselves_after_1024_others() {
    let mut guest = Guest::new();
    for _ in 0..2100 {
        guest.event_alone();
    }
    let (bytes, _) = guest.end();
    let moments = moments(&chunks::split(&bytes));
    let keys: Vec<usize> = (0..)
        .zip(&moments)
        .filter(|(_, (_, key))| *key)
        .map(|(at, _)| at)
        .collect();
    assert_eq!(keys, [0, 1025, 2050]);
}

#[test]
fn a_moment_stands_for_itself_when_those_since_the_last_such_are_as_long_and_64_kib() {
    let mut guest = Guest::new();
    for round in 0..700_usize {
        // Words without any order, which do not compress.
        for step in 0..40_u64 {
            let noise = (round as u64 * 40 + step).wrapping_mul(0x9e37_79b9_7f4a_7c15) & !1;
            guest.act(Act::Poke(1, u16::try_from(noise >> 50).unwrap(), noise));
        }
        if round % 40 == 0 {
            guest.act(Act::Fork(round));
        }
        guest.moment();
    }
    let (bytes, _) = guest.end();
    let moments = moments(&chunks::split(&bytes));
    let (mut key_bytes, mut since, mut keys) = (0, 0, 0);
    for (number, (bytes, key)) in moments.iter().enumerate() {
        let is_due = number == 0 || since >= usize::max(key_bytes, 1 << 16);
        assert_eq!(
            *key, is_due,
            "moment {number}: {since} bytes since one of {key_bytes}"
        );
        if *key {
            (key_bytes, since) = (*bytes, 0);
            keys += 1;
        } else {
            since += bytes;
        }
    }
    assert!(keys > 3, "{keys}");
}

#[test]
fn the_first_moment_is_read_whether_it_says_that_it_stands_for_itself_or_not() {
    let (bytes, lives) = Guest::of(&[Act::Fork(0), Act::Fork(1)]).end();
    let mut chunks = chunks::split(&bytes);
    assert!(chunks[1].key);
    chunks[1].key = false;
    let recording = crate::guest::open(chunks::join(&chunks));
    for (moment, live) in recording.moments().zip(&lives) {
        assert!(is_played(&moment.unwrap(), live));
    }
}

#[test]
fn what_stands_for_itself_is_read_without_what_comes_before_and_what_does_not_is_not() {
    let (bytes, lives) = Guest::of(&[Act::Fork(0), Act::Fork(1)]).end();
    let chunks = chunks::split(&bytes);
    let kinds: Vec<u8> = chunks.iter().map(|chunk| chunk.kind).collect();
    assert_eq!(kinds, *b"HMME");
    // The second moment after another one that it is no difference to: its tables are others.
    let foreign = Guest::of(&[Act::Empty(0, 3)]).end().0;
    let mut mixed = chunks.clone();
    mixed[1] = chunks::split(&foreign)[1].clone();
    let recording = crate::guest::open(chunks::join(&mixed));
    let second = recording
        .moment(1)
        .map(|moment| is_played(&moment, &lives[1]));
    assert!(!matches!(second, Ok(true)));
    // With the whole first moment again before it, it is read.
    mixed.insert(2, chunks[1].clone());
    let recording = crate::guest::open(chunks::join(&mixed));
    assert!(is_played(&recording.moment(2).unwrap(), &lives[1]));
}
