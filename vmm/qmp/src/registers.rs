//! `info registers` of QEMU's monitor, read (target/i386/cpu-dump.c, `x86_cpu_dump_state`).
//!
//! QMP has no other source of a vCPU's control registers. The text is for people, so it is taken only
//! if every register is there exactly once; whatever else it may become is refused, not guessed at.

/// The registers that are needed. Outside of 64-bit code the short names are used.
const NAMES: [[&str; 2]; 11] = [
    ["RIP", "EIP"],
    ["RSP", "ESP"],
    ["RBP", "EBP"],
    ["RFL", "EFL"],
    ["CPL", "CPL"],
    ["HLT", "HLT"],
    ["CR0", "CR0"],
    ["CR2", "CR2"],
    ["CR3", "CR3"],
    ["CR4", "CR4"],
    ["EFER", "EFER"],
];

/// What a vCPU stands still with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuRegisters {
    /// RIP, or EIP outside of 64-bit code.
    pub rip: u64,
    /// RSP, or ESP.
    pub rsp: u64,
    /// RBP, or EBP.
    pub rbp: u64,
    /// RFLAGS, or EFLAGS.
    pub rflags: u64,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// The selector in CS.
    pub cs: u16,
    /// The ring that it runs in, 0 to 3.
    pub cpl: u8,
    /// It waits for an interrupt.
    pub halted: bool,
    /// Linear address of the interrupt descriptor table; `None` at 0, where none was loaded.
    pub idt: Option<u64>,
    /// Of the global descriptor table.
    pub gdt: Option<u64>,
    /// Of the task-state segment.
    pub tss: Option<u64>,
}

/// The registers of every CPU in the text that `info registers -a` prints.
///
/// # Errors
/// What is wrong with it, in words that go on behind the command: "CPU 1 has no CR3".
pub fn parse(text: &str) -> Result<Vec<CpuRegisters>, String> {
    // What stands in front of the first number: QEMU 6 and older number CPUs only where there are several.
    let mut blocks: Vec<Vec<&str>> = vec![Vec::new()];
    for line in text.lines() {
        if let Some(number) = line.strip_prefix("CPU#") {
            let number = number.trim();
            if number.parse::<usize>().is_err() {
                return Err(format!("`CPU#{number}` numbers no CPU"));
            }
            blocks.push(Vec::new());
        } else if let Some(block) = blocks.last_mut() {
            block.push(line);
        }
    }
    if blocks[0].iter().all(|line| line.trim().is_empty()) {
        blocks.remove(0);
    }
    if blocks.is_empty() {
        return Err("it has no line `CPU#0`".to_owned());
    }
    (0..)
        .zip(&blocks)
        .map(|(number, lines)| cpu(lines).map_err(|problem| format!("CPU {number} {problem}")))
        .collect()
}

fn cpu(lines: &[&str]) -> Result<CpuRegisters, String> {
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
    let [rip, rsp, rbp, rflags, cpl, halted, cr0, cr2, cr3, cr4, efer] = found;
    let ring = u8::try_from(cpl).ok().filter(|ring| *ring <= 3);
    Ok(CpuRegisters {
        rip,
        rsp,
        rbp,
        rflags,
        cr0,
        cr2,
        cr3,
        cr4,
        efer,
        cs: selector(lines).ok_or("has no CS")?,
        cpl: ring.ok_or_else(|| format!("has CPL={cpl}"))?,
        halted: halted != 0,
        idt: table(lines, "IDT=", 0),
        gdt: table(lines, "GDT=", 0),
        tss: table(lines, "TR =", 1),
    })
}

/// `CS =0008 0000000000000000 ffffffff 00af9b00 DPL=0 CS64 [-RA]`
fn selector(lines: &[&str]) -> Option<u16> {
    let line = lines.iter().find_map(|line| line.strip_prefix("CS ="))?;
    u16::from_str_radix(line.split_whitespace().next()?, 16).ok()
}

/// Where a table that a register of its own locates is: `GDT=     fffffe0000001000 0000007f`, or with a
/// selector in front, `TR =0040 fffffe0000003000 …`. A table at 0 is none.
fn table(lines: &[&str], name: &str, field: usize) -> Option<u64> {
    let line = lines.iter().find_map(|line| line.strip_prefix(name))?;
    let base = line.split_whitespace().nth(field)?;
    let base = u64::from_str_radix(base, 16).ok()?;
    (base != 0).then_some(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// QEMU 7.2: CPU 0 in 64-bit code with five levels, CPU 1 where SeaBIOS left it.
    const REGISTERS: &str = include_str!("tests/registers.txt");

    #[test]
    fn registers_of_every_cpu_are_read_in_64_bit_and_in_32_bit_code() {
        let cpus = parse(REGISTERS).unwrap();
        let [first, second] = cpus[..] else {
            panic!("{cpus:?}")
        };
        assert_eq!(first.cr0, 0x8001_0033);
        assert_eq!(first.cr3, 0x10_4000);
        assert_eq!(first.cr4, 0x10a0);
        assert_eq!(first.efer, 0xd01);
        assert_eq!(first.cpl, 0);
        assert_eq!(first.rsp, 0xffff_8880_0010_0f00);
        assert_eq!(first.rip, 0xffff_8880_0010_004b);
        // A table at 0 is none.
        let tables = |cpu: &CpuRegisters| [cpu.idt, cpu.gdt, cpu.tss];
        assert_eq!(tables(&first), [None, Some(0x10_0400), None]);
        assert_eq!(tables(&second), [Some(0xf_61be), Some(0xf_6180), None]);
        assert_eq!((second.cr0, second.efer), (0x11, 0));
        assert_eq!(second.rip, 0xf_d09a);
        assert_eq!(second.rflags, 2);
        assert_eq!([first.halted, second.halted], [false, true]);
    }

    #[test]
    fn the_only_cpu_needs_no_number() {
        let (first, _) = REGISTERS.split_once("CPU#1").unwrap();
        let without = first.replace("CPU#0", "");
        assert_eq!(parse(&without).unwrap(), parse(first).unwrap());
    }

    #[test]
    fn registers_that_are_missing_doubled_or_garbled_are_refused_by_name() {
        for (from, to, problem) in [
            ("CR3=", "cr3=", "CPU 0 has no CR3"),
            ("CR4=", "CR2=", "CPU 0 has CR2 twice"),
            ("EFER=", "EFER=x", "CPU 0 has `EFER=x"),
            ("CPL=0", "CPL=4", "CPU 0 has CPL=4"),
            ("CS =", "CS  ", "CPU 0 has no CS"),
            ("HLT=", "hlt=", "CPU 0 has no HLT"),
            ("CPU#1", "CPU#x", "`CPU#x` numbers no CPU"),
            // Two CPUs that nothing keeps apart.
            ("CPU#", "cpu ", " twice"),
            ("EIP=", "PC=", "CPU 1 has no RIP"),
        ] {
            let text = REGISTERS.replace(from, to);
            assert_ne!(text, REGISTERS);
            let found = parse(&text).unwrap_err();
            assert!(found.contains(problem), "{found}");
        }
        assert!(parse("").is_err());
    }
}
