//! Reading across pieces, holes and odd borders, of sparse files and of a process.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use heirloom_inspect::PhysRange;
use nix::unistd::Pid;
use proptest::prelude::*;

use super::*;

/// A file in memory with `bytes` from `offset` on, a hole in front.
fn file_with(offset: u64, bytes: &[u8]) -> File {
    let file = tempfile::tempfile_in("/dev/shm").unwrap();
    file.write_all_at(bytes, offset).unwrap();
    file
}

fn piece(start: u64, bytes: u64, source: usize, offset: u64) -> Piece {
    let start = PhysAddr::new(start);
    Piece::new(PhysRange { start, bytes }, source, offset)
}

/// Bytes that tell where they stand.
fn pattern(length: usize) -> Vec<u8> {
    (0..length.div_ceil(8) as u64)
        .flat_map(|word| (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1).to_le_bytes())
        .take(length)
        .collect()
}

fn column_by_entries(memory: &Memory, first: Pfn, index: u16, count: u64) -> Vec<Entry> {
    (0..count)
        .map(|frame| {
            memory
                .read_entry(Pfn::new(first.get() + frame), index)
                .unwrap_or(Entry::ABSENT)
        })
        .collect()
}

fn column(memory: &Memory, first: Pfn, index: u16, count: usize) -> Vec<Entry> {
    // Not what an entry that is passed over would be.
    let mut entries = vec![Entry::new(u64::MAX); count];
    memory.read_column(first, index, &mut entries);
    entries
}

#[test]
fn a_read_goes_on_across_touching_pieces_of_different_sources_and_stops_at_a_hole() {
    let ours = pattern(0x1000);
    let process = Source::Process(ProcessSource::new(Pid::this(), false));
    let file = file_with(0, &pattern(0x2000));
    let layout = Layout::of(vec![
        piece(0, 0x1000, 0, 0x800),
        piece(0x1000, 0x1000, 1, ours.as_ptr() as u64),
        piece(0x2000, 0x1000, 2, 0),
    ]);
    let memory = Memory::new(
        layout,
        vec![Source::file(file, 0x2000), process, Source::Zeros],
    );
    let mut read = vec![0xff; 0x3000];
    memory.read_bytes(PhysAddr::new(0), &mut read).unwrap();
    assert_eq!(read[..0x1000], pattern(0x2000)[0x800..0x1800]);
    assert_eq!(read[0x1000..0x2000], ours);
    assert_eq!(read[0x2000..], [0; 0x1000]);

    let at = PhysAddr::new(0x2ff9);
    let length = 8;
    assert_eq!(memory.read_u64(at), Err(MemoryError { at, length }));
    assert_eq!(memory.read_u64(PhysAddr::new(0x2ff8)), Ok(0));
}

#[test]
fn holes_of_a_sparse_file_read_as_zero_and_stay_holes() {
    const LENGTH: u64 = 64 << 20;
    let file = file_with(40 << 20, &pattern(0x3000));
    file.set_len(LENGTH).unwrap();
    let blocks = |file: &File| std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap());
    let before = blocks(&file);
    let memory = Memory::new(
        Layout::of(vec![piece(0, LENGTH, 0, 0)]),
        vec![Source::file(file.try_clone().unwrap(), LENGTH)],
    );
    let entries = column(&memory, Pfn::new(0), 0, 16 << 10);
    let present: Vec<usize> = (0..entries.len())
        .filter(|frame| entries[*frame] != Entry::ABSENT)
        .collect();
    assert_eq!(present, [10240, 10241, 10242]);
    let mut all = vec![0xff; 0x5000];
    memory
        .read_bytes(PhysAddr::new((40 << 20) - 0x1000), &mut all)
        .unwrap();
    assert_eq!(all[..0x1000], [0; 0x1000]);
    assert_eq!(all[0x1000..0x4000], pattern(0x3000));
    assert_eq!(all[0x4000..], [0; 0x1000]);
    assert_eq!(blocks(&file), before, "reading must not fill the file");
}

#[test]
fn a_column_that_several_threads_read_is_the_same() {
    const FRAMES: usize = 40 << 10;
    let file = file_with(0, &pattern(FRAMES * 4096 - 0x800));
    let length = file.metadata().unwrap().len();
    let memory = Memory::new(
        Layout::of(vec![piece(0x1000, length, 0, 0)]),
        vec![Source::file(file, length)],
    );
    for index in [0, 255, 256, 511] {
        assert_eq!(
            column(&memory, Pfn::new(0), index, FRAMES + 2),
            column_by_entries(&memory, Pfn::new(0), index, FRAMES as u64 + 2)
        );
    }
}

#[test]
fn what_a_file_has_lost_since_it_was_opened_is_absent_in_a_column() {
    let file = file_with(0, &pattern(16 << 20));
    let memory = Memory::new(
        Layout::of(vec![piece(0, 16 << 20, 0, 0)]),
        vec![Source::file(file.try_clone().unwrap(), 16 << 20)],
    );
    file.set_len(6 << 20).unwrap();
    let entries = column(&memory, Pfn::new(0), 3, 4096);
    assert!(
        entries[..6 << 8]
            .iter()
            .all(|entry| *entry != Entry::ABSENT)
    );
    assert!(
        entries[6 << 8..]
            .iter()
            .all(|entry| *entry == Entry::ABSENT)
    );
}

#[test]
fn pages_that_a_process_lacks_are_absent_and_those_behind_them_are_read() {
    let ours = pattern(5 << 12);
    let address = (ours.as_ptr() as u64).next_multiple_of(4096);
    let process = || Source::Process(ProcessSource::new(Pid::this(), false));
    // The middle piece is the zero page, which no process has.
    let layout = Layout::of(vec![
        piece(0, 0x2000, 0, address),
        piece(0x2000, 0x2000, 1, 0),
        piece(0x4000, 0x2000, 0, address + 0x2000),
    ]);
    let memory = Memory::new(layout, vec![process(), process()]);
    let entries = column(&memory, Pfn::new(0), 0, 6);
    assert_eq!(entries[2..4], [Entry::ABSENT; 2]);
    assert!(
        [0, 1, 4, 5]
            .iter()
            .all(|frame| entries[*frame] != Entry::ABSENT)
    );
    assert_eq!(entries, column_by_entries(&memory, Pfn::new(0), 0, 6));
    assert!(memory.read_u64(PhysAddr::new(0x2000)).is_err());
}

#[test]
fn pages_that_a_process_never_touched_are_passed_over_and_stay_untouched() {
    const PAGES: usize = 10_000;
    let mut map = memmap2::MmapMut::map_anon(PAGES * 4096).unwrap();
    for page in [0, 1, 2, 70, 4095, 4096, 9999] {
        map[page * 4096 + 16] = 1;
    }
    let source = ProcessSource::new(Pid::this(), true);
    let first_page = map.as_ptr() as u64 / 4096;
    let touched = |page: u64| {
        let mut entry = [0; 8];
        let pagemap = source.pagemap().unwrap();
        pagemap
            .read_exact_at(&mut entry, (first_page + page) * 8)
            .unwrap();
        u64::from_le_bytes(entry) >> 62 != 0
    };
    let mut entries = vec![Entry::new(9); PAGES];
    source.read_column(map.as_ptr() as u64 + 16, &mut entries);
    let found: Vec<usize> = (0..PAGES)
        .filter(|page| entries[*page] != Entry::ABSENT)
        .collect();
    assert_eq!(found, [0, 1, 2, 70, 4095, 4096, 9999]);
    // Huge pages may have come with those that were touched; far away from all of them is nothing.
    assert!(touched(4096) && !touched(7000));
}

proptest! {
    #[test]
    fn a_column_is_what_its_entries_are_read_one_by_one(
        pieces in prop::collection::vec((0_u64..0x9000, 0_u64..0x5000, 0_usize..3, 0_u64..0x3000), 0..6),
        first in 0_u64..12,
        index in 0_u16..512,
    ) {
        const LENGTH: usize = 0x9000;
        let bytes = pattern(LENGTH);
        let of_process = bytes.clone();
        let sources = vec![
            Source::file(file_with(0, &bytes), LENGTH as u64),
            Source::Process(ProcessSource::new(Pid::this(), false)),
            Source::Zeros,
        ];
        let pieces = pieces
            .into_iter()
            .map(|(start, length, source, offset)| {
                let base = if source == 1 { of_process.as_ptr() as u64 } else { 0 };
                piece(start, length, source, base + offset)
            })
            .collect();
        let memory = Memory::new(Layout::of(pieces), sources);
        prop_assert_eq!(
            column(&memory, Pfn::new(first), index, 16),
            column_by_entries(&memory, Pfn::new(first), index, 16)
        );
    }
}

/// Pages that are unpacked one by one, counted.
#[derive(Debug)]
struct Counted {
    pages: Vec<Box<Page>>,
    unpacked: Arc<AtomicU64>,
}

impl Format for Counted {
    type Reader = ();

    fn unpack(&self, (): &mut (), number: u64, page: &mut Page) -> Found {
        self.unpacked.fetch_add(1, Relaxed);
        let Some(found) = usize::try_from(number)
            .ok()
            .and_then(|at| self.pages.get(at))
        else {
            return Found::LeftOut;
        };
        *page = **found;
        Found::Here
    }

    fn lost_at(&self) -> Option<u64> {
        None
    }
}

/// Pages as memory has them: tables, bytes by chance as of packed files, small numbers, text, nothing.
fn pages_of_all_kinds(count: u64) -> Vec<Box<Page>> {
    let mut number = 1_u64;
    let mut chance = || {
        number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) ^ 0x5555;
        number
    };
    let mut page = |kind: u64| {
        let mut page = Box::new([0; PAGE]);
        for word in page.as_chunks_mut::<8>().0 {
            let value = match kind {
                0 if chance().is_multiple_of(8) => chance() & 0x3fff_f000 | 0x67,
                1 | 2 => chance(),
                3 => chance() % 1000,
                4 => chance() & 0x7f7f_7f7f_7f7f_7f7f | 0x2020_2020_2020_2020,
                5 if chance().is_multiple_of(100) => chance() % 9,
                _ => 0,
            };
            *word = value.to_le_bytes();
        }
        page
    };
    (0..count).map(|at| page(at % 7)).collect()
}

#[test]
fn a_search_for_entries_finds_all_and_unpacks_no_page_of_data_again() {
    const COUNT: usize = 2100;
    let unpacked = Arc::new(AtomicU64::new(0));
    let pages = pages_of_all_kinds(COUNT as u64);
    let format = Counted {
        pages,
        unpacked: Arc::clone(&unpacked),
    };
    let all = COUNT as u64 * 4096;
    let source = Source::Paged(Box::new(Paged::new(format)));
    let memory = Memory::new(Layout::of(vec![piece(0, all, 0, 0)]), vec![source]);
    let leads = |entry: &Entry| entry.present() && entry.address().get() < all.next_power_of_two();
    let mut read = 0;
    for index in [511, 273, 402, 0, 508, 256, 511, 255] {
        let expected = column(&memory, Pfn::new(0), index, COUNT);
        let before = unpacked.load(Relaxed);
        let mut found = vec![Entry::new(u64::MAX); COUNT];
        memory.read_links(Pfn::new(0), index, &mut found);
        read += unpacked.load(Relaxed) - before;
        for (expected, found) in expected.iter().zip(&found) {
            let missed = leads(expected) && expected != found;
            assert!(!missed && (expected == found || *found == Entry::ABSENT));
        }
    }
    // Half of all small numbers look like entries; of other pages hardly any is unpacked twice.
    let again = read - COUNT as u64;
    assert!(again < COUNT as u64, "{again} of {COUNT}");
}
