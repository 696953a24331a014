//! Guest RAM: how much there is, where it lies, and the host memory behind it.
//!
//! ```text
//! 0          ┬─ RAM
//! 640 KiB    ┼─ a PC's video memory and ROMs: backed, but the guest is not told of it
//! 1 MiB      ┼─ RAM
//! 3 GiB      ┼─ the PCI hole: interrupt controllers and devices, no RAM
//! 4 GiB      ┼─ RAM: what did not fit below 3 GiB
//!            ┴─
//! ```

use std::fmt;
use std::fs::File;
use std::str::FromStr;
use std::sync::Arc;

use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// End of conventional memory on a PC.
pub const LOW_END: u64 = 640 * KIB;
/// Where RAM goes on behind video memory and ROMs; kernels are loaded from here on.
pub const HIGH_START: u64 = MIB;
/// No RAM from here to [`HOLE_END`].
pub const HOLE_START: u64 = 3 * GIB;
/// RAM goes on here.
pub const HOLE_END: u64 = 4 * GIB;

/// Why there is no guest memory.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "each variant's message says what it is and what its fields are"
)]
pub enum MemoryError {
    #[error("`{text}` is no memory size: write a number with M or G, such as 128M or 6G")]
    Syntax { text: String },
    #[error(
        "{size} of guest memory is too little: give at least {}",
        MemorySize::MINIMUM
    )]
    TooLittle { size: MemorySize },
    #[error(
        "{size} of guest memory ends above the {bits}-bit physical addresses of the guest's CPU: give less"
    )]
    TooMuch { size: MemorySize, bits: u8 },
    #[error("could not map {size} of guest memory: {reason}; give less, or raise `ulimit -v`")]
    Map { size: MemorySize, reason: String },
}

/// How much memory a guest has: whole MiB, at least [`MemorySize::MINIMUM`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemorySize(u64);

impl MemorySize {
    /// What heirloom's own guest needs.
    pub const MINIMUM: MemorySize = MemorySize(64 * MIB);

    /// `mebibytes` MiB.
    ///
    /// # Errors
    /// [`MemoryError::TooLittle`], or [`MemoryError::Syntax`] for more than 64 bits of bytes.
    pub fn from_mib(mebibytes: u64) -> Result<MemorySize, MemoryError> {
        let bytes = mebibytes
            .checked_mul(MIB)
            // Room to add the hole without overflow.
            .filter(|bytes| *bytes < 1 << 60)
            .ok_or_else(|| MemoryError::Syntax {
                text: format!("{mebibytes}M"),
            })?;
        let size = MemorySize(bytes);
        if size < MemorySize::MINIMUM {
            return Err(MemoryError::TooLittle { size });
        }
        Ok(size)
    }

    /// In bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for MemorySize {
    type Err = MemoryError;

    fn from_str(text: &str) -> Result<MemorySize, MemoryError> {
        let syntax = || MemoryError::Syntax { text: text.into() };
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
            "m" | "mb" | "mib" => 1,
            "g" | "gb" | "gib" => GIB / MIB,
            "t" | "tb" | "tib" => TIB / MIB,
            _ => return Err(syntax()),
        };
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(syntax());
        }
        let number: u64 = digits.parse().map_err(|_| syntax())?;
        MemorySize::from_mib(number.checked_mul(unit).ok_or_else(syntax)?).map_err(|error| {
            match error {
                MemoryError::Syntax { .. } => syntax(),
                other => other,
            }
        })
    }
}

impl fmt::Display for MemorySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 >= GIB && self.0.is_multiple_of(GIB) {
            write!(f, "{} GiB", self.0 / GIB)
        } else {
            write!(f, "{} MiB", self.0 / MIB)
        }
    }
}

/// A piece of guest-physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamRange {
    /// The first address.
    pub start: GuestAddress,
    /// How many bytes.
    pub bytes: u64,
}

impl RamRange {
    const fn new(start: u64, end: u64) -> RamRange {
        RamRange {
            start: GuestAddress(start),
            bytes: end - start,
        }
    }

    /// First address behind it.
    pub const fn end(self) -> GuestAddress {
        GuestAddress(self.start.0 + self.bytes)
    }

    /// Whether all of `start..end` lies in it.
    pub const fn holds(self, start: u64, end: u64) -> bool {
        self.start.0 <= start && start <= end && end <= self.end().0
    }
}

/// Guest memory and what the guest is told of it.
#[derive(Debug)]
pub struct Ram {
    memory: GuestMemoryMmap,
    memory_map: Vec<RamRange>,
    size: MemorySize,
}

impl Ram {
    /// Maps fresh memory, which reads as zero. Host frames are taken when the guest first writes.
    ///
    /// # Errors
    /// [`MemoryError::TooMuch`] for a CPU with `max_phys_addr` address bits, [`MemoryError::Map`].
    pub fn new(size: MemorySize, max_phys_addr: u8) -> Result<Ram, MemoryError> {
        Ram::map(size, max_phys_addr, None)
    }

    /// As [`Ram::new`], with `file`, which has as many bytes, as the memory: one piece after the other.
    ///
    /// # Errors
    /// As [`Ram::new`].
    pub fn in_file(size: MemorySize, max_phys_addr: u8, file: File) -> Result<Ram, MemoryError> {
        Ram::map(size, max_phys_addr, Some(&Arc::new(file)))
    }

    fn map(
        size: MemorySize,
        max_phys_addr: u8,
        file: Option<&Arc<File>>,
    ) -> Result<Ram, MemoryError> {
        let backed = backed(size);
        let end = backed.last().map_or(0, |range| range.end().0);
        if end > 1_u64.checked_shl(max_phys_addr.into()).unwrap_or(u64::MAX) {
            return Err(MemoryError::TooMuch {
                size,
                bits: max_phys_addr,
            });
        }
        let failed = |reason: String| MemoryError::Map { size, reason };
        let mut offset = 0;
        let ranges = backed
            .iter()
            .map(|range| {
                let at = file.map(|file| FileOffset::from_arc(Arc::clone(file), offset));
                offset += range.bytes;
                Ok((range.start, usize::try_from(range.bytes)?, at))
            })
            .collect::<Result<Vec<_>, std::num::TryFromIntError>>()
            .map_err(|error| failed(error.to_string()))?;
        let memory = GuestMemoryMmap::from_ranges_with_files(&ranges)
            .map_err(|error| failed(error.to_string()))?;
        Ok(Ram {
            memory,
            memory_map: memory_map(size),
            size,
        })
    }

    /// The memory itself, PC holes below 1 MiB included.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// What the guest is told is RAM, in ascending order.
    pub fn memory_map(&self) -> &[RamRange] {
        &self.memory_map
    }

    /// As asked for.
    pub fn size(&self) -> MemorySize {
        self.size
    }
}

/// The pieces that the host backs.
fn backed(size: MemorySize) -> Vec<RamRange> {
    let bytes = size.bytes();
    let mut ranges = vec![RamRange::new(0, bytes.min(HOLE_START))];
    if bytes > HOLE_START {
        ranges.push(RamRange::new(HOLE_END, HOLE_END + (bytes - HOLE_START)));
    }
    ranges
}

/// The pieces that the guest is told of.
fn memory_map(size: MemorySize) -> Vec<RamRange> {
    let mut ranges = vec![RamRange::new(0, LOW_END)];
    for range in backed(size) {
        ranges.push(RamRange::new(range.start.0.max(HIGH_START), range.end().0));
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_number_with_a_unit() {
        for (text, mebibytes) in [
            ("64M", 64),
            ("128MiB", 128),
            ("6G", 6144),
            ("1gib", 1024),
            ("2T", 2 << 20),
        ] {
            assert_eq!(
                text.parse::<MemorySize>().unwrap().bytes(),
                mebibytes << 20,
                "{text}"
            );
        }
        for text in [
            "",
            "M",
            "64",
            "-64M",
            "+64M",
            "6.5G",
            "64 M",
            "64Q",
            "99999999999T",
            "18446744073709551616M",
            "6G6",
            "６G",
        ] {
            let error = text.parse::<MemorySize>().unwrap_err();
            assert!(
                matches!(error, MemoryError::Syntax { .. }),
                "{text}: {error}"
            );
            assert!(error.to_string().contains("128M"), "{error}");
        }
    }

    #[test]
    fn too_little_says_how_much_is_enough() {
        let error = "63M".parse::<MemorySize>().unwrap_err().to_string();
        assert!(
            error.contains("63 MiB") && error.contains("64 MiB"),
            "{error}"
        );
    }

    #[test]
    fn memory_above_three_gibibytes_goes_on_above_four() {
        let ranges = |text: &str| {
            memory_map(text.parse().unwrap())
                .iter()
                .map(|range| (range.start.0, range.end().0))
                .collect::<Vec<_>>()
        };
        assert_eq!(ranges("64M"), [(0, LOW_END), (MIB, 64 * MIB)]);
        assert_eq!(ranges("3G"), [(0, LOW_END), (MIB, 3 * GIB)]);
        assert_eq!(
            ranges("6G"),
            [(0, LOW_END), (MIB, 3 * GIB), (4 * GIB, 7 * GIB)]
        );
        let one_more = MemorySize::from_mib(3 * 1024 + 1).unwrap();
        assert_eq!(
            memory_map(one_more)[2],
            RamRange::new(4 * GIB, 4 * GIB + MIB)
        );
    }

    #[test]
    fn memory_beyond_the_cpus_addresses_is_refused() {
        let error = Ram::new("64G".parse().unwrap(), 36).unwrap_err();
        assert!(
            matches!(error, MemoryError::TooMuch { bits: 36, .. }),
            "{error}"
        );
        assert!(Ram::new("63G".parse().unwrap(), 36).is_ok());
    }
}
