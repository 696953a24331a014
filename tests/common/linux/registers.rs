//! `info registers` of QEMU: the registers that decide how page tables are read.

use heirloom_inspect::paging::mode::PhysBits;
use heirloom_inspect::{CpuState, Cr3, Mode};

/// Physical address bits of QEMU's emulated CPU.
pub(crate) const PHYS_BITS: u32 = 40;

/// Every vCPU's registers, out of what `info registers -a` printed.
pub(crate) fn parse(text: &str) -> Vec<CpuState> {
    text.split("CPU#")
        .skip(1)
        .map(|text| CpuState {
            cr0: value(text, "CR0="),
            cr3: Cr3::new(value(text, "CR3=")),
            cr4: value(text, "CR4="),
            efer: value(text, "EFER="),
            cpl: u8::try_from(value(text, "CPL=")).unwrap(),
            ..CpuState::default()
        })
        .collect()
}

/// How a vCPU reads page tables.
pub(crate) fn mode(cpu: &CpuState) -> Mode {
    Mode::of_cpu(cpu, PhysBits::new(PHYS_BITS).unwrap(), true).unwrap()
}

fn value(text: &str, name: &str) -> u64 {
    let (_, rest) = text.split_once(name).unwrap();
    let digits = rest.split_whitespace().next().unwrap();
    u64::from_str_radix(digits, 16).unwrap()
}
