//! The registers of a CPU in a core that QEMU wrote: the note named `QEMU`
//! (target/i386/arch_dump.c, `struct QEMUCPUState`).

use heirloom_inspect::{CpuState, Cr3, GuestVirt};
use zerocopy::{FromBytes, Immutable, KnownLayout, LE, U32, U64};

use crate::assumed::EFER;

/// The note's owner.
pub(crate) const NAME: &[u8] = b"QEMU";
/// What [`parse`] has to assume.
pub(crate) const ASSUMPTION: &str = "QEMU does not write EFER into a core: a CPU that pages with \
    PAE is taken to be in long mode with NXE set";

/// CPUSTATE_VERSION, the only one there has been.
const VERSION: u32 = 1;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;

/// `struct QEMUCPUSegment`.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Segment {
    selector: U32<LE>,
    limit: U32<LE>,
    flags: U32<LE>,
    pad: U32<LE>,
    base: U64<LE>,
}

/// `struct QEMUCPUState`, without what later versions of QEMU have added behind it.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct State {
    version: U32<LE>,
    /// Of the whole note.
    size: U32<LE>,
    /// rax, rbx, rcx, rdx, rsi, rdi.
    first: [U64<LE>; 6],
    rsp: U64<LE>,
    rbp: U64<LE>,
    r8_to_r15: [U64<LE>; 8],
    rip: U64<LE>,
    rflags: U64<LE>,
    cs: Segment,
    /// ds, es, fs, gs, ss, ldt, tr, gdt, idt.
    segments: [Segment; 9],
    cr: [U64<LE>; 5],
}

/// The registers in a note's contents; `None` if they have another form than the one known.
pub(crate) fn parse(desc: &[u8]) -> Option<CpuState> {
    let (state, _) = State::ref_from_prefix(desc).ok()?;
    let size = state.size.get() as usize;
    if state.version.get() != VERSION || size < size_of::<State>() || size != desc.len() {
        return None;
    }
    let [cr0, _, cr2, cr3, cr4] = state.cr.each_ref().map(|register| register.get());
    Some(CpuState {
        cr0,
        cr2: GuestVirt::new(cr2),
        cr3: Cr3::new(cr3),
        cr4,
        // A core for x86-64 says that the first CPU was in long mode; one that pages with PAE and is
        // not would run a 32-bit kernel.
        efer: if cr0 & CR0_PG != 0 && cr4 & CR4_PAE != 0 {
            EFER
        } else {
            0
        },
        cpl: (state.cs.selector.get() & 3) as u8,
        rip: GuestVirt::new(state.rip.get()),
        rsp: GuestVirt::new(state.rsp.get()),
        rbp: GuestVirt::new(state.rbp.get()),
        rflags: state.rflags.get(),
    })
}
