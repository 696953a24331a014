//! What address spaces map, a row for each page or merged range, for programs to read: JSON lines or CSV.

use std::io::{self, Write};
use std::str::FromStr;

use heirloom_inspect::discover::Space;
use heirloom_inspect::layout::Area;
use heirloom_inspect::linux::Owner;
use heirloom_inspect::{
    Discovery, Entry, MappedRange, Mapping, PageSize, Pfn, PhysAddr, Rights, VirtAddr,
};
use serde::{Serialize, Serializer};

/// The form of the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// One JSON object a line.
    Jsonl,
    /// Comma-separated values, with a line of names first.
    Csv,
}

/// Which pages are wanted.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    /// What must be so, and what must not.
    words: Vec<(Property, bool)>,
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
        Ok(Filter { words: words? })
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

    /// Whether it lets a merged range with these rights through.
    pub(super) fn takes(&self, rights: Rights) -> bool {
        self.all(|property| match property {
            Property::Write => rights.write,
            Property::Execute => rights.execute,
            Property::User => rights.user,
            // Only of single pages.
            Property::Global | Property::Accessed | Property::Dirty => false,
        })
    }

    /// Whether it lets a page through.
    pub(super) fn takes_page(&self, page: &Mapping) -> bool {
        self.all(|property| match property {
            Property::Write => page.rights.write,
            Property::Execute => page.rights.execute,
            Property::User => page.rights.user,
            Property::Global => page.global,
            Property::Accessed => page.accessed,
            Property::Dirty => page.dirty,
        })
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

/// One row. What a merged range does not have is `null`, in CSV nothing.
#[derive(Serialize)]
pub(super) struct Row<'a> {
    root: PhysAddr,
    pid: Option<u32>,
    comm: Option<&'a str>,
    va: VirtAddr,
    pa: PhysAddr,
    bytes: u64,
    write: bool,
    execute: bool,
    user: bool,
    area: Option<Area>,
    size: Option<PageSize>,
    global: Option<bool>,
    accessed: Option<bool>,
    dirty: Option<bool>,
    /// The memory type: PAT, PCD and PWT as a number of 3 bits, an index of `IA32_PAT`.
    pat: Option<u8>,
    entry: Option<Entry>,
    #[serde(serialize_with = "in_hexadecimal")]
    table: Option<Pfn>,
    index: Option<u16>,
}

/// The columns, in the order of [`Row`].
const COLUMNS: &str = "root,pid,comm,va,pa,bytes,write,execute,user,area,size,global,accessed,dirty,pat,entry,table,index";

#[expect(clippy::ref_option, reason = "serde passes fields by reference")]
fn in_hexadecimal<S: Serializer>(table: &Option<Pfn>, serializer: S) -> Result<S::Ok, S::Error> {
    match table {
        Some(table) => serializer.collect_str(&format_args!("{:#x}", table.get())),
        None => serializer.serialize_none(),
    }
}

impl<'a> Row<'a> {
    /// What is the same in all rows of an address space.
    fn of(
        space: &'a Space,
        va: VirtAddr,
        pa: PhysAddr,
        rights: Rights,
        area: Option<Area>,
    ) -> Row<'a> {
        let (pid, comm) = match space.owners.first() {
            Some(Owner::Process { pid, comm }) => (Some(*pid), Some(comm.as_str())),
            Some(Owner::Kernel { name }) => (None, Some(*name)),
            None => (None, None),
        };
        Row {
            root: space.address,
            pid,
            comm,
            va,
            pa,
            bytes: 0,
            write: rights.write,
            execute: rights.execute,
            user: rights.user,
            area,
            size: None,
            global: None,
            accessed: None,
            dirty: None,
            pat: None,
            entry: None,
            table: None,
            index: None,
        }
    }

    /// A merged range.
    pub(super) fn range(space: &'a Space, range: &MappedRange, discovery: &Discovery) -> Row<'a> {
        let area = discovery.layout.area_of(range.range.first);
        Row {
            bytes: range.range.bytes(),
            ..Row::of(space, range.range.first, range.pa, range.rights, area)
        }
    }

    /// A page.
    pub(super) fn page(space: &'a Space, page: &Mapping, discovery: &Discovery) -> Row<'a> {
        let bit = |is: bool, number: u8| u8::from(is) << number;
        let entry = page.entry;
        Row {
            bytes: page.size.bytes(),
            size: Some(page.size),
            global: Some(page.global),
            accessed: Some(page.accessed),
            dirty: Some(page.dirty),
            pat: Some(
                bit(entry.has(Entry::WRITE_THROUGH), 0)
                    | bit(entry.has(Entry::CACHE_DISABLE), 1)
                    | bit(entry.pat(page.size.level()), 2),
            ),
            entry: Some(entry),
            table: Some(page.table),
            index: Some(page.index),
            ..Row::of(
                space,
                page.va,
                page.pa,
                page.rights,
                discovery.layout.area_of(page.va),
            )
        }
    }
}

impl Format {
    /// What stands before the first row.
    pub(super) fn begin(self, output: &mut impl Write) -> io::Result<()> {
        match self {
            Format::Jsonl => Ok(()),
            Format::Csv => writeln!(output, "{COLUMNS}"),
        }
    }

    /// Writes a row.
    pub(super) fn write(self, output: &mut impl Write, row: &Row<'_>) -> io::Result<()> {
        match self {
            Format::Jsonl => {
                serde_json::to_writer(&mut *output, row)?;
                writeln!(output)
            }
            Format::Csv => {
                // The fields of a row are those of its JSON, in its order.
                let serde_json::Value::Object(fields) = serde_json::to_value(row)? else {
                    return Ok(());
                };
                for (number, name) in COLUMNS.split(',').enumerate() {
                    if number > 0 {
                        output.write_all(b",")?;
                    }
                    match &fields[name] {
                        serde_json::Value::Null => {}
                        serde_json::Value::String(text)
                            if text.contains([',', '"', '\n', '\r']) =>
                        {
                            write!(output, "\"{}\"", text.replace('"', "\"\""))?;
                        }
                        serde_json::Value::String(text) => write!(output, "{text}")?,
                        other => write!(output, "{other}")?,
                    }
                }
                writeln!(output)
            }
        }
    }
}
