//! The rows of `heirloom maps --format`: Arrow's, read by a reader that shares nothing with the writer, against those of CSV.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};

use heirloom_inspect::Entry;
use tempfile::TempDir;

use crate::image::{Image, heirloom};

const SCHEMA: u64 = 1;
const DICTIONARY: u64 = 2;
const BATCH: u64 = 3;

/// Little-endian bytes as a number.
fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

fn size(bytes: &[u8]) -> usize {
    usize::try_from(number(bytes)).unwrap()
}

/// A table of a flatbuffer.
#[derive(Clone, Copy)]
struct Table<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Table<'a> {
    fn pointed(bytes: &'a [u8], from: usize) -> Table<'a> {
        let at = from + size(&bytes[from..from + 4]);
        Table { bytes, at }
    }

    fn field(self, which: usize) -> Option<usize> {
        let fields = self.at - size(&self.bytes[self.at..self.at + 4]);
        let entry = fields + 4 + 2 * which;
        if entry + 2 > fields + size(&self.bytes[fields..fields + 2]) {
            return None;
        }
        let offset = size(&self.bytes[entry..entry + 2]);
        (offset != 0).then_some(self.at + offset)
    }

    /// A number of so many bytes, which stands at a multiple of them.
    fn number(self, which: usize, bytes: usize) -> u64 {
        let at = self.field(which).unwrap();
        assert_eq!(at % bytes, 0);
        number(&self.bytes[at..at + bytes])
    }

    fn table(self, which: usize) -> Table<'a> {
        Table::pointed(self.bytes, self.field(which).unwrap())
    }

    /// Where a list's elements begin, and how many there are.
    fn list(self, which: usize) -> (usize, usize) {
        let list = Table::pointed(self.bytes, self.field(which).unwrap()).at;
        assert_eq!(list % 4, 0);
        (list + 4, size(&self.bytes[list..list + 4]))
    }

    fn text(self, which: usize) -> String {
        let (first, length) = self.list(which);
        assert_eq!(self.bytes[first + length], 0);
        String::from_utf8(self.bytes[first..first + length].to_vec()).unwrap()
    }

    fn tables(self, which: usize) -> impl Iterator<Item = Table<'a>> {
        let (first, length) = self.list(which);
        (0..length).map(move |number| Table::pointed(self.bytes, first + 4 * number))
    }

    /// Pairs of numbers of 64 bits.
    fn pairs(self, which: usize) -> Vec<[usize; 2]> {
        let (first, length) = self.list(which);
        assert_eq!(first % 8, 0);
        self.bytes[first..first + 16 * length]
            .chunks(16)
            .map(|pair| [size(&pair[..8]), size(&pair[8..])])
            .collect()
    }
}

#[derive(Debug)]
enum Kind {
    Number(usize),
    Truth,
    Text,
    Word(u64),
}

fn bit(bytes: &[u8], number: usize) -> bool {
    bytes[number / 8] >> (number % 8) & 1 == 1
}

/// The buffers of a column in a batch, the next one first.
struct Buffers<'a> {
    body: &'a [u8],
    places: std::vec::IntoIter<[usize; 2]>,
}

impl<'a> Buffers<'a> {
    fn next(&mut self) -> &'a [u8] {
        let [offset, length] = self.places.next().unwrap();
        assert_eq!(offset % 8, 0);
        &self.body[offset..offset + length]
    }

    /// A column's values as CSV has them, numbers as decimal ones.
    fn column(
        &mut self,
        kind: &Kind,
        node: [usize; 2],
        words: &[(u64, Vec<String>)],
    ) -> Vec<String> {
        let [rows, missing] = node;
        let valid = self.next();
        let data = self.next();
        let text = match kind {
            Kind::Text => self.next(),
            _ => &[],
        };
        let value = |row: usize| match kind {
            Kind::Number(bytes) => number(&data[row * bytes..][..*bytes]).to_string(),
            Kind::Truth => bit(data, row).to_string(),
            Kind::Text => {
                let [first, end] = [row, row + 1].map(|at| size(&data[4 * at..][..4]));
                String::from_utf8(text[first..end].to_vec()).unwrap()
            }
            Kind::Word(id) => {
                let (_, words) = words.iter().find(|(other, _)| other == id).unwrap();
                words[size(&data[2 * row..][..2])].clone()
            }
        };
        let is_there = |row: &usize| valid.is_empty() || bit(valid, *row);
        assert_eq!((0..rows).filter(|row| !is_there(row)).count(), missing);
        (0..rows)
            .map(|row| {
                if is_there(&row) {
                    value(row)
                } else {
                    String::new()
                }
            })
            .collect()
    }
}

/// The names, the rows, and how many of them each batch has.
fn read(mut stream: &[u8]) -> (Vec<String>, Vec<Vec<String>>, Vec<usize>) {
    let (mut names, mut kinds, mut words) = (Vec::new(), Vec::new(), Vec::new());
    let (mut rows, mut batches) = (Vec::new(), Vec::new());
    loop {
        assert_eq!(stream[..4], [0xff; 4]);
        let length = size(&stream[4..8]);
        if length == 0 {
            assert_eq!(stream.len(), 8, "something follows the end");
            return (names, rows, batches);
        }
        let (message, rest) = stream[8..].split_at(length);
        let message = Table::pointed(message, 0);
        assert_eq!((length % 8, message.number(0, 2)), (0, 4));
        let (body, rest) = rest.split_at(usize::try_from(message.number(3, 8)).unwrap());
        stream = rest;
        let header = message.table(2);
        let of_batch = |batch: Table<'_>, kinds: &[Kind], words: &[(u64, Vec<String>)]| {
            let places = batch.pairs(2).into_iter();
            let mut buffers = Buffers { body, places };
            let nodes = batch.pairs(1);
            assert_eq!(nodes.len(), kinds.len());
            let columns = kinds.iter().zip(nodes);
            let columns: Vec<Vec<String>> = columns
                .map(|(kind, node)| buffers.column(kind, node, words))
                .collect();
            assert_eq!(buffers.places.next(), None);
            columns
        };
        match message.number(1, 1) {
            SCHEMA => {
                for field in header.tables(1) {
                    names.push(field.text(0));
                    kinds.push(match field.number(2, 1) {
                        2 => {
                            Kind::Number(usize::try_from(field.table(3).number(0, 4) / 8).unwrap())
                        }
                        6 => Kind::Truth,
                        5 if field.field(4).is_some() => Kind::Word(field.table(4).number(0, 8)),
                        5 => Kind::Text,
                        other => panic!("type {other}"),
                    });
                }
            }
            DICTIONARY => {
                let list = of_batch(header.table(1), &[Kind::Text], &[]).remove(0);
                words.push((header.number(0, 8), list));
            }
            BATCH => {
                let columns = of_batch(header, &kinds, &words);
                let count = usize::try_from(header.number(0, 8)).unwrap();
                batches.push(count);
                rows.extend((0..count).map(|row| {
                    columns
                        .iter()
                        .map(|column| column[row].clone())
                        .collect::<Vec<_>>()
                }));
            }
            other => panic!("message {other}"),
        }
    }
}

fn stream(arguments: &[&str]) -> Vec<u8> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heirloom"));
    let output = command
        .args(["maps", "--format", "arrow"])
        .args(arguments)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        (output.status.code(), &*said),
        (Some(0), ""),
        "{arguments:?}"
    );
    output.stdout
}

/// The names and rows of CSV, with numbers as decimal ones.
fn csv(arguments: &[&str]) -> (Vec<String>, Vec<Vec<String>>) {
    let said = heirloom(&[&["maps", "--format", "csv"], arguments].concat());
    assert_eq!(said.code, Some(0), "{}", said.err);
    let decimal = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).unwrap().to_string(),
        None => text.to_owned(),
    };
    let mut lines = said
        .out
        .lines()
        .map(|line| line.split(',').map(decimal).collect::<Vec<_>>());
    (lines.next().unwrap(), lines.collect())
}

/// An image whose lower half maps so many GiB in small pages, by four tables.
fn with_many_pages(gibibytes: u64) -> (TempDir, String) {
    const TABLE: u64 = Entry::PRESENT.get() | Entry::WRITABLE.get() | Entry::USER.get();
    let mut memory = vec![0_u8; 512 << 12];
    let mut put = |table: usize, index: u64, entry: u64| {
        let at = (table << 12) + 8 * usize::try_from(index).unwrap();
        memory[at..at + 8].copy_from_slice(&entry.to_le_bytes());
    };
    put(1, 0, 0x2000 | TABLE);
    for index in 0..gibibytes {
        put(2, index, 0x3000 | TABLE);
    }
    for index in 0..512 {
        put(3, index, 0x4000 | TABLE);
        put(4, index, index << 12 | TABLE | Entry::NO_EXECUTE.get());
    }
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("guest");
    fs::write(&path, memory).unwrap();
    let target = format!("raw:{},cr3=0x1000", path.display());
    (folder, target)
}

#[test]
fn its_rows_are_those_of_csv() {
    let image = Image::new();
    let target = image.target("guest");
    let cases: [&[&str]; 5] = [
        &["--root", "all", "--leaves"],
        &["--root", "all"],
        &["--leaves", "--user"],
        &["--filter", "w", "--kernel"],
        &["--filter", "w x"],
    ];
    for case in cases {
        let arguments = [&[&target[..]], case].concat();
        let (names, rows, _) = read(&stream(&arguments));
        assert_eq!((names, rows), csv(&arguments), "{case:?}");
    }
    // Whose a root is that nobody names, nobody knows: these are missing, and no empty text.
    let (names, rows) = csv(&[&target, "--leaves"]);
    let missing = names.iter().position(|name| name == "pid").unwrap();
    assert!(rows.len() > 500 && rows.iter().all(|row| row[missing].is_empty()));
}

#[test]
fn many_rows_are_many_batches() {
    let (_folder, target) = with_many_pages(1);
    let arguments = [&target[..], "--leaves", "--range", "0-0x3fffff"];
    let few = csv(&arguments);
    let (names, rows, batches) = read(&stream(&arguments));
    assert_eq!((rows.len(), batches), (1024, vec![1024]));
    assert_eq!((names, rows), few);
    let (_, rows, batches) = read(&stream(&[&target, "--leaves", "--range", "0-0x4ffffff"]));
    assert_eq!(rows.len(), 40 * 512);
    assert_eq!(batches, [8192, 8192, 4096]);
}

#[test]
fn memory_does_not_grow_with_the_rows_and_whoever_reads_may_leave() {
    let (_folder, target) = with_many_pages(2);
    let mut child = Command::new(env!("CARGO_BIN_EXE_heirloom"))
        .args(["maps", &target, "--user", "--leaves", "--format", "arrow"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = child.stdout.take().unwrap();
    let mut at = |bytes: usize| {
        let mut read = vec![0; bytes];
        output.read_exact(&mut read).unwrap();
        // There is more than fits the pipe, so it has not ended.
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let peak = status.lines().find(|line| line.starts_with("VmHWM:"));
        let peak = peak.unwrap().split_whitespace().nth(1).unwrap();
        peak.parse::<usize>().unwrap()
    };
    let begun = at(1 << 20);
    let later = at(24 << 20);
    assert!(later < begun + (8 << 10), "{begun} KiB, then {later} KiB");
    drop(output);
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!((ended.status.code(), &*said), (Some(0), ""));
}

#[test]
fn whoever_gets_rows_is_told_of_those_that_are_left_out() {
    let (_folder, target) = with_many_pages(512);
    for more in [&["--leaves"][..], &[]] {
        let wanted = [
            "maps", &target, "--format", "csv", "--filter", "x", "--user",
        ];
        let said = heirloom(&[&wanted[..], more].concat());
        assert_eq!((said.code, said.out.lines().count()), (Some(0), 1));
        assert!(
            said.err.contains("root 0x1000 is cut at 0x"),
            "{}",
            said.err
        );
        assert!(said.err.contains("too many pages"), "{}", said.err);
    }
}
