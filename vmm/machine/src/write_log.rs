//! Which frames the guest has written: KVM's dirty log (Documentation/virt/kvm/api.rst,
//! `KVM_GET_DIRTY_LOG`).
//!
//! The log knows every store by the guest, and the CPU's own to the A and D bits of page tables. It does
//! not know what this program itself stores in guest memory.
//!
//! `KVM_GET_DIRTY_LOG` also begins the log anew: the pages that were written are protected again, and the
//! next write to each makes one more exit inside KVM. With manual protection
//! (`KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2`) that could be spared for pages that hold no tables; where it was
//! measured (kvm_pvm) the guest's time was the same with all of these, and without any log.
#![expect(unsafe_code, reason = "KVM is handed the raw address of a bitmap")]

use heirloom_paging::{Pfn, PhysAddr};
use kvm_bindings::{kvm_dirty_log, kvm_dirty_log__bindgen_ty_1};
use kvm_ioctls::VmFd;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

use crate::kvm::{KvmError, call};

/// The type of KVM's ioctls (linux/kvm.h).
const KVMIO: u32 = 0xae;
ioctl_iow_nr!(KVM_GET_DIRTY_LOG, KVMIO, 0x42, kvm_dirty_log);

/// The log of one piece of guest memory, which KVM knows by its slot.
#[derive(Debug)]
pub(crate) struct SlotLog {
    slot: u32,
    first: Pfn,
    /// A bit for each frame.
    bitmap: Vec<u64>,
}

impl SlotLog {
    /// For a slot of `frames` frames from `start` on, of which KVM keeps a log.
    pub(crate) fn new(slot: u32, start: PhysAddr, frames: u64) -> SlotLog {
        let words = usize::try_from(frames.div_ceil(64)).unwrap_or(usize::MAX);
        SlotLog {
            slot,
            first: start.pfn(),
            bitmap: vec![0; words],
        }
    }

    /// Adds to `frames` those that were written since the last call.
    pub(crate) fn take(&mut self, fd: &VmFd, frames: &mut Vec<Pfn>) -> Result<(), KvmError> {
        let log = kvm_dirty_log {
            slot: self.slot,
            padding1: 0,
            __bindgen_anon_1: kvm_dirty_log__bindgen_ty_1 {
                dirty_bitmap: self.bitmap.as_mut_ptr().cast(),
            },
        };
        // SAFETY: KVM writes a bit for each frame of the slot, rounded up to whole words; the bitmap
        // was made for as many, and lives until the call returns.
        if unsafe { ioctl_with_ref(fd, KVM_GET_DIRTY_LOG(), &log) } != 0 {
            let what = "read which guest memory was written (KVM_GET_DIRTY_LOG)";
            return Err(call(what)(kvm_ioctls::Error::last()));
        }
        frames.extend(frames_of(self.first, &self.bitmap));
        Ok(())
    }
}

/// The frames whose bits are set, the first bit being that of `first`.
fn frames_of(first: Pfn, bitmap: &[u64]) -> impl Iterator<Item = Pfn> {
    let words = (0u64..).step_by(64).zip(bitmap);
    words.flat_map(move |(offset, &word)| {
        let mut bits = word;
        std::iter::from_fn(move || {
            let bit = u64::from(bits.trailing_zeros());
            bits &= bits.checked_sub(1)?;
            Some(Pfn::new(first.get() + offset + bit))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bit_is_a_frame() {
        let bitmap = [1 | 1 << 63, 0, 1 << 5];
        let frames = frames_of(Pfn::new(0x10_0000), &bitmap).map(Pfn::get);
        assert!(frames.eq([0x10_0000, 0x10_003f, 0x10_0085]));
        assert_eq!(frames_of(Pfn::new(7), &[]).count(), 0);
        assert_eq!(frames_of(Pfn::new(0), &[u64::MAX]).count(), 64);
    }
}
