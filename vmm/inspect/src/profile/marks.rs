//! What in a guest's memory tells which kernel it runs.

use crate::discover::part::ranges;
use crate::layout::{DirectMap, MAX_ENTRIES};
use crate::memory::{PhysRange, PhysicalMemory};
use crate::snapshot::{RootId, Snapshot};
use heirloom_paging::addr::{PhysAddr, VirtAddr, VirtRange};
use heirloom_paging::bits::EntrySet;
use heirloom_paging::level::Depth;

use super::{Name, Profile, Recognized};

/// Bytes that are read at most to find a text, in pages without code, and as many in those with.
const MAX_READ: u64 = 32 << 20;
/// Pages that are passed at most to find one.
const MAX_PAGES: u32 = 1 << 20;
/// Bytes that are read at once.
const PIECE: u64 = 64 << 10;
/// Of a mark's text, what is shown besides it.
const SHOWN: usize = 32;

/// A mark by which a kernel is known, all of them found by the kernel's own mappings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A text in its memory.
    Text {
        /// Its bytes.
        text: String,
        /// A digit must follow, as in a version.
        digit_follows: bool,
        /// Where it must be; `None`: anywhere in the kernel half.
        range: Option<VirtRange>,
    },
    /// Code of ring 0.
    Code(VirtRange),
    /// Any page of ring 0.
    Pages(VirtRange),
    /// Most of RAM in one line that begins in one of these.
    Memory(Vec<(Depth, VirtRange)>),
    /// All of these.
    All(Vec<Mark>),
}

/// Where marks are looked for.
pub(crate) struct Kernel<'a, M: ?Sized> {
    pub(crate) memory: &'a M,
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) root: RootId,
    pub(crate) part: &'a EntrySet,
    pub(crate) ram: &'a [PhysRange],
}

/// A text that is looked for.
struct Needle<'a> {
    profile: usize,
    text: &'a [u8],
    digit_follows: bool,
    range: Option<VirtRange>,
}

/// The first of `profiles` that has a mark in the kernel, and that mark; `None`: no mark is there.
pub(crate) fn recognize<M: PhysicalMemory + ?Sized>(
    profiles: Vec<Profile>,
    kernel: &Kernel<'_, M>,
) -> Option<(Profile, Recognized)> {
    let by_tables = |profile: &Profile, composed: bool| {
        let mut marks = profile.marks.iter();
        marks.find_map(|mark| match mark {
            Mark::Text { .. } => None,
            Mark::All(_) if !composed => None,
            Mark::All(_) => kernel.shows(mark),
            _ if composed => None,
            _ => kernel.shows(mark),
        })
    };
    let first = |composed| {
        let mut all = profiles.iter().enumerate();
        all.find_map(|(at, profile)| Some((at, by_tables(profile, composed)?)))
    };
    // What a glance tells; then texts, all in one go; then what needs a look at everything.
    let (at, evidence) = first(false)
        .or_else(|| kernel.text_of(&profiles))
        .or_else(|| first(true))?;
    let profile = profiles.into_iter().nth(at)?;
    let name = profile.name;
    Some((profile, Recognized { name, evidence }))
}

impl Recognized {
    /// Nothing tells.
    pub(crate) fn nothing(name: Name) -> Recognized {
        Recognized {
            name,
            evidence: "no known kernel's marks".into(),
        }
    }
}

impl<M: PhysicalMemory + ?Sized> Kernel<'_, M> {
    /// Whether a mark that is no text is there, and where.
    fn shows(&self, mark: &Mark) -> Option<String> {
        match mark {
            Mark::Text { .. } => None,
            Mark::Code(range) => self
                .page_in(*range, true)
                .map(|va| format!("its code at {va}")),
            Mark::Pages(range) => self
                .page_in(*range, false)
                .map(|va| format!("pages at {va}")),
            Mark::Memory(places) => {
                let depth = self.snapshot.mode().depth;
                if self.snapshot.distinct_entries(self.root, self.part) > MAX_ENTRIES {
                    return None;
                }
                let parts = ranges(self.part, depth);
                let map = DirectMap::find_in(self.snapshot, self.root, &parts, self.ram)?;
                let mut places = places.iter();
                places
                    .any(|(only, place)| *only == depth && place.contains(map.base))
                    .then(|| format!("all memory at {}", map.base))
            }
            Mark::All(marks) => {
                let each: Option<Vec<String>> = marks.iter().map(|mark| self.shows(mark)).collect();
                each.map(|each| each.join(", "))
            }
        }
    }

    /// The first page of ring 0 in a range.
    fn page_in(&self, range: VirtRange, code: bool) -> Option<VirtAddr> {
        let mut leaves = self.snapshot.leaves(self.root, range).limited(MAX_PAGES);
        leaves
            .find(|page| !page.rights.user && (!code || page.rights.execute))
            .map(|page| page.va)
    }

    /// The first profile's text that is in the kernel's pages: those without code first.
    fn text_of(&self, profiles: &[Profile]) -> Option<(usize, String)> {
        let mut needles = Vec::new();
        for (profile, marks) in profiles.iter().map(|profile| &profile.marks).enumerate() {
            for mark in marks {
                if let Mark::Text {
                    text,
                    digit_follows,
                    range,
                } = mark
                {
                    needles.push(Needle {
                        profile,
                        text: text.as_bytes(),
                        digit_follows: *digit_follows,
                        range: *range,
                    });
                }
            }
        }
        needles.retain(|needle| !needle.text.is_empty());
        [false, true]
            .into_iter()
            .find_map(|code| self.look_through(&needles, code))
    }

    /// Fills `buffer`, with zeros where there is no memory.
    fn read(&self, pa: PhysAddr, buffer: &mut [u8]) {
        if self.memory.read_bytes(pa, buffer).is_ok() {
            return;
        }
        for (page, piece) in (0..).zip(buffer.chunks_mut(4096)) {
            let at = pa.wrapping_add(page * 4096);
            if self.memory.read_bytes(at, piece).is_err() {
                piece.fill(0);
            }
        }
    }

    fn look_through(&self, needles: &[Needle<'_>], code: bool) -> Option<(usize, String)> {
        let longest = needles.iter().map(|needle| needle.text.len()).max()? + SHOWN;
        let anywhere = needles.iter().any(|needle| needle.range.is_none());
        let wanted = |va: VirtAddr| {
            anywhere
                || needles
                    .iter()
                    .any(|needle| needle.range.is_some_and(|range| range.contains(va)))
        };
        let (mut left, mut steps) = (MAX_READ, MAX_PAGES);
        // The end of the page before, and where that ends.
        let mut tail: (Vec<u8>, VirtAddr) = (Vec::new(), VirtAddr::new(0));
        let mut parts = ranges(self.part, self.snapshot.mode().depth);
        parts.reverse();
        for part in parts {
            let mut leaves = self.snapshot.leaves(self.root, part).limited(steps);
            for page in leaves.by_ref() {
                let mut at = 0;
                while at < page.size.bytes() {
                    let va = page.va.wrapping_add(at);
                    let length = PIECE.min(page.size.bytes() - at);
                    let pa = page.pa.wrapping_add(at);
                    at += length;
                    if page.rights.user || page.rights.execute != code || !wanted(va) {
                        continue;
                    }
                    left = left.checked_sub(length)?;
                    let (mut bytes, mut first) = (std::mem::take(&mut tail.0), va);
                    if tail.1 == va {
                        first = VirtAddr::new(va.get().wrapping_sub(bytes.len() as u64));
                    } else {
                        bytes.clear();
                    }
                    let known = bytes.len();
                    bytes.resize(known + usize::try_from(length).ok()?, 0);
                    self.read(pa, &mut bytes[known..]);
                    if let Some(found) = find(needles, &bytes, first) {
                        return Some(found);
                    }
                    let keep = bytes.len().saturating_sub(longest);
                    tail = (bytes.split_off(keep), va.wrapping_add(length));
                }
            }
            steps = leaves.steps_left();
        }
        None
    }
}

/// The first needle in `bytes`, which stand at `first`.
fn find(needles: &[Needle<'_>], bytes: &[u8], first: VirtAddr) -> Option<(usize, String)> {
    needles.iter().find_map(|needle| {
        let mut from = 0;
        loop {
            let start = from + position(&bytes[from..], needle.text)?;
            let end = start + needle.text.len();
            let va = first.wrapping_add(start as u64);
            let follows = bytes.get(end).is_some_and(u8::is_ascii_digit);
            if needle.range.is_none_or(|range| range.contains(va))
                && (follows || !needle.digit_follows)
            {
                let rest = bytes[end..].iter().take(SHOWN);
                let rest = rest.take_while(|byte| byte.is_ascii_graphic());
                let shown: Vec<u8> = needle.text.iter().chain(rest).copied().collect();
                let shown = String::from_utf8_lossy(&shown).into_owned();
                return Some((needle.profile, format!("\"{shown}\" at {va}")));
            }
            from = start + 1;
        }
    })
}

/// Where `text`, which is not empty, stands in `bytes`.
fn position(bytes: &[u8], text: &[u8]) -> Option<usize> {
    let first = *text.first()?;
    let mut from = 0;
    loop {
        let start = from + bytes.get(from..)?.iter().position(|byte| *byte == first)?;
        if bytes[start..].starts_with(text) {
            return Some(start);
        }
        from = start + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_where_it_stands_and_only_with_the_digit_that_must_follow() {
        let needle = |digit_follows, range| Needle {
            profile: 3,
            text: b"aab ",
            digit_follows,
            range,
        };
        let bytes = b"aaab x..aab 42\0more";
        let at = VirtAddr::new(0x1000);
        let found = |needle| find(&[needle], bytes, at);
        assert_eq!(
            found(needle(false, None)),
            Some((3, "\"aab x..aab\" at 0x1001".to_owned()))
        );
        let (_, evidence) = found(needle(true, None)).unwrap();
        assert!(evidence.starts_with("\"aab 42\" at "), "{evidence}");
        let elsewhere = VirtRange::new(VirtAddr::new(0x2000), 0x1000);
        assert_eq!(found(needle(true, elsewhere)), None);
    }
}
