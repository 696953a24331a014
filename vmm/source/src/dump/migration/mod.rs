//! QEMU's migration stream: what `migrate file:…` and `exec:cat > FILE` write, and what libvirt's saved guests
//! hold.
//!
//! ```text
//! "QEVM", version 3; then sections, each behind a byte that says what it is:
//!   7      the machine's name and what the stream can
//!   1–3    parts of a large section: RAM, page by page
//!   4      a device, as its own code writes it
//!   0      the end; behind it 6, a length and, in JSON, what each device's section consists of
//! ```
//!
//! All numbers are big-endian. A section does not say how long it is; that of a CPU is found, and its registers
//! in it, by the description at the end (docs/devel/migration in QEMU's sources).

mod description;
mod nodes;
mod pages;
mod ram;
mod registers;
mod stream;

use heirloom_inspect::{CpuState, PhysAddr, PhysRange};

use self::description::Description;
use self::ram::Ram;
use self::stream::{Stop, Stream};
use super::{Contents, DumpError};
use crate::input::Input;
use crate::memory::{PAGE, PagedSource, RAM_LIMIT, Source};

const EOF: u8 = 0;
const START: u8 = 1;
const PART: u8 = 2;
const END: u8 = 3;
const FULL: u8 = 4;
const SUBSECTION: u8 = 5;
const CONFIGURATION: u8 = 7;
const COMMAND: u8 = 8;
const FOOTER: u8 = 0x7e;
/// Sections that go on later are few: RAM, and disks that are copied along.
const SECTIONS: usize = 64;
const KIND: &str = "migration stream of QEMU's";
/// What makes another file of a stream that is not read.
const REMEDY: &str = "load it into QEMU (-incoming), and write the memory with `dump-guest-memory FILE` in \
    its monitor";

/// What the stream says.
#[derive(Debug, Default)]
struct Found {
    machine: String,
    capabilities: Vec<String>,
    ram: Ram,
    cpus: Vec<(u32, CpuState)>,
    /// Why the registers may be incomplete.
    problem: Option<String>,
}

/// Opens the stream that begins at `start`.
///
/// # Errors
/// [`DumpError`].
pub(crate) fn open(name: &str, input: Input, start: u64) -> Result<Contents, DumpError> {
    let mut notes = vec!["by its content this is a migration stream of QEMU's".to_string()];
    let description = Description::find(&input, start);
    let mut found = Found::default();
    let mut stream = Stream::new(&input, start);
    let mut is_cut = false;
    match read(&mut stream, &description, &mut found) {
        Ok(()) => {}
        Err(Stop::Cut) => {
            is_cut = true;
            notes.push(format!(
                "{name} is cut off: the stream goes on behind its {} bytes; what it lacks is unknown, copy \
                 it again to have it",
                input.length()
            ));
        }
        Err(Stop::Damaged(what)) => {
            return Err(DumpError::Damaged {
                name: name.into(),
                kind: KIND,
                what,
            });
        }
        Err(Stop::Unread(what)) => {
            return Err(DumpError::Unread {
                name: name.into(),
                what: format!("a {KIND} {what}"),
                remedy: REMEDY,
            });
        }
    }
    if let Some(problem) = &found.problem {
        notes.push(format!("not all CPU registers are known: {problem}"));
    }
    found.cpus.sort_by_key(|(number, _)| *number);
    let cpus: Vec<CpuState> = found.cpus.iter().map(|(_, cpu)| *cpu).collect();
    let Found { machine, ram, .. } = found;
    let (blocks, others) = ram.of_the_guest();
    let (input, blocks, others) = nodes::in_order(input, (blocks, others), cpus.first());
    let length = nodes::length_of(&blocks);
    let plugged: Vec<String> = others
        .iter()
        .map(|block| format!("{} ({} MiB)", block.name, block.length >> 20))
        .collect();
    let pages = pages::Pages::new(input, blocks);
    let pages: Box<dyn PagedSource> = Box::new(crate::memory::Paged::new(pages));
    let read = |offset: u64| {
        let mut bytes = vec![0; PAGE];
        pages.read(offset, &mut bytes).then_some(bytes)
    };
    let by_machine = hole_of(&machine, length);
    let layout = super::with_hole(&read, length, cpus.first(), by_machine, &mut notes);
    let mut left_out = Vec::new();
    if !plugged.is_empty() {
        notes.push(format!(
            "{} is RAM that was plugged in, and the stream does not say where: what lies there is unknown",
            plugged.join(", ")
        ));
        let start = PhysAddr::new(layout.end());
        let bytes = RAM_LIMIT.saturating_sub(start.get());
        left_out.push(PhysRange { start, bytes });
    }
    if is_cut && cpus.is_empty() {
        notes.push("the registers stand at the end, which is missing".into());
    }
    Ok(Contents {
        layout,
        sources: vec![Source::Paged(pages)],
        cpus,
        roots: Vec::new(),
        left_out,
        // The small machine has RAM there, too, of which firmware tells no kernel.
        is_pc: true,
        notes,
    })
}

/// Reads sections up to the end.
fn read(stream: &mut Stream<'_>, description: &Description, found: &mut Found) -> Result<(), Stop> {
    let (magic, version) = (stream.word32()?, stream.word32()?);
    if (magic, version) != (u32::from_be_bytes(*b"QEVM"), 3) {
        return Err(Stop::Damaged(format!("its version is {version}, not 3")));
    }
    // Sections that go on later, by their number.
    let mut sections: Vec<u32> = Vec::new();
    loop {
        match stream.byte()? {
            EOF => return Ok(()),
            CONFIGURATION => configuration(stream, found)?,
            kind @ (START | FULL) => {
                let number = stream.word32()?;
                let name = stream.text()?;
                let instance = stream.word32()?;
                stream.word32()?;
                if kind == FULL {
                    if !device(stream, description, found, &name, instance)? {
                        return Ok(());
                    }
                } else if name == "ram" {
                    if sections.len() == SECTIONS {
                        return Err(Stop::Damaged("it has too many sections".into()));
                    }
                    sections.push(number);
                    found.ram.read(stream, &found.capabilities)?;
                } else {
                    return Err(Stop::Unread(format!("with a section {name} in it")));
                }
            }
            PART | END => {
                let number = stream.word32()?;
                if !sections.contains(&number) {
                    return Err(Stop::Damaged(format!("section {number} has no start")));
                }
                found.ram.read(stream, &found.capabilities)?;
            }
            COMMAND => {
                stream.word16()?;
                let length = stream.word16()?;
                stream.skip(length.into())?;
            }
            FOOTER => {
                stream.word32()?;
            }
            other => {
                let at = stream.at() - 1;
                return Err(Stop::Damaged(format!(
                    "at byte {at}, where a section should begin, is {other:#x}"
                )));
            }
        }
    }
}

/// The machine's name, and what the stream can.
fn configuration(stream: &mut Stream<'_>, found: &mut Found) -> Result<(), Stop> {
    let length = stream.word32()?;
    if length > 255 {
        return Err(Stop::Damaged("its machine has no name".into()));
    }
    found.machine = stream.letters(length as usize)?;
    while stream.peek()? == SUBSECTION {
        stream.byte()?;
        let name = stream.text()?;
        stream.word32()?;
        match name.as_str() {
            "configuration/target-page-bits" => {
                let bits = stream.word32()?;
                if bits != 12 {
                    return Err(Stop::Unread(format!("with pages of {bits} bits")));
                }
            }
            "configuration/capabilities" => {
                let count = stream.word32()?;
                if count > 255 {
                    return Err(Stop::Damaged(format!("it claims {count} capabilities")));
                }
                for _ in 0..count {
                    found.capabilities.push(stream.text()?);
                }
            }
            "configuration/uuid" => stream.skip(16)?,
            other => return Err(Stop::Unread(format!("with {other} in it"))),
        }
    }
    Ok(())
}

/// Passes over a device, and takes the registers of a CPU: `false` if it is not known how long it is, so that
/// nothing behind it can be read.
fn device(
    stream: &mut Stream<'_>,
    description: &Description,
    found: &mut Found,
    name: &str,
    instance: u32,
) -> Result<bool, Stop> {
    let Some(device) = description.device(name, instance) else {
        found.problem = Some(if description.is_empty() {
            "the stream has no description of its devices at its end, as if it were cut off".into()
        } else {
            format!("the stream's description lacks the device {name}")
        });
        return Ok(false);
    };
    let start = stream.at();
    if name == "cpu" {
        match registers::read(stream, device) {
            Some(cpu) => found.cpus.push((instance, cpu)),
            None => found.problem = Some(format!("CPU {instance} is of another form")),
        }
    }
    stream.go_to(start.saturating_add(device.bytes()))?;
    Ok(true)
}

/// Where QEMU's machines let the RAM below 4 GiB end, if they have as much.
fn hole_of(machine: &str, length: u64) -> u64 {
    let (least, start) = match machine {
        machine if machine.contains("q35") => (0xb000_0000, 0x8000_0000),
        machine if machine.contains("microvm") => (0xc000_0000, 0xc000_0000),
        _ => (0xe000_0000, 0xc000_0000),
    };
    if length >= least { start } else { length }
}
