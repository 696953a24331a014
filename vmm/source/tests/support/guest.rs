//! A guest of a few instructions that any PVH loader boots: long mode on tables that the test knows,
//! then counting in memory for ever.

use heirloom_inspect::Depth;

use super::elf::CoreBuilder;

/// Where it is loaded: code, then tables.
pub(crate) const BASE: u64 = 0x10_0000;
/// The word that it counts in.
pub(crate) const COUNTER: u64 = BASE + 0x800;
/// It runs, and has its stack, in the upper half: here is guest-physical address 0.
pub(crate) const DIRECT_MAP: u64 = 0xffff_8880_0000_0000;
/// Its CR0: PG, WP, NE, ET, MP, PE.
pub(crate) const CR0: u64 = 0x8001_0033;
/// Where its stack pointer stands.
pub(crate) const STACK: u64 = DIRECT_MAP + BASE + 0xf00;

const PGD: u64 = BASE + 0x1000;
const PDPT: u64 = BASE + 0x2000;
const PD: u64 = BASE + 0x3000;
const PML5: u64 = BASE + 0x4000;
const GDT: u64 = BASE + 0x400;

/// Its root.
pub(crate) const fn root(depth: Depth) -> u64 {
    match depth {
        Depth::Four => PGD,
        Depth::Five => PML5,
    }
}

/// Its CR4: PAE, PGE, and LA57 if there are five levels.
pub(crate) const fn cr4(depth: Depth) -> u64 {
    match depth {
        Depth::Four => 0xa0,
        Depth::Five => 0x10a0,
    }
}

/// The kernel file.
pub(crate) fn kernel(depth: Depth) -> Vec<u8> {
    let mut memory = vec![0; 0x5000];
    let mut put = |at: u64, bytes: &[u8]| {
        let at = usize::try_from(at - BASE).unwrap();
        memory[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(BASE, &code(depth));
    // A null descriptor, 64-bit code with the A bit set already, and behind them the GDT's own
    // limit and base.
    put(GDT + 8, &0x00af_9b00_0000_ffff_u64.to_le_bytes());
    put(GDT + 16, &15_u16.to_le_bytes());
    put(GDT + 18, &narrow(GDT).to_le_bytes());
    // P, R/W; the leaf has PS, A and D, too: 2 MiB from 0 on, at 0 and in the direct map.
    for (table, index, entry) in [
        (PML5, 0, PGD | 3),
        (PML5, 511, PGD | 3),
        (PGD, 0, PDPT | 3),
        (PGD, 273, PDPT | 3),
        (PDPT, 0, PD | 3),
        (PD, 0, 0xe3),
    ] {
        put(table + 8 * index, &entry.to_le_bytes());
    }
    CoreBuilder {
        kind: 2,
        ..CoreBuilder::default()
    }
    .typed_note("Xen", 18, &narrow(BASE).to_le_bytes())
    .load(BASE, &memory)
    .build()
}

/// 32-bit code up to the far jump, 64-bit code behind it (opcodes: Intel SDM vol. 2).
fn code(depth: Depth) -> Vec<u8> {
    let mut code = vec![0xfa]; // cli
    let mut mov_eax = |value: u64, then: &[u8]| {
        code.push(0xb8); // mov eax, value
        code.extend(narrow(value).to_le_bytes());
        code.extend(then);
    };
    mov_eax(cr4(depth), &[0x0f, 0x22, 0xe0]); // mov cr4, eax
    mov_eax(root(depth), &[0x0f, 0x22, 0xd8]); // mov cr3, eax
    // SCE, LME, NXE: mov ecx, 0xc0000080; xor edx, edx; wrmsr
    mov_eax(
        0x901,
        &[0xb9, 0x80, 0x00, 0x00, 0xc0, 0x31, 0xd2, 0x0f, 0x30],
    );
    mov_eax(CR0, &[0x0f, 0x22, 0xc0]); // mov cr0, eax
    code.extend([0x0f, 0x01, 0x15]); // lgdt [GDT + 16]
    code.extend(narrow(GDT + 16).to_le_bytes());
    code.push(0xea); // ljmp 8:next
    let next = BASE + code.len() as u64 + 6;
    code.extend(narrow(next).to_le_bytes());
    code.extend(8_u16.to_le_bytes());

    code.extend([0x48, 0xbc]); // mov rsp, STACK
    code.extend(STACK.to_le_bytes());
    code.extend([0x48, 0xb8]); // mov rax, upper
    let upper = DIRECT_MAP + BASE + code.len() as u64 + 8 + 2;
    code.extend(upper.to_le_bytes());
    code.extend([0xff, 0xe0]); // jmp rax
    code.extend([0x48, 0xff, 0x04, 0x25]); // inc qword [COUNTER]
    code.extend(narrow(COUNTER).to_le_bytes());
    code.extend([0xeb, 0xf6]); // and again
    code
}

fn narrow(value: u64) -> u32 {
    u32::try_from(value).unwrap()
}
