//! kdump-compressed dumps: what makedumpfile writes unless it is told otherwise (-c, -l, -p, -z, none), and
//! QEMU's `dump-guest-memory` with -z, -l or -s.
//!
//! A page that was left out (-d) is RAM, and not in this file: nobody knows what it holds. Pages of
//! zeros are in it, as one page that all of them share.

pub(super) mod bitmap;
mod header;
mod pages;

use heirloom_inspect::PhysRange;

use self::bitmap::Bitmap;
use self::header::{Header, PAGE};
use self::pages::{Pages, Part};
use super::{Contents, DumpError};
use crate::core::{Notes, VmCoreInfo, left_out};
use crate::input::Input;
use crate::memory::{Layout, Paged, Piece, Source};

/// Larger notes are not read: those of a thousand CPUs take less than 1 MiB.
const NOTE_BYTES: u64 = 16 << 20;
/// Nobody splits a dump into more files.
const PARTS: usize = 1024;

/// An opened dump.
#[derive(Debug)]
pub(crate) struct Kdump {
    pub(crate) contents: Contents,
    pub(crate) vmcoreinfo: Option<VmCoreInfo>,
}

impl Kdump {
    /// Reads the headers of `inputs`, the files of one dump with their names.
    ///
    /// # Errors
    /// [`DumpError`].
    pub(crate) fn read(inputs: Vec<(String, Input)>) -> Result<Kdump, DumpError> {
        let mut files = Vec::new();
        for (name, input) in inputs {
            let header = Header::read(&name, &input)?;
            files.push((name, input, header));
        }
        files.sort_by_key(|(_, _, header)| header.split.as_ref().map(|frames| frames.start));
        let Some((name, input, header)) = files.first() else {
            return Err(DumpError::NoMemory {
                name: String::new(),
            });
        };
        let name = name.clone();
        let header = header.clone();
        let damaged = |what: &str| DumpError::Damaged {
            name: name.clone(),
            kind: "kdump-compressed dump",
            what: what.into(),
        };
        let ram = bitmap::ranges(input, header.ram_bitmap, header.frames)
            .ok_or_else(|| damaged("its bitmap of RAM makes no sense"))?;
        let mut notes = vec![says(&header)];
        let (found, vmcoreinfo) = kernel(input, &header, &mut notes);
        let cpus = found.cpus(&mut notes);
        let holes = if cpus.is_empty() && vmcoreinfo.is_some() {
            left_out::of_a_dumped_kernel(&ram)
        } else {
            Vec::new()
        };
        notes.extend(left_out::note(&holes));
        let mut parts = Vec::new();
        check_parts(&files)?;
        for (name, input, header) in files {
            let bitmap = Bitmap::read(&input, header.bitmap, header.frames);
            let bitmap = bitmap.ok_or_else(|| damaged("its bitmap of pages makes no sense"))?;
            let frames = header.split.clone().unwrap_or(0..header.frames);
            let before = bitmap.set_below(&input, frames.start);
            let before = before.ok_or_else(|| damaged("its bitmap of pages makes no sense"))?;
            let last = bitmap.set_below(&input, frames.end).unwrap_or(bitmap.count);
            let descriptors = last.saturating_sub(before).saturating_mul(24);
            let end = header.descriptors.saturating_add(descriptors);
            if end > input.length() {
                notes.push(format!(
                    "{name} is cut off: the descriptors of its pages end at byte {end}, but the file has \
                     only {}; the pages that it lacks are unknown",
                    input.length()
                ));
            }
            if header.incomplete {
                notes.push(format!(
                    "{name} is incomplete: its writer ran out of space; the pages that it lacks are \
                     unknown"
                ));
            }
            parts.push(Part::new(input, bitmap, header.descriptors, frames, before));
        }
        if let Some(note) = excluded(&ram, &parts, header.dump_level) {
            notes.push(note);
        }
        if let Some(note) = missing_parts(&parts, header.frames) {
            notes.push(note);
        }
        let pieces = ram
            .iter()
            .map(|range| Piece::new(*range, 0, range.start.get()));
        let contents = Contents {
            layout: Layout::of(pieces.collect()),
            sources: vec![Source::Paged(Box::new(Paged::new(Pages(parts))))],
            cpus,
            roots: Vec::new(),
            left_out: holes,
            is_pc: false,
            notes,
        };
        Ok(Kdump {
            contents,
            vmcoreinfo,
        })
    }
}

/// Makes sure that these are files of one dump.
fn check_parts(files: &[(String, Input, Header)]) -> Result<(), DumpError> {
    let wrong = |name: &str, what: String| {
        Err(DumpError::Part {
            name: name.into(),
            what,
        })
    };
    if files.len() > PARTS {
        return wrong(&files[0].0, format!("there are {} of them", files.len()));
    }
    for pair in files.windows(2) {
        let [(one_name, _, one), (other_name, _, other)] = pair else {
            continue;
        };
        let (Some(before), Some(behind)) = (&one.split, &other.split) else {
            return wrong(other_name, "it was not split".into());
        };
        if !one.is_like(other) {
            return wrong(
                other_name,
                format!("its header is another than {one_name}'s"),
            );
        }
        if before.end > behind.start {
            return wrong(other_name, format!("it has pages of {one_name}, too"));
        }
    }
    Ok(())
}

/// What the dump says of itself.
fn says(header: &Header) -> String {
    let release = match header.release.as_str() {
        "" => String::new(),
        release => format!(", of a guest that runs {release}"),
    };
    let level = match header.dump_level {
        0 => String::new(),
        level => format!(", dump level {level}"),
    };
    format!(
        "by its content this is a kdump-compressed dump (header version {}{level}{release})",
        header.version
    )
}

/// The CPUs and what the kernel says of itself, as far as the dump has them.
fn kernel(input: &Input, header: &Header, notes: &mut Vec<String>) -> (Notes, Option<VmCoreInfo>) {
    let mut part = |what: &str, (offset, bytes): (u64, u64)| {
        if bytes == 0 {
            return None;
        }
        let read = usize::try_from(bytes)
            .ok()
            .filter(|_| bytes <= NOTE_BYTES)
            .and_then(|bytes| input.bytes(offset, bytes));
        if read.is_none() {
            notes.push(format!(
                "{what} are left out: the header claims {bytes} bytes of them at {offset:#x}, which the \
                 dump does not have"
            ));
        }
        read
    };
    let text = part(
        "what the kernel says of itself and the CPU registers",
        header.vmcoreinfo,
    );
    let bytes = part("the notes with the CPU registers", header.notes);
    let mut found = Notes::default();
    if let Some(bytes) = bytes
        && let Err(problem) = found.take(&bytes, 4)
    {
        notes.push(format!(
            "some notes of the dump, which hold CPU registers, are left out: {problem}"
        ));
    }
    let vmcoreinfo = text.map(|text| VmCoreInfo::parse(&text));
    let vmcoreinfo = vmcoreinfo.or(found.vmcoreinfo.take());
    (found, vmcoreinfo)
}

/// How much RAM is not in the files.
fn excluded(ram: &[PhysRange], parts: &[Part], level: u32) -> Option<String> {
    let all: u64 = ram.iter().map(|range| range.bytes / PAGE).sum();
    let there = parts.first().map_or(0, |part| part.bitmap.count);
    let pages = all.checked_sub(there).filter(|pages| *pages > 0)?;
    let by = match level {
        0 => String::new(),
        level => format!(" (dump level {level})"),
    };
    Some(format!(
        "{pages} of {all} pages of RAM were left out of the dump{by}: what they hold is unknown, and roots \
         among them are not found"
    ))
}

/// The frames whose files were not given.
fn missing_parts(parts: &[Part], frames: u64) -> Option<String> {
    let mut next = 0;
    let mut missing = 0;
    for part in parts {
        missing += part.frames.start.saturating_sub(next);
        next = part.frames.end.max(next);
    }
    missing += frames.saturating_sub(next);
    (missing > 0).then(|| {
        format!(
            "this is a part of a split dump: pages of {missing} frames are in other files; give these with \
             it, each as part=FILE"
        )
    })
}
