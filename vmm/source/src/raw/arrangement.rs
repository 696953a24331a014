//! Which guest-physical memory the bytes of an image of RAM are.

use heirloom_inspect::{PhysAddr, PhysRange};

use crate::memory::{ADDRESS_LIMIT, Layout, Piece};
use crate::spec::{FieldOption, Fields, SpecError, number};

/// Where a PC's RAM goes on above its hole.
pub(super) const ABOVE: u64 = 4 << 30;
const MAP: &str = "map=OFFSET:GPA:LEN";
const HOLE: &str = "hole=ADDRESS, where the RAM below 4 GiB ends, such as hole=3G";

/// What the user says of it; nothing: the offset in the file is the guest-physical address, or the tables
/// tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Arrangement {
    pub(super) map: Vec<MapEntry>,
    /// Where the hole begins that was taken out of the image.
    pub(super) hole: Option<u64>,
}

/// A part of the file, and which guest-physical memory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MapEntry {
    pub(super) offset: u64,
    pub(super) ram: PhysRange,
}

impl Arrangement {
    /// Takes `option` if it is one of these: whether it was.
    pub(crate) fn take(
        &mut self,
        fields: &Fields<'_>,
        option: &FieldOption<'_>,
    ) -> Result<bool, SpecError> {
        let bad = |problem, usage| Err(fields.bad_value(option.whole, problem, usage));
        match option.name {
            "map" => {
                let entry = match MapEntry::parse(option.value) {
                    Ok(entry) => entry,
                    Err(problem) => return bad(problem, MAP),
                };
                let ram = entry.ram;
                if self
                    .map
                    .iter()
                    .any(|other| other.ram.overlaps(ram.start, ram.bytes))
                {
                    return bad("overlaps another map in guest-physical memory", MAP);
                }
                self.map.push(entry);
            }
            "hole" => {
                let start = number(option.value)
                    .filter(|start| start.is_multiple_of(4096) && (1..ABOVE).contains(start));
                let Some(start) = start else {
                    return bad("is no page's address below 4 GiB", HOLE);
                };
                if self.hole.replace(start).is_some() {
                    return bad("is a second hole", HOLE);
                }
            }
            _ => return Ok(false),
        }
        if self.hole.is_some() && !self.map.is_empty() {
            return bad("goes not with both map and hole", "either map=… or hole=…");
        }
        Ok(true)
    }
}

/// `length` bytes of a file from 0 on, without those from `hole` to 4 GiB.
pub(crate) fn around(hole: u64, length: u64) -> Layout {
    let piece = |start, bytes, offset| {
        let start = PhysAddr::new(start);
        Piece::new(PhysRange { start, bytes }, 0, offset)
    };
    let low = length.min(hole);
    Layout::of(vec![piece(0, low, 0), piece(ABOVE, length - low, low)])
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
