//! Files that a program wrote which does not keep to the format: right checksums, wrong contents.

use std::path::Path;

use heirloom_inspect::{PhysAddr, RootLabel};
use heirloom_source::codec::Put;
use heirloom_source::recording::{MAX_CPUS, MAX_ROOTS, Moment, ReadError, Recording};

use crate::chunks::{self, Chunk};
use crate::file::SHORT;

/// A moment as the format has it, number by number. Bytes below 0x80 are numbers of one byte.
const MOMENT: [(&str, u64); 32] = [
    ("parts", 2),
    ("microseconds", 5),
    ("mode", 0x43),
    ("physical address bits", 46),
    ("CPUs", 1),
    ("reporting CPU", 0),
    ("privilege level", 3),
    ("CR0", 0x8000_0011),
    ("CR2", 0),
    ("CR3", 0x1000),
    ("CR4", 0x20),
    ("EFER", 0xd00),
    ("RIP", 0x40_0000),
    ("RSP", 0x7fff_0000),
    ("RBP", 0),
    ("RFLAGS", 2),
    ("roots that stay first", 0),
    ("roots that stay last", 0),
    ("new roots", 1),
    ("whose", 1),
    ("number of whose", 7),
    ("root", 0x1000),
    ("tables", 1),
    ("missing tables", 0),
    ("pieces", 1),
    ("piece", 0x5000),
    ("bytes of the piece", 1),
    ("byte", 0x41),
    ("pages", 1),
    ("frame", 1),
    ("form", 2),
    ("runs", 0),
];

/// The moment with some numbers changed.
fn moment(changes: &[(&str, u64)]) -> Vec<u8> {
    let mut contents = Vec::new();
    for (name, value) in MOMENT {
        let forged = changes.iter().find(|(known, _)| *known == name);
        contents.put_varint(forged.map_or(value, |(_, value)| *value));
    }
    contents
}

/// A recording of moments with these contents, the first of which stands for itself.
fn recording(moments: Vec<Vec<u8>>) -> Recording {
    let mut all = vec![chunks::split(&SHORT.0)[0].clone()];
    for (number, contents) in moments.into_iter().enumerate() {
        all.push(Chunk::new(b'M', number == 0, contents));
    }
    Recording::from_bytes(Path::new("forged"), chunks::join(&all)).unwrap()
}

fn last(moments: Vec<Vec<u8>>) -> Result<Moment, ReadError> {
    let index = moments.len() - 1;
    recording(moments).moment(index)
}

#[test]
fn a_moment_written_by_hand_is_what_it_says() {
    let moment = last(vec![moment(&[])]).unwrap();
    assert_eq!((moment.number, moment.event), (0, None));
    assert_eq!(moment.at.as_micros(), 5);
    let tables = moment.tables.unwrap();
    let cpu = tables.cpu();
    assert_eq!((cpu.cpl, cpu.cr3.get(), cpu.efer), (3, 0x1000, 0xd00));
    assert_eq!((cpu.rip.get(), cpu.rsp.get()), (0x40_0000, 0x7fff_0000));
    assert_eq!((cpu.cr0, cpu.cr4, cpu.rflags), (0x8000_0011, 0x20, 2));
    let root = (RootLabel::Process(7), PhysAddr::new(0x1000));
    assert_eq!(tables.roots(), [root]);
    assert_eq!(tables.snapshot.tables().count(), 1);
    let mode = tables.snapshot.mode();
    assert_eq!(mode.phys_bits.get(), 46);
    assert!(mode.nxe && mode.wp && mode.gigabyte_pages);
    assert!(!mode.pge && !mode.smep && !mode.smap && !mode.pcide);
    let pieces = moment.memory.pieces();
    assert_eq!(
        (pieces[0].at.get(), &pieces[0].bytes[..]),
        (0x5000, &b"A"[..])
    );
}

#[test]
fn what_cannot_be_is_refused_by_name_and_what_is_just_possible_is_not() {
    for (name, value, expected) in [
        ("parts", 4, Some("a moment's parts")),
        ("parts", 3, Some("a page's form")),
        ("mode", 0x7f, None),
        (
            "physical address bits",
            31,
            Some("the physical address width"),
        ),
        ("physical address bits", 32, None),
        ("physical address bits", 52, None),
        (
            "physical address bits",
            53,
            Some("the physical address width"),
        ),
        ("physical address bits", 46 + 64 * 12, None),
        ("physical address bits", 46 + 64 * 51, None),
        (
            "physical address bits",
            46 + 64 * 11,
            Some("the encryption bit"),
        ),
        (
            "physical address bits",
            46 + 64 * 52,
            Some("the encryption bit"),
        ),
        (
            "physical address bits",
            1 << 32 | 0x2e,
            Some("the physical address width"),
        ),
        ("CPUs", 0, Some("")),
        ("CPUs", 1 << 40, Some("the number of CPUs")),
        ("reporting CPU", 1, Some("the CPU that reports")),
        ("privilege level", 0, None),
        ("privilege level", 4, Some("a privilege level")),
        ("roots that stay first", 1, Some("how many roots stay")),
        ("roots that stay last", 1, Some("how many roots stay")),
        ("new roots", 0, Some("")),
        ("new roots", 1 << 40, Some("the number of new roots")),
        ("whose", 0, None),
        ("whose", 2, None),
        ("whose", 3, None),
        ("whose", 4, Some("whose a root is")),
        ("number of whose", 0xffff_ffff, None),
        ("number of whose", 1 << 32, Some("whose a root is")),
        ("tables", 0, Some("the number of its tables")),
        ("tables", 2, Some("the number of its tables")),
        ("missing tables", 1, Some("the number of its tables")),
        ("pieces", 1 << 40, Some("the pieces of memory")),
        ("bytes of the piece", 1 << 40, Some("a piece of memory")),
        ("pages", 1 << 40, Some("the number of pages")),
        ("pages", 2, Some("a frame number")),
        ("frame", 1 << 52, Some("a frame number")),
        ("form", 1, Some("a page")),
        ("form", 3, Some("a page's form")),
        ("runs", 1, Some("the number of a page's runs")),
    ] {
        let result = last(vec![moment(&[(name, value)])]);
        match (result, expected) {
            (Ok(_), None) => {}
            (Err(error), Some(expected)) => {
                let message = error.to_string();
                assert!(message.contains("at byte "), "{name} {value}: {message}");
                assert!(message.contains(expected), "{name} {value}: {message}");
            }
            (Ok(_), Some(expected)) => panic!("{name} {value} is no error: {expected}"),
            (Err(error), None) => panic!("{name} {value}: {error}"),
        }
    }
}

#[test]
fn bytes_too_few_and_too_many_are_refused() {
    let whole = moment(&[]);
    for length in 2..whole.len() {
        let error = last(vec![whole[..length].to_vec()])
            .unwrap_err()
            .to_string();
        assert!(error.contains("ends in the middle of"), "{length}: {error}");
    }
    let mut longer = whole;
    longer.push(0);
    let error = last(vec![longer]).unwrap_err().to_string();
    assert!(error.contains("1 bytes are left over"), "{error}");
}

#[test]
fn roots_stay_once_at_most() {
    let next = |first, last, new| {
        let mut contents = moment(&[
            ("roots that stay first", first),
            ("roots that stay last", last),
            ("new roots", new),
        ]);
        if new == 0 {
            // Without the three numbers of the new root.
            let mut root = Vec::new();
            for number in [1, 7, 0x1000] {
                root.put_varint(number);
            }
            let at = contents
                .windows(root.len() + 1)
                .position(|part| part[0] == 0 && part[1..] == root)
                .unwrap();
            contents.drain(at + 1..=at + root.len());
        }
        vec![moment(&[]), contents]
    };
    let roots = |moment: Moment| moment.tables.unwrap().roots().len();
    assert_eq!(last(next(1, 0, 0)).map(roots).unwrap(), 1);
    assert_eq!(last(next(0, 1, 0)).map(roots).unwrap(), 1);
    assert_eq!(last(next(1, 0, 1)).map(roots).unwrap(), 2);
    for (first, end) in [(1, 1), (2, 0), (0, 2)] {
        let error = last(next(first, end, 0)).unwrap_err().to_string();
        assert!(error.contains("how many roots stay"), "{error}");
    }
}

/// The moment with so many CPUs and roots, all of them the same.
fn crowd(cpus: usize, roots: usize) -> Vec<u8> {
    let mut contents = Vec::new();
    let put = |contents: &mut Vec<u8>, from: usize, until: usize| {
        for (_, value) in &MOMENT[from..until] {
            contents.put_varint(*value);
        }
    };
    put(&mut contents, 0, 4);
    contents.put_varint(cpus as u64);
    put(&mut contents, 5, 6);
    for _ in 0..cpus {
        put(&mut contents, 6, 16);
    }
    put(&mut contents, 16, 18);
    contents.put_varint(roots as u64);
    for _ in 0..roots {
        put(&mut contents, 19, 22);
    }
    put(&mut contents, 22, 32);
    contents
}

#[test]
fn there_are_as_many_cpus_and_roots_as_the_format_allows_and_no_more() {
    let tables = last(vec![crowd(MAX_CPUS, 3)]).unwrap().tables.unwrap();
    assert_eq!((tables.cpus.len(), tables.roots().len()), (MAX_CPUS, 3));
    for (contents, expected) in [
        (crowd(MAX_CPUS + 1, 1), format!("more than {MAX_CPUS} CPUs")),
        (
            crowd(1, MAX_ROOTS + 1),
            format!("more than {MAX_ROOTS} roots"),
        ),
    ] {
        let error = last(vec![contents]).unwrap_err().to_string();
        assert!(error.contains(&expected), "{error}");
    }
}

#[test]
fn chunks_stand_where_they_can() {
    let short = chunks::split(&SHORT.0);
    let open = |chunks: &[Chunk]| {
        let recording = Recording::from_bytes(Path::new("forged"), chunks::join(chunks));
        recording.map(|recording| (recording.len(), recording.ending().to_string()))
    };
    // No header, and two.
    let error = open(&short[1..]).unwrap_err().to_string();
    assert!(
        error.contains("a chunk of kind `M` cannot stand there"),
        "{error}"
    );
    let mut two = short.clone();
    two.insert(2, short[0].clone());
    let (moments, ending) = open(&two).unwrap();
    assert_eq!(moments, 1);
    assert!(
        ending.contains("a chunk of kind `H` cannot stand there"),
        "{ending}"
    );
    // Kinds that nobody knows yet are skipped wherever they stand.
    let mut later = short.clone();
    for at in [1, 3, later.len()] {
        later.insert(at, Chunk::new(b'Z', false, vec![1, 2, 3]));
    }
    assert_eq!(open(&later).unwrap().0, 5);
    assert_eq!(open(&later).unwrap().1, "the run came to its end");
    // What the end says.
    for (contents, expected) in [
        (vec![0, 0], "the run came to its end"),
        (vec![0, 0x80, 2], "with status 0x100"),
        (vec![1, 3, 2, b'n', b'o'], "the run failed: no"),
        (vec![2], "how the run ended"),
        (vec![0, 0, 0], "1 bytes are left over"),
        (vec![1, 3, 3, b'n', b'o'], "the message"),
    ] {
        let mut ended = short.clone();
        ended.pop();
        ended.push(Chunk::new(b'E', false, contents));
        let (moments, ending) = open(&ended).unwrap();
        assert_eq!(moments, 5);
        assert!(ending.contains(expected), "{ending}");
    }
}
