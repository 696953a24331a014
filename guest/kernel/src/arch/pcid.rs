//! PCIDs: every address space has one, and a CPU that comes back to it finds its translations where it left them.
//!
//! With CR4.PCIDE a CPU tags what it remembers of tables with the PCID in the low bits of CR3, uses only what has
//! that of CR3, and keeps the rest. A load of CR3 with bit 63 set drops nothing, one with bit 63 clear drops what has
//! the PCID that is loaded (Intel SDM vol. 3A, 4.10.1 and 4.10.4.1). So four things must be right:
//!
//! - **Whose they are.** The kernel's root has PCID 0; the root of each process gets one that no other has, and
//!   gives it back when it is freed ([`Pcid::allocate`], [`Pcid::give_back`]).
//! - **What may be kept.** [`CURRENT_ON`] has a bit for each CPU: what it remembers of the PCID is what the tables
//!   say. A load keeps it then, and else drops it, and sets the bit.
//! - **What becomes wrong.** Whoever takes something from a user half says so: [`Pcid::drop_all`] and
//!   [`Pcid::drop_page`] clear the bits of the CPUs that may remember it, but of those that drop it at once. The
//!   process runs on one CPU at most; on the others it is dropped when they come back to it. A PCID that is given
//!   back has no bit left, so whoever has it next starts with nothing.
//! - **The kernel half.** Its translations are global, have no PCID, and are dropped by `invlpg` under any; under
//!   `isolated` they are of PCID 0, which is loaded wherever the kernel runs. Its tables are never freed.
//!
//! Without PCIDs there is one of them, 0: each load of CR3 drops all that is not global. All of it stands behind
//! the kernel's lock; [`drop_page_of_ring_3`] touches its own CPU's data only.

use super::entry_area::data_of;
use super::{cpu, flush_log};
use crate::fault_injection::inject;
use crate::mm::{Root, VirtAddr};
use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use heirloom_abi::bugs::Bug;
use heirloom_abi::flush_log::PCIDS;
use heirloom_abi::options::MAX_CPUS;

/// In a value for CR3: nothing is dropped.
pub const KEEP: u64 = 1 << 63;
/// In a value for CR3: the PCID.
const TAG: u64 = PCIDS as u64 - 1;

/// CR4.PCIDE is set.
static ON: AtomicBool = AtomicBool::new(false);
/// There is the instruction `invpcid`.
static INVPCID: AtomicBool = AtomicBool::new(false);
/// For each PCID the CPUs that remember nothing of it but what is so.
static CURRENT_ON: [AtomicU8; PCIDS] = [const { AtomicU8::new(0) }; PCIDS];
/// A bit for each PCID that an address space has.
static TAKEN: [AtomicU64; PCIDS / 64] = [const { AtomicU64::new(0) }; PCIDS / 64];

const _: () = assert!(MAX_CPUS <= u8::BITS as usize);

/// What `invpcid` drops (Intel SDM vol. 2A, INVPCID).
#[derive(Clone, Copy)]
#[repr(u64)]
enum Drop {
    /// One page of one PCID, if it is not global.
    Page = 0,
    /// Everything of every PCID, and what is global.
    Everything = 2,
}

/// From now on CR3's low bits are a PCID; `invpcid` exists if it is said so.
pub fn enable(invpcid: bool) {
    TAKEN[0].fetch_or(1, Relaxed);
    INVPCID.store(invpcid, Relaxed);
    ON.store(true, Relaxed);
}

#[inline]
fn is_on() -> bool {
    ON.load(Relaxed)
}

/// The PCID of an address space.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pcid(u16);

impl Pcid {
    /// The kernel's own, and that of everybody where there are none.
    pub const KERNEL: Pcid = Pcid(0);

    /// One that no address space has.
    ///
    /// # Panics
    /// If there is none: there are more than processes.
    pub fn allocate() -> Pcid {
        if !is_on() {
            return Pcid::KERNEL;
        }
        let free = TAKEN.iter().zip(0..).find_map(|(word, number)| {
            let taken = word.load(Relaxed);
            (taken != u64::MAX).then(|| {
                word.store(taken | (taken + 1), Relaxed);
                number * u64::BITS + taken.trailing_ones()
            })
        });
        let free = free.and_then(|number| u16::try_from(number).ok());
        Pcid(free.expect("there are as many PCIDs as there may be processes"))
    }

    /// Its address space is gone. No CPU has it loaded, and whoever gets it next finds nothing of it.
    pub fn give_back(self) {
        if self == Pcid::KERNEL {
            return;
        }
        if !inject(Bug::PcidNotFlushed) {
            self.current_on().store(0, Relaxed);
        }
        TAKEN[self.index() / 64].fetch_and(!(1 << (self.0 % 64)), Relaxed);
    }

    /// Something was taken from the address space's user half: what a CPU remembers of it is dropped when it is next
    /// loaded there. If it is loaded, the caller loads it again.
    pub fn drop_all(self) {
        if is_on() {
            self.current_on().store(0, Relaxed);
        }
    }

    /// A page was taken from the address space's user half, or changed: no CPU uses what it remembers of it. CPUs that
    /// have the address space are asked by the caller.
    pub fn drop_page(self, page: VirtAddr) {
        if !is_on() {
            cpu::flush_page(page);
            return;
        }
        let is_dropped = self.drop_page_here(page);
        let own = if is_dropped { own_bit() } else { 0 };
        let kept = self.current_on().load(Relaxed) & own;
        self.current_on().store(kept, Relaxed);
        if !is_dropped {
            self.drop_on_the_way_out();
        }
    }

    /// This CPU drops a page now, if it can.
    fn drop_page_here(self, page: VirtAddr) -> bool {
        if cpu::loaded_pcid() == self.0 {
            flush_log::user_page(cpu::invalidate(page), self.0);
            return true;
        }
        if INVPCID.load(Relaxed) {
            // SAFETY: it exists.
            unsafe { invpcid(Drop::Page, self, page) };
            flush_log::user_page(page.get(), self.0);
            return true;
        }
        false
    }

    /// Where the kernel has a root of its own and ring 3 this one: it is loaded without anything that is remembered.
    fn drop_on_the_way_out(self) {
        let local = data_of(cpu::id()).local();
        let value = local.ring_3_root();
        if value & TAG == u64::from(self.0) {
            local.set_ring_3_root(value & !KEEP);
            flush_log::pcid_load(self.0, value & !TAG & !KEEP, false);
        }
    }

    /// The value of CR3 for `root`, which is this PCID's, if it is loaded next. That is noted.
    pub fn load_value(self, root: Root) -> u64 {
        let address = root.frame().start().get();
        if !is_on() {
            flush_log::root_load();
            return address;
        }
        let (own, current) = (own_bit(), self.current_on().load(Relaxed));
        let keeps = current & own != 0;
        self.current_on().store(current | own, Relaxed);
        flush_log::pcid_load(self.0, address, keeps);
        address | u64::from(self.0) | if keeps { KEEP } else { 0 }
    }

    /// The values of CR3 for the way in, to the kernel's root, and the way out, to `root`, which is this PCID's; and
    /// what the latter has more when it has been loaded once.
    pub fn ways(self, kernel: Root, root: Root) -> (u64, u64, u64) {
        let kernel = kernel.frame().start().get();
        if !is_on() {
            return (kernel, self.load_value(root), 0);
        }
        let before = data_of(cpu::id()).local().ring_3_root();
        if before & KEEP == 0 {
            // Ring 3 has not run since: what was to be dropped was not.
            let left = Pcid((before & TAG) as u16);
            let others = left.current_on().load(Relaxed) & !own_bit();
            left.current_on().store(others, Relaxed);
        }
        (kernel | KEEP, self.load_value(root), KEEP)
    }

    fn current_on(self) -> &'static AtomicU8 {
        &CURRENT_ON[self.index()]
    }

    fn index(self) -> usize {
        usize::from(self.0) % PCIDS
    }
}

/// Notes that this value, which drops what has its PCID, is loaded into CR3.
pub fn note_load(value: u64) {
    if is_on() {
        flush_log::pcid_load((value & TAG) as u16, value & !TAG, false);
    } else {
        flush_log::root_load();
    }
}

/// Another CPU has changed a user page of the process that this CPU runs: drops it.
pub fn drop_page_of_ring_3(page: VirtAddr) {
    if !is_on() {
        cpu::flush_page(page);
        return;
    }
    let way_out = data_of(cpu::id()).local().ring_3_root();
    let pcid = match way_out {
        0 => Pcid(cpu::loaded_pcid()),
        _ => Pcid((way_out & TAG) as u16),
    };
    if !pcid.drop_page_here(page) {
        pcid.drop_on_the_way_out();
    }
}

/// Drops everything of every PCID, and what is global; false if there is no instruction for it.
pub fn drop_everything() -> bool {
    let exists = INVPCID.load(Relaxed);
    if exists {
        // SAFETY: it exists.
        unsafe { invpcid(Drop::Everything, Pcid::KERNEL, VirtAddr::new(0)) };
    }
    exists
}

fn own_bit() -> u8 {
    1 << (cpu::id() % MAX_CPUS)
}

/// # Safety
/// 1. CPUID offers the instruction, and CR4.PCIDE is set.
unsafe fn invpcid(what: Drop, pcid: Pcid, page: VirtAddr) {
    let which = [u64::from(pcid.0), page.get()];
    // SAFETY: obligation 1; it changes no memory. Not `nomem`: what the compiler wrote to page tables before must
    // be there.
    unsafe {
        asm!(
            "invpcid {what}, [{which}]",
            what = in(reg) what as u64,
            which = in(reg) &raw const which,
            options(nostack)
        );
    }
}
