//! `info mtree -f` of QEMU's monitor, read: what the CPUs' physical addresses lead to, after all
//! overlaps and aliases (softmmu/memory.c, `mtree_print_flatview`).

use heirloom_inspect::{PhysAddr, PhysRange};

use crate::memory::{ADDRESS_LIMIT, RAM_LIMIT};

/// More ranges are not believed; a PC has a dozen with memory.
const RANGES: usize = 4096;

/// A range of guest-physical addresses that has memory behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MemoryRange {
    pub(super) range: PhysRange,
    /// The memory region's name, that of the backend object if it has one.
    pub(super) region: String,
    /// Of the range's first byte in the region.
    pub(super) offset: u64,
    pub(super) kind: Kind,
}

/// What memory is to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// What its kernel manages.
    Ram,
    /// A device's, such as a graphics card's.
    Device,
    Rom,
}

impl MemoryRange {
    pub(super) fn is_ram(&self) -> bool {
        self.kind == Kind::Ram
    }
}

/// Tells the memory of devices from RAM, `backends` being the names of the memory backends, of which a
/// machine's RAM always is one.
pub(super) fn set_devices_apart(ranges: &mut [MemoryRange], backends: &[String]) {
    let is_backend = |range: &MemoryRange| {
        let name = range.region.strip_prefix("/objects/");
        let name = name.unwrap_or(&range.region);
        range.is_ram() && backends.iter().any(|backend| backend == name)
    };
    // A machine that has its RAM otherwise: then nothing tells.
    if !ranges.iter().any(is_backend) {
        return;
    }
    for range in ranges {
        if range.is_ram() && !is_backend(range) {
            range.kind = Kind::Device;
        }
    }
}

/// The ranges with memory of the address space `memory`; what is wrong, if the text has another form
/// than the one known.
pub(super) fn parse(text: &str) -> Result<Vec<MemoryRange>, String> {
    let mut ranges: Vec<MemoryRange> = Vec::new();
    let mut is_system = false;
    let mut found = false;
    for line in text.lines() {
        if line.starts_with("FlatView #") {
            is_system = false;
        } else if line.trim_start().starts_with("AS \"memory\"") {
            is_system = true;
            found = true;
        } else if is_system && line.contains(" (prio ") {
            match range(line).ok_or_else(|| format!("`{}` is no range", line.trim()))? {
                Range::Memory(range) => ranges.push(range),
                Range::Device => {}
            }
            if ranges.len() > RANGES {
                return Err(format!("it has more than {RANGES} ranges"));
            }
        }
    }
    if !found {
        return Err("it has no address space `memory`".to_string());
    }
    if !ranges.is_sorted_by(|one, two| one.range.end() <= two.range.start) {
        return Err("its ranges are not in order".to_string());
    }
    let bytes = ranges
        .iter()
        .fold(0, |sum: u64, range| sum.saturating_add(range.range.bytes));
    if bytes > RAM_LIMIT
        || ranges
            .last()
            .is_some_and(|last| last.range.end().get() > ADDRESS_LIMIT)
    {
        return Err(format!(
            "it has {bytes} bytes of memory, more than any machine"
        ));
    }
    if !ranges.iter().any(MemoryRange::is_ram) {
        return Err("it has no RAM".to_string());
    }
    Ok(ranges)
}

/// A range of the view, with or without memory.
enum Range {
    Memory(MemoryRange),
    Device,
}

/// `0000000000100000-000000003fffffff (prio 0, ram): pc.ram @0000000000100000 KVM`; `None` if it is not
/// like that.
fn range(line: &str) -> Option<Range> {
    let (addresses, rest) = line.trim().split_once(" (prio ")?;
    let (first, last) = addresses.split_once('-')?;
    let first = hexadecimal(first)?;
    let last = hexadecimal(last)?;
    let (attributes, region) = rest.split_once("): ")?;
    let (_, kind) = attributes.split_once(", ")?;
    let kind = match kind {
        // `nv-ram` is an NVDIMM's.
        "ram" | "nv-ram" => Kind::Ram,
        "rom" | "romd" => Kind::Rom,
        _ => return Some(Range::Device),
    };
    // The region's name may be followed by an offset, and that by the accelerator's name.
    let (region, offset) = match region.rsplit_once(" @") {
        Some((region, offset)) => (region, hexadecimal(offset.get(..16)?)?),
        None => (region.strip_suffix(" KVM").unwrap_or(region), 0),
    };
    Some(Range::Memory(MemoryRange {
        range: PhysRange {
            start: PhysAddr::new(first),
            bytes: last
                .checked_add(1)?
                .checked_sub(first)
                .filter(|bytes| *bytes > 0)?,
        },
        region: region.to_owned(),
        offset,
        kind,
    }))
}

/// 16 digits, as QEMU prints addresses.
fn hexadecimal(text: &str) -> Option<u64> {
    let is_plain = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_plain.then(|| u64::from_str_radix(text, 16).ok())?
}
