//! The pages of the guest's RAM, block behind block.

use super::ram::{Block, Known, Pages as Places};
use crate::input::{Input, Window};
use crate::memory::{Format, Found, PAGE, Page};

/// Bytes of pages that are read at once.
const BLOCK: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Pages {
    input: Input,
    /// Each with its first page.
    blocks: Vec<(u64, Block)>,
}

#[derive(Debug, Default)]
pub(super) struct Reader {
    bitmap: Window,
    pages: Window,
}

impl Pages {
    pub(super) fn new(input: Input, blocks: Vec<Block>) -> Pages {
        let mut first = 0;
        let blocks = blocks.into_iter().map(|block| {
            let start = first;
            first += block.length / PAGE as u64;
            (start, block)
        });
        Pages {
            blocks: blocks.collect(),
            input,
        }
    }

    /// The file and the blocks.
    pub(super) fn into_parts(self) -> (Input, Vec<Block>) {
        let blocks = self.blocks.into_iter().map(|(_, block)| block);
        (self.input, blocks.collect())
    }

    fn known(&self, reader: &mut Reader, number: u64) -> Option<Known> {
        let behind = self.blocks.partition_point(|(first, _)| *first <= number);
        let (first, block) = self.blocks.get(behind.checked_sub(1)?)?;
        let page = number - first;
        if page >= block.length / PAGE as u64 {
            return None;
        }
        match &block.pages {
            Places::Places(chunks) => Some(Places::place(chunks, page)),
            Places::Mapped { bitmap, pages } => {
                let at = bitmap.checked_add(page / 8)?;
                let bits = reader.bitmap.get(&self.input, at, 1, BLOCK)?;
                Some(match bits[0] & 1 << (page % 8) {
                    0 => Known::Zero,
                    _ => Known::At(pages.checked_add(page * PAGE as u64)?),
                })
            }
        }
    }
}

impl Format for Pages {
    type Reader = Reader;

    fn unpack(&self, reader: &mut Reader, number: u64, page: &mut Page) -> Found {
        let at = match self.known(reader, number) {
            Some(Known::At(at)) => at,
            Some(Known::Zero) => return Found::Zero,
            Some(Known::Unknown) | None => return Found::LeftOut,
        };
        match reader.pages.get(&self.input, at, PAGE, BLOCK) {
            Some(bytes) => {
                page.copy_from_slice(bytes);
                Found::Here
            }
            None => Found::LeftOut,
        }
    }

    fn lost_at(&self) -> Option<u64> {
        self.input.lost_at()
    }
}
