//! What the target has of CPUs and of RAM.

use super::{Discovery, scan};
use crate::linux;
use crate::memory::{MAX_RAM, PhysRange};
use crate::target::Target;
use heirloom_paging::addr::PhysAddr;
use heirloom_paging::mode::CpuState;
use heirloom_paging::walk::Fault;

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

/// Where a PC's graphics card begins. What firmware keeps to itself below is RAM that no kernel lists.
const LEGACY: u64 = 0xa_0000;

impl Discovery {
    /// Where no hypervisor tells where the guest had RAM, or it may have written a part of it, the guest's kernel
    /// does: what that lists and the source has not is unknown.
    pub(super) fn ask_for_ram(&mut self, target: &Target) {
        let account = target.memory.account();
        let may_be_a_part = account.may_be_a_part && self.snapshot.missing_count() > 0;
        if !account.is_open_ended && !may_be_a_part {
            return;
        }
        let Some((variable, ram)) = linux::ram_of(target, self) else {
            if may_be_a_part && self.runs_elsewhere(target) {
                self.know_no_more_ram();
            }
            return;
        };
        let (mut ranges, has) = match ram {
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
        if account.is_open_ended || lacking > 0 {
            self.notes.push(format!(
                "by the guest kernel's own word ({variable}) {has}, {lacks}"
            ));
            ranges.push(PhysRange {
                start: PhysAddr::new(0),
                bytes: LEGACY,
            });
        }
        join(&mut ranges);
        self.is_partial |= outside(&ranges, &target.ram) > 0;
        self.ram.extend(ranges);
        join(&mut self.ram);
    }

    /// Whether no CPU's code is in what there is of RAM, though its root is; or not even that, where RAM does not begin
    /// at its beginning.
    fn runs_elsewhere(&self, target: &Target) -> bool {
        let begins_later = target.ram.first().is_some_and(|ram| ram.start.get() > 0);
        let is_elsewhere = |cpu: &CpuState| {
            let root = cpu.cr3.root();
            let mut roots = self.snapshot.roots().iter();
            let known = roots.find(|known| known.address.pfn() == root.pfn());
            if !scan::is_in_ram(root, &target.ram) {
                return begins_later;
            }
            let Some(known) = known else {
                return false;
            };
            let walk = self.snapshot.translate(known.id, cpu.rip);
            match walk.result {
                Ok(found) => !scan::is_in_ram(found.pa, &target.ram),
                Err(fault) => matches!(fault, Fault::TableOutsideMemory { .. }),
            }
        };
        !self.cpus.is_empty() && self.cpus.iter().all(is_elsewhere)
    }

    /// Of RAM that the source does not have nothing is known, not even where it was.
    fn know_no_more_ram(&mut self) {
        self.notes.push(
            "no CPU's code is in the file, so it has a part of the guest's RAM only: what lies outside is unknown"
                .into(),
        );
        self.is_partial = true;
        self.ram = vec![PhysRange {
            start: PhysAddr::new(0),
            bytes: MAX_RAM,
        }];
    }
}
