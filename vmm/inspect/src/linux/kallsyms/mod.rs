//! A kernel's own table of symbols, `CONFIG_KALLSYMS`, found in its image.
//!
//! Names are stored as bytes that each stand for a token of some characters (Linux, `scripts/kallsyms.c` and
//! `kernel/kallsyms.c`). Since Linux 4.20 the parts are these, each aligned to 8 bytes:
//!
//! ```text
//! to 6.4           from 6.5
//! offsets          num_syms       how many symbols, 32 bits
//! relative_base    names          for each: a length, and as many tokens
//! num_syms         markers        32 bits: where in `names` each 256th begins
//! names            token_table    256 strings that end in 0
//! markers          token_index    16 bits: where in the table each begins
//! seqs_of_names    offsets        32 bits for each symbol
//! token_table      relative_base  what they are relative to, 64 bits, moved by KASLR
//! token_index      seqs_of_names  24 bits for each symbol, in the order of names
//! ```
//!
//! The last came with 6.2, and with a release of 6.1.
//!
//! The token table is the one part that can be recognised: digits are nearly never worth merging, so their
//! tokens are the digits. Everything else is found from there, and held against everything else: each marker
//! against the names, each token's place against the table, the addresses against their order.

#[cfg(test)]
mod tests;

use memchr::memmem;

use crate::symbols::Symbols;
use heirloom_paging::addr::VirtAddr;

const TOKENS: usize = 256;
/// Symbols for each marker.
const PER_MARKER: usize = 256;
/// More symbols than any kernel has.
const MAX_SYMBOLS: usize = 1 << 22;
/// Bytes of a symbol's name: `KSYM_NAME_LEN` is 512.
const MAX_NAME: usize = 512;
/// Places that look like a token table and are none, before the search is given up.
const MAX_TRIES: usize = 1 << 10;

/// The symbols of the kernel whose image is `image`, with its first byte at `base`; `None` if no table of them
/// is found.
pub(super) fn find(image: &[u8], base: VirtAddr) -> Option<Symbols> {
    let digits: Vec<u8> = (b'0'..=b'9').flat_map(|digit| [digit, 0]).collect();
    memmem::find_iter(image, &digits)
        .take(MAX_TRIES)
        .find_map(|place| {
            let tokens = Tokens::around(image, place)?;
            let names = Names::before(image, &tokens)?;
            let addresses = addresses(image, base, &names, &tokens)?;
            names.symbols(image, &tokens, &addresses)
        })
}

/// The token table and its index.
struct Tokens<'a> {
    table: &'a [u8],
    /// Where each token is in `table`.
    index: [u16; TOKENS],
    /// In the image.
    start: usize,
    /// Behind the index.
    end: usize,
}

impl<'a> Tokens<'a> {
    /// The table whose token for `0` is at `digits`.
    fn around(image: &'a [u8], digits: usize) -> Option<Tokens<'a>> {
        // Back over the tokens before it, to the end of the first of them.
        let mut end = digits;
        for _ in 0..usize::from(b'0') {
            end = image.get(..end)?.iter().rposition(|byte| *byte == 0)?;
        }
        // It begins at a multiple of 8 with no zero in between.
        let before = image.get(..end)?.iter().rposition(|byte| *byte == 0);
        let first = before.map_or(0, |zero| zero + 1);
        (first..=end)
            .filter(|start| start.is_multiple_of(8))
            .find_map(|start| Tokens::at(image, start))
    }

    /// The table that begins at `start`.
    fn at(image: &'a [u8], start: usize) -> Option<Tokens<'a>> {
        let table = &image[start..image.len().min(start + (1 << 16))];
        let mut index = [0; TOKENS];
        let mut at = 0;
        for place in &mut index {
            *place = u16::try_from(at).ok()?;
            at += table.get(at..)?.iter().position(|byte| *byte == 0)? + 1;
        }
        let stored = aligned(start + at);
        for (number, place) in index.iter().enumerate() {
            if read_u16(image, stored + 2 * number)? != *place {
                return None;
            }
        }
        Some(Tokens {
            table,
            index,
            start,
            end: stored + 2 * TOKENS,
        })
    }

    fn get(&self, token: u8) -> &'a [u8] {
        let rest = &self.table[usize::from(self.index[usize::from(token)])..];
        let end = rest.iter().position(|byte| *byte == 0);
        &rest[..end.unwrap_or(rest.len())]
    }
}

/// The names, still as tokens.
struct Names {
    /// In the image.
    start: usize,
    /// How many.
    count: usize,
    /// Whether a length of 128 and more has two bytes: since Linux 6.1.
    long_lengths: bool,
}

impl Names {
    /// The names before the markers before the tokens.
    fn before(image: &[u8], tokens: &Tokens<'_>) -> Option<Names> {
        if let Some(names) = Names::before_markers(image, tokens.start, None) {
            return Some(names);
        }
        // Behind the markers there may be 3 bytes for each symbol.
        (1..=MAX_SYMBOLS / PER_MARKER).find_map(|markers| {
            let most = aligned(3 * PER_MARKER * markers);
            let least = aligned(3 * (PER_MARKER * (markers - 1) + 1));
            (least..=most).step_by(8).find_map(|bytes| {
                let end = tokens.start.checked_sub(bytes)?;
                Names::before_markers(image, end, Some(markers))
            })
        })
    }

    /// The names before the markers that end at `end`, if there are `wanted` of them.
    fn before_markers(image: &[u8], end: usize, wanted: Option<usize>) -> Option<Names> {
        let (markers_start, markers) = markers_before(image, end, wanted)?;
        let last = *markers.last()? as usize;
        // Behind the last marker there are up to 256 names.
        let latest = markers_start.checked_sub(last)? & !7;
        let earliest = latest.saturating_sub(PER_MARKER * MAX_NAME);
        (earliest.max(8)..=latest)
            .rev()
            .step_by(8)
            .find_map(|start| {
                let count = usize::try_from(read_u64(image, start - 8)?).ok()?;
                if count.div_ceil(PER_MARKER) != markers.len() || count > MAX_SYMBOLS {
                    return None;
                }
                [true, false].into_iter().find_map(|long_lengths| {
                    let names = Names {
                        start,
                        count,
                        long_lengths,
                    };
                    names
                        .are_at(image, &markers, markers_start)
                        .then_some(names)
                })
            })
    }

    /// Whether every 256th name is where its marker says, and the last ends where the markers begin.
    fn are_at(&self, image: &[u8], markers: &[u32], end: usize) -> bool {
        let mut at = self.start;
        for number in 0..self.count {
            if number % PER_MARKER == 0
                && markers
                    .get(number / PER_MARKER)
                    .map(|marker| *marker as usize)
                    != Some(at - self.start)
            {
                return false;
            }
            let Some((name, next)) = self.name_at(image, at) else {
                return false;
            };
            if name.is_empty() || next > end {
                return false;
            }
            at = next;
        }
        aligned(at) == end
    }

    /// The tokens of the name at `at`, and where the next one is.
    fn name_at<'a>(&self, image: &'a [u8], at: usize) -> Option<(&'a [u8], usize)> {
        let low = usize::from(*image.get(at)?);
        let (length, start) = if self.long_lengths && low >= 0x80 {
            let high = usize::from(*image.get(at + 1)?);
            (low & 0x7f | high << 7, at + 2)
        } else {
            (low, at + 1)
        };
        Some((image.get(start..start + length)?, start + length))
    }

    /// The names with their addresses.
    fn symbols(
        &self,
        image: &[u8],
        tokens: &Tokens<'_>,
        addresses: &[VirtAddr],
    ) -> Option<Symbols> {
        let mut text = Vec::new();
        let mut ends = Vec::with_capacity(self.count);
        let mut at = self.start;
        for _ in 0..self.count {
            let (name, next) = self.name_at(image, at)?;
            let start = text.len();
            for token in name {
                text.extend_from_slice(tokens.get(*token));
                if text.len() > start + 2 * MAX_NAME {
                    return None;
                }
            }
            ends.push(text.len());
            at = next;
        }
        let mut start = 0;
        let mut names = Vec::with_capacity(self.count);
        for (end, address) in ends.into_iter().zip(addresses) {
            // The first character is the symbol's type, as `nm` has it.
            let name = text[start..end].get(1..)?;
            let name = std::str::from_utf8(name).ok()?;
            if name.chars().any(char::is_control) {
                return None;
            }
            names.push((*address, name));
            start = end;
        }
        Some(Symbols::new(names))
    }
}

/// The markers that end at `end`, and where they begin: ascending from 0, and `wanted` of them if that is known.
fn markers_before(image: &[u8], end: usize, wanted: Option<usize>) -> Option<(usize, Vec<u32>)> {
    let mut at = end.checked_sub(4)?;
    if read_u32(image, at)? == 0 {
        // To a multiple of 8.
        at = at.checked_sub(4)?;
    }
    if let Some(wanted) = wanted
        && read_u32(image, (at + 4).checked_sub(4 * wanted)?)? != 0
    {
        return None;
    }
    let mut markers = vec![read_u32(image, at)?];
    while *markers.last()? != 0 {
        at = at.checked_sub(4)?;
        let marker = read_u32(image, at)?;
        if marker >= *markers.last()? || markers.len() > MAX_SYMBOLS / PER_MARKER {
            return None;
        }
        markers.push(marker);
    }
    markers.reverse();
    (wanted.is_none_or(|wanted| wanted == markers.len())).then_some((at, markers))
}

/// The address of each symbol, in the order of the names.
fn addresses(
    image: &[u8],
    base: VirtAddr,
    names: &Names,
    tokens: &Tokens<'_>,
) -> Option<Vec<VirtAddr>> {
    let bytes = aligned(4 * names.count);
    let before = names.start.checked_sub(16).and_then(|relative_base| {
        let offsets = relative_base.checked_sub(bytes)?;
        Some((offsets, relative_base))
    });
    let after = aligned(tokens.end);
    [before, Some((after, after + bytes))]
        .into_iter()
        .flatten()
        .find_map(|(offsets, relative_base)| {
            let relative_base = read_u64(image, relative_base)?;
            let end = base.get().checked_add(image.len() as u64)?;
            if !(base.get()..end).contains(&relative_base) {
                return None;
            }
            let offset = |number: usize| read_u32(image, offsets + 4 * number);
            let offsets: Option<Vec<u32>> = (0..names.count).map(offset).collect();
            let offsets = offsets?;
            // CONFIG_KALLSYMS_ABSOLUTE_PERCPU: what is not negative is an address by itself, mostly one in a
            // CPU's own area.
            let has_absolute = offsets.iter().any(|offset| offset.cast_signed() < 0);
            let address = |offset: &u32| match (has_absolute, offset.cast_signed()) {
                (true, absolute @ 0..) => u64::from(absolute.unsigned_abs()),
                (true, negative) => relative_base.wrapping_add_signed(-1 - i64::from(negative)),
                (false, _) => relative_base.wrapping_add(u64::from(*offset)),
            };
            let addresses: Vec<VirtAddr> = offsets.iter().map(address).map(VirtAddr::new).collect();
            addresses.is_sorted().then_some(addresses)
        })
}

fn aligned(at: usize) -> usize {
    at.next_multiple_of(8)
}

fn read<const N: usize>(image: &[u8], at: usize) -> Option<[u8; N]> {
    image.get(at..)?.first_chunk().copied()
}

fn read_u16(image: &[u8], at: usize) -> Option<u16> {
    read(image, at).map(u16::from_le_bytes)
}

fn read_u32(image: &[u8], at: usize) -> Option<u32> {
    read(image, at).map(u32::from_le_bytes)
}

fn read_u64(image: &[u8], at: usize) -> Option<u64> {
    read(image, at).map(u64::from_le_bytes)
}
