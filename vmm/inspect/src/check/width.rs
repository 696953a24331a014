//! Judging a guest of which nobody tells how wide its CPU's physical addresses are.
//!
//! An entry with an address that is too long faults; to a CPU with wider addresses it is a page of a device. Where
//! there are such entries and nothing else is wrong with reserved bits, that is left open. A table there is broken
//! on any CPU, and is told as one that is not in RAM.

use super::{Outcome, Verdict};
use crate::discover::Discovery;
use heirloom_paging::addr::Pfn;
use heirloom_paging::entry::{Decoded, Entry};
use heirloom_paging::mode::PhysBits;

/// Bits that are taken for granted: those of AMD's first CPUs and of most that are emulated.
const LEAST_BITS: u32 = 40;
const RESERVED: &str = "reserved-bits-clear";
const OPEN: &str = "how wide the CPU's physical addresses are is not known";

/// Says what is open, and takes back the verdict that rests on it.
pub(super) fn leave_open(discovery: &Discovery, verdicts: &mut [Verdict], notes: &mut Vec<String>) {
    if discovery.is_width_known {
        return;
    }
    let end = discovery.ram.last().map_or(0, |last| last.end().get());
    let bits = LEAST_BITS.max(64 - end.saturating_sub(1).leading_zeros());
    let Some(width) = PhysBits::new(bits) else {
        return;
    };
    let is_long = |entry: Entry| {
        let address = entry.address_in(discovery.mode()).get();
        entry.present() && address & !width.address_mask() != 0
    };
    let mut first: Option<(Pfn, u16)> = None;
    let mut count = 0_u64;
    for table in discovery.snapshot.tables() {
        let mut entries = table.entries();
        let is_read = |index| !matches!(table.decode(index), Decoded::Reserved { .. });
        for (index, entry) in entries.by_ref() {
            if is_long(entry) && is_read(index) {
                count += 1;
                first.get_or_insert((table.pfn(), index));
            }
        }
    }
    let Some((table, index)) = first else { return };
    let (entries, have) = match count {
        1 => ("entry", "has"),
        _ => ("entries", "have"),
    };
    notes.push(format!(
        "{count} {entries} {have} addresses of more than {bits} bits, the first is entry {index} of the table in \
         frame {table}: whether the CPU faults there is not known, as nobody tells how wide its addresses are \
         (phys-bits=N does)"
    ));
    let mut verdicts = verdicts.iter_mut();
    let reserved = verdicts.find(|verdict| verdict.rule.name == RESERVED && verdict.holds());
    if let Some(verdict) = reserved {
        verdict.outcome = Outcome::NotTried { why: OPEN };
    }
}
