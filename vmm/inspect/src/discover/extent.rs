//! What the target has of CPUs and of RAM.

use super::Discovery;
use crate::linux;
use crate::memory::PhysRange;
use crate::target::Target;
use heirloom_paging::mode::CpuState;

/// The target's CPUs, their CR3 without what says that the root is encrypted.
pub(super) fn cpus(target: &Target) -> Vec<CpuState> {
    let cpus = target.cpus.iter();
    cpus.map(|cpu| CpuState {
        cr3: cpu.cr3.without(target.encryption),
        ..*cpu
    })
    .collect()
}

/// All RAM that the guest has, what the source left out of it included, and whether it did.
pub(super) fn ram(target: &Target, notes: &mut Vec<String>) -> (Vec<PhysRange>, bool) {
    let account = target.memory.account();
    notes.extend(account.remarks);
    let is_partial = account.is_partial || !account.left_out.is_empty();
    let mut ram = target.ram.clone();
    ram.extend(account.left_out);
    join(&mut ram);
    (ram, is_partial)
}

/// Makes ranges ascending, and one of those that touch or overlap.
fn join(ram: &mut Vec<PhysRange>) {
    ram.sort_by_key(|range| range.start);
    ram.dedup_by(|next, last| {
        let joins = next.start <= last.end();
        if joins {
            last.bytes = last.end().max(next.end()).get() - last.start.get();
        }
        joins
    });
}

/// How many bytes of `ranges`, which are ascending, are not in `ram`, which is joined.
fn outside(ranges: &[PhysRange], ram: &[PhysRange]) -> u64 {
    let common = |one: &PhysRange, other: &PhysRange| {
        let end = one.end().min(other.end()).get();
        end.saturating_sub(one.start.max(other.start).get())
    };
    ranges
        .iter()
        .map(|range| {
            let first = ram.partition_point(|there| there.end() <= range.start);
            let near = ram[first..]
                .iter()
                .take_while(|there| there.start < range.end());
            range.bytes - near.map(|there| common(range, there)).sum::<u64>()
        })
        .sum()
}

impl Discovery {
    /// Where no hypervisor tells where the guest had RAM, its kernel does: what that lists and the source has not
    /// is unknown.
    pub(super) fn ask_for_ram(&mut self, target: &Target) {
        if !target.memory.account().is_open_ended {
            return;
        }
        let Some((variable, ram)) = linux::ram_of(target, self) else {
            return;
        };
        let (ranges, has) = match ram {
            linux::Ram::Ranges(ranges) => {
                let all: u64 = ranges.iter().map(|range| range.bytes).sum();
                (ranges, format!("it has {} MiB of RAM", all >> 20))
            }
            linux::Ram::EndsAt(end) => {
                let start = target.ram.last().map_or(end, PhysRange::end).min(end);
                let bytes = end.get() - start.get();
                (
                    vec![PhysRange { start, bytes }],
                    format!("its RAM ends at {end}"),
                )
            }
        };
        let lacking = outside(&ranges, &target.ram);
        let lacks = match lacking {
            0 => "and the file has all of it".into(),
            lacking => format!(
                "of which the file lacks {} KiB: what lies there is unknown",
                lacking.div_ceil(1024)
            ),
        };
        self.notes.push(format!(
            "by the guest kernel's own word ({variable}) {has}, {lacks}"
        ));
        self.is_partial |= lacking > 0;
        self.ram.extend(ranges);
        join(&mut self.ram);
    }
}
