//! What of a PC's memory is RAM to its kernel.
//!
//! A hypervisor's dump has all that it emulates with memory: besides RAM the graphics card's, and the firmware's
//! ROM below 4 GiB. None of that is in the memory map that firmware gives a kernel, nor is what lies
//! from 640 KiB to 1 MiB, where a PC shows its graphics card and its firmware.

use heirloom_inspect::{PhysAddr, PhysRange};

/// Where a PC has its graphics card and its firmware.
const LEGACY: u64 = 0xa_0000;
const ABOVE_LEGACY: u64 = 0x10_0000;
/// What begins here or further up, and does not continue RAM, is a device's, up to …
const DEVICES: u64 = 0x8000_0000;
/// … here.
const ABOVE_DEVICES: u64 = 4 << 30;

/// Of what a hypervisor has dumped, that which is RAM. `pieces` are its parts as they are in the dump, before
/// neighbours are joined: they tell whether it is a PC's.
pub(crate) fn ram_of_a_dump(pieces: &[PhysRange], ram: Vec<PhysRange>) -> Vec<PhysRange> {
    let is_edge = |at: PhysAddr| (LEGACY..=ABOVE_LEGACY).contains(&at.get());
    let is_rom =
        |piece: &PhysRange| piece.start.get() >= DEVICES && piece.end().get() == ABOVE_DEVICES;
    let is_pc = |piece: &PhysRange| is_edge(piece.start) || is_edge(piece.end()) || is_rom(piece);
    if !pieces.iter().any(is_pc) {
        return ram;
    }
    // RAM from 4 GiB on goes on where the firmware's ROM ends.
    let without_devices = |range: PhysRange| {
        let (start, end) = (range.start.get(), range.end().get());
        let start = match start {
            DEVICES..ABOVE_DEVICES => ABOVE_DEVICES,
            _ => start,
        };
        (start < end).then(|| PhysRange {
            start: PhysAddr::new(start),
            bytes: end - start,
        })
    };
    let kept: Vec<PhysRange> = ram.into_iter().filter_map(without_devices).collect();
    without_legacy(&kept)
}

/// Of these ranges what is not from 640 KiB to 1 MiB.
pub(crate) fn without_legacy(ram: &[PhysRange]) -> Vec<PhysRange> {
    let parts = |range: &PhysRange| {
        let (start, end) = (range.start.get(), range.end().get());
        [(start, end.min(LEGACY)), (start.max(ABOVE_LEGACY), end)]
    };
    ram.iter()
        .flat_map(parts)
        .filter(|(start, end)| start < end)
        .map(|(start, end)| PhysRange {
            start: PhysAddr::new(start),
            bytes: end - start,
        })
        .collect()
}

/// Whether a range has something from 640 KiB to 1 MiB.
pub(crate) fn is_legacy(range: &PhysRange) -> bool {
    range.start.get() < ABOVE_LEGACY && LEGACY < range.end().get()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    fn range((start, end): (u64, u64)) -> PhysRange {
        PhysRange {
            start: PhysAddr::new(start),
            bytes: end - start,
        }
    }

    /// What is RAM of pieces that do not touch.
    fn ram(pieces: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let pieces: Vec<PhysRange> = pieces.iter().copied().map(range).collect();
        ram_of_a_dump(&pieces, pieces.clone())
            .iter()
            .map(|range| (range.start.get(), range.end().get()))
            .collect()
    }

    #[test]
    fn the_memory_of_a_graphics_card_and_rom_are_no_ram() {
        let low = (0, LEGACY);
        let flash = (4 * GIB - 256 * 1024, 4 * GIB);
        let card = (0xfd00_0000, 0xfe00_0000);
        let pieces = [low, (0xc_0000, 256 * MIB), card, flash];
        assert_eq!(ram(&pieces), [low, (MIB, 256 * MIB)]);
        // Without a graphics card, and with more than fits below 4 GiB.
        let pieces = [(0, 3 * GIB), flash, (4 * GIB, 6 * GIB)];
        let expected = [low, (MIB, 3 * GIB), (4 * GIB, 6 * GIB)];
        assert_eq!(ram(&pieces), expected);
        // As one range with what goes on above it.
        let joined = [(0, 3 * GIB), (flash.0, 6 * GIB)].map(range);
        let found = ram_of_a_dump(&pieces.map(range), joined.to_vec());
        assert_eq!(found, expected.map(range));
    }

    #[test]
    fn pieces_that_touch_tell_a_pc_too() {
        let pieces = [(0, 0xf_0000), (0xf_0000, MIB), (MIB, 64 * MIB)].map(range);
        let found = ram_of_a_dump(&pieces, vec![range((0, 64 * MIB))]);
        assert_eq!(found, [(0, LEGACY), (MIB, 64 * MIB)].map(range));
    }

    #[test]
    fn memory_that_looks_like_no_pcs_is_all_ram() {
        for pieces in [
            &[(0, 64 * MIB)][..],
            &[(0, 4 * MIB), (0xfd00_0000, 0xfe00_0000)],
            &[(2 * GIB, 4 * GIB - 4096)],
        ] {
            assert_eq!(ram(pieces), pieces);
        }
    }
}
