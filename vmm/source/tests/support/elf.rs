//! ELF cores built by hand, byte by byte, as the gABI has them: sound ones and broken ones.

/// A program header.
#[derive(Clone, Copy, Default)]
pub(crate) struct Program {
    pub(crate) kind: u32,
    pub(crate) offset: u64,
    pub(crate) physical: u64,
    pub(crate) file_bytes: u64,
    pub(crate) memory_bytes: u64,
}

/// A core in the making.
#[derive(Clone)]
pub(crate) struct CoreBuilder {
    /// ET_CORE.
    pub(crate) kind: u16,
    pub(crate) machine: u16,
    pub(crate) class: u8,
    /// Writes the number of segments as PN_XNUM and into section 0.
    pub(crate) extended: bool,
    pub(crate) notes: Vec<u8>,
    /// Guest-physical address, bytes, and length in memory.
    pub(crate) loads: Vec<(u64, Vec<u8>, u64)>,
}

impl Default for CoreBuilder {
    fn default() -> Self {
        CoreBuilder {
            kind: 4,
            machine: 62,
            class: 2,
            extended: false,
            notes: Vec::new(),
            loads: Vec::new(),
        }
    }
}

impl CoreBuilder {
    /// Adds a PT_LOAD with these bytes at `physical`.
    pub(crate) fn load(self, physical: u64, bytes: &[u8]) -> Self {
        let length = bytes.len() as u64;
        self.load_longer(physical, bytes, length)
    }

    /// Adds one that is `memory_bytes` long in memory.
    pub(crate) fn load_longer(mut self, physical: u64, bytes: &[u8], memory_bytes: u64) -> Self {
        self.loads.push((physical, bytes.to_vec(), memory_bytes));
        self
    }

    /// Adds a note of type 0.
    pub(crate) fn note(self, name: &str, desc: &[u8]) -> Self {
        self.typed_note(name, 0, desc)
    }

    /// Adds a note, padded to 4 bytes.
    pub(crate) fn typed_note(mut self, name: &str, kind: usize, desc: &[u8]) -> Self {
        let padded = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let name = [name.as_bytes(), b"\0"].concat();
        for word in [name.len(), desc.len(), kind] {
            self.notes
                .extend(u32::try_from(word).unwrap().to_le_bytes());
        }
        self.notes.extend(padded(&name));
        self.notes.extend(padded(desc));
        self
    }

    /// The file: header, section 0 if there is one, program headers, notes, memory.
    pub(crate) fn build(&self) -> Vec<u8> {
        let sections = if self.extended { 64 } else { 0 };
        let count = self.loads.len() + usize::from(!self.notes.is_empty());
        let (header, program) = if self.is_narrow() { (52, 32) } else { (64, 56) };
        let mut at = header + sections + program * count as u64;
        let mut programs = Vec::new();
        let mut contents: Vec<u8> = Vec::new();
        if !self.notes.is_empty() {
            programs.push(Program {
                kind: 4,
                offset: at,
                file_bytes: self.notes.len() as u64,
                ..Program::default()
            });
            contents.extend(&self.notes);
            at += self.notes.len() as u64;
        }
        for (physical, bytes, memory_bytes) in &self.loads {
            programs.push(Program {
                kind: 1,
                offset: at,
                physical: *physical,
                file_bytes: bytes.len() as u64,
                memory_bytes: *memory_bytes,
            });
            contents.extend(bytes);
            at += bytes.len() as u64;
        }
        let mut file = self.header(count);
        if self.extended {
            let mut section = [0; 64];
            section[44..48].copy_from_slice(&u32::try_from(count).unwrap().to_le_bytes());
            file.extend(section);
        }
        for program in programs {
            file.extend(if self.is_narrow() {
                program.narrow_bytes()
            } else {
                program.bytes()
            });
        }
        file.extend(contents);
        file
    }

    /// ELFCLASS32.
    fn is_narrow(&self) -> bool {
        self.class == 1
    }

    fn header(&self, count: usize) -> Vec<u8> {
        let mut file = vec![0x7f, b'E', b'L', b'F', self.class, 1, 1, 0];
        file.resize(16, 0);
        file.extend(self.kind.to_le_bytes());
        file.extend(self.machine.to_le_bytes());
        file.extend(1_u32.to_le_bytes());
        if self.is_narrow() {
            assert!(!self.extended);
            for word in [0_u32, 52, 0, 0] {
                file.extend(word.to_le_bytes());
            }
            for half in [52, 32, u16::try_from(count).unwrap(), 40, 0, 0] {
                file.extend(half.to_le_bytes());
            }
            return file;
        }
        file.extend(0_u64.to_le_bytes());
        let (sections, programs, written) = if self.extended {
            (64_u64, 128_u64, 0xffff)
        } else {
            (0, 64, u16::try_from(count).unwrap())
        };
        file.extend(programs.to_le_bytes());
        file.extend(sections.to_le_bytes());
        file.extend(0_u32.to_le_bytes());
        for half in [64, 56, written, 64, u16::from(self.extended), 0] {
            file.extend(half.to_le_bytes());
        }
        file
    }
}

impl Program {
    fn narrow_bytes(&self) -> Vec<u8> {
        let mut bytes = self.kind.to_le_bytes().to_vec();
        for word in [
            self.offset,
            self.physical,
            self.physical,
            self.file_bytes,
            self.memory_bytes,
        ] {
            bytes.extend(u32::try_from(word).unwrap().to_le_bytes());
        }
        bytes.extend([7_u32, 4].into_iter().flat_map(u32::to_le_bytes));
        bytes
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.kind.to_le_bytes());
        bytes.extend(7_u32.to_le_bytes());
        for word in [
            self.offset,
            self.physical,
            self.physical,
            self.file_bytes,
            self.memory_bytes,
            4,
        ] {
            bytes.extend(word.to_le_bytes());
        }
        bytes
    }
}

/// The contents of a QEMU note: version 1, and registers that each tell which they are.
pub(crate) fn qemu_note(cr3: u64, cr4: u64, cs: u32) -> Vec<u8> {
    let mut desc = Vec::new();
    desc.extend(1_u32.to_le_bytes());
    desc.extend(440_u32.to_le_bytes());
    // rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8 to r15, rip, rflags.
    for register in 0..18_u64 {
        desc.extend((0x1000 + register).to_le_bytes());
    }
    for segment in 0..10_u32 {
        let selector = if segment == 0 { cs } else { 0x2b };
        for word in [selector, 0xffff_ffff, 0x00af_9b00, 0, 0, 0] {
            desc.extend(word.to_le_bytes());
        }
    }
    for register in [0x8005_0033, 0, 0xdead_b000, cr3, cr4, 0x7fff_0000] {
        desc.extend(u64::to_le_bytes(register));
    }
    assert_eq!(desc.len(), 440);
    desc
}
