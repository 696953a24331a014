//! The notes of a core: its CPUs' registers, and what the kernel says of itself. Compressed dumps have the
//! same.

use heirloom_inspect::CpuState;
use object::LittleEndian;
use object::elf::FileHeader64;
use object::read::elf::NoteIterator;

use super::virtualbox;
use super::vmcoreinfo::VmCoreInfo;
use crate::qemu::note;

/// NT_PRPSINFO, NT_AUXV and NT_FILE of `CORE`: what only the core of a process has.
const OF_A_PROCESS: [u32; 3] = [3, 6, 0x4649_4c45];

/// What is of use in notes.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// The contents of QEMU's notes, one for each CPU, in order.
    pub(super) qemu: Vec<Vec<u8>>,
    /// The same of VirtualBox's.
    virtualbox: Vec<Vec<u8>>,
    pub(crate) vmcoreinfo: Option<VmCoreInfo>,
    /// There are notes of a kind that only processes have.
    is_of_process: bool,
}

impl Notes {
    /// Takes what is of use from `bytes`, notes with this alignment.
    ///
    /// # Errors
    /// What is wrong with them; those before it are taken.
    pub(crate) fn take(&mut self, bytes: &[u8], align: u64) -> Result<(), String> {
        let damaged = |error: object::Error| format!("{error} in them");
        let mut notes = NoteIterator::<FileHeader64<LittleEndian>>::new(LittleEndian, align, bytes)
            .map_err(damaged)?;
        while let Some(found) = notes.next().map_err(damaged)? {
            match found.name() {
                note::NAME => self.qemu.push(found.desc().to_vec()),
                virtualbox::NAME => self.virtualbox.push(found.desc().to_vec()),
                b"VMCOREINFO" => self.vmcoreinfo = Some(VmCoreInfo::parse(found.desc())),
                b"CORE" => {
                    self.is_of_process |= OF_A_PROCESS.contains(&found.n_type(LittleEndian).0);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether the core is that of a process and of no guest.
    pub(super) fn is_process(&self) -> bool {
        self.is_of_process
            && self.qemu.is_empty()
            && self.virtualbox.is_empty()
            && self.vmcoreinfo.is_none()
    }

    /// Whether a hypervisor wrote it, that dumps all that it emulates with memory.
    pub(crate) fn is_of_a_hypervisor(&self) -> bool {
        !self.qemu.is_empty() || !self.virtualbox.is_empty()
    }

    /// Whether a kernel wrote it that had taken the place of the one that it dumped: no hypervisor has left a
    /// note.
    pub(crate) fn is_of_a_dumped_kernel(&self) -> bool {
        self.vmcoreinfo.is_some() && self.qemu.is_empty() && self.virtualbox.is_empty()
    }

    /// The CPUs, and in `notes` what had to be assumed.
    pub(crate) fn cpus(&self, notes: &mut Vec<String>) -> Vec<CpuState> {
        let of_qemu = self.qemu.iter().map(|desc| note::parse(desc));
        let of_virtualbox = self.virtualbox.iter().map(|desc| virtualbox::parse(desc));
        let cpus: Option<Vec<CpuState>> = of_qemu.chain(of_virtualbox).collect();
        let Some(cpus) = cpus else {
            let whose = if self.qemu.is_empty() {
                "VirtualBox"
            } else {
                "QEMU"
            };
            notes.push(format!(
                "the CPU registers in {whose}'s notes have a form that is not known, and are left out"
            ));
            return Vec::new();
        };
        if !self.qemu.is_empty() {
            notes.push(note::ASSUMPTION.to_string());
        }
        cpus
    }
}
