//! The registers of a CPU as KVM has them (`struct kvm_sregs` and `struct kvm_regs`), which monitors put into the
//! state of a snapshot as they are.

use heirloom_inspect::{CpuState, Cr3, VirtAddr};
use zerocopy::{FromBytes, Immutable, KnownLayout, LE, U16, U32, U64};

/// `struct kvm_segment`.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Segment {
    base: U64<LE>,
    limit: U32<LE>,
    selector: U16<LE>,
    kind: u8,
    present: u8,
    dpl: u8,
    db: u8,
    s: u8,
    l: u8,
    g: u8,
    avl: u8,
    unusable: u8,
    padding: u8,
}

/// `struct kvm_dtable`.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Table {
    base: U64<LE>,
    limit: U16<LE>,
    padding: [U16<LE>; 3],
}

/// `struct kvm_sregs`.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Special {
    cs: Segment,
    /// ds, es, fs, gs, ss.
    others: [Segment; 5],
    tr: Segment,
    ldt: Segment,
    gdt: Table,
    idt: Table,
    cr0: U64<LE>,
    cr2: U64<LE>,
    cr3: U64<LE>,
    cr4: U64<LE>,
    cr8: U64<LE>,
    efer: U64<LE>,
    apic_base: U64<LE>,
    interrupts: [U64<LE>; 4],
}

/// `struct kvm_regs`.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct General {
    /// rax, rbx, rcx, rdx, rsi, rdi.
    first: [U64<LE>; 6],
    rsp: U64<LE>,
    rbp: U64<LE>,
    /// r8 to r15.
    later: [U64<LE>; 8],
    rip: U64<LE>,
    rflags: U64<LE>,
}

/// More CPUs are not looked for.
const CPUS: usize = 4096;

/// Every CPU in long mode whose registers stand in `bytes`, at any place, special ones behind the general ones.
pub(super) fn find(bytes: &[u8]) -> Vec<CpuState> {
    let mut cpus = Vec::new();
    let mut at = 0;
    while let Some(rest) = bytes.get(at..)
        && rest.len() >= size_of::<Special>()
        && cpus.len() < CPUS
    {
        let Some(special) = special(rest) else {
            at += 1;
            continue;
        };
        let general = [0, 8].into_iter().find_map(|between| {
            let start = at.checked_sub(between + size_of::<General>())?;
            general(bytes.get(start..)?)
        });
        cpus.push(state(special, general));
        at += size_of::<Special>();
    }
    cpus
}

/// The CPU with these registers; `None` if it is in no state that a CPU in long mode can be in.
pub(super) fn of(special_bytes: &[u8], general_bytes: Option<&[u8]>) -> Option<CpuState> {
    Some(state(
        special(special_bytes)?,
        general_bytes.and_then(general),
    ))
}

fn special(bytes: &[u8]) -> Option<&Special> {
    const PE: u64 = 1;
    const PG: u64 = 1 << 31;
    const PAE: u64 = 1 << 5;
    const LMA: u64 = 1 << 10;
    let (special, _) = Special::ref_from_prefix(bytes).ok()?;
    let [cr0, cr3, cr4, cr8, efer, apic] = [
        &special.cr0,
        &special.cr3,
        &special.cr4,
        &special.cr8,
        &special.efer,
        &special.apic_base,
    ]
    .map(|word| word.get());
    let is_one = efer & LMA != 0
        && efer >> 32 == 0
        && cr0 & (PE | PG) == PE | PG
        && cr0 >> 32 == 0
        && cr4 & PAE != 0
        && cr3 >> 52 == 0
        && cr8 < 16
        && apic & 0xfff & !0xd00 == 0
        && apic >> 12 == 0xfee00
        && special.cs.present == 1
        && special.cs.s == 1
        && special.cs.kind & !7 == 8;
    is_one.then_some(special)
}

fn general(bytes: &[u8]) -> Option<&General> {
    let (general, _) = General::ref_from_prefix(bytes).ok()?;
    let rflags = general.rflags.get();
    // Bit 1 is always set, and there are none above 21 (Intel SDM vol. 1, 3.4.3).
    (rflags & 2 != 0 && rflags >> 22 == 0).then_some(general)
}

fn state(special: &Special, general: Option<&General>) -> CpuState {
    let table = |base: U64<LE>| (base.get() != 0).then_some(VirtAddr::new(base.get()));
    let address = |word: fn(&General) -> U64<LE>| {
        VirtAddr::new(general.map_or(0, |general| word(general).get()))
    };
    CpuState {
        cr0: special.cr0.get(),
        cr2: VirtAddr::new(special.cr2.get()),
        cr3: Cr3::new(special.cr3.get()),
        cr4: special.cr4.get(),
        efer: special.efer.get(),
        cpl: (special.cs.selector.get() & 3) as u8,
        rip: address(|general| general.rip),
        rsp: address(|general| general.rsp),
        rbp: address(|general| general.rbp),
        rflags: general.map_or(2, |general| general.rflags.get()),
        idt: table(special.idt.base),
        gdt: table(special.gdt.base),
        tss: table(special.tr.base),
    }
}
