//! A CPU's registers as gdb wants them: what there are, and their bytes in that order.

use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::ops::Range;

use gdbstub::arch::{Arch, RegId, Registers};
use kvm_bindings::kvm_fpu;

use crate::vcpu::debug::State;

/// The features that gdb knows by these names (GDB's manual, G.5.5), and one of our own.
const FEATURES: [(&str, &[Register]); 4] = [
    ("org.gnu.gdb.i386.core", CORE),
    ("org.gnu.gdb.i386.sse", SSE),
    ("org.gnu.gdb.i386.segments", SEGMENTS),
    ("org.heirloom.control", CONTROL),
];

/// Name, type and bits.
type Register = (&'static str, &'static str, usize);

#[rustfmt::skip]
const CORE: &[Register] = &[
    ("rax", "int64", 64), ("rbx", "int64", 64), ("rcx", "int64", 64), ("rdx", "int64", 64),
    ("rsi", "int64", 64), ("rdi", "int64", 64), ("rbp", "data_ptr", 64), ("rsp", "data_ptr", 64),
    ("r8", "int64", 64), ("r9", "int64", 64), ("r10", "int64", 64), ("r11", "int64", 64),
    ("r12", "int64", 64), ("r13", "int64", 64), ("r14", "int64", 64), ("r15", "int64", 64),
    ("rip", "code_ptr", 64), ("eflags", "rflags", 32),
    ("cs", "int32", 32), ("ss", "int32", 32), ("ds", "int32", 32),
    ("es", "int32", 32), ("fs", "int32", 32), ("gs", "int32", 32),
    ("st0", "i387_ext", 80), ("st1", "i387_ext", 80), ("st2", "i387_ext", 80), ("st3", "i387_ext", 80),
    ("st4", "i387_ext", 80), ("st5", "i387_ext", 80), ("st6", "i387_ext", 80), ("st7", "i387_ext", 80),
    ("fctrl", "int", 32), ("fstat", "int", 32), ("ftag", "int", 32), ("fiseg", "int", 32),
    ("fioff", "int", 32), ("foseg", "int", 32), ("fooff", "int", 32), ("fop", "int", 32),
];

#[rustfmt::skip]
const SSE: &[Register] = &[
    ("xmm0", "uint128", 128), ("xmm1", "uint128", 128), ("xmm2", "uint128", 128), ("xmm3", "uint128", 128),
    ("xmm4", "uint128", 128), ("xmm5", "uint128", 128), ("xmm6", "uint128", 128), ("xmm7", "uint128", 128),
    ("xmm8", "uint128", 128), ("xmm9", "uint128", 128), ("xmm10", "uint128", 128), ("xmm11", "uint128", 128),
    ("xmm12", "uint128", 128), ("xmm13", "uint128", 128), ("xmm14", "uint128", 128), ("xmm15", "uint128", 128),
    ("mxcsr", "int", 32),
];

const SEGMENTS: &[Register] = &[("fs_base", "int", 64), ("gs_base", "int", 64)];

#[rustfmt::skip]
const CONTROL: &[Register] = &[
    ("cr0", "int64", 64), ("cr2", "int64", 64), ("cr3", "int64", 64), ("cr4", "int64", 64),
    ("cr8", "int64", 64), ("efer", "int64", 64),
];

/// Bits of RFLAGS by their names (Intel SDM vol. 1, 3.4.3).
#[rustfmt::skip]
const FLAGS: &[(&str, u8)] = &[
    ("CF", 0), ("PF", 2), ("AF", 4), ("ZF", 6), ("SF", 7), ("TF", 8), ("IF", 9), ("DF", 10), ("OF", 11),
    ("NT", 14), ("RF", 16), ("VM", 17), ("AC", 18), ("VIF", 19), ("VIP", 20), ("ID", 21),
];

/// RIP's number among them.
const RIP: usize = 16;

/// A CPU with the registers of [`FEATURES`].
#[derive(Debug)]
pub enum X86_64 {}

impl Arch for X86_64 {
    type Usize = u64;
    type Registers = Bytes;
    type BreakpointKind = usize;
    type RegId = Place;
}

/// The bytes of all registers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes(pub(super) Vec<u8>);

impl Registers for Bytes {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        let bytes = place(RIP).and_then(|place| self.0.get(place));
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        u64::from_le_bytes(bytes.unwrap_or_default())
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        self.0.iter().for_each(|byte| write_byte(Some(*byte)));
    }

    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        self.0 = bytes.to_vec();
        Ok(())
    }
}

/// Where the bytes of a register are among all.
#[derive(Clone, Debug)]
pub struct Place(pub(super) Range<usize>);

impl RegId for Place {
    fn from_raw_id(number: usize) -> Option<(Place, Option<NonZeroUsize>)> {
        let place = place(number)?;
        let bytes = NonZeroUsize::new(place.len());
        Some((Place(place), bytes))
    }
}

fn all() -> impl Iterator<Item = &'static Register> {
    FEATURES.iter().flat_map(|(_, registers)| registers.iter())
}

/// Where the bytes of register `number` are among all.
fn place(number: usize) -> Option<Range<usize>> {
    let start = all().take(number).map(|(.., bits)| bits / 8).sum();
    let (.., bits) = all().nth(number)?;
    Some(start..start + bits / 8)
}

/// What gdb reads of them first.
pub(super) fn description() -> String {
    let mut xml = String::from(
        "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target>\
         <architecture>i386:x86-64</architecture>",
    );
    for (name, registers) in FEATURES {
        let _ = write!(xml, "<feature name=\"{name}\">");
        if registers == CORE {
            xml.push_str("<flags id=\"rflags\" size=\"4\">");
            for (name, bit) in FLAGS {
                let _ = write!(
                    xml,
                    "<field name=\"{name}\" start=\"{bit}\" end=\"{bit}\"/>"
                );
            }
            xml.push_str("</flags>");
        }
        for (name, kind, bits) in registers {
            let _ = write!(
                xml,
                "<reg name=\"{name}\" bitsize=\"{bits}\" type=\"{kind}\"/>"
            );
        }
        xml.push_str("</feature>");
    }
    xml.push_str("</target>");
    xml
}

/// The bytes of all, in the order of the description.
#[rustfmt::skip]
pub(super) fn write(state: &State) -> Vec<u8> {
    let (general, special, float) = (&state.general, &state.special, &state.float);
    let mut bytes = Vec::new();
    bytes.extend([
        general.rax, general.rbx, general.rcx, general.rdx, general.rsi, general.rdi, general.rbp, general.rsp,
        general.r8, general.r9, general.r10, general.r11, general.r12, general.r13, general.r14, general.r15,
        general.rip,
    ].into_iter().flat_map(u64::to_le_bytes));
    bytes.extend(low(general.rflags).to_le_bytes());
    let segments = [&special.cs, &special.ss, &special.ds, &special.es, &special.fs, &special.gs];
    bytes.extend(segments.into_iter().flat_map(|segment| u32::from(segment.selector).to_le_bytes()));
    for register in float.fpr {
        bytes.extend(&register[..10]);
    }
    bytes.extend([
        float.fcw.into(), float.fsw.into(), tags(float),
        low(float.last_ip >> 32), low(float.last_ip), low(float.last_dp >> 32), low(float.last_dp),
        float.last_opcode.into(),
    ].into_iter().flat_map(u32::to_le_bytes));
    bytes.extend(float.xmm.as_flattened());
    bytes.extend(float.mxcsr.to_le_bytes());
    bytes.extend([
        special.fs.base, special.gs.base,
        special.cr0, special.cr2, special.cr3, special.cr4, special.cr8, special.efer,
    ].into_iter().flat_map(u64::to_le_bytes));
    bytes
}

/// The lower 32 bits.
fn low(value: u64) -> u32 {
    u32::try_from(value & u64::from(u32::MAX)).unwrap_or(u32::MAX)
}

/// Two bits for each of the FPU's registers: 3 for an empty one, and 0, "valid", for any other.
fn tags(float: &kvm_fpu) -> u32 {
    (0..8)
        .map(|number| {
            if float.ftwx >> number & 1 == 0 {
                3 << (2 * number)
            } else {
                0
            }
        })
        .sum()
}

/// The state with what `bytes` say; `None` where that is something which a debugger cannot set here: selectors and
/// control registers.
pub(super) fn read(state: &State, bytes: &[u8]) -> Option<State> {
    let mut new = state.clone();
    let mut rest = bytes;
    let general = &mut new.general;
    for register in [
        &mut general.rax,
        &mut general.rbx,
        &mut general.rcx,
        &mut general.rdx,
        &mut general.rsi,
        &mut general.rdi,
        &mut general.rbp,
        &mut general.rsp,
        &mut general.r8,
        &mut general.r9,
        &mut general.r10,
        &mut general.r11,
        &mut general.r12,
        &mut general.r13,
        &mut general.r14,
        &mut general.r15,
        &mut general.rip,
    ] {
        *register = u64::from_le_bytes(*take(&mut rest)?);
    }
    let flags = u32::from_le_bytes(*take(&mut rest)?);
    general.rflags = general.rflags >> 32 << 32 | u64::from(flags);
    // Six selectors.
    take::<24>(&mut rest)?;
    for register in &mut new.float.fpr {
        register[..10].copy_from_slice(take::<10>(&mut rest)?);
    }
    // The FPU's own eight.
    take::<32>(&mut rest)?;
    for register in &mut new.float.xmm {
        *register = *take(&mut rest)?;
    }
    new.float.mxcsr = u32::from_le_bytes(*take(&mut rest)?);
    new.special.fs.base = u64::from_le_bytes(*take(&mut rest)?);
    new.special.gs.base = u64::from_le_bytes(*take(&mut rest)?);
    (write(&new) == bytes).then_some(new)
}

fn take<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_register_has_its_bytes_and_comes_back_as_it_was() {
        let mut state = State::default();
        state.general.rip = 0x1234;
        state.general.rflags = 0x246;
        state.special.cr3 = 0x5000;
        state.special.gs.base = 7;
        state.float.fpr[7][9] = 1;
        state.float.xmm[15][15] = 2;
        let bytes = write(&state);
        let number = |name| all().position(|(at, ..)| *at == name).unwrap();
        let at = |name| bytes[place(number(name)).unwrap()].to_vec();
        assert_eq!(at("rip"), 0x1234_u64.to_le_bytes());
        assert_eq!(Bytes(bytes.clone()).pc(), 0x1234);
        assert_eq!(at("eflags"), 0x246_u32.to_le_bytes());
        assert_eq!(at("cr3"), 0x5000_u64.to_le_bytes());
        assert_eq!(at("gs_base"), 7_u64.to_le_bytes());
        assert_eq!((at("st7")[9], at("xmm15")[15]), (1, 2));
        assert_eq!(place(number("efer")).unwrap().end, bytes.len());
        assert_eq!(place(number("efer") + 1), None);
        assert_eq!(read(&state, &bytes), Some(state));
    }

    #[test]
    fn a_register_that_is_not_to_be_set_is_refused_and_so_are_too_few_and_too_many_bytes() {
        let state = State::default();
        let bytes = write(&state);
        for number in [0, 16, 17, 24, 40, 56, 57, 58] {
            let mut new = bytes.clone();
            new[place(number).unwrap().start] ^= 1;
            assert_eq!(write(&read(&state, &new).unwrap()), new);
        }
        for number in [18, 23, 32, 39, 59, 64] {
            let mut new = bytes.clone();
            new[place(number).unwrap().start] ^= 1;
            assert_eq!(read(&state, &new), None, "{number}");
        }
        assert_eq!(read(&state, &bytes[1..]), None);
        assert_eq!(read(&state, &[&bytes[..], &[0]].concat()), None);
    }
}
