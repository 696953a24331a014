//! A page or a merged range of an address space as a row of a table, for programs to read.

use serde::{Serialize, Serializer};

use crate::discover::{Discovery, Space};
use crate::layout::Area;
use crate::leaves::Mapping;
use crate::linux::Owner;
use crate::ranges::MappedRange;
use heirloom_paging::addr::{Pfn, PhysAddr, VirtAddr};
use heirloom_paging::entry::Entry;
use heirloom_paging::level::PageSize;
use heirloom_paging::rights::Rights;

/// One row. What a merged range does not have is `None`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Row<'a> {
    /// The address space's root table.
    pub root: PhysAddr,
    /// The number of its process.
    pub pid: Option<u32>,
    /// The name of its command, or of the kernel's variable that holds it.
    pub comm: Option<&'a str>,
    /// The first address.
    pub va: VirtAddr,
    /// Where that is.
    pub pa: PhysAddr,
    /// How many bytes.
    pub bytes: u64,
    /// It can be written.
    pub write: bool,
    /// It can be executed.
    pub execute: bool,
    /// Ring 3 can use it.
    pub user: bool,
    /// Where it lies.
    pub area: Option<Area>,
    /// How large the page is.
    pub size: Option<PageSize>,
    /// The leaf has G.
    pub global: Option<bool>,
    /// The leaf has A.
    pub accessed: Option<bool>,
    /// The leaf has D.
    pub dirty: Option<bool>,
    /// The memory type: PAT, PCD and PWT as a number of 3 bits, an index of `IA32_PAT`.
    pub pat: Option<u8>,
    /// The leaf.
    pub entry: Option<Entry>,
    /// The table that it stands in.
    #[serde(serialize_with = "in_hexadecimal")]
    pub table: Option<Pfn>,
    /// Which of its entries it is.
    pub index: Option<u16>,
}

#[expect(clippy::ref_option, reason = "serde passes fields by reference")]
fn in_hexadecimal<S: Serializer>(table: &Option<Pfn>, serializer: S) -> Result<S::Ok, S::Error> {
    match table {
        Some(table) => serializer.collect_str(&format_args!("{:#x}", table.get())),
        None => serializer.serialize_none(),
    }
}

/// What is in a column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Numbers without a sign, of so many bits.
    Number(u8),
    /// Yes or no.
    Truth,
    /// Text.
    Text,
    /// One of the few words that [`Row::words`] lists.
    Word,
}

/// A column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// The field.
    pub name: &'static str,
    /// What is in it.
    pub kind: Kind,
    /// Whether a row may be without.
    pub may_miss: bool,
    /// Text has its numbers in hexadecimal, with `0x` and at least so many digits: addresses, frame numbers, entries.
    pub hexadecimal: Option<usize>,
}

/// What a row has in a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// In a column of numbers.
    Number(u64),
    /// In a column of truths.
    Truth(bool),
    /// In a column of text or of words.
    Text(&'a str),
}

const fn word_of(size: PageSize) -> &'static str {
    match size {
        PageSize::Size4KiB => "4KiB",
        PageSize::Size2MiB => "2MiB",
        PageSize::Size1GiB => "1GiB",
    }
}

impl<'a> Row<'a> {
    /// The fields, in their order.
    pub const COLUMNS: [Column; 18] = {
        use Kind::{Number, Text, Truth, Word};
        const fn always(name: &'static str, kind: Kind) -> Column {
            Column {
                name,
                kind,
                may_miss: false,
                hexadecimal: None,
            }
        }
        const fn sometimes(name: &'static str, kind: Kind) -> Column {
            Column {
                may_miss: true,
                ..always(name, kind)
            }
        }
        const fn hexadecimal(column: Column, digits: usize) -> Column {
            Column {
                hexadecimal: Some(digits),
                ..column
            }
        }
        [
            hexadecimal(always("root", Number(64)), 1),
            sometimes("pid", Number(32)),
            sometimes("comm", Text),
            hexadecimal(always("va", Number(64)), 1),
            hexadecimal(always("pa", Number(64)), 1),
            always("bytes", Number(64)),
            always("write", Truth),
            always("execute", Truth),
            always("user", Truth),
            sometimes("area", Word),
            sometimes("size", Word),
            sometimes("global", Truth),
            sometimes("accessed", Truth),
            sometimes("dirty", Truth),
            sometimes("pat", Number(8)),
            hexadecimal(sometimes("entry", Number(64)), 16),
            hexadecimal(sometimes("table", Number(64)), 1),
            sometimes("index", Number(16)),
        ]
    };

    /// What it has in each column: words as JSON has them, and addresses as numbers.
    pub fn values(&self) -> [Option<Value<'a>>; Row::COLUMNS.len()] {
        let number = |number: u64| Some(Value::Number(number));
        let truth = |is: Option<bool>| is.map(Value::Truth);
        [
            number(self.root.get()),
            self.pid.map(|pid| Value::Number(pid.into())),
            self.comm.map(Value::Text),
            number(self.va.get()),
            number(self.pa.get()),
            number(self.bytes),
            truth(Some(self.write)),
            truth(Some(self.execute)),
            truth(Some(self.user)),
            self.area.map(|area| Value::Text(area.word())),
            self.size.map(|size| Value::Text(word_of(size))),
            truth(self.global),
            truth(self.accessed),
            truth(self.dirty),
            self.pat.map(|pat| Value::Number(pat.into())),
            self.entry.map(|entry| Value::Number(entry.get())),
            self.table.map(|table| Value::Number(table.get())),
            self.index.map(|index| Value::Number(index.into())),
        ]
    }

    /// All words that rows of these address spaces can have in a column of words; none for any other.
    pub fn words(column: &Column, discovery: &Discovery) -> Vec<&'static str> {
        let mut words = Vec::new();
        match column.name {
            "area" => {
                for region in &discovery.layout.regions {
                    let word = region.area.word();
                    if !words.contains(&word) {
                        words.push(word);
                    }
                }
            }
            "size" => words.extend(PageSize::ALL.map(word_of)),
            _ => {}
        }
        words
    }

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
    pub fn range(space: &'a Space, range: &MappedRange, discovery: &Discovery) -> Row<'a> {
        let area = discovery.layout.area_of(range.range.first);
        Row {
            bytes: range.range.bytes(),
            ..Row::of(space, range.range.first, range.pa, range.rights, area)
        }
    }

    /// A page.
    pub fn page(space: &'a Space, page: &Mapping, discovery: &Discovery) -> Row<'a> {
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
