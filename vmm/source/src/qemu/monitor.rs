//! The questions that an inspection asks of QEMU, and their answers as types.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use heirloom_inspect::paging::mode::PhysBits;
use heirloom_inspect::{CpuState, Cr3, PhysAddr, PhysRange, VirtAddr};
use heirloom_qmp::registers::{self, CpuRegisters};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::connection::{Connection, QmpError};
use super::flat_view::{self, MemoryRange};

/// More CPUs are asked one by one: all their registers would be too long for an answer.
const CPUS_AT_ONCE: usize = 256;

/// What the CPU of the guest is able to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CpuModel {
    pub(super) phys_bits: Option<PhysBits>,
    pub(super) gigabyte_pages: Option<bool>,
}

/// Why an answer is of no use.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its variant is")]
pub enum AnswerError {
    #[error(transparent)]
    Qmp(#[from] QmpError),
    #[error(
        "answers `{question}` in a form that is not known ({problem}): this version of QEMU cannot be read"
    )]
    Form {
        question: &'static str,
        problem: String,
    },
}

/// QEMU, to be asked.
pub(super) struct Monitor<'a>(pub(super) &'a Connection);

impl Monitor<'_> {
    /// What a command of the monitor for people prints.
    fn print(&self, line: &str) -> Result<String, QmpError> {
        let arguments = json!({ "command-line": line });
        let printed = self.0.ask("human-monitor-command", arguments)?;
        Ok(printed.as_str().unwrap_or_default().replace('\r', ""))
    }

    /// The registers of every vCPU.
    pub(super) fn registers(&self, expected: usize) -> Result<Vec<CpuState>, AnswerError> {
        const QUESTION: &str = "info registers -a";
        let form = |problem| AnswerError::Form {
            question: QUESTION,
            problem,
        };
        let printed = if expected <= CPUS_AT_ONCE {
            self.print(QUESTION)?
        } else {
            self.registers_one_by_one(expected)?
        };
        let cpus = registers::parse(&printed).map_err(form)?;
        if cpus.len() != expected {
            return Err(form(format!("{} CPUs, not {expected}", cpus.len())));
        }
        Ok(cpus.iter().map(state).collect())
    }

    fn registers_one_by_one(&self, count: usize) -> Result<String, QmpError> {
        let mut all = String::new();
        for cpu in 0..count {
            let arguments = json!({ "command-line": "info registers", "cpu-index": cpu });
            let printed = self.0.ask("human-monitor-command", arguments)?;
            let printed = printed.as_str().unwrap_or_default().replace('\r', "");
            // Old versions name the CPU only where there are several.
            if !printed.contains("CPU#") {
                // Writing to a string cannot fail.
                let _ = write!(all, "\nCPU#{cpu}\n");
            }
            all += &printed;
        }
        Ok(all)
    }

    /// Where physical addresses lead to memory.
    pub(super) fn flat_view(&self) -> Result<Vec<MemoryRange>, AnswerError> {
        const QUESTION: &str = "info mtree -f";
        let form = |problem| AnswerError::Form {
            question: QUESTION,
            problem,
        };
        flat_view::parse(&self.print(QUESTION)?).map_err(form)
    }

    /// Every vCPU: its thread, and its object.
    pub(super) fn cpus(&self) -> Result<Vec<(Pid, String)>, AnswerError> {
        const QUESTION: &str = "query-cpus-fast";
        let answer = self.0.ask(QUESTION, Value::Null)?;
        let cpus: Option<Vec<_>> = answer.as_array().and_then(|cpus| {
            cpus.iter()
                .map(|cpu| {
                    let thread = i32::try_from(cpu.get("thread-id")?.as_i64()?).ok()?;
                    let object = cpu.get("qom-path")?.as_str()?;
                    Some((Pid::from_raw(thread), object.to_owned()))
                })
                .collect()
        });
        cpus.filter(|cpus| !cpus.is_empty())
            .ok_or_else(|| AnswerError::Form {
                question: QUESTION,
                problem: "not a list of CPUs with thread-id and qom-path".to_string(),
            })
    }

    /// What the CPU that is the object `cpu` can do, as far as QEMU tells.
    pub(super) fn cpu_model(&self, cpu: &str) -> CpuModel {
        let property = |name: &str| {
            let arguments = json!({ "path": cpu, "property": name });
            self.0.ask("qom-get", arguments).ok()
        };
        CpuModel {
            phys_bits: property("phys-bits")
                .and_then(|value| u32::try_from(value.as_u64()?).ok())
                .and_then(PhysBits::new),
            gigabyte_pages: property("pdpe1gb").and_then(|value| value.as_bool()),
        }
    }

    /// The names of the memory backends; none if QEMU does not tell.
    pub(super) fn backends(&self) -> Vec<String> {
        let backends = self.0.ask("query-memdev", Value::Null);
        backends
            .iter()
            .filter_map(Value::as_array)
            .flatten()
            .filter_map(|backend| Some(backend.get("id")?.as_str()?.to_owned()))
            .collect()
    }

    /// The file that the memory backend `region` maps shared, and where in it the region begins;
    /// `None` if it is no such backend.
    pub(super) fn backend_file(&self, region: &str) -> Option<(PathBuf, u64)> {
        let object = match region.strip_prefix("/objects/") {
            Some(_) => region.to_owned(),
            None => format!("/objects/{region}"),
        };
        let property = |name: &str| {
            let arguments = json!({ "path": object, "property": name });
            self.0.ask("qom-get", arguments).ok()
        };
        let path = property("mem-path")?.as_str()?.into();
        // Since QEMU 8.1; before, a backend begins where its file does.
        let offset = property("offset").and_then(|offset| offset.as_u64());
        (property("share")? == true).then_some((path, offset.unwrap_or(0)))
    }

    /// Where `at` lies in QEMU's own address space; `None` if QEMU does not say.
    pub(super) fn host_address(&self, at: PhysAddr) -> Result<Option<u64>, QmpError> {
        // `Host virtual address for 0x0 (pc.ram) is 0x7f9ed7fff000`
        let printed = match self.print(&format!("gpa2hva {at:#x}")) {
            Ok(printed) => printed,
            Err(QmpError::Command { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(printed
            .trim()
            .rsplit_once(" is 0x")
            .and_then(|(_, address)| u64::from_str_radix(address, 16).ok()))
    }

    /// The words at `at` as the monitor sees them; `None` if QEMU does not say.
    pub(super) fn words<const N: usize>(&self, at: PhysAddr) -> Result<Option<[u64; N]>, QmpError> {
        // `0000000000001000: 0x0000000000000000 0x0000000000000000`
        let printed = self.print(&format!("xp /{N}gx {at:#x}"))?;
        let words: Option<Vec<u64>> = printed
            .lines()
            .filter_map(|line| line.split_once(": "))
            .flat_map(|(_, words)| words.split_whitespace())
            .map(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok())
            .collect();
        Ok(words.and_then(|words| words.try_into().ok()))
    }

    /// Makes QEMU write a range of guest memory to the file that it knows by `path`.
    pub(super) fn save(&self, range: PhysRange, path: &str) -> Result<(), QmpError> {
        /// The slowest disk that is waited for, in bytes a second.
        const SLOWEST: u64 = 20 << 20;
        let arguments = json!({
            "val": range.start.get(),
            "size": range.bytes,
            "filename": path,
        });
        let patience = super::connection::PATIENCE + Duration::from_secs(range.bytes / SLOWEST);
        self.0
            .ask_while_held("pmemsave", arguments, patience)
            .map(drop)
    }
}

fn state(cpu: &CpuRegisters) -> CpuState {
    CpuState {
        cr0: cpu.cr0,
        cr2: VirtAddr::new(cpu.cr2),
        cr3: Cr3::new(cpu.cr3),
        cr4: cpu.cr4,
        efer: cpu.efer,
        cpl: cpu.cpl,
        rip: VirtAddr::new(cpu.rip),
        rsp: VirtAddr::new(cpu.rsp),
        rbp: VirtAddr::new(cpu.rbp),
        rflags: cpu.rflags,
        idt: cpu.idt.map(VirtAddr::new),
        gdt: cpu.gdt.map(VirtAddr::new),
        tss: cpu.tss.map(VirtAddr::new),
    }
}
