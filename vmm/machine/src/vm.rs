//! KVM's virtual machine object: guest memory plugged into it, interrupt controllers and a timer.
#![expect(
    unsafe_code,
    reason = "KVM is handed raw host addresses of guest memory"
)]

use heirloom_paging::{Pfn, PhysAddr};
use kvm_bindings::{
    KVM_MEM_LOG_DIRTY_PAGES, KVM_PIT_SPEAKER_DUMMY, kvm_pit_config, kvm_userspace_memory_region,
};
use kvm_ioctls::VmFd;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use crate::PAGE_SIZE;
use crate::kvm::{Host, KvmError, call};
use crate::memory::Ram;
use crate::write_log::SlotLog;

/// Three pages that Intel CPUs without unrestricted-guest mode need for real-mode emulation, in the
/// PCI hole just below the firmware's place (Documentation/virt/kvm/api.rst, `KVM_SET_TSS_ADDR`).
const TSS_ADDRESS: usize = 0xfffb_d000;

/// A virtual machine that owns its memory.
#[derive(Debug)]
pub struct Vm {
    // KVM lets go of the memory before it is unmapped: fields drop in this order.
    fd: VmFd,
    ram: Ram,
    log: Option<Log>,
}

/// A log of what the guest writes.
#[derive(Debug)]
struct Log {
    slots: Vec<SlotLog>,
    /// Somebody has been told what was written before.
    begun: bool,
}

impl Vm {
    /// Makes a machine without CPUs over `ram`.
    ///
    /// # Errors
    /// [`KvmError`] names the call that KVM refused.
    pub fn new(host: &Host, ram: Ram) -> Result<Vm, KvmError> {
        let fd = host
            .kvm()
            .create_vm()
            .map_err(call("make a virtual machine (KVM_CREATE_VM)"))?;
        let vm = Vm { fd, ram, log: None };
        vm.plug_memory(0).map_err(call(
            "give the machine its memory (KVM_SET_USER_MEMORY_REGION)",
        ))?;
        let fd = &vm.fd;
        fd.set_tss_address(TSS_ADDRESS)
            .map_err(call("place the real-mode TSS (KVM_SET_TSS_ADDR)"))?;
        fd.create_irq_chip()
            .map_err(call("make interrupt controllers (KVM_CREATE_IRQCHIP)"))?;
        // Linux measures its other clocks by the PIT, through the speaker's port too.
        let timer = kvm_pit_config {
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        };
        fd.create_pit2(timer)
            .map_err(call("make an interval timer (KVM_CREATE_PIT2)"))?;
        Ok(vm)
    }

    /// Gives KVM every piece of guest memory, or changes the flags of what it has been given.
    fn plug_memory(&self, flags: u32) -> Result<(), kvm_ioctls::Error> {
        for (slot, region) in (0..).zip(self.ram.memory().iter()) {
            let region = kvm_userspace_memory_region {
                slot,
                flags,
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            };
            // SAFETY: the region is a live mapping of this size, regions of one `GuestMemoryMmap`
            // never overlap, and `ram` outlives `fd`, as `Vm` owns both in that order.
            unsafe { self.fd.set_user_memory_region(region) }?;
        }
        Ok(())
    }

    /// Has KVM keep a log of what the guest writes. Where it cannot, a warning says so, and
    /// [`Vm::take_written_frames`] never knows.
    pub(crate) fn log_writes(&mut self) {
        if self.log.is_some() {
            return;
        }
        if let Err(error) = self.plug_memory(KVM_MEM_LOG_DIRTY_PAGES) {
            let what = "log the writes to guest memory (KVM_MEM_LOG_DIRTY_PAGES)";
            log::warn!(
                "{}; all page tables are compared instead",
                call(what)(error)
            );
            return;
        }
        let slots = (0..).zip(self.ram.memory().iter());
        let slots = slots.map(|(slot, region)| {
            let start = PhysAddr::new(region.start_addr().raw_value());
            SlotLog::new(slot, start, region.len().div_ceil(PAGE_SIZE))
        });
        self.log = Some(Log {
            slots: slots.collect(),
            begun: false,
        });
    }

    /// The frames that the guest has written since the last call, ascending; `None` if that is not known.
    pub(crate) fn take_written_frames(&mut self) -> Option<Vec<Pfn>> {
        let log = self.log.as_mut()?;
        let mut frames = Vec::new();
        for slot in &mut log.slots {
            if let Err(error) = slot.take(&self.fd, &mut frames) {
                log::warn!("{error}; from now on all page tables are compared");
                self.log = None;
                return None;
            }
        }
        // Nobody knows what was written before there was a log.
        std::mem::replace(&mut log.begun, true).then_some(frames)
    }

    /// An event that raises interrupt line `irq`.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn interrupt_line(&self, irq: u32) -> Result<EventFd, KvmError> {
        let event = EventFd::new(libc::EFD_NONBLOCK).map_err(|source| KvmError::Call {
            what: "make an eventfd",
            source,
        })?;
        self.fd
            .register_irqfd(&event, irq)
            .map_err(call("connect an interrupt line (KVM_IRQFD)"))?;
        Ok(event)
    }

    /// The machine's memory.
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// The raw handle, to make vCPUs with.
    pub(crate) fn fd(&self) -> &VmFd {
        &self.fd
    }
}
