//! An ELF core of a whole guest: `core:FILE[,cr3=…][,cr4=…][,encrypt-bit=…][,phys-bits=…]`.
//!
//! QEMU's `dump-guest-memory` (and `virsh dump --memory-only`, which is the same) and kdump both write
//! RAM as PT_LOAD segments whose p_paddr is the guest-physical address. QEMU adds a note with the
//! registers of each CPU, kdump one with what the kernel says of itself (VMCOREINFO).

mod elf;
mod foreign;
mod kcore;
pub(crate) mod left_out;
mod notes;
mod virtualbox;
mod vmcoreinfo;
mod write;

use std::path::PathBuf;

use heirloom_inspect::{PhysAddr, PhysRange};

use self::elf::{CoreFile, Segment};
use crate::Target;
use crate::assumed::RootOutside;
use crate::dump;
use crate::file::FileError;
use crate::input::Input;
use crate::memory::{ADDRESS_LIMIT, Layout, Memory, Piece, RAM_LIMIT, Source};
use crate::packed::Unpacking;
use crate::pc;
use crate::spec::{Fields, Given, SpecError};

pub(crate) use notes::Notes;
pub(crate) use vmcoreinfo::VmCoreInfo;
pub use write::{CoreWriteError, write_core, write_core_to};

const USAGE: &str = "core:FILE[,cr3=0x…][,cr4=0x…][,encrypt-bit=N][,phys-bits=N][,unpack=SIZE]";
/// What is said of `/proc/kcore`.
const LIVE: &str = "this is the memory of the kernel that runs here, which runs on while it is read: what it changes \
    meanwhile may look broken, and is not the next time; what it has not in its list of RAM is unknown, and \
    so are the CPUs' registers";
/// The memory's sources.
const FILE: usize = 0;
const ZEROS: usize = 1;

/// Which core, and what the user knows of its CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreSpec {
    file: PathBuf,
    given: Given,
}

/// Why a core cannot be inspected.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its variant is")]
pub enum CoreError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{name} is {what}, not an ELF core: {remedy}")]
    Foreign {
        name: String,
        what: &'static str,
        remedy: &'static str,
    },
    #[error(
        "{name} is not an ELF file: make a core with QEMU's `dump-guest-memory FILE`, or give an image \
         of RAM as raw:FILE"
    )]
    NotElf { name: String },
    #[error(
        "{name} is a core of a 32-bit kernel, or of a guest that was not in long mode yet: its first CPU had no \
         64-bit page tables; if it is a 64-bit kernel's, dump it after the kernel has entered long mode"
    )]
    NotLongMode { name: String },
    #[error(
        "{name} is the core of a process, and not of a guest: its memory is by virtual addresses, and it \
         has no page tables; of a process that runs a guest, dump the guest: with QEMU's \
         `dump-guest-memory FILE`, or `virsh dump --memory-only DOMAIN FILE`"
    )]
    Process { name: String },
    #[error("{name} is an ELF, but no x86-64 one: only x86-64 guests can be inspected")]
    WrongMachine { name: String },
    #[error(
        "{name} is an x86-64 ELF, but no core: give the dump of a guest's memory, not a kernel or \
         program"
    )]
    NotACore { name: String },
    #[error(
        "{name} is cut off: {what} ends at byte {end}, but the file has only {length}; dump or copy it again"
    )]
    Truncated {
        name: String,
        what: &'static str,
        end: u64,
        length: u64,
    },
    #[error("{name} is damaged: {what}; dump or copy it again")]
    Damaged { name: String, what: String },
    #[error(
        "{name} holds no memory: it has no PT_LOAD segment with bytes in the file; dump or copy it again"
    )]
    NoMemory { name: String },
    #[error(
        "cr3={cr3:#x} points to {root:#x}, where {name} has no RAM: check it, it is a guest-physical \
         address"
    )]
    RootOutside {
        name: String,
        cr3: u64,
        root: PhysAddr,
    },
}

impl CoreSpec {
    pub(crate) fn parse(fields: &Fields) -> Result<CoreSpec, SpecError> {
        let mut given = Given::default();
        for option in fields.options(USAGE)? {
            if !fields.given(&option, &mut given)? {
                return Err(fields.unknown(option.whole, USAGE));
            }
        }
        fields.complete(&given.registers)?;
        Ok(CoreSpec {
            file: fields.file().into(),
            given,
        })
    }

    pub(crate) fn of(file: PathBuf, given: Given) -> CoreSpec {
        CoreSpec { file, given }
    }

    pub(crate) fn open(
        &self,
        name: String,
        tell: &dyn Fn(&Unpacking<'_>),
    ) -> Result<Target, CoreError> {
        let mut notes = Vec::new();
        let way = self.given.unpack.way(tell);
        let (file_name, input) = way.open(&self.file, "core", &mut notes)?;
        self.open_input(name, file_name, input, notes)
    }

    /// Opens the core in `input`; `notes` say what is known already.
    pub(crate) fn open_input(
        &self,
        name: String,
        file_name: String,
        input: Input,
        mut notes: Vec<String>,
    ) -> Result<Target, CoreError> {
        let mut core = CoreFile::read(&file_name, &input)?;
        let is_live = kcore::is_one(&core.segments);
        if core.notes.is_process() && !is_live {
            return Err(CoreError::Process { name: file_name });
        }
        let input = if is_live {
            core.segments = kcore::physical(&core.segments);
            notes.push(LIVE.into());
            input.live()
        } else {
            input
        };
        notes.append(&mut core.remarks);
        let cpus = core.notes.cpus(&mut notes);

        let Laid {
            layout,
            excluded,
            mut lost,
        } = lay_out(&file_name, &core.segments, input.length(), &mut notes)?;
        if excluded > 0 {
            notes.push(format!(
                "{excluded} bytes of RAM are in the core's headers, but were left out of the file; they \
                 read as zero"
            ));
        }
        let mut ram = layout.ram();
        if core.notes.is_of_a_hypervisor() {
            let pieces: Vec<PhysRange> = core.segments.iter().map(Segment::range).collect();
            ram = pc::ram_of_a_dump(&pieces, ram);
        }
        if is_live {
            lost.extend(left_out::of_a_dumped_kernel(&ram));
        } else if core.notes.is_of_a_dumped_kernel() {
            let holes = left_out::of_a_dumped_kernel(&ram);
            notes.extend(left_out::note(&holes));
            lost.extend(holes);
        }
        let memory = Memory::new(layout, vec![Source::input(input), Source::Zeros])
            .without(lost)
            .open_ended(!is_live && !core.notes.is_of_a_hypervisor())
            .perhaps_a_part(core.notes.is_of_a_hypervisor());
        let mut target = dump::target(name, Box::new(memory), ram, cpus, notes);
        if let Some(info) = core.notes.vmcoreinfo {
            info.tell(&mut target);
        }
        if target.cpus.is_empty() && self.given.registers.cr3.is_empty() && !is_live {
            target.notes.push(
                "the core has no CPU registers (no note of QEMU's); give cr3=0x… if CR3 is known"
                    .to_string(),
            );
        }
        self.given
            .registers
            .add_to(&mut target)
            .map_err(|RootOutside(cr3)| CoreError::RootOutside {
                name: file_name,
                cr3: cr3.get(),
                root: cr3.root(),
            })?;
        Ok(target)
    }
}

/// Where the segments' bytes lie.
struct Laid {
    layout: Layout,
    /// How many bytes have none.
    excluded: u64,
    /// What the file was cut off before.
    lost: Vec<PhysRange>,
}

fn lay_out(
    name: &str,
    segments: &[Segment],
    length: u64,
    notes: &mut Vec<String>,
) -> Result<Laid, CoreError> {
    let (mut saved, mut zeros) = (Vec::new(), Vec::new());
    let (mut nowhere, mut lost) = (0_u64, 0_u64);
    let mut cut = Vec::new();
    for segment in segments {
        let start = segment.physical;
        let bytes = segment.memory_bytes.max(segment.file_bytes);
        if start
            .checked_add(bytes)
            .is_none_or(|end| end.get() > ADDRESS_LIMIT)
        {
            nowhere += 1;
            continue;
        }
        let there = segment
            .file_bytes
            .min(length.saturating_sub(segment.offset));
        lost = lost.saturating_add(segment.file_bytes - there);
        let ram = PhysRange {
            start,
            bytes: there,
        };
        saved.push(Piece::new(ram, FILE, segment.offset));
        if there < segment.file_bytes {
            cut.push(PhysRange {
                start: start.wrapping_add(there),
                bytes: segment.file_bytes - there,
            });
        }
        if bytes > segment.file_bytes {
            let start = start.wrapping_add(segment.file_bytes);
            let ram = PhysRange {
                start,
                bytes: bytes - segment.file_bytes,
            };
            zeros.push(Piece::new(ram, ZEROS, start.get()));
        }
    }
    if nowhere > 0 {
        notes.push(format!(
            "{nowhere} segments of the core have no guest-physical address, and are left out"
        ));
    }
    if lost > 0 {
        notes.push(format!(
            "{name} is cut off: it has {length} bytes, {lost} bytes of the RAM that its headers name are \
             missing; dump or copy it again to have them"
        ));
    }
    if saved.iter().all(Piece::is_empty) {
        return Err(if lost > 0 {
            CoreError::Truncated {
                name: name.into(),
                what: "the memory of its first segment",
                end: segments
                    .iter()
                    .map(|segment| segment.offset.saturating_add(segment.file_bytes))
                    .min()
                    .unwrap_or(length),
                length,
            }
        } else {
            CoreError::NoMemory { name: name.into() }
        });
    }
    let in_file = Layout::of(saved.clone()).bytes();
    // Behind all that the file has, so that a page that was saved is never taken to be zero.
    saved.append(&mut zeros);
    let layout = Layout::of(saved);
    if layout.bytes() > RAM_LIMIT {
        return Err(CoreError::Damaged {
            name: name.into(),
            what: format!(
                "its segments claim {} bytes of RAM, more than any machine has",
                layout.bytes()
            ),
        });
    }
    let excluded = layout.bytes() - in_file;
    cut.sort_by_key(|range: &PhysRange| range.start);
    Ok(Laid {
        layout,
        excluded,
        lost: cut,
    })
}
