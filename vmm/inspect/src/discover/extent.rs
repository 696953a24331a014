//! What the target has of CPUs and of RAM.

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
    ram.sort_by_key(|range| range.start);
    ram.dedup_by(|next, last| {
        let joins = next.start <= last.end();
        if joins {
            last.bytes = last.end().max(next.end()).get() - last.start.get();
        }
        joins
    });
    (ram, is_partial)
}
