//! `info registers` of QEMU's monitor, read (target/i386/cpu-dump.c, `x86_cpu_dump_state`).
//!
//! QMP has no other source of a vCPU's control registers. The text is for people, so it is taken only
//! if every register is there exactly once; whatever else it may become is refused, not guessed at.

use heirloom_inspect::{CpuState, Cr3, VirtAddr};

/// The registers that are needed. Outside of 64-bit code the short names are used.
const NAMES: [[&str; 2]; 10] = [
    ["RIP", "EIP"],
    ["RSP", "ESP"],
    ["RBP", "EBP"],
    ["RFL", "EFL"],
    ["CPL", "CPL"],
    ["CR0", "CR0"],
    ["CR2", "CR2"],
    ["CR3", "CR3"],
    ["CR4", "CR4"],
    ["EFER", "EFER"],
];

/// The registers of every CPU in the text that `info registers -a` prints; what is wrong, if it has
/// another form than the one known.
pub(super) fn parse(text: &str) -> Result<Vec<CpuState>, String> {
    let mut blocks: Vec<(usize, Vec<&str>)> = Vec::new();
    for line in text.lines() {
        if let Some(number) = line.strip_prefix("CPU#") {
            let number = number
                .trim()
                .parse()
                .map_err(|_| format!("`{line}` numbers no CPU"))?;
            blocks.push((number, Vec::new()));
        } else if let Some((_, lines)) = blocks.last_mut() {
            lines.push(line);
        }
    }
    if blocks.is_empty() {
        return Err("it has no line `CPU#0`".to_string());
    }
    blocks
        .iter()
        .map(|(number, lines)| cpu(lines).map_err(|problem| format!("CPU {number} {problem}")))
        .collect()
}

/// Where a table that a register of its own locates is: `GDT=     fffffe0000001000 0000007f`, or with a
/// selector in front, `TR =0040 fffffe0000003000 …`. A table at 0 is none.
fn table(lines: &[&str], name: &str, field: usize) -> Option<VirtAddr> {
    let line = lines.iter().find_map(|line| line.strip_prefix(name))?;
    let base = line.split_whitespace().nth(field)?;
    let base = u64::from_str_radix(base, 16).ok()?;
    (base != 0).then_some(VirtAddr::new(base))
}

fn cpu(lines: &[&str]) -> Result<CpuState, String> {
    let mut values = [None; NAMES.len()];
    for word in lines.iter().flat_map(|line| line.split_whitespace()) {
        let Some((name, value)) = word.split_once('=') else {
            continue;
        };
        let Some(index) = NAMES.iter().position(|names| names.contains(&name)) else {
            continue;
        };
        let value = u64::from_str_radix(value, 16).map_err(|_| format!("has `{word}`"))?;
        if values[index].replace(value).is_some() {
            return Err(format!("has {name} twice"));
        }
    }
    let mut found = [0; NAMES.len()];
    for ((value, found), names) in values.iter().zip(&mut found).zip(&NAMES) {
        *found = value.ok_or_else(|| format!("has no {}", names[0]))?;
    }
    let [rip, rsp, rbp, rflags, cpl, cr0, cr2, cr3, cr4, efer] = found;
    Ok(CpuState {
        cr0,
        cr2: VirtAddr::new(cr2),
        cr3: Cr3::new(cr3),
        cr4,
        efer,
        cpl: u8::try_from(cpl)
            .ok()
            .filter(|cpl| *cpl <= 3)
            .ok_or_else(|| format!("has CPL={cpl}"))?,
        rip: VirtAddr::new(rip),
        rsp: VirtAddr::new(rsp),
        rbp: VirtAddr::new(rbp),
        rflags,
        idt: table(lines, "IDT=", 0),
        gdt: table(lines, "GDT=", 0),
        tss: table(lines, "TR =", 1),
    })
}
