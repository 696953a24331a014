//! `info registers` of QEMU's monitor, read (target/i386/cpu-dump.c): QMP has no other source of a vCPU's
//! control registers. The text is for people, so it is taken only if every register that is needed is there
//! exactly once.

use crate::registers::Registers;

/// RFLAGS.IF.
const INTERRUPTS_ON: u64 = 1 << 9;

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

/// A vCPU that stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CpuStanding {
    pub(super) registers: Registers,
    /// It waits for an interrupt.
    pub(super) halted: bool,
}

impl CpuStanding {
    /// It halted with interrupts off.
    pub(super) fn is_halted_for_good(&self) -> bool {
        self.halted && self.registers.rflags & INTERRUPTS_ON == 0
    }
}

/// Every CPU in the text that `info registers -a` prints; what is wrong, if it has another form than the one
/// known.
pub(super) fn parse(text: &str) -> Result<Vec<CpuStanding>, String> {
    let mut blocks: Vec<Vec<&str>> = Vec::new();
    for line in text.lines() {
        if line.starts_with("CPU#") || blocks.is_empty() {
            // Old versions number the CPUs only where there are several.
            blocks.push(Vec::new());
        }
        if let Some(block) = blocks.last_mut() {
            block.push(line.trim_end_matches('\r'));
        }
    }
    // What stands in front of the first number.
    blocks.retain(|block| block.iter().any(|line| !line.trim().is_empty()));
    if blocks.is_empty() {
        return Err("it is empty".into());
    }
    let cpus = (0..).zip(&blocks);
    cpus.map(|(number, lines)| {
        cpu(lines).map_err(|problem: String| format!("CPU {number} {problem}"))
    })
    .collect()
}

fn cpu(lines: &[&str]) -> Result<CpuStanding, String> {
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
    let cpl = u8::try_from(cpl).ok().filter(|cpl| *cpl <= 3);
    let registers = Registers {
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
        cpl: cpl.ok_or("has no CPL from 0 to 3")?,
    };
    Ok(CpuStanding {
        registers,
        halted: halted != 0,
    })
}

/// `CS =0008 0000000000000000 ffffffff 00af9b00 DPL=0 CS64 [-RA]`
fn selector(lines: &[&str]) -> Option<u16> {
    let line = lines.iter().find_map(|line| line.strip_prefix("CS ="))?;
    u16::from_str_radix(line.split_whitespace().next()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RING_3: &str = "\
RAX=0000000000000001 RBX=0000000000000000 RCX=0000000000000000 RDX=0000000000000000
RSI=0000000000000000 RDI=0000000000000000 RBP=00007ffffffef000 RSP=00007ffffffeeff8
R8 =0000000000000000 R9 =0000000000000000 R10=0000000000000000 R11=0000000000000000
RIP=0000000000401000 RFL=00000202 [-------] CPL=3 II=0 A20=1 SMM=0 HLT=0
ES =0000 0000000000000000 ffffffff 00cf9300 DPL=0 DS   [-WA]
CS =0033 0000000000000000 ffffffff 00affb00 DPL=3 CS64 [-RA]
CR0=80010033 CR2=0000000000000000 CR3=0000000000123000 CR4=00300620
EFER=0000000000000d01
";

    fn text(cpus: &[&str]) -> String {
        let cpus = (0..).zip(cpus);
        let blocks = cpus.map(|(number, block)| format!("\nCPU#{number}\n{block}"));
        blocks.collect()
    }

    #[test]
    fn each_cpu_is_read_and_old_versions_do_not_number_the_only_one() {
        let halted = RING_3
            .replace("HLT=0", "HLT=1")
            .replace("00000202", "00000002")
            .replace("CPL=3", "CPL=0");
        let cpus = parse(&text(&[RING_3, &halted])).unwrap();
        assert_eq!(cpus.len(), 2);
        assert_eq!(cpus[0].registers.cr3, 0x12_3000);
        assert_eq!((cpus[0].registers.cs, cpus[0].registers.cpl), (0x33, 3));
        assert_eq!(cpus[0].registers.efer, 0xd01);
        assert!(!cpus[0].is_halted_for_good() && cpus[1].is_halted_for_good());
        assert_eq!(parse(RING_3).unwrap(), [cpus[0]]);
    }

    #[test]
    fn what_is_missing_doubled_or_no_number_is_refused() {
        for (from, to, said) in [
            ("CR3=", "CRX=", "CPU 0 has no CR3"),
            ("CR2=", "CR3=", "has CR3 twice"),
            ("CR4=00300620", "CR4=lots", "has `CR4=lots`"),
            ("CPL=3", "CPL=9", "CPL from 0 to 3"),
            ("CS =", "CX =", "has no CS"),
            ("HLT=0", "", "has no HLT"),
        ] {
            let error = parse(&text(&[&RING_3.replace(from, to)])).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
        assert!(parse("").is_err() && parse("\n\n").is_err());
    }
}
