//! The first chunk: what was recorded, and what the host knew of it.

use std::time::{Duration, SystemTime};

use crate::codec::{Get, Malformed, Put};
use heirloom_inspect::history::{GroundTruth, Image};
use heirloom_inspect::memory::PhysRange;
use heirloom_inspect::paging::addr::{PAGE_SIZE, PhysAddr, VirtAddr};

/// What was recorded.
#[derive(Clone, Debug)]
pub struct Header {
    /// What wrote the recording, with its version.
    pub producer: String,
    /// When it was begun, to the second.
    pub begun: SystemTime,
    /// The command that ran the guest, word by word, its own name first.
    pub command: Vec<String>,
    /// The guest kernel's command line.
    pub kernel_command_line: String,
    /// The name of the propagation strategy that the guest is held to; `None` for a guest that is not
    /// judged by the rules for our own.
    pub strategy: Option<String>,
    /// The name of the deliberate bug that the kernel was told to make.
    pub bug: Option<String>,
    /// What the host knew of the guest, having built it. Of a foreign guest it is the RAM alone.
    pub truth: GroundTruth,
}

impl Header {
    /// A header that says as little as there is to say: begun now, by this version.
    pub fn new(truth: GroundTruth) -> Header {
        Header {
            producer: concat!("heirloom ", env!("CARGO_PKG_VERSION")).into(),
            begun: SystemTime::now(),
            command: Vec::new(),
            kernel_command_line: String::new(),
            strategy: None,
            bug: None,
            truth,
        }
    }

    /// The RAM, ascending, ranges that touch joined.
    pub fn ram(&self) -> Vec<PhysRange> {
        let mut ram = self.truth.ram.clone();
        ram.retain(|range| range.bytes > 0);
        ram.sort_by_key(|range| range.start);
        ram.dedup_by(|next, last| {
            let joins = next.start <= last.end();
            if joins {
                let end = last.end().max(next.end());
                last.bytes = end.get() - last.start.get();
            }
            joins
        });
        ram
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.put_text(&self.producer);
        let begun = self.begun.duration_since(SystemTime::UNIX_EPOCH);
        out.put_varint(begun.unwrap_or_default().as_secs());
        out.put_varint(self.command.len() as u64);
        for word in &self.command {
            out.put_text(word);
        }
        out.put_text(&self.kernel_command_line);
        out.put_text(self.strategy.as_deref().unwrap_or(""));
        out.put_text(self.bug.as_deref().unwrap_or(""));
        out.put_varint(self.truth.ram.len() as u64);
        for range in &self.truth.ram {
            out.put_varint(range.start.get());
            out.put_varint(range.bytes);
        }
        out.put_varint(self.truth.image.len() as u64);
        for segment in &self.truth.image {
            out.put_varint(segment.va.get());
            out.put_varint(segment.pa.get());
            out.put_varint(segment.bytes);
            out.push(u8::from(segment.writable) | u8::from(segment.executable) << 1);
        }
    }

    pub(super) fn get(contents: &[u8]) -> Result<Header, Malformed> {
        let mut from = Get::new(contents);
        let producer = from.text("the producer")?;
        let seconds = from.varint("the time of its beginning")?;
        let begun = SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_secs(seconds))
            .ok_or(Malformed::Value("the time of its beginning"))?;
        let command = (0..from.count("the command")?)
            .map(|_| from.text("the command"))
            .collect::<Result<_, _>>()?;
        let kernel_command_line = from.text("the kernel's command line")?;
        let strategy = Some(from.text("the strategy")?).filter(|name| !name.is_empty());
        let bug = Some(from.text("the bug")?).filter(|bug| !bug.is_empty());
        let ram = (0..from.count("the ranges of RAM")?)
            .map(|_| ram(&mut from))
            .collect::<Result<_, _>>()?;
        let image = (0..from.count("the kernel's segments")?)
            .map(|_| segment(&mut from))
            .collect::<Result<_, _>>()?;
        from.end()?;
        Ok(Header {
            producer,
            begun,
            command,
            kernel_command_line,
            strategy,
            bug,
            truth: GroundTruth { ram, image },
        })
    }
}

fn ram(from: &mut Get<'_>) -> Result<PhysRange, Malformed> {
    let range = PhysRange {
        start: PhysAddr::new(from.varint("a range of RAM")?),
        bytes: from.varint("a range of RAM")?,
    };
    physical(range).ok_or(Malformed::Value("a range of RAM"))
}

fn segment(from: &mut Get<'_>) -> Result<Image, Malformed> {
    const WHAT: &str = "a segment of the kernel";
    let (va, pa) = (from.varint(WHAT)?, from.varint(WHAT)?);
    let (bytes, flags) = (from.varint(WHAT)?, from.byte(WHAT)?);
    let image = Image {
        va: VirtAddr::new(va),
        pa: PhysAddr::new(pa),
        bytes,
        writable: flags & 1 != 0,
        executable: flags & 2 != 0,
    };
    // The judge goes through a segment page by page.
    let sound = flags < 4
        && bytes.is_multiple_of(PAGE_SIZE)
        && bytes <= MAX_SEGMENT
        && va.checked_add(bytes).is_some()
        && physical(image.physical()).is_some();
    sound.then_some(image).ok_or(Malformed::Value(WHAT))
}

/// Most bytes of a kernel's segment.
const MAX_SEGMENT: u64 = 1 << 30;

/// A range of physical addresses, which have at most 52 bits.
fn physical(range: PhysRange) -> Option<PhysRange> {
    let end = range.start.get().checked_add(range.bytes)?;
    (end <= 1 << 52).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, bytes: u64) -> PhysRange {
        PhysRange {
            start: PhysAddr::new(start),
            bytes,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut header = Header::new(GroundTruth {
            ram: vec![range(0, 0x9_f000), range(0x10_0000, 0x70_0000)],
            image: vec![Image {
                va: VirtAddr::new(0xffff_ffff_8020_0000),
                pa: PhysAddr::new(0x20_0000),
                bytes: 0x4000,
                writable: false,
                executable: true,
            }],
        });
        header.command = vec!["heirloom".into(), "run".into()];
        header.strategy = Some("copy-all".into());
        header.bug = Some("sync-skips-one".into());
        let mut bytes = Vec::new();
        header.put(&mut bytes);
        let read = Header::get(&bytes).unwrap();
        assert_eq!(read.command, header.command);
        assert_eq!(read.strategy, header.strategy);
        assert_eq!(read.bug, header.bug);
        assert_eq!(read.truth.ram, header.truth.ram);
        assert_eq!(read.truth.image, header.truth.image);
        for length in 0..bytes.len() {
            assert!(Header::get(&bytes[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn ram_beyond_all_addresses_and_segments_without_end_are_refused() {
        for (ram, bytes) in [
            (range(u64::MAX, 2), 0x1000),
            (range(1 << 52, 1), 0x1000),
            (range(0, 4096), 0x123),
            (range(0, 4096), 1 << 40),
        ] {
            let header = Header::new(GroundTruth {
                ram: vec![ram],
                image: vec![Image {
                    va: VirtAddr::new(0),
                    pa: PhysAddr::new(0),
                    bytes,
                    writable: true,
                    executable: true,
                }],
            });
            let mut contents = Vec::new();
            header.put(&mut contents);
            assert!(Header::get(&contents).is_err(), "{ram:?} {bytes:#x}");
        }
    }

    #[test]
    fn ranges_of_ram_that_meet_are_one() {
        let header = Header::new(GroundTruth {
            ram: vec![
                range(0x3000, 0x1000),
                range(0, 0x1000),
                range(0x1000, 0x1000),
            ],
            image: Vec::new(),
        });
        assert_eq!(header.ram(), [range(0, 0x2000), range(0x3000, 0x1000)]);
    }
}
