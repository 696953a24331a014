//! The registers of a CPU in a core that QEMU wrote: the note named `QEMU`
//! (target/i386/arch_dump.c, `struct QEMUCPUState`).

use heirloom_inspect::{CpuState, Cr3, VirtAddr};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, LE, U32, U64};

use crate::assumed::EFER;

/// The note's owner.
pub(crate) const NAME: &[u8] = b"QEMU";
/// What [`parse`] has to assume.
pub(crate) const ASSUMPTION: &str = "QEMU does not write EFER into a core: a CPU that pages with \
    PAE is taken to be in long mode, and a bit 63 that an entry has to be NX";

/// CPUSTATE_VERSION, the only one there has been.
const VERSION: u32 = 1;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;

/// `struct QEMUCPUSegment`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Segment {
    selector: U32<LE>,
    limit: U32<LE>,
    flags: U32<LE>,
    pad: U32<LE>,
    base: U64<LE>,
}

/// `struct QEMUCPUState`, without what later versions of QEMU have added behind it.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
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
    // ds, es, fs, gs, ss, ldt, tr, gdt, idt; a table at 0 is none.
    let [_, _, _, _, _, _, tss, gdt, idt] = state.segments.each_ref().map(|segment| {
        let base = segment.base.get();
        (base != 0).then_some(VirtAddr::new(base))
    });
    let [cr0, _, cr2, cr3, cr4] = state.cr.each_ref().map(|register| register.get());
    Some(CpuState {
        cr0,
        cr2: VirtAddr::new(cr2),
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
        rip: VirtAddr::new(state.rip.get()),
        rsp: VirtAddr::new(state.rsp.get()),
        rbp: VirtAddr::new(state.rbp.get()),
        rflags: state.rflags.get(),
        idt,
        gdt,
        tss,
    })
}

/// The contents of a note with these registers, all that is known of the CPU; the others are zero. Of CS
/// only the ring is known.
pub(crate) fn write(cpu: &CpuState) -> Vec<u8> {
    /// `kernel_gs_base`, which QEMU added without another version.
    const KERNEL_GS_BASE: [u8; 8] = [0; 8];
    let mut state = State::new_zeroed();
    let bytes = size_of::<State>() + KERNEL_GS_BASE.len();
    state.version = VERSION.into();
    #[expect(clippy::cast_possible_truncation, reason = "440 bytes")]
    state.size.set(bytes as u32);
    state.rsp = cpu.rsp.get().into();
    state.rbp = cpu.rbp.get().into();
    state.rip = cpu.rip.get().into();
    state.rflags = cpu.rflags.into();
    state.cs.selector = u32::from(cpu.cpl).into();
    for (segment, base) in [(6, cpu.tss), (7, cpu.gdt), (8, cpu.idt)] {
        state.segments[segment].base = base.map_or(0, VirtAddr::get).into();
    }
    let registers = [cpu.cr0, 0, cpu.cr2.get(), cpu.cr3.get(), cpu.cr4];
    state.cr = registers.map(U64::from);
    let mut note = state.as_bytes().to_vec();
    note.extend(KERNEL_GS_BASE);
    note
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_has_the_size_of_qemus() {
        let cpu = CpuState {
            cr0: 0x8005_0033,
            cr2: VirtAddr::new(0xdead_b000),
            cr3: Cr3::new(0x1234_5001),
            cr4: 0x6f0,
            efer: EFER,
            cpl: 3,
            rip: VirtAddr::new(0x40_0000),
            rsp: VirtAddr::new(0x7fff_0000),
            rbp: VirtAddr::new(0x7fff_0010),
            rflags: 0x246,
            idt: Some(VirtAddr::new(0xffff_fe00_0000_0000)),
            gdt: Some(VirtAddr::new(0xffff_fe00_0000_1000)),
            tss: None,
        };
        let note = write(&cpu);
        assert_eq!(note.len(), 440);
        assert_eq!(parse(&note), Some(cpu));
    }
}
