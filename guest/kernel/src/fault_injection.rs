//! Deliberate bugs: the one that this run makes, if any (`bug=` on the command line), and where each is.
//!
//! Each is a mistake that kernels really make, described in `heirloom_abi::bugs`, which also names the
//! rule that must catch it. The code asks [`inject`] at the place where the mistake would be made: one
//! load and one compare, which are never true in a kernel without a bug. A test of the abi crate holds this
//! list against the calls.
//!
//! | bug | file | function |
//! | --- | --- | --- |
//! | `child-misses-entry` | `mm/kernel_space.rs` | `new_root` |
//! | `child-copies-table` | `mm/kernel_space.rs` | `new_root` |
//! | `sync-skips-one` | `mm/propagation/sync.rs` | `publish` |
//! | `wrong-frame-in-one` | `mm/propagation/copy_all.rs` | `map` |
//! | `protect-forgets-last` | `mm/kernel_space.rs` | `protect` |
//! | `lost-write` | `syscall.rs` | `kernel_write` |
//! | `unmap-forgets-last` | `mm/kernel_space.rs` | `unmap` |
//! | `stale-in-one` | `mm/propagation/copy_all.rs` | `change` |
//! | `fork-keeps-writable` | `mm/user_space.rs` | `fork_into` |
//! | `fork-shares-table` | `mm/user_space.rs` | `fork_into` |
//! | `fork-shares-table` | `mm/user_space.rs` | `release` |
//! | `copy-on-write-skips-copy` | `mm/user_space.rs` | `copy_on_write` |
//! | `identity-map-left` | `mm/boot_map.rs` | `inject_bugs` |
//! | `direct-map-hole` | `mm/boot_map.rs` | `inject_bugs` |
//! | `direct-map-short` | `mm/boot_map.rs` | `inject_bugs` |
//! | `direct-map-overrun` | `mm/boot_map.rs` | `inject_bugs` |
//! | `direct-map-wrong-frame` | `mm/boot_map.rs` | `inject_bugs` |
//! | `user-bit` | `mm/kernel_space.rs` | `map_fresh` |
//! | `user-bit` | `mm/propagation/mod.rs` | `table_attributes` |
//! | `writable-text` | `mm/boot_map.rs` | `kernel_image` |
//! | `executable-data` | `mm/kernel_space.rs` | `map_fresh` |
//! | `executable-direct-map` | `mm/boot_map.rs` | `direct_map_part` |
//! | `writable-text-alias` | `mm/boot_map.rs` | `direct_map` |
//! | `table-user-mapped` | `mm/user_space.rs` | `fork_into` |
//! | `reserved-bit` | `mm/propagation/prealloc.rs` | `prepare` |
//! | `unnamed-region` | `mm/propagation/prealloc.rs` | `prepare` |
//! | `exit-keeps-cr3` | `process/lifecycle.rs` | `leave_space` |
//! | `lying-pid` | `probe.rs` | `emit` |
//! | `lying-frames` | `syscall.rs` | `kernel_alloc` |
//! | `lying-counter` | `probe.rs` | `counters` |
//! | `forgotten-event` | `syscall.rs` | `kernel_alloc` |
//! | `alias-by-high-table` | `mm/propagation/prealloc.rs` | `prepare` |
//! | `leaked-table` | `mm/user_space.rs` | `release` |
//! | `leaked-page` | `mm/user_space.rs` | `release` |
//! | `leaked-kernel-memory` | `mm/kernel_space.rs` | `unmap` |
//! | `freed-shared-table` | `mm/kernel_space.rs` | `unmap` |
//! | `trampoline-leaks` | `mm/propagation/isolated.rs` | `inherit` |
//! | `idle-keeps-root` | `process/scheduler.rs` | `run_next` |
//! | `lost-entry` | `mm/propagation/mod.rs` | `put` |
//! | `unmap-without-flush` | `mm/kernel_space.rs` | `flush_unmapped` |
//! | `flush-before-unmap` | `mm/kernel_space.rs` | `unmap` |
//! | `flush-before-unmap` | `mm/kernel_space.rs` | `flush_unmapped` |
//! | `flush-wrong-page` | `mm/kernel_space.rs` | `flush_unmapped` |
//! | `flush-cuts-address` | `arch/cpu.rs` | `invalidate` |
//! | `pcid-not-flushed` | `arch/pcid.rs` | `give_back` |
//! | `flush-keeps-global` | `mm/kernel_space.rs` | `flush_unmapped` |
//! | `protect-without-flush` | `mm/kernel_space.rs` | `protect` |
//! | `table-freed-unflushed` | `mm/kernel_space.rs` | `unmap` |
//! | `table-freed-unflushed` | `mm/kernel_space.rs` | `flush_unmapped` |
//! | `fork-without-flush` | `process/lifecycle.rs` | `fork` |
//! | `reuse-before-flush` | `mm/kernel_space.rs` | `flush_unmapped` |
//! | `reuse-before-flush` | `mm/frame.rs` | `free_kernel` |
//! | `no-shootdown` | `smp/shootdown.rs` | `all_others` |
//! | `shootdown-skips-one` | `smp/shootdown.rs` | `all_others` |
//! | `freed-before-answer` | `smp/shootdown.rs` | `shoot` |
//! | `freed-before-answer` | `smp/shootdown.rs` | `answer` |
//! | `freed-before-answer` | `mm/frame.rs` | `free_kernel` |

use core::sync::atomic::{AtomicU8, Ordering::Relaxed};
use heirloom_abi::bugs::Bug;

const NONE: u8 = u8::MAX;

static CHOSEN: AtomicU8 = AtomicU8::new(NONE);

/// From now on the kernel has this bug.
pub fn choose(bug: Bug) {
    CHOSEN.store(bug as u8, Relaxed);
}

/// Whether to make this mistake here.
#[inline]
pub fn inject(bug: Bug) -> bool {
    CHOSEN.load(Relaxed) == bug as u8
}
