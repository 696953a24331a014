//! An image of RAM and nothing else: `raw:FILE[,cr3=…][,cr4=…][,encrypt-bit=…][,map=OFFSET:GPA:LEN…]`.

use std::path::PathBuf;

use heirloom_inspect::{PhysAddr, PhysRange};

use crate::Target;
use crate::assumed::{Registers, RootOutside};
use crate::file::{self, FileError};
use crate::memory::{ADDRESS_LIMIT, Layout, Memory, Piece, RAM_LIMIT, Source};
use crate::spec::{Fields, SpecError, number};

const USAGE: &str = "raw:FILE[,cr3=0x…][,cr4=0x…][,encrypt-bit=N][,map=OFFSET:GPA:LEN…]";

/// Which image, and how it lies in the guest's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawSpec {
    file: PathBuf,
    registers: Registers,
    /// Empty: the offset in the file is the guest-physical address.
    map: Vec<MapEntry>,
}

/// A part of the file, and which guest-physical memory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MapEntry {
    offset: u64,
    ram: PhysRange,
}

/// Why a raw image cannot be inspected.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its variant is")]
pub enum RawError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(
        "map={offset:#x}:{start:#x}:{bytes:#x} wants bytes of {name} up to {end:#x}, but it ends at \
         {length:#x}: give offsets and lengths inside the file"
    )]
    MapOutside {
        name: String,
        offset: u64,
        start: PhysAddr,
        bytes: u64,
        end: u64,
        length: u64,
    },
    #[error(
        "{name} makes {bytes} bytes of RAM, more than 64 TiB, which no machine has: say with \
         map=OFFSET:GPA:LEN which part of it is RAM"
    )]
    TooMuch { name: String, bytes: u64 },
    #[error(
        "cr3={cr3:#x} points to {root:#x}, where {name} has no RAM: check it, and give map=OFFSET:GPA:LEN \
         if the image does not begin at guest-physical address 0"
    )]
    RootOutside {
        name: String,
        cr3: u64,
        root: PhysAddr,
    },
}

impl RawSpec {
    pub(crate) fn parse(fields: &Fields) -> Result<RawSpec, SpecError> {
        let mut registers = Registers::default();
        let mut map = Vec::new();
        for option in fields.options(USAGE)? {
            if fields.register(&option, &mut registers)? {
                continue;
            }
            if option.name != "map" {
                return Err(fields.unknown(option.whole, USAGE));
            }
            let bad = |problem| fields.bad_value(option.whole, problem, "map=OFFSET:GPA:LEN");
            let entry = MapEntry::parse(option.value).map_err(bad)?;
            if map
                .iter()
                .any(|other: &MapEntry| other.ram.overlaps(entry.ram.start, entry.ram.bytes))
            {
                return Err(bad("overlaps another map in guest-physical memory"));
            }
            map.push(entry);
        }
        fields.complete(&registers)?;
        Ok(RawSpec {
            file: fields.file().into(),
            registers,
            map,
        })
    }

    pub(crate) fn open(&self, name: String) -> Result<Target, RawError> {
        let file_name = self.file.display().to_string();
        let (file, length) = file::open(&self.file, "raw image")?;
        let mut notes = Vec::new();
        let pieces = if self.map.is_empty() {
            // QEMU's PC has its PCI hole from 2, 3 or 3.5 GiB on, depending on its version.
            if length > 2 << 30 {
                notes.push(format!(
                    "{file_name} is taken to begin at guest-physical address 0 without a hole; a PC has \
                     none of its RAM between 2 or 3 GiB and 4 GiB, so an image of more than that needs \
                     map=OFFSET:GPA:LEN"
                ));
            }
            let ram = PhysRange {
                start: PhysAddr::new(0),
                bytes: length,
            };
            vec![Piece::new(ram, 0, 0)]
        } else {
            self.mapped(&file_name, length)?
        };
        let layout = Layout::of(pieces);
        if layout.bytes() > RAM_LIMIT {
            return Err(RawError::TooMuch {
                name: file_name,
                bytes: layout.bytes(),
            });
        }
        let mut target = Target {
            name,
            ram: layout.ram(),
            memory: Box::new(Memory::new(layout, vec![Source::file(file, length)])),
            cpus: Vec::new(),
            phys_bits: None,
            gigabyte_pages: None,
            depth: None,
            encryption: heirloom_inspect::Entry::ABSENT,
            roots: Vec::new(),
            notes,
        };
        self.registers
            .add_to(&mut target)
            .map_err(|RootOutside(cr3)| RawError::RootOutside {
                name: file_name,
                cr3: cr3.get(),
                root: cr3.root(),
            })?;
        Ok(target)
    }

    /// The pieces that the user named, if the file has them.
    fn mapped(&self, name: &str, length: u64) -> Result<Vec<Piece>, RawError> {
        self.map
            .iter()
            .map(|entry| {
                let end = entry.offset + entry.ram.bytes;
                if end > length {
                    return Err(RawError::MapOutside {
                        name: name.into(),
                        offset: entry.offset,
                        start: entry.ram.start,
                        bytes: entry.ram.bytes,
                        end,
                        length,
                    });
                }
                Ok(Piece::new(entry.ram, 0, entry.offset))
            })
            .collect()
    }
}

impl MapEntry {
    /// `OFFSET:GPA:LEN`, all sums within 64 bits.
    fn parse(text: &str) -> Result<MapEntry, &'static str> {
        let [offset, start, bytes] = *text.split(':').map(number).collect::<Vec<_>>() else {
            return Err("does not have three parts");
        };
        let (Some(offset), Some(start), Some(bytes)) = (offset, start, bytes) else {
            return Err("has a part that is no number");
        };
        if bytes == 0 {
            return Err("is empty");
        }
        if offset.checked_add(bytes).is_none() {
            return Err("ends beyond 64 bits");
        }
        if start
            .checked_add(bytes)
            .is_none_or(|end| end > ADDRESS_LIMIT)
        {
            return Err("ends above the 52 bits that a physical address can have");
        }
        Ok(MapEntry {
            offset,
            ram: PhysRange {
                start: PhysAddr::new(start),
                bytes,
            },
        })
    }
}
