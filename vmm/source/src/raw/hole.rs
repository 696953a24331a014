//! Finding the hole that was taken out of an image of RAM, from the page tables in it.
//!
//! A PC has no RAM between some address of 2 GiB or more and 4 GiB. Many who write an image leave the hole out,
//! so that the RAM above 4 GiB follows directly. Which way it was done the tables below a CR3 tell: read at
//! the right places they are tables all the way down, and elsewhere they are not.

use std::collections::HashSet;

use heirloom_inspect::{Depth, Entry, PhysAddr};

use super::arrangement::{ABOVE, around};
use crate::memory::Layout;

/// Where machines let the hole begin: QEMU's q35, and its pc, VMware and Cloud Hypervisor, Firecracker,
/// QEMU's pc with much RAM and VirtualBox, Xen, Hyper-V.
const STARTS: [u64; 6] = [
    2 << 30,
    3 << 30,
    0xd000_0000,
    0xe000_0000,
    0xf000_0000,
    0xf800_0000,
];
/// Tables that are looked at.
const TABLES: usize = 4096;

/// How the tables looked with one arrangement.
#[derive(Clone, Copy, Debug, Default)]
struct Tried {
    sound: usize,
    /// Not there, or no table.
    wrong: usize,
}

/// What the tables tell.
pub(crate) enum Hole {
    /// It begins here.
    At(u64),
    /// All of them are where they are without one.
    None,
    /// Nothing: they look the same with several.
    Unknown,
}

/// The 4096 bytes of an image at an offset.
pub(crate) type Read<'a> = &'a dyn Fn(u64) -> Option<Vec<u8>>;

/// Where the hole begins in an image of `length` bytes, whose root of this depth a CR3 says is at `root`.
pub(crate) fn find(
    input: Read<'_>,
    length: u64,
    root: PhysAddr,
    depth: Option<Depth>,
    encryption: Entry,
) -> Hole {
    judge(input, length, root, depth, encryption).0
}

/// The same, and how well the tables looked: more is better.
pub(crate) fn judge(
    input: Read<'_>,
    length: u64,
    root: PhysAddr,
    depth: Option<Depth>,
    encryption: Entry,
) -> (Hole, isize) {
    let plain = Layout::of(vec![crate::memory::Piece::new(
        heirloom_inspect::PhysRange {
            start: PhysAddr::new(0),
            bytes: length,
        },
        0,
        0,
    )]);
    let mut best: Vec<(Option<u64>, Tried)> = Vec::new();
    let starts = STARTS.into_iter().filter(|start| *start < length);
    for start in std::iter::once(None).chain(starts.map(Some)) {
        let layout = match start {
            Some(start) => &around(start, length),
            None => &plain,
        };
        let depths = match depth {
            Some(depth) => vec![depth],
            None => vec![Depth::Four, Depth::Five],
        };
        let tried = depths
            .into_iter()
            .map(|depth| walk(input, layout, root, depth, encryption))
            .max_by_key(Tried::worth)
            .unwrap_or_default();
        match best.first() {
            Some((_, other)) if other.worth() > tried.worth() => continue,
            Some((_, other)) if other.worth() < tried.worth() => best.clear(),
            _ => {}
        }
        best.push((start, tried));
    }
    let worth = best.first().map_or(0, |(_, tried)| tried.worth());
    let hole = match best[..] {
        // Hardly any table may be wrong: one of a process that was dying, perhaps.
        [(start, tried)] if tried.sound >= 4 && tried.wrong * 50 <= tried.sound => {
            start.map_or(Hole::None, Hole::At)
        }
        _ => Hole::Unknown,
    };
    (hole, worth)
}

impl Tried {
    fn worth(&self) -> isize {
        let [sound, wrong] = [self.sound, self.wrong].map(usize::cast_signed);
        sound - 8 * wrong
    }
}

/// Looks at the tables below `root`.
fn walk(
    input: Read<'_>,
    layout: &Layout,
    root: PhysAddr,
    depth: Depth,
    encryption: Entry,
) -> Tried {
    let mut tried = Tried::default();
    let mut seen = HashSet::new();
    let levels = match depth {
        Depth::Four => 4,
        Depth::Five => 5,
    };
    let mut next = vec![root.get()];
    for level in (1..=levels).rev() {
        let mut below = Vec::new();
        for table in next {
            if seen.len() == TABLES || !seen.insert((table, level)) {
                continue;
            }
            match read(input, layout, table).and_then(|words| links(&words, level, encryption)) {
                Some(links) => {
                    tried.sound += 1;
                    below.extend(links);
                }
                None => tried.wrong += 1,
            }
        }
        next = below;
    }
    tried
}

fn read(input: Read<'_>, layout: &Layout, table: u64) -> Option<Vec<u8>> {
    let at = PhysAddr::new(table);
    let piece = layout.at_or_behind(at)?;
    let is_whole = piece.start() <= at && table + 4096 <= piece.end();
    input(piece.offset_of(at)).filter(|_| is_whole)
}

/// The tables that one of `level` points to; `None` if it is no table.
fn links(words: &[u8], level: u32, encryption: Entry) -> Option<Vec<u64>> {
    /// Machines have RAM and devices below this.
    const HIGHEST: u64 = 1 << 46;
    let mut links = Vec::new();
    let mut any = false;
    for word in words.chunks_exact(8) {
        let word = u64::from_le_bytes(*word.first_chunk()?) & !encryption.get();
        if word & 1 == 0 {
            continue;
        }
        any = true;
        let address = word & 0x000f_ffff_ffff_f000;
        let is_leaf = level == 1 || word & 0x80 != 0;
        if address >= HIGHEST || (word & 0x80 != 0 && level > 3) {
            return None;
        }
        if !is_leaf {
            if (ABOVE - (1 << 28)..ABOVE).contains(&address) {
                // Where the devices are there are no tables.
                return None;
            }
            links.push(address);
        }
    }
    // An empty table says nothing.
    any.then_some(links)
}
