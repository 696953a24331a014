//! A guest of VMware's that was suspended or of which a snapshot was taken: its state (`.vmss`, `.vmsn`), and its
//! memory, in there or in the `.vmem` beside it.
//!
//! ```text
//! 0   a mark; 8 how many groups; 12 each group: name (64 bytes), where it begins, how long it is (8 bytes each)
//! ```
//!
//! A group is a list of tags: a byte with the value's length in bits 0–5 and the number of indices in bits 6–7, the
//! length of the name, the name, the indices (4 bytes each), the value. A length of 62 or 63 stands for a
//! block: its length twice, in the file and in memory, 2 bytes with the length of padding, the padding, the
//! block. Two zeros end the list.

use std::collections::BTreeMap;

use heirloom_inspect::{CpuState, Cr3, PhysAddr, PhysRange, VirtAddr};

use super::{Contents, DumpError};
use crate::assumed::EFER;
use crate::input::{Input, Window};
use crate::memory::{Layout, PAGE, Piece, Source};

/// More groups, tags or CPUs are not believed.
const GROUPS: u32 = 4096;
const TAGS: usize = 1 << 20;
const CPUS: u32 = 4096;
/// Regions of memory.
const REGIONS: u32 = 4096;
/// Bytes that are read at once.
const BLOCK: usize = 64 << 10;
/// A value that is longer is of no use.
const VALUE: u64 = 512;

/// What a state says.
#[derive(Debug, Default)]
pub(crate) struct State {
    cpus: BTreeMap<u32, Registers>,
    /// By number: first page in the guest, first page in the file, pages.
    regions: BTreeMap<u32, [Option<u64>; 3]>,
    /// Where the memory is in the state's own file, and whether it is compressed.
    memory: Option<(u64, u64, bool)>,
}

#[derive(Debug, Default)]
struct Registers {
    cr: [Option<u64>; 5],
    efer: Option<u64>,
    rip: u64,
    rsp: u64,
    rbp: u64,
    rflags: u64,
    cs: u64,
    idt: u64,
    gdt: u64,
}

/// A tag: its name, its indices, and what it holds.
struct Tag {
    name: String,
    indices: Vec<u32>,
    /// Where the value stands, how long it is, and whether it is compressed.
    at: u64,
    bytes: u64,
    is_compressed: bool,
}

impl State {
    /// Reads a state.
    ///
    /// # Errors
    /// [`DumpError`].
    pub(crate) fn read(name: &str, input: &Input) -> Result<State, DumpError> {
        let damaged = |what: String| DumpError::Damaged {
            name: name.into(),
            kind: "saved state of VMware's",
            what,
        };
        let cut = |what| DumpError::Truncated {
            name: name.into(),
            what,
            end: input.length() + 1,
            length: input.length(),
        };
        let header = input.bytes(0, 12).ok_or_else(|| cut("its header"))?;
        let narrow = |at: usize| {
            header[at..]
                .first_chunk()
                .map_or(0, |word| u32::from_le_bytes(*word))
        };
        let groups = narrow(8);
        if groups == 0 || groups > GROUPS {
            return Err(DumpError::Unread {
                name: name.into(),
                what: format!("a saved state of VMware's that claims {groups} groups"),
                remedy: crate::content::VMWARE_CORE,
            });
        }
        // The first version has lengths of 4 bytes.
        let is_old = header[0].is_multiple_of(16);
        let mut state = State::default();
        for number in 0..groups {
            let at = 12 + u64::from(number) * 80;
            let group = input
                .bytes(at, 80)
                .ok_or_else(|| cut("its table of groups"))?;
            let word = |at: usize| {
                group[at..]
                    .first_chunk()
                    .map_or(0, |word| u64::from_le_bytes(*word))
            };
            let end = group[..64].iter().position(|byte| *byte == 0).unwrap_or(64);
            let name = &group[..end];
            if name == b"cpu" || name == b"memory" {
                state
                    .read_group(input, word(64), is_old, name == b"cpu")
                    .map_err(damaged)?;
            }
        }
        Ok(state)
    }

    fn read_group(
        &mut self,
        input: &Input,
        mut at: u64,
        is_old: bool,
        is_cpu: bool,
    ) -> Result<(), String> {
        let mut window = Window::default();
        for _ in 0..TAGS {
            let Some(tag) = tag(input, &mut window, at, is_old)? else {
                return Ok(());
            };
            at = tag
                .at
                .checked_add(tag.bytes)
                .ok_or_else(|| format!("its tag {} has {} bytes", tag.name, tag.bytes))?;
            let length = usize::try_from(tag.bytes.min(VALUE)).unwrap_or_default();
            let Some(value) = window.get(input, tag.at, length, BLOCK) else {
                // What lies behind the end of a file that is cut off.
                return Ok(());
            };
            let value = value.to_vec();
            if is_cpu {
                self.take_register(&tag, &value);
            } else {
                self.take_memory(&tag, &value);
            }
        }
        Err(format!("it has more than {TAGS} tags"))
    }

    fn take_register(&mut self, tag: &Tag, value: &[u8]) {
        let Some(cpu) = tag.indices.first().copied().filter(|cpu| *cpu < CPUS) else {
            return;
        };
        let word = |number: usize| {
            let mut bytes = [0; 8];
            let rest = value.get(number * 8..).unwrap_or_default();
            let length = rest.len().min(8);
            bytes[..length].copy_from_slice(&rest[..length]);
            u64::from_le_bytes(bytes)
        };
        let table = || {
            // Limit (2 bytes) and base, as SIDT stores them.
            let base = value.get(2..).and_then(|rest| rest.first_chunk());
            base.map_or(0, |base| u64::from_le_bytes(*base))
        };
        let registers = self.cpus.entry(cpu).or_default();
        let second = tag.indices.get(1).copied();
        match (tag.name.as_str(), second) {
            ("CR64", Some(number)) if number < 5 => registers.cr[number as usize] = Some(word(0)),
            ("CR64", None) => {
                for (number, register) in registers.cr.iter_mut().enumerate() {
                    let is_there = value.len() >= (number + 1) * 8;
                    *register = is_there.then(|| word(number)).or(*register);
                }
            }
            // The same in 32 bits, where nothing else is.
            ("CR", Some(number)) if number < 5 => {
                registers.cr[number as usize].get_or_insert(word(0));
            }
            ("EFER" | "efer" | "EFER64" | "msrEFER", _) => registers.efer = Some(word(0)),
            ("rip", _) => registers.rip = word(0),
            ("rsp", _) => registers.rsp = word(0),
            ("rbp", _) => registers.rbp = word(0),
            ("eflags" | "EFLAGS" | "rflags", _) => registers.rflags |= word(0),
            ("CS" | "cs", None) => registers.cs = word(0) & 0xffff,
            // rax, rcx, rdx, rbx, rbp, rsp …
            ("gpregs", _) if value.len() >= 48 => {
                (registers.rbp, registers.rsp) = (word(4), word(5));
            }
            ("IDTR" | "idtr", None) if value.len() >= 10 => registers.idt = table(),
            ("GDTR" | "gdtr", None) if value.len() >= 10 => registers.gdt = table(),
            // In parts: the limit, the lower and the higher half of the base.
            ("IDTR", Some(1)) => registers.idt |= word(0) & 0xffff_ffff,
            ("IDTR", Some(2)) => registers.idt |= word(0) << 32,
            _ => {}
        }
    }

    fn take_memory(&mut self, tag: &Tag, value: &[u8]) {
        let mut bytes = [0; 8];
        let length = value.len().min(8);
        bytes[..length].copy_from_slice(&value[..length]);
        let value = u64::from_le_bytes(bytes);
        let part = match tag.name.as_str() {
            "Memory" if tag.bytes > VALUE => {
                self.memory = Some((tag.at, tag.bytes, tag.is_compressed));
                return;
            }
            "regionPPN" => 0,
            "regionPageNum" => 1,
            "regionSize" => 2,
            _ => return,
        };
        if let Some(number) = tag.indices.first().filter(|number| **number < REGIONS) {
            self.regions.entry(*number).or_default()[part] = Some(value);
        }
    }

    /// Whether the memory is in the state's own file.
    pub(crate) fn has_memory(&self) -> bool {
        self.memory.is_some()
    }

    /// The guest of this state with its memory in `memory`: the file beside the state's, or that itself.
    ///
    /// # Errors
    /// [`DumpError`].
    pub(crate) fn with(self, name: &str, memory: Input) -> Result<Contents, DumpError> {
        let mut notes = vec!["by its content this is a saved state of VMware's".to_string()];
        let (start, end) = match self.memory {
            None => (0, memory.length()),
            Some((_, _, true)) => {
                return Err(DumpError::Unread {
                    name: name.into(),
                    what: "a saved state of VMware's whose memory is compressed".into(),
                    remedy: "take a snapshot of the running guest, whose memory is not",
                });
            }
            Some((start, bytes, false)) => (start, start.saturating_add(bytes)),
        };
        let there = end.min(memory.length()).saturating_sub(start);
        let regions: Vec<(u64, u64, u64)> = self
            .regions
            .values()
            .filter_map(|region| {
                let [Some(page), Some(in_file), Some(pages)] = *region else {
                    return None;
                };
                // Numbers of 32 bits; these are no more than 2^44 bytes.
                let in_bytes = |pages: u64| (pages & 0xffff_ffff) * PAGE as u64;
                Some((in_bytes(page), in_bytes(in_file), in_bytes(pages)))
            })
            .collect();
        let (mut pieces, mut left_out) = (Vec::new(), Vec::new());
        let cpus = self.cpus(&mut notes);
        if regions.is_empty() {
            let cpu = cpus.first();
            let read = |offset: u64| memory.bytes(start + offset, PAGE);
            let layout = super::with_hole(&read, there, cpu, 0xc000_0000, &mut notes);
            return Ok(Contents {
                layout: layout.shifted(start),
                sources: vec![Source::input(memory)],
                cpus,
                roots: Vec::new(),
                left_out,
                is_pc: true,
                notes,
            });
        }
        for (page, in_file, bytes) in regions {
            let here = bytes.min(there.saturating_sub(in_file));
            let ram = PhysRange {
                start: PhysAddr::new(page),
                bytes: here,
            };
            pieces.push(Piece::new(ram, 0, start + in_file));
            if here < bytes {
                left_out.push(PhysRange {
                    start: PhysAddr::new(page + here),
                    bytes: bytes - here,
                });
            }
        }
        if !left_out.is_empty() {
            notes.push(format!(
                "{name}: the memory of the guest is cut off; what it lacks is unknown, copy it again to have it"
            ));
        }
        left_out.sort_by_key(|range: &PhysRange| range.start);
        Ok(Contents {
            layout: Layout::of(pieces),
            sources: vec![Source::input(memory)],
            cpus,
            roots: Vec::new(),
            left_out,
            is_pc: true,
            notes,
        })
    }

    fn cpus(&self, notes: &mut Vec<String>) -> Vec<CpuState> {
        let mut is_assumed = false;
        let cpus: Vec<CpuState> = self
            .cpus
            .values()
            .filter_map(|registers| {
                let [Some(cr0), _, cr2, Some(cr3), Some(cr4)] = [
                    registers.cr[0],
                    registers.cr[1],
                    registers.cr[2],
                    registers.cr[3],
                    registers.cr[4],
                ] else {
                    return None;
                };
                is_assumed |= registers.efer.is_none();
                let table = |base: u64| (base != 0).then_some(VirtAddr::new(base));
                Some(CpuState {
                    cr0,
                    cr2: VirtAddr::new(cr2.unwrap_or(0)),
                    cr3: Cr3::new(cr3),
                    cr4,
                    efer: registers.efer.unwrap_or(EFER),
                    cpl: (registers.cs & 3) as u8,
                    rip: VirtAddr::new(registers.rip),
                    rsp: VirtAddr::new(registers.rsp),
                    rbp: VirtAddr::new(registers.rbp),
                    rflags: registers.rflags,
                    idt: table(registers.idt),
                    gdt: table(registers.gdt),
                    tss: None,
                })
            })
            .collect();
        if is_assumed && !cpus.is_empty() {
            notes.push(format!(
                "the state has no EFER, which is assumed to be {EFER:#x} (NXE set)"
            ));
        }
        cpus
    }
}

/// The tag at `at`; `None` at the end of the list.
fn tag(input: &Input, window: &mut Window, at: u64, is_old: bool) -> Result<Option<Tag>, String> {
    let cut = || "it ends in the middle of a tag".to_string();
    let mut at = at;
    let mut take = |length: usize| -> Result<Vec<u8>, String> {
        let bytes = window.get(input, at, length, BLOCK).ok_or_else(cut)?;
        at += length as u64;
        Ok(bytes.to_vec())
    };
    let head = take(2)?;
    let (flags, name_length) = (head[0], head[1]);
    if (flags, name_length) == (0, 0) {
        return Ok(None);
    }
    let name = String::from_utf8_lossy(&take(name_length.into())?).into_owned();
    let mut indices = Vec::new();
    for _ in 0..flags >> 6 {
        let index = take(4)?;
        indices.push(
            index
                .first_chunk()
                .map_or(0, |word| u32::from_le_bytes(*word)),
        );
    }
    let mut bytes = u64::from(flags & 0x3f);
    let is_block = bytes >= 62;
    let is_compressed = bytes == 62;
    if is_block {
        let mut number = || -> Result<u64, String> {
            let mut word = [0; 8];
            let length = if is_old { 4 } else { 8 };
            word[..length].copy_from_slice(&take(length)?);
            Ok(u64::from_le_bytes(word))
        };
        bytes = number()?;
        let in_memory = number()?;
        let padding = take(2)?;
        let padding = padding
            .first_chunk()
            .map_or(0, |word| u16::from_le_bytes(*word));
        take(padding.into())?;
        if !is_compressed && in_memory > bytes {
            return Err(format!(
                "its block {name} has {bytes} bytes, of {in_memory}"
            ));
        }
    }
    Ok(Some(Tag {
        name,
        indices,
        at,
        bytes,
        is_compressed,
    }))
}
