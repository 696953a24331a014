//! Rows as an Arrow IPC stream: the schema, the words of its dictionaries, and batches of rows.
//!
//! The crates that write Arrow would be two fifths of what a first build takes, and half a megabyte of the command, for
//! one table of plain columns. So it is written here by the description of the format (arrow.apache.org/docs/format),
//! and the Python package's tests have pyarrow and polars read it.

use std::io::{self, Write};

use heirloom_inspect::Discovery;
use heirloom_inspect::report::{Column, Kind, Row, Value};

/// Rows that are in memory at a time.
const MAX_ROWS: usize = 1 << 13;

/// Version 5 of the metadata, which all have read since 2020.
const VERSION: u64 = 4;
/// What a message is.
const SCHEMA: u64 = 1;
const DICTIONARY: u64 = 2;
const BATCH: u64 = 3;
/// What a column's type is.
const INTEGER: u64 = 2;
const UTF8: u64 = 5;
const BOOLEAN: u64 = 6;
/// Bits of an index into a dictionary.
const INDEX: u8 = 16;
/// What each message begins with.
const CONTINUES: [u8; 4] = [0xff; 4];

/// A stream of rows.
pub(super) struct Stream<W> {
    output: W,
    columns: Vec<Filling>,
    rows: usize,
}

impl<W: Write> Stream<W> {
    /// Begins it: what the columns are, and which words rows of these address spaces can have.
    pub(super) fn begin(output: W, discovery: &Discovery) -> io::Result<Stream<W>> {
        let columns = Row::COLUMNS.iter().map(|column| Filling {
            words: Row::words(column, discovery),
            ..Filling::of(*column)
        });
        let mut stream = Stream {
            output,
            columns: columns.collect(),
            rows: 0,
        };
        let fields = stream.columns.iter().enumerate();
        let fields = fields.map(|(number, filling)| field(number, &filling.column));
        // The first field says that numbers begin with their lowest byte.
        let schema = vec![Part::Number(0), Part::Tables(fields.collect())];
        message(&mut stream.output, SCHEMA, schema, &[])?;
        for (number, filling) in stream.columns.iter().enumerate() {
            if filling.column.kind != Kind::Word {
                continue;
            }
            let mut words = Filling::of(Column {
                kind: Kind::Text,
                ..filling.column
            });
            for (row, word) in filling.words.iter().enumerate() {
                words.push(row, Some(Value::Text(word)))?;
            }
            let mut body = Body::default();
            body.add_column(filling.words.len(), &mut words);
            let dictionary = vec![
                Part::Number(number as u64),
                Part::Table(body.header(filling.words.len())),
            ];
            message(&mut stream.output, DICTIONARY, dictionary, &body.bytes)?;
        }
        Ok(stream)
    }

    /// Adds a row.
    pub(super) fn row(&mut self, row: &Row<'_>) -> io::Result<()> {
        for (filling, value) in self.columns.iter_mut().zip(row.values()) {
            filling.push(self.rows, value)?;
        }
        self.rows += 1;
        if self.rows == MAX_ROWS {
            self.write_batch()?;
        }
        Ok(())
    }

    /// Writes the rows that are left, and that it ends.
    pub(super) fn finish(mut self) -> io::Result<()> {
        if self.rows > 0 {
            self.write_batch()?;
        }
        self.output.write_all(&CONTINUES)?;
        self.output.write_all(&[0; 4])
    }

    fn write_batch(&mut self) -> io::Result<()> {
        let mut body = Body::default();
        for filling in &mut self.columns {
            body.add_column(self.rows, filling);
        }
        let header = body.header(self.rows);
        self.rows = 0;
        message(&mut self.output, BATCH, header, &body.bytes)
    }
}

/// The values of a column in the batch that is made.
struct Filling {
    column: Column,
    /// What its indices stand for.
    words: Vec<&'static str>,
    /// A bit for each row: there is a value.
    valid: Vec<u8>,
    missing: usize,
    /// Numbers, bits, indices, or where each text ends.
    data: Vec<u8>,
    text: Vec<u8>,
}

impl Filling {
    fn of(column: Column) -> Filling {
        Filling {
            column,
            words: Vec::new(),
            valid: Vec::new(),
            missing: 0,
            data: Vec::new(),
            text: Vec::new(),
        }
    }

    fn push(&mut self, row: usize, value: Option<Value<'_>>) -> io::Result<()> {
        push_bit(&mut self.valid, row, value.is_some());
        self.missing += usize::from(value.is_none());
        let text = match value {
            Some(Value::Text(text)) => text,
            _ => "",
        };
        match self.column.kind {
            Kind::Truth => push_bit(&mut self.data, row, value == Some(Value::Truth(true))),
            Kind::Number(bits) => {
                let number = match value {
                    Some(Value::Number(number)) => number,
                    _ => 0,
                };
                let bytes = number.to_le_bytes();
                self.data.extend_from_slice(&bytes[..usize::from(bits / 8)]);
            }
            Kind::Word => {
                let index = self.words.iter().position(|word| *word == text);
                if index.is_none() && value.is_some() {
                    let what = format!("`{text}` is none of the words of {}", self.column.name);
                    return Err(io::Error::other(what));
                }
                push(&mut self.data, index.unwrap_or(0), usize::from(INDEX / 8));
            }
            Kind::Text => {
                // The first begins at 0.
                if row == 0 {
                    push(&mut self.data, 0, 4);
                }
                self.text.extend_from_slice(text.as_bytes());
                push(&mut self.data, self.text.len(), 4);
            }
        }
        Ok(())
    }
}

fn push_bit(bytes: &mut Vec<u8>, number: usize, bit: bool) {
    if number.is_multiple_of(8) {
        bytes.push(0);
    }
    if let Some(last) = bytes.last_mut() {
        *last |= u8::from(bit) << (number % 8);
    }
}

/// The lowest bytes of a number.
fn push(bytes: &mut Vec<u8>, number: usize, how_many: usize) {
    bytes.extend_from_slice(&number.to_le_bytes()[..how_many]);
}

/// Zeros, until there is a multiple of `of` bytes and `rest` more.
fn pad(bytes: &mut Vec<u8>, of: usize, rest: usize) {
    while bytes.len() % of != rest {
        bytes.push(0);
    }
}

/// What follows a message: the buffers of its columns.
#[derive(Default)]
struct Body {
    bytes: Vec<u8>,
    /// Of each column how many rows, and how many of them without a value.
    columns: Vec<[usize; 2]>,
    /// Of each buffer where it begins, and how long it is.
    buffers: Vec<[usize; 2]>,
}

impl Body {
    /// Adds a column, which is empty then.
    fn add_column(&mut self, rows: usize, filling: &mut Filling) {
        self.columns.push([rows, filling.missing]);
        if filling.missing == 0 {
            // All are there.
            filling.valid.clear();
        }
        filling.missing = 0;
        self.add(&mut filling.valid);
        self.add(&mut filling.data);
        if filling.column.kind == Kind::Text {
            self.add(&mut filling.text);
        }
    }

    fn add(&mut self, buffer: &mut Vec<u8>) {
        self.buffers.push([self.bytes.len(), buffer.len()]);
        self.bytes.append(buffer);
        pad(&mut self.bytes, 8, 0);
    }

    /// The description of so many rows.
    fn header(&mut self, rows: usize) -> Vec<Part> {
        vec![
            Part::Number(rows as u64),
            Part::Pairs(std::mem::take(&mut self.columns)),
            Part::Pairs(std::mem::take(&mut self.buffers)),
        ]
    }
}

/// The description of a column. Its number is that of its dictionary, if it has one.
fn field(number: usize, column: &Column) -> Vec<Part> {
    let integer = |bits: u8, signed: bool| {
        Part::Table(vec![Part::Number(bits.into()), Part::Number(signed.into())])
    };
    let nothing = || Part::Table(Vec::new());
    let (kind, about, dictionary) = match column.kind {
        Kind::Number(bits) => (INTEGER, integer(bits, false), Part::Absent),
        Kind::Truth => (BOOLEAN, nothing(), Part::Absent),
        Kind::Text => (UTF8, nothing(), Part::Absent),
        Kind::Word => {
            let index = integer(INDEX, true);
            let dictionary = vec![Part::Number(number as u64), index];
            (UTF8, nothing(), Part::Table(dictionary))
        }
    };
    vec![
        Part::Text(column.name),
        Part::Number(column.may_miss.into()),
        Part::Number(kind),
        about,
        dictionary,
        // Columns within it.
        Part::Tables(Vec::new()),
    ]
}

/// Writes a message: its length, its description, and its body.
fn message(output: &mut impl Write, kind: u64, header: Vec<Part>, body: &[u8]) -> io::Result<()> {
    let parts = [
        Part::Number(VERSION),
        Part::Number(kind),
        Part::Table(header),
        Part::Number(body.len() as u64),
    ];
    let mut described = vec![0; 4];
    let root = table(&mut described, &parts);
    point(&mut described, 0, root);
    pad(&mut described, 8, 0);
    let mut length = Vec::new();
    push(&mut length, described.len(), 4);
    for part in [&CONTINUES[..], &length, &described, body] {
        output.write_all(part)?;
    }
    Ok(())
}

/// A field of a table, as flatbuffers have it.
enum Part {
    /// It has its default.
    Absent,
    /// Of up to 64 bits: a narrower one is its lowest bytes.
    Number(u64),
    Text(&'static str),
    Pairs(Vec<[usize; 2]>),
    Table(Vec<Part>),
    Tables(Vec<Vec<Part>>),
}

/// Adds a table and, behind it, all that it leads to: where it is. Each field takes 8 bytes.
fn table(out: &mut Vec<u8>, parts: &[Part]) -> usize {
    // Before it stands where each field is.
    let places = 4 + 2 * parts.len();
    while (out.len() + places) % 8 != 4 {
        out.push(0);
    }
    push(out, places, 2);
    push(out, 4 + 8 * parts.len(), 2);
    for (number, part) in parts.iter().enumerate() {
        let is_absent = matches!(part, Part::Absent);
        push(out, if is_absent { 0 } else { 4 + 8 * number }, 2);
    }
    let start = out.len();
    push(out, places, 4);
    for part in parts {
        let number = match part {
            Part::Number(number) => *number,
            _ => 0,
        };
        out.extend_from_slice(&number.to_le_bytes());
    }
    for (number, part) in parts.iter().enumerate() {
        let slot = start + 4 + 8 * number;
        match part {
            Part::Absent | Part::Number(_) => {}
            Part::Table(parts) => {
                let at = table(out, parts);
                point(out, slot, at);
            }
            Part::Text(text) => {
                begin_list(out, slot, 0, text.len());
                out.extend_from_slice(text.as_bytes());
                out.push(0);
            }
            Part::Pairs(pairs) => {
                begin_list(out, slot, 4, pairs.len());
                for number in pairs.as_flattened() {
                    push(out, *number, 8);
                }
            }
            Part::Tables(tables) => {
                begin_list(out, slot, 0, tables.len());
                let first = out.len();
                out.resize(first + 4 * tables.len(), 0);
                for (number, parts) in tables.iter().enumerate() {
                    let at = table(out, parts);
                    point(out, first + 4 * number, at);
                }
            }
        }
    }
    start
}

/// Begins a list that `slot` leads to, by its length; it stands `rest` bytes behind a multiple of 8, or at one of 4.
fn begin_list(out: &mut Vec<u8>, slot: usize, rest: usize, length: usize) {
    pad(out, if rest == 0 { 4 } else { 8 }, rest);
    let at = out.len();
    point(out, slot, at);
    push(out, length, 4);
}

/// Makes the 4 bytes at `from` lead to `to`.
fn point(out: &mut [u8], from: usize, to: usize) {
    out[from..from + 4].copy_from_slice(&(to - from).to_le_bytes()[..4]);
}
