//! The registers of a CPU, by the names that QEMU's own code gives its fields (target/i386/machine.c).

use heirloom_inspect::{CpuState, Cr3, VirtAddr};

use super::description::{Device, Field};
use super::stream::Stream;

/// What a segment or a table's register takes: selector, base, limit, flags.
const SEGMENT: u64 = 4 + 8 + 4 + 4;

/// Reads them from a section that begins where `stream` stands; `None` if it has another form.
pub(super) fn read(stream: &mut Stream<'_>, device: &Device) -> Option<CpuState> {
    let start = stream.at();
    let place = |name: &str, bytes: u64| -> Option<u64> {
        let mut at = start;
        for field in &device.fields {
            if field.name == name {
                return (Field::bytes(field) >= bytes).then_some(at);
            }
            at = at.checked_add(field.bytes())?;
        }
        None
    };
    let mut word = |name: &str, offset: u64| {
        stream.go_to(place(name, offset + 8)? + offset).ok()?;
        stream.word64().ok()
    };
    let base = |word: Option<u64>| word.filter(|base| *base != 0).map(VirtAddr::new);
    // rax, rcx, rdx, rbx, rsp, rbp.
    let (rsp, rbp) = (word("env.regs", 4 * 8)?, word("env.regs", 5 * 8)?);
    let [rip, rflags] = [word("env.eip", 0)?, word("env.eflags", 0)?];
    let [cr0, cr2, cr3, cr4] =
        ["env.cr[0]", "env.cr[2]", "env.cr[3]", "env.cr[4]"].map(|name| word(name, 0));
    let efer = word("env.efer", 0)?;
    let [idt, gdt, tss] = ["env.idt", "env.gdt", "env.tr"].map(|name| base(word(name, 4)));
    let selector = place("env.segs", 2 * SEGMENT)? + SEGMENT;
    stream.go_to(selector).ok()?;
    let cs = stream.word32().ok()?;
    Some(CpuState {
        cr0: cr0?,
        cr2: VirtAddr::new(cr2?),
        cr3: Cr3::new(cr3?),
        cr4: cr4?,
        efer,
        cpl: (cs & 3) as u8,
        rip: VirtAddr::new(rip),
        rsp: VirtAddr::new(rsp),
        rbp: VirtAddr::new(rbp),
        rflags,
        idt,
        gdt,
        tss,
    })
}
