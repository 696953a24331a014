//! A snapshot of Cloud Hypervisor's: a folder with `memory-ranges`, the bytes of each range of RAM one behind the
//! other, and `state.json`, which says which these are and what is in the CPUs' registers.
//!
//! The state is JSON, inside of which the states of parts are JSON in texts, by some versions as lists of bytes.
//! Nothing but three of its entries matters: they are looked for by their names, wherever they stand.

use heirloom_inspect::{CpuState, Cr3, PhysAddr, PhysRange, VirtAddr};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Contents, DumpError, kvm};
use crate::input::Input;
use crate::memory::{ADDRESS_LIMIT, Layout, Piece, Source};

/// A longer state is not read: that of a machine with hundreds of CPUs takes less.
const LONGEST: u64 = 24 << 20;
/// More ranges, or registers of more CPUs, are not believed.
const MANY: usize = 4096;

#[derive(Deserialize)]
struct Range {
    gpa: u64,
    length: u64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Ranges {
    Table { data: Vec<Range> },
    List(Vec<Range>),
}

/// Registers as KVM has them, byte by byte or by name.
#[derive(Deserialize)]
#[serde(untagged)]
enum Special {
    Bytes(Vec<u8>),
    Named(Named),
}

#[derive(Deserialize)]
struct Named {
    cr0: u64,
    cr2: u64,
    cr3: u64,
    cr4: u64,
    efer: u64,
    cs: Segment,
    tr: Segment,
    gdt: Table,
    idt: Table,
}

#[derive(Deserialize)]
struct Segment {
    base: u64,
    selector: u16,
}

#[derive(Deserialize)]
struct Table {
    base: u64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum General {
    Bytes(Vec<u8>),
    Named {
        rip: u64,
        rsp: u64,
        rbp: u64,
        rflags: u64,
    },
}

/// Opens the snapshot in these two files.
///
/// # Errors
/// [`DumpError`].
pub(crate) fn open(name: &str, state: &Input, memory: Input) -> Result<Contents, DumpError> {
    let damaged = |what: String| DumpError::Damaged {
        name: name.into(),
        kind: "snapshot of Cloud Hypervisor's",
        what,
    };
    let length = state.length();
    let text = usize::try_from(length)
        .ok()
        .filter(|_| length <= LONGEST)
        .and_then(|length| state.bytes(0, length))
        .ok_or_else(|| damaged(format!("its state.json has {length} bytes")))?;
    let text = flat(&text);
    let ranges: Vec<Range> = entries::<Ranges>(&text, "memory_ranges")
        .into_iter()
        .flat_map(|ranges| match ranges {
            Ranges::Table { data } | Ranges::List(data) => data,
        })
        .collect();
    if ranges.is_empty() {
        return Err(damaged(
            "its state.json names no ranges of RAM; that of guests whose memory is shared is in files of \
             their own"
                .into(),
        ));
    }
    let mut notes = vec!["by its content this is a snapshot of Cloud Hypervisor's".to_string()];
    let (mut pieces, mut left_out) = (Vec::new(), Vec::new());
    let mut at = 0_u64;
    for range in &ranges {
        let end = range.gpa.checked_add(range.length);
        if end.is_none_or(|end| end > ADDRESS_LIMIT) {
            return Err(damaged(format!("it has RAM at {:#x}", range.gpa)));
        }
        let there = range.length.min(memory.length().saturating_sub(at));
        let start = PhysAddr::new(range.gpa);
        pieces.push(Piece::new(
            PhysRange {
                start,
                bytes: there,
            },
            0,
            at,
        ));
        if there < range.length {
            left_out.push(PhysRange {
                start: start.wrapping_add(there),
                bytes: range.length - there,
            });
        }
        at = at.saturating_add(range.length);
    }
    if at > memory.length() {
        notes.push(format!(
            "the memory-ranges of {name} are cut off: they have {} bytes of {at}; what they lack is unknown, \
             copy it again to have it",
            memory.length()
        ));
    }
    left_out.sort_by_key(|range: &PhysRange| range.start);
    Ok(Contents {
        layout: Layout::of(pieces),
        sources: vec![Source::input(memory)],
        cpus: cpus(&text),
        roots: Vec::new(),
        left_out,
        is_pc: false,
        notes,
    })
}

/// Each CPU, in the order of the state.
fn cpus(text: &str) -> Vec<CpuState> {
    let special = entries::<Special>(text, "sregs");
    let mut general = entries::<General>(text, "regs").into_iter();
    special
        .into_iter()
        .filter_map(|special| {
            let general = general.next();
            let cpu = match (&special, &general) {
                (Special::Bytes(special), Some(General::Bytes(general))) => {
                    return kvm::of(special, Some(general));
                }
                (Special::Bytes(special), _) => kvm::of(special, None)?,
                (Special::Named(special), _) => special.state(),
            };
            Some(match general {
                Some(General::Named {
                    rip,
                    rsp,
                    rbp,
                    rflags,
                }) => CpuState {
                    rip: VirtAddr::new(rip),
                    rsp: VirtAddr::new(rsp),
                    rbp: VirtAddr::new(rbp),
                    rflags,
                    ..cpu
                },
                _ => cpu,
            })
        })
        .collect()
}

impl Named {
    fn state(&self) -> CpuState {
        let table = |base: u64| (base != 0).then_some(VirtAddr::new(base));
        CpuState {
            cr0: self.cr0,
            cr2: VirtAddr::new(self.cr2),
            cr3: Cr3::new(self.cr3),
            cr4: self.cr4,
            efer: self.efer,
            cpl: (self.cs.selector & 3) as u8,
            rflags: 2,
            idt: table(self.idt.base),
            gdt: table(self.gdt.base),
            tss: table(self.tr.base),
            ..CpuState::default()
        }
    }
}

/// The state as one text, with what stands in texts and lists of bytes in their place.
fn flat(json: &[u8]) -> String {
    const LIST: &str = "\"state\":[";
    // No text of it has a quote of its own.
    let letters = json
        .iter()
        .filter(|byte| **byte != b'\\' && !byte.is_ascii_whitespace());
    let text: Vec<u8> = letters.copied().collect();
    let text = String::from_utf8_lossy(&text).into_owned();
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some((before, list)) = rest.split_once(LIST) {
        let (numbers, behind) = list.split_once(']').unwrap_or((list, ""));
        let bytes: Option<Vec<u8>> = numbers
            .split(',')
            .map(|number| number.parse().ok())
            .collect();
        out.push_str(before);
        match bytes {
            Some(bytes) => out.push_str(&String::from_utf8_lossy(&bytes)),
            None => out.push_str(numbers),
        }
        rest = behind;
    }
    out.push_str(rest);
    out
}

/// Every entry of this name that is a `T`.
fn entries<T: DeserializeOwned>(text: &str, name: &str) -> Vec<T> {
    let key = format!("\"{name}\":");
    text.match_indices(&key)
        .take(MANY)
        .filter_map(|(at, key)| {
            let mut values =
                serde_json::Deserializer::from_str(&text[at + key.len()..]).into_iter::<T>();
            values.next()?.ok()
        })
        .collect()
}
