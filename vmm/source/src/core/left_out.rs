//! RAM that a core leaves out.
//!
//! A kernel that dumps another one runs in memory that this one had set aside (`crashkernel=`), and that is in
//! no segment; nor need the first MiB be, in which firmware and the dumping kernel come up. Headers do not
//! tell such RAM from what is no RAM, so both are taken to be possible.

use heirloom_inspect::{PhysAddr, PhysRange, Size};

/// Where a PC shows its graphics card and its firmware.
const ISA: u64 = 0xa_0000;
const ABOVE_ISA: u64 = 0x10_0000;
/// Where its interrupt controllers are; the hole around them holds devices.
const DEVICES: u64 = 0xfec0_0000;
const ABOVE_DEVICES: u64 = 4 << 30;

/// What may be RAM in front of and between the ranges of `ram`, which a kernel has dumped.
pub(crate) fn of_a_dumped_kernel(ram: &[PhysRange]) -> Vec<PhysRange> {
    let mut holes = Vec::new();
    let mut end = 0;
    for range in ram {
        let start = range.start.get();
        for (from, to) in [(end, start.min(ISA)), (end.max(ABOVE_ISA), start)] {
            let is_of_devices = from <= DEVICES && DEVICES < to.max(ABOVE_DEVICES.min(start));
            if from < to && !is_of_devices {
                holes.push(PhysRange {
                    start: PhysAddr::new(from),
                    bytes: to - from,
                });
            }
        }
        end = range.end().get();
    }
    holes
}

/// Says that `holes` may be RAM.
pub(crate) fn note(holes: &[PhysRange]) -> Option<String> {
    let bytes: u64 = holes.iter().map(|hole| hole.bytes).sum();
    let first = holes.first()?;
    Some(format!(
        "{} between the dump's ranges of RAM, the first at {}–{}, may be RAM that was set aside for the \
         kernel that wrote it (crashkernel=): what lies there is unknown, and not judged",
        Size(bytes),
        first.start,
        first.end()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holes(ram: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let ram: Vec<PhysRange> = ram
            .iter()
            .map(|(start, end)| PhysRange {
                start: PhysAddr::new(*start),
                bytes: end - start,
            })
            .collect();
        of_a_dumped_kernel(&ram)
            .iter()
            .map(|hole| (hole.start.get(), hole.end().get()))
            .collect()
    }

    #[test]
    fn what_a_dumping_kernel_keeps_to_itself_may_be_ram_and_the_holes_of_a_pc_are_none() {
        const MIB: u64 = 1 << 20;
        const GIB: u64 = 1 << 30;
        assert_eq!(holes(&[(0, 640 << 10), (MIB, 512 * MIB)]), []);
        assert_eq!(holes(&[(MIB, 512 * MIB)]), [(0, ISA)]);
        assert_eq!(
            holes(&[(0x1000, ISA), (MIB, 100 * MIB), (164 * MIB, 512 * MIB)]),
            [(0, 0x1000), (100 * MIB, 164 * MIB)]
        );
        assert_eq!(holes(&[(0, ISA), (MIB, 3 * GIB), (4 * GIB, 6 * GIB)]), []);
        assert_eq!(
            holes(&[(0, 4 * GIB + MIB), (5 * GIB, 6 * GIB)]),
            [(4 * GIB + MIB, 5 * GIB)]
        );
    }
}
