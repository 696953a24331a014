//! An image of RAM and nothing else:
//! `raw:FILE[,cr3=…][,cr4=…][,encrypt-bit=…][,phys-bits=…][,map=OFFSET:GPA:LEN…][,hole=…]`.

mod arrangement;
pub(crate) mod hole;

use std::path::PathBuf;

use heirloom_inspect::{Depth, Entry, PhysAddr, PhysRange};

use crate::Target;
use crate::assumed::RootOutside;
use crate::content::Kind;
use crate::dump::target;
use crate::file::FileError;
use crate::input::Input;
use crate::memory::{Layout, Memory, Piece, RAM_LIMIT, Source};
use crate::packed::Unpacking;
use crate::spec::{Fields, Given, SpecError};

pub(crate) use arrangement::{Arrangement, around};
use hole::Hole;

const USAGE: &str = "raw:FILE[,cr3=0x…][,cr4=0x…][,encrypt-bit=N][,phys-bits=N][,map=OFFSET:GPA:LEN…] \
    [,hole=ADDRESS][,unpack=SIZE]";

/// Bytes that a header in front of an image has at most.
const HEADER: u64 = 64 << 10;
/// CR4.LA57.
const LA57: u64 = 1 << 12;

/// Which image, and how it lies in the guest's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawSpec {
    file: PathBuf,
    given: Given,
    arrangement: Arrangement,
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
        "{name} is {what}, not an image of RAM: {remedy}; if an image lies in it, say with \
         map=OFFSET:GPA:LEN where"
    )]
    Container {
        name: String,
        what: &'static str,
        remedy: &'static str,
    },
    #[error("hole={hole:#x} is not inside {name}, which has {length:#x} bytes: leave it out")]
    HoleOutside {
        name: String,
        hole: u64,
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
        let mut given = Given::default();
        let mut arrangement = Arrangement::default();
        for option in fields.options(USAGE)? {
            if !fields.given(&option, &mut given)? && !arrangement.take(fields, &option)? {
                return Err(fields.unknown(option.whole, USAGE));
            }
        }
        fields.complete(&given.registers)?;
        Ok(RawSpec::of(fields.file().into(), given, arrangement))
    }

    pub(crate) fn of(file: PathBuf, given: Given, arrangement: Arrangement) -> RawSpec {
        RawSpec {
            file,
            given,
            arrangement,
        }
    }

    pub(crate) fn open(
        &self,
        name: String,
        tell: &dyn Fn(&Unpacking<'_>),
    ) -> Result<Target, RawError> {
        let mut notes = Vec::new();
        let way = self.given.unpack.way(tell);
        let (file_name, input) = way.open(&self.file, "raw image", &mut notes)?;
        // Where an image lies in a file, the user knows better.
        if self.arrangement.map.is_empty() {
            not_a_container(&file_name, &input)?;
        }
        self.open_input(name, file_name, input, notes)
    }

    /// Opens the image in `input`; `notes` say what is known already.
    pub(crate) fn open_input(
        &self,
        name: String,
        file_name: String,
        input: Input,
        mut notes: Vec<String>,
    ) -> Result<Target, RawError> {
        let length = input.length();
        let layout = if !self.arrangement.map.is_empty() {
            Layout::of(self.mapped(&file_name, length)?)
        } else if let Some(hole) = self.arrangement.hole {
            if hole >= length {
                return Err(RawError::HoleOutside {
                    name: file_name,
                    hole,
                    length,
                });
            }
            around(hole, length)
        } else {
            self.arranged(&file_name, &input, &mut notes)
        };
        if layout.bytes() > RAM_LIMIT {
            return Err(RawError::TooMuch {
                name: file_name,
                bytes: layout.bytes(),
            });
        }
        let ram = layout.ram();
        let end = layout.end();
        let lost = PhysRange {
            start: PhysAddr::new(end),
            bytes: RAM_LIMIT.saturating_sub(end),
        };
        let lost = input.is_cut().then_some(lost);
        let memory = Memory::new(layout, vec![Source::input(input)]);
        let memory = memory.without(lost.into_iter().collect()).open_ended(true);
        let mut target = target(name, Box::new(memory), ram, Vec::new(), notes);
        self.given
            .registers
            .add_to(&mut target)
            .map_err(|RootOutside(cr3)| RawError::RootOutside {
                name: file_name,
                cr3: cr3.get(),
                root: cr3.root(),
            })?;
        Ok(target)
    }

    /// How an image of which nothing is said lies in memory.
    fn arranged(&self, name: &str, input: &Input, notes: &mut Vec<String>) -> Layout {
        let length = input.length();
        let ram = PhysRange {
            start: PhysAddr::new(0),
            bytes: length,
        };
        let plain = || Layout::of(vec![Piece::new(ram, 0, 0)]);
        let over = length % (1 << 20);
        if (1..=HEADER).contains(&over) && over < length {
            let rest = length - over;
            notes.push(format!(
                "{name} has {over} bytes more than whole MiB: if they are a header in front of the RAM, say with \
                 map={over}:0:{rest} that the RAM begins behind them"
            ));
        }
        // A PC has its hole from 2 GiB on at the earliest.
        if length <= 2 << 30 {
            return plain();
        }
        let cr4 = self.given.registers.cr4.map(|cr4| match cr4 & LA57 {
            0 => Depth::Four,
            _ => Depth::Five,
        });
        let encryption = self.given.registers.encryption.unwrap_or(Entry::ABSENT);
        let found = self.given.registers.cr3.first().map(|cr3| {
            let root = cr3.without(encryption).root();
            let read = |offset| input.bytes(offset, 4096);
            hole::find(&read, length, root, cr4, encryption)
        });
        match found {
            Some(Hole::At(hole)) => {
                notes.push(format!(
                    "the page tables tell that the image has no bytes for {hole:#x}–0x100000000: it is taken \
                     as with hole={hole:#x}"
                ));
                around(hole, length)
            }
            Some(Hole::None) => {
                notes.push(
                    "the page tables tell that the image begins at guest-physical address 0 and has no hole"
                        .into(),
                );
                plain()
            }
            Some(Hole::Unknown) | None => {
                notes.push(format!(
                    "{name} is taken to begin at guest-physical address 0 without a hole; a PC has none of \
                     its RAM between 2 or 3 GiB and 4 GiB: if that was left out of the image, say with \
                     hole=ADDRESS where it begins, or with map=OFFSET:GPA:LEN what lies where"
                ));
                plain()
            }
        }
    }

    /// The pieces that the user named, if the file has them.
    fn mapped(&self, name: &str, length: u64) -> Result<Vec<Piece>, RawError> {
        self.arrangement
            .map
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

/// Makes sure that the file is nothing that is known.
fn not_a_container(name: &str, input: &Input) -> Result<(), RawError> {
    let kind = Kind::of_bytes(&input.start());
    let remedy = kind.without_a_prefix();
    match kind.what() {
        None => Ok(()),
        Some(what) => Err(RawError::Container {
            name: name.into(),
            what,
            remedy,
        }),
    }
}
