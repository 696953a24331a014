//! What address spaces map, a row for each page or merged range, for programs to read: JSON lines, CSV or Arrow.

use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::str::FromStr;

use heirloom_inspect::report::{Row, Value};
use heirloom_inspect::{Discovery, MappedRange, Mapping, PageSize, PhysAddr, VirtAddr};

use super::arrow::Stream;

/// The form of the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// One JSON object a line.
    Jsonl,
    /// Comma-separated values, with a line of names first.
    Csv,
    /// An Arrow IPC stream, as pyarrow and polars read it.
    Arrow,
}

/// Which pages are wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    /// What must be so, and what must not.
    words: Vec<(Property, bool)>,
    /// What it must hold.
    pub(super) has: Option<VirtAddr>,
    /// Where it must lead to, in part.
    pub(super) physical: Option<RangeInclusive<u64>>,
}

/// Something that is true of a page or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Property {
    Write,
    Execute,
    User,
    Global,
    Accessed,
    Dirty,
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Filter, String> {
        let word = |word: &str| {
            let (name, wanted) = match word.strip_prefix('!') {
                Some(name) => (name, false),
                None => (word, true),
            };
            Ok(match name {
                "w" => (Property::Write, wanted),
                "ro" => (Property::Write, !wanted),
                "x" => (Property::Execute, wanted),
                "nx" => (Property::Execute, !wanted),
                "u" => (Property::User, wanted),
                "s" => (Property::User, !wanted),
                "g" => (Property::Global, wanted),
                "a" => (Property::Accessed, wanted),
                "d" => (Property::Dirty, wanted),
                _ => {
                    return Err(format!(
                        "`{word}` says nothing of a page: write some of w (writable), ro, x (executable), nx, u \
                         (for ring 3), s (for ring 0 alone), g (global), a (accessed), d (dirty), or ! and one of \
                         them, such as `w x u` or `x !u`"
                    ));
                }
            })
        };
        let words: Result<Vec<_>, String> = text.split_whitespace().map(word).collect();
        Ok(Filter {
            words: words?,
            ..Filter::default()
        })
    }
}

impl Filter {
    /// Whether it asks for what only a single page has.
    pub(super) fn needs_pages(&self) -> bool {
        use Property::{Accessed, Dirty, Global};
        self.words
            .iter()
            .any(|(property, _)| matches!(property, Global | Accessed | Dirty))
    }

    /// Whether it lets a merged range through.
    pub(super) fn takes(&self, range: &MappedRange) -> bool {
        self.has.is_none_or(|address| range.range.contains(address))
            && self.leads_there(range.pa, range.range.bytes())
            && self.all(|property| match property {
                Property::Write => range.rights.write,
                Property::Execute => range.rights.execute,
                Property::User => range.rights.user,
                // Only of single pages.
                Property::Global | Property::Accessed | Property::Dirty => false,
            })
    }

    /// Whether it lets a page through.
    pub(super) fn takes_page(&self, page: &Mapping) -> bool {
        let holds =
            |address: VirtAddr| address.get().wrapping_sub(page.va.get()) < page.size.bytes();
        self.has.is_none_or(holds)
            && self.leads_there(page.pa, page.size.bytes())
            && self.all(|property| match property {
                Property::Write => page.rights.write,
                Property::Execute => page.rights.execute,
                Property::User => page.rights.user,
                Property::Global => page.global,
                Property::Accessed => page.accessed,
                Property::Dirty => page.dirty,
            })
    }

    /// Whether some of so many bytes from `first` on are where they must be.
    fn leads_there(&self, first: PhysAddr, bytes: u64) -> bool {
        let last = first.get().saturating_add(bytes.saturating_sub(1));
        self.physical
            .as_ref()
            .is_none_or(|wanted| first.get() <= *wanted.end() && *wanted.start() <= last)
    }

    fn all(&self, is: impl Fn(Property) -> bool) -> bool {
        self.words
            .iter()
            .all(|(property, wanted)| is(*property) == *wanted)
    }
}

/// `4K`, `2M` or `1G`.
pub(super) fn size(text: &str) -> Result<PageSize, String> {
    match text {
        "4K" => Ok(PageSize::Size4KiB),
        "2M" => Ok(PageSize::Size2MiB),
        "1G" => Ok(PageSize::Size1GiB),
        _ => Err(format!("`{text}` is no size of a page: write 4K, 2M or 1G")),
    }
}

/// Rows on their way out.
pub(super) enum Writer<W> {
    Jsonl(W),
    Csv(W),
    Arrow(Stream<W>),
}

impl Format {
    /// Writes what stands before the first row. Rows are of these address spaces.
    pub(super) fn begin<W: Write>(
        self,
        mut output: W,
        discovery: &Discovery,
    ) -> io::Result<Writer<W>> {
        Ok(match self {
            Format::Jsonl => Writer::Jsonl(output),
            Format::Csv => {
                let names = Row::COLUMNS.map(|column| column.name);
                writeln!(output, "{}", names.join(","))?;
                Writer::Csv(output)
            }
            Format::Arrow => Writer::Arrow(Stream::begin(output, discovery)?),
        })
    }
}

impl<W: Write> Writer<W> {
    /// Writes a row.
    pub(super) fn row(&mut self, row: &Row<'_>) -> io::Result<()> {
        match self {
            Writer::Jsonl(output) => {
                serde_json::to_writer(&mut *output, row)?;
                writeln!(output)
            }
            Writer::Csv(output) => write_csv(output, row),
            Writer::Arrow(stream) => stream.row(row),
        }
    }

    /// Writes what stands behind the last row.
    pub(super) fn finish(self) -> io::Result<()> {
        match self {
            Writer::Jsonl(_) | Writer::Csv(_) => Ok(()),
            Writer::Arrow(stream) => stream.finish(),
        }
    }
}

/// A row as its JSON says it, without quotes where none are needed.
fn write_csv(output: &mut impl Write, row: &Row<'_>) -> io::Result<()> {
    for (number, (column, value)) in Row::COLUMNS.iter().zip(row.values()).enumerate() {
        if number > 0 {
            output.write_all(b",")?;
        }
        match value {
            None => {}
            Some(Value::Number(number)) => match column.hexadecimal {
                Some(digits) => write!(output, "0x{number:0digits$x}")?,
                None => write!(output, "{number}")?,
            },
            Some(Value::Truth(truth)) => write!(output, "{truth}")?,
            Some(Value::Text(text)) if text.contains([',', '"', '\n', '\r']) => {
                write!(output, "\"{}\"", text.replace('"', "\"\""))?;
            }
            Some(Value::Text(text)) => output.write_all(text.as_bytes())?,
        }
    }
    writeln!(output)
}
