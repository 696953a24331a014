//! The RAM in a stream: blocks with a name, and pages of these in any order.

use std::collections::HashMap;

use super::stream::{Stop, Stream};
use crate::memory::{PAGE, RAM_LIMIT};

/// A machine with more blocks of RAM and ROM is not believed.
const BLOCKS: usize = 4096;
/// Pages whose places are kept together.
const CHUNK: usize = 512;
/// As many such take 60 MiB: they are of 48 GiB of RAM.
const CHUNKS: usize = 24 << 10;

/// What machines call their RAM, where it is one block.
pub(super) const OF_MACHINES: [&str; 3] = ["pc.ram", "microvm.ram", "xen.ram"];

/// RAM_SAVE_FLAG_…, in the low bits of an address.
const ZERO: u64 = 0x2;
const SIZES: u64 = 0x4;
const WHOLE: u64 = 0x8;
const EOS: u64 = 0x10;
const CONTINUE: u64 = 0x20;
const XBZRLE: u64 = 0x40;
const HOOK: u64 = 0x80;
const COMPRESSED: u64 = 0x100;
const FLUSH: u64 = 0x200;
const FLAGS: u64 = 0xfff;

/// Where a page stands in the file, in five bytes: 0 is nowhere, 1 that it is zero.
type Place = [u8; 5];
const NOWHERE: u64 = 0;
const IS_ZERO: u64 = 1;

/// All blocks.
#[derive(Debug, Default)]
pub(super) struct Ram {
    blocks: Vec<Block>,
    /// The one that the page before was of.
    last: Option<usize>,
    chunks: usize,
}

#[derive(Debug)]
pub(super) struct Block {
    pub(super) name: String,
    pub(super) length: u64,
    pub(super) pages: Pages,
}

/// Where a block's pages stand.
#[derive(Debug)]
pub(super) enum Pages {
    /// Each for itself.
    Places(HashMap<u64, Box<[Place]>>),
    /// One behind the other from an offset on; a bit tells of each whether it is more than zeros.
    Mapped { bitmap: u64, pages: u64 },
}

/// What is known of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    At(u64),
    Zero,
    Unknown,
}

/// The chunk of a page.
fn chunk_of(page: u64) -> u64 {
    page / CHUNK as u64
}

/// Its place there.
fn within(page: u64) -> usize {
    usize::try_from(page % CHUNK as u64).unwrap_or_default()
}

impl Pages {
    /// Of a block whose pages stand each for itself.
    pub(super) fn place(chunks: &HashMap<u64, Box<[Place]>>, page: u64) -> Known {
        let place = chunks.get(&chunk_of(page));
        let place = place.and_then(|chunk| chunk.get(within(page)));
        let mut word = [0; 8];
        if let Some(place) = place {
            word[..5].copy_from_slice(place);
        }
        match u64::from_le_bytes(word) {
            NOWHERE => Known::Unknown,
            IS_ZERO => Known::Zero,
            at => Known::At(at),
        }
    }
}

impl Ram {
    /// Reads one part of the section.
    pub(super) fn read(
        &mut self,
        stream: &mut Stream<'_>,
        capabilities: &[String],
    ) -> Result<(), Stop> {
        loop {
            let word = stream.word64()?;
            let (address, flags) = (word & !FLAGS, word & FLAGS);
            for (flag, how) in [
                (
                    XBZRLE,
                    "whose pages are differences to earlier ones (xbzrle)",
                ),
                (HOOK, "of a guest whose RAM went another way (RDMA)"),
                (
                    COMPRESSED,
                    "whose pages are compressed (the capability compress)",
                ),
            ] {
                if flags & flag != 0 {
                    return Err(Stop::Unread(how.into()));
                }
            }
            match flags & !CONTINUE {
                SIZES => self.sizes(stream, address, capabilities)?,
                ZERO => {
                    let block = self.block(stream, flags)?;
                    let byte = stream.byte()?;
                    if byte != 0 {
                        let what = format!("a page at {address:#x} is filled with {byte:#x}");
                        return Err(Stop::Damaged(what));
                    }
                    self.put(block, address, IS_ZERO)?;
                }
                WHOLE => {
                    let block = self.block(stream, flags)?;
                    let at = stream.at();
                    stream.skip(PAGE as u64)?;
                    self.put(block, address, at)?;
                }
                EOS => return Ok(()),
                FLUSH => {}
                _ => {
                    let at = stream.at() - 8;
                    let what = format!("at byte {at} is a page with the flags {flags:#x}");
                    return Err(Stop::Damaged(what));
                }
            }
            let is_elsewhere = capabilities.iter().any(|name| name == "multifd");
            if is_elsewhere {
                return Err(Stop::Unread(
                    "whose pages went through other channels (multifd)".into(),
                ));
            }
        }
    }

    /// The blocks and how long they are.
    fn sizes(
        &mut self,
        stream: &mut Stream<'_>,
        total: u64,
        capabilities: &[String],
    ) -> Result<(), Stop> {
        let has = |wanted: &str| capabilities.iter().any(|name| name == wanted);
        let mut rest = total;
        while rest > 0 {
            let name = stream.text()?;
            let length = stream.word64()?;
            let is_right = length > 0 && length <= rest && length <= RAM_LIMIT;
            if !is_right || !length.is_multiple_of(PAGE as u64) || self.blocks.len() == BLOCKS {
                return Err(Stop::Damaged(format!(
                    "its block {name} has {length} bytes, of {total} in all"
                )));
            }
            rest -= length;
            if has("x-ignore-shared") {
                stream.word64()?;
            }
            let pages = if has("mapped-ram") {
                mapped(stream, length)?
            } else {
                Pages::Places(HashMap::new())
            };
            self.blocks.push(Block {
                name,
                length,
                pages,
            });
        }
        Ok(())
    }

    /// Which block a page is of.
    fn block(&mut self, stream: &mut Stream<'_>, flags: u64) -> Result<usize, Stop> {
        if flags & CONTINUE == 0 {
            let name = stream.text()?;
            let found = self.blocks.iter().position(|block| block.name == name);
            let found = found.ok_or_else(|| Stop::Damaged(format!("it has no block {name}")))?;
            self.last = Some(found);
        }
        self.last
            .ok_or_else(|| Stop::Damaged("its first page is of no block".into()))
    }

    fn put(&mut self, block: usize, address: u64, place: u64) -> Result<(), Stop> {
        let block = &mut self.blocks[block];
        let Pages::Places(chunks) = &mut block.pages else {
            return Err(Stop::Damaged("it has the same pages twice".into()));
        };
        if address >= block.length {
            let name = &block.name;
            return Err(Stop::Damaged(format!("{name} has no page at {address:#x}")));
        }
        let page = address / PAGE as u64;
        if self.chunks == CHUNKS && !chunks.contains_key(&chunk_of(page)) {
            return Err(Stop::Unread("of more than 48 GiB of RAM".into()));
        }
        let chunk = chunks.entry(chunk_of(page)).or_insert_with(|| {
            self.chunks += 1;
            vec![[0; 5]; CHUNK].into()
        });
        let [low @ .., 0, 0, 0] = place.to_le_bytes() else {
            return Err(Stop::Unread("of more than 1 TiB".into()));
        };
        chunk[within(page)] = low;
        Ok(())
    }

    /// The blocks that are the guest's RAM, in order, and those that were plugged in. ROMs and what devices have
    /// are neither.
    pub(super) fn of_the_guest(self) -> (Vec<Block>, Vec<Block>) {
        const OF_DEVICES: [&str; 8] = ["rom", "bios", "vram", "vga", "flash", "fb", ":", "acpi"];
        let is_ram = |block: &Block| {
            let name = block.name.to_ascii_lowercase();
            let mib = block.length.is_multiple_of(1 << 20);
            mib && !OF_DEVICES.iter().any(|word| name.contains(word))
        };
        let mut ram: Vec<Block> = self.blocks.into_iter().filter(is_ram).collect();
        // Where memory is of nodes there is no other; QEMU has the largest block first.
        let rank = |block: &Block| match block.name.as_str() {
            name if OF_MACHINES.contains(&name) => 0,
            name if name.contains("ram-node") || name.contains("node") => 1,
            _ => 2,
        };
        let best = ram.iter().map(rank).min().unwrap_or(0);
        ram.sort_by(|one, other| {
            let by_name = || {
                one.name
                    .len()
                    .cmp(&other.name.len())
                    .then(one.name.cmp(&other.name))
            };
            let of_nodes = rank(one) == 1 && rank(other) == 1;
            let order = rank(one).cmp(&rank(other));
            if of_nodes {
                order.then_with(by_name)
            } else {
                order
            }
        });
        let first = match best {
            1 => ram.iter().filter(|block| rank(block) == 1).count(),
            _ => ram.len().min(1),
        };
        let others = ram.split_off(first);
        (ram, others)
    }
}

/// The head of a block whose pages stand where they are in it (the capability mapped-ram).
fn mapped(stream: &mut Stream<'_>, length: u64) -> Result<Pages, Stop> {
    let version = stream.word32()?;
    let page = stream.word64()?;
    let (bitmap, pages) = (stream.word64()?, stream.word64()?);
    let behind = pages.checked_add(length).filter(|_| bitmap < pages);
    let (1, 4096, Some(behind)) = (version, page, behind) else {
        return Err(Stop::Damaged(format!(
            "its pages lie at {pages:#x}, the bits for them at {bitmap:#x}"
        )));
    };
    stream.go_to(behind)?;
    Ok(Pages::Mapped { bitmap, pages })
}
