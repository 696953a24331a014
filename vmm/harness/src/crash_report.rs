//! Why a guest cannot go on, with what its author needs to find the place.

use std::fmt::Write as _;

use heirloom_machine::kvm::KvmModule;
use heirloom_machine::{Registers, Stop, VirtualMachine};
use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

use crate::backtrace::{self, Frame};

/// EFER.LMA: the CPU is in long mode.
const LONG_MODE: u64 = 1 << 10;

/// What happened, and where the guest was: registers and call chain, each on a line of its own.
pub fn text(machine: &dyn VirtualMachine, stop: &Stop) -> String {
    let registers = machine.registers().unwrap_or_default();
    what(stop, &registers) + &place(machine)
}

/// Where the guest is: registers and call chain, each on a line of its own behind a line break.
pub fn place(machine: &dyn VirtualMachine) -> String {
    match machine.registers() {
        Ok(registers) => place_of(machine, &registers),
        Err(error) => format!("\n  {error}"),
    }
}

/// What happened.
fn what(stop: &Stop, registers: &Registers) -> String {
    match stop {
        Stop::Interrupted => "interrupted".into(),
        Stop::TimeLimit => "the guest ran out of time".into(),
        Stop::Reset => "the guest reset its machine".into(),
        Stop::Shutdown => {
            "the guest crashed so badly that it could not say so (triple fault)".into()
        }
        Stop::InternalError {
            suberror: 1,
            instruction,
        } => not_emulated(instruction, registers),
        Stop::InternalError { suberror, .. } => format!("KVM gave up (internal error {suberror})"),
        Stop::FailEntry { reason } => {
            format!("the CPU refused to enter the guest (hardware reason {reason:#x})")
        }
        Stop::Debug => "the guest came to a breakpoint".into(),
        Stop::Killed => "gdb ended the guest".into(),
        Stop::Doorbell { .. } => "the guest rang the doorbell".into(),
        Stop::ResetOrTripleFault => {
            "the guest reset its machine, or crashed so badly that it could not say so (triple fault): QEMU does \
             not tell which"
                .into()
        }
        Stop::Paused { said } => format!("QEMU paused the guest unasked{said}"),
        Stop::Unexpected { exit } => format!("KVM stopped the guest unasked ({exit})"),
    }
}

/// KVM met an instruction that it had to emulate and does not know.
fn not_emulated(bytes: &[u8], registers: &Registers) -> String {
    let (text, length) = disassembled(bytes, registers);
    let bytes: Vec<String> = bytes[..length]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut what = format!(
        "this host's KVM cannot emulate the guest's instruction {}",
        bytes.join(" ")
    );
    if let Some(text) = text {
        // Writing to a string cannot fail.
        let _ = write!(what, " (`{text}`)");
    }
    if KvmModule::loaded() == Some(KvmModule::Pvm) && registers.cpl == 0 {
        what += "; kvm_pvm emulates all code of ring 0 and does not know every instruction: a host with \
                 VT-x or SVM runs it";
    }
    what
}

/// The instruction and its length in bytes; all of them and no text if they are no instruction.
fn disassembled(bytes: &[u8], registers: &Registers) -> (Option<String>, usize) {
    let bits = if registers.efer & LONG_MODE != 0 {
        64
    } else {
        32
    };
    let mut decoder = Decoder::with_ip(bits, bytes, registers.rip, DecoderOptions::NONE);
    let instruction = decoder.decode();
    if instruction.is_invalid() {
        return (None, bytes.len());
    }
    let mut text = String::new();
    IntelFormatter::new().format(&instruction, &mut text);
    (Some(text), instruction.len().min(bytes.len()))
}

fn place_of(machine: &dyn VirtualMachine, registers: &Registers) -> String {
    let Registers {
        rip,
        rbp,
        rsp,
        cr2,
        cr3,
        cpl,
        ..
    } = *registers;
    format!("\n  RIP {rip:#x} RSP {rsp:#x} CR2 {cr2:#x} CR3 {cr3:#x} ring {cpl}")
        + &backtrace::text(machine, Frame { rip, rbp })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNEL: Registers = Registers {
        rip: 0xffff_ffff_8131_7850,
        rsp: 0,
        rbp: 0,
        rflags: 2,
        cr0: 0,
        cr2: 0,
        cr3: 0,
        cr4: 0,
        efer: LONG_MODE,
        cs: 0x10,
        cpl: 0,
    };

    fn message(bytes: &[u8], registers: &Registers) -> String {
        not_emulated(bytes, registers)
    }

    #[test]
    fn an_instruction_is_shown_as_its_own_bytes_and_as_text_and_not_what_follows() {
        // lock cmpxchg16b [rbp+20h]; je …
        let said = message(
            &[0xf0, 0x48, 0x0f, 0xc7, 0x4d, 0x20, 0x74, 0x66, 0x4c],
            &KERNEL,
        );
        assert!(
            said.contains("f0 48 0f c7 4d 20 (`lock cmpxchg16b [rbp+20h]`)"),
            "{said}"
        );
    }

    #[test]
    fn code_is_read_as_the_cpu_reads_it() {
        // In 32-bit code 0x40 is `inc eax`, in 64-bit code a prefix.
        let popcnt = [0xf3, 0x0f, 0xb8, 0xc0];
        assert!(message(&popcnt, &KERNEL).contains("popcnt eax,eax"));
        let protected = Registers { efer: 0, ..KERNEL };
        assert!(message(&[0x40, 0x90], &protected).contains("40 (`inc eax`)"));
    }

    #[test]
    fn bytes_that_are_no_instruction_are_shown_as_they_are() {
        let said = message(&[0x0f, 0x04], &KERNEL);
        assert!(
            said.contains("instruction 0f 04") && !said.contains('`'),
            "{said}"
        );
        assert!(message(&[], &KERNEL).contains("instruction"));
    }
}
