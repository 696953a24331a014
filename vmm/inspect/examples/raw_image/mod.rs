//! A guest to inspect: an image of RAM in a file. All that the library asks of a source is in
//! [`PhysicalMemory`]; a hypervisor's memory or a dump would be as few lines.

use std::error::Error;

use heirloom_inspect::{
    CpuState, Cr3, Discovery, Entry, MemoryError, PhysAddr, PhysRange, PhysicalMemory, Target,
};

struct Image(Vec<u8>);

impl PhysicalMemory for Image {
    fn read_bytes(&self, at: PhysAddr, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let length = buffer.len();
        let error = MemoryError { at, length };
        let start = usize::try_from(at.get()).map_err(|_| error)?;
        let end = start.checked_add(length).ok_or(error)?;
        buffer.copy_from_slice(self.0.get(start..end).ok_or(error)?);
        Ok(())
    }
}

/// Finds the address spaces of the image in `file`. `cr3`, in hexadecimal, says where to begin; without it
/// they are looked for in all of memory.
pub(crate) fn discover(file: &str, cr3: Option<&str>) -> Result<Discovery, Box<dyn Error>> {
    let bytes = std::fs::read(file).map_err(|error| format!("reading {file}: {error}"))?;
    let ram = PhysRange {
        start: PhysAddr::new(0),
        bytes: bytes.len() as u64,
    };
    let cpu = |cr3: &str| -> Result<CpuState, Box<dyn Error>> {
        let digits = cr3.trim_start_matches("0x");
        Ok(CpuState {
            cr0: 0x8001_0001,
            cr3: Cr3::new(u64::from_str_radix(digits, 16)?),
            cr4: 0x20,
            efer: 0xd00,
            ..CpuState::default()
        })
    };
    let target = Target {
        name: file.to_owned(),
        memory: Box::new(Image(bytes)),
        ram: vec![ram],
        cpus: cr3.map(cpu).transpose()?.into_iter().collect(),
        phys_bits: None,
        gigabyte_pages: None,
        depth: None,
        encryption: Entry::ABSENT,
        roots: Vec::new(),
        is_recorded: false,
        notes: Vec::new(),
    };
    Ok(Discovery::of(&target)?)
}
