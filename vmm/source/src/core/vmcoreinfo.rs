//! What a Linux kernel says of itself for those who read its dump: the VMCOREINFO note, lines of
//! `KEY=VALUE` (Documentation/admin-guide/kdump/vmcoreinfo.rst).

use heirloom_inspect::{Depth, Entry, PhysAddr, RootLabel};

use crate::Target;
use crate::assumed::holds_frame;

/// Where the kernel image is linked, whatever KASLR makes of it (__START_KERNEL_map).
const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
/// Longer release names are not believed.
const NAME_BYTES: usize = 128;

/// The lines that help to read page tables.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct VmCoreInfo {
    /// OSRELEASE, what `uname -r` prints.
    pub(super) release: Option<String>,
    /// NUMBER(pgtable_l5_enabled).
    pub(super) depth: Option<Depth>,
    /// NUMBER(sme_mask): bits of an entry that say that its frame is encrypted.
    pub(super) memory_encryption: u64,
    /// SYMBOL(swapper_pg_dir): the virtual address of the kernel's own root.
    swapper_pg_dir: Option<u64>,
    /// NUMBER(phys_base): where the image was loaded, less where it was linked.
    phys_base: Option<i64>,
}

impl VmCoreInfo {
    /// Reads the note's text; lines that are not understood are passed over.
    pub(crate) fn parse(text: &[u8]) -> VmCoreInfo {
        let mut info = VmCoreInfo::default();
        for line in text.split(|byte| *byte == b'\n') {
            let Ok(line) = std::str::from_utf8(line) else {
                continue;
            };
            let Some((key, value)) = line.trim_end_matches('\0').split_once('=') else {
                continue;
            };
            match key {
                "OSRELEASE" if value.len() <= NAME_BYTES => {
                    // It goes to a terminal.
                    let printable = |letter: &char| letter.is_ascii_graphic();
                    info.release = Some(value.chars().filter(printable).collect());
                }
                "NUMBER(pgtable_l5_enabled)" => {
                    info.depth = match value {
                        "0" => Some(Depth::Four),
                        "1" => Some(Depth::Five),
                        _ => None,
                    };
                }
                "NUMBER(sme_mask)" => info.memory_encryption = number(value).unwrap_or(0),
                "NUMBER(phys_base)" => info.phys_base = value.parse().ok(),
                "SYMBOL(swapper_pg_dir)" => {
                    info.swapper_pg_dir = u64::from_str_radix(value, 16).ok();
                }
                _ => {}
            }
        }
        info
    }

    /// Adds to `target` what the guest kernel says of itself.
    pub(crate) fn tell(&self, target: &mut Target) {
        if let Some(release) = &self.release {
            target.notes.push(format!(
                "{}{release}; what it says of itself is used",
                Target::LINUX_SAYS
            ));
        }
        target.depth = self.depth;
        if let Some(root) = self.kernel_root() {
            if holds_frame(&target.ram, root) {
                target.roots.push((RootLabel::Kernel, root));
            } else {
                target.notes.push(format!(
                    "by VMCOREINFO the kernel's own root is at {root:#x}, where the dump has no RAM; it is \
                     left out"
                ));
            }
        }
        if self.memory_encryption.is_power_of_two() {
            target.encryption = Entry::new(self.memory_encryption);
            target.notes.push(format!(
                "by VMCOREINFO the guest encrypts its memory: bit {} of an entry says so and is no part of \
                 an address",
                self.memory_encryption.trailing_zeros()
            ));
        } else if self.memory_encryption != 0 {
            target.notes.push(format!(
                "by VMCOREINFO the guest's encryption mask is {:#x}, which is no single bit; it is left out",
                self.memory_encryption
            ));
        }
    }

    /// Where the kernel's own root is.
    pub(super) fn kernel_root(&self) -> Option<PhysAddr> {
        let in_image = self.swapper_pg_dir?.checked_sub(KERNEL_MAP)?;
        let root = in_image.checked_add_signed(self.phys_base?)?;
        root.is_multiple_of(heirloom_inspect::paging::addr::PAGE_SIZE)
            .then(|| PhysAddr::new(root))
    }
}

/// The kernel writes NUMBER in decimal, some of them with a sign.
fn number(text: &str) -> Option<u64> {
    text.parse()
        .ok()
        .or_else(|| text.parse().ok().map(i64::cast_unsigned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernels_root_and_depth_are_found_in_its_lines() {
        let info = VmCoreInfo::parse(
            b"OSRELEASE=6.1.0-37-cloud-amd64\nPAGESIZE=4096\nSYMBOL(swapper_pg_dir)=ffffffffa3a10000\n\
              NUMBER(phys_base)=-452984832\nNUMBER(pgtable_l5_enabled)=1\nNUMBER(sme_mask)=0\n\0\0",
        );
        assert_eq!(info.release.as_deref(), Some("6.1.0-37-cloud-amd64"));
        assert_eq!(info.depth, Some(Depth::Five));
        // 0x23a10000 - 0x1b000000.
        assert_eq!(info.kernel_root(), Some(PhysAddr::new(0x8a1_0000)));
    }

    #[test]
    fn lines_that_make_no_sense_are_passed_over() {
        let info = VmCoreInfo::parse(
            b"OSRELEASE=\x1b[31m6.1\n\xff\xfe=1\nNUMBER(phys_base)=x\nNUMBER(pgtable_l5_enabled)=2\n\
              SYMBOL(swapper_pg_dir)=10\nnonsense",
        );
        assert_eq!(info.release.as_deref(), Some("[31m6.1"));
        assert_eq!(info.depth, None);
        assert_eq!(info.kernel_root(), None);
        assert_eq!(VmCoreInfo::parse(b""), VmCoreInfo::default());
    }
}
