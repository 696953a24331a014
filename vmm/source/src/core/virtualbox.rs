//! The registers of a CPU in a core of VirtualBox's (`VBoxManage debugvm VM dumpvmcore`): the note named
//! `VBCPU` (VirtualBox's dbgfcorefmt.h, `struct DBGFCORECPU`).

use heirloom_inspect::{CpuState, Cr3, VirtAddr};
use zerocopy::{FromBytes, Immutable, KnownLayout, LE, U16, U32, U64};

/// The note's owner.
pub(super) const NAME: &[u8] = b"VBCPU";

/// `struct DBGFCORESEL`.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Selector {
    base: U64<LE>,
    limit: U32<LE>,
    attributes: U32<LE>,
    value: U16<LE>,
    reserved: [U16<LE>; 3],
}

/// `struct DBGFCOREXDTR`.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Table {
    address: U64<LE>,
    bytes: U32<LE>,
    reserved: U32<LE>,
}

/// `struct DBGFCORECPU` up to MSR_EFER.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct State {
    /// rax, rbx, rcx, rdx, rsi, rdi, r8 to r15.
    general: [U64<LE>; 14],
    rip: U64<LE>,
    rsp: U64<LE>,
    rbp: U64<LE>,
    rflags: U64<LE>,
    cs: Selector,
    /// ds, es, fs, gs, ss.
    segments: [Selector; 5],
    cr0: U64<LE>,
    cr2: U64<LE>,
    cr3: U64<LE>,
    cr4: U64<LE>,
    debug: [U64<LE>; 8],
    gdtr: Table,
    idtr: Table,
    ldtr: Selector,
    tr: Selector,
    /// cs, eip, esp.
    sysenter: [U64<LE>; 3],
    efer: U64<LE>,
}

/// The registers in a note's contents; `None` if they have another form than the one known.
pub(super) fn parse(desc: &[u8]) -> Option<CpuState> {
    let (state, _) = State::ref_from_prefix(desc).ok()?;
    // A table at 0 is none.
    let table = |base: U64<LE>| (base.get() != 0).then_some(VirtAddr::new(base.get()));
    Some(CpuState {
        cr0: state.cr0.get(),
        cr2: VirtAddr::new(state.cr2.get()),
        cr3: Cr3::new(state.cr3.get()),
        cr4: state.cr4.get(),
        efer: state.efer.get(),
        cpl: (state.cs.value.get() & 3) as u8,
        rip: VirtAddr::new(state.rip.get()),
        rsp: VirtAddr::new(state.rsp.get()),
        rbp: VirtAddr::new(state.rbp.get()),
        rflags: state.rflags.get(),
        idt: table(state.idtr.address),
        gdt: table(state.gdtr.address),
        tss: table(state.tr.base),
    })
}
