//! What a file is, by its content.
//!
//! [`Kind::of`] looks at the first bytes of a file. Kinds that are read have a reader each; all others
//! that are known stand in [`FOREIGN`], with what turns them into one that is read.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::packed::Packing;
use crate::recording;

/// As much of a file as it takes to tell.
const START: usize = 4096;

/// What a file holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// An ELF file, a core or not.
    Elf,
    /// A dump of makedumpfile's, or of QEMU's -z, -l or -s.
    Kdump,
    /// One of these as it goes through a pipe: what it is stands inside.
    Flattened,
    /// Ranges of RAM, each behind a header: LiME's, and AVML's without compression.
    Lime,
    /// AVML's, compressed.
    Avml,
    /// A crash dump of 64-bit Windows.
    WindowsDump,
    /// What QEMU sends where a guest is to go on.
    Migration,
    /// The same, as libvirt saves it.
    Libvirt,
    /// The state of a guest of VMware's; its memory is in another file.
    Vmware,
    /// The same of Firecracker's.
    Firecracker,
    /// A disk, which may have guests' memory in it.
    Qcow2,
    /// One of our own recordings.
    Recording,
    /// Any other that somebody packed.
    Packed(Packing),
    /// Something else that is known, and not read.
    Foreign(&'static Foreign),
    /// Nothing that is known begins like this: it can be an image of RAM.
    Unknown,
}

/// A kind of file that is known and not read.
#[derive(Debug)]
pub(crate) struct Foreign {
    /// Where in the file its mark is, and what it is.
    at: usize,
    mark: &'static [u8],
    /// `a …`.
    pub(crate) what: &'static str,
    /// What turns it into a file that is read.
    pub(crate) remedy: &'static str,
}

impl Kind {
    /// What `file`, which has `length` bytes, is.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn of(file: &File, length: u64) -> std::io::Result<Kind> {
        let mut start = [0; START];
        let have = usize::try_from(length).unwrap_or(START).min(START);
        file.read_exact_at(&mut start[..have], 0)?;
        Ok(Kind::of_bytes(&start[..have]))
    }

    /// What a file that begins with `start` is.
    pub(crate) fn of_bytes(start: &[u8]) -> Kind {
        let kinds: [(&[u8], Kind); 17] = [
            (b"\x7fELF", Kind::Elf),
            (b"KDUMP   ", Kind::Kdump),
            (b"DISKDUMP", Kind::Kdump),
            (b"makedumpfile\0\0\0\0", Kind::Flattened),
            (b"EMiL", Kind::Lime),
            (b"AVML", Kind::Avml),
            (b"PAGEDU64", Kind::WindowsDump),
            (b"QEVM", Kind::Migration),
            (b"LibvirtQemudSave", Kind::Libvirt),
            (b"\xd0\xbe\xd2\xbe", Kind::Vmware),
            (b"\xd1\xba\xd1\xba", Kind::Vmware),
            (b"\xd2\xbe\xd2\xbe", Kind::Vmware),
            (b"\xd3\xbe\xd3\xbe", Kind::Vmware),
            (b"\xd0\xbe\xd0\xbe", Kind::Vmware),
            // The number 0x0710_1984_8664_0000.
            (b"\0\0\x64\x86\x84\x19\x10\x07", Kind::Firecracker),
            (b"QFI\xfb", Kind::Qcow2),
            (&recording::MAGIC, Kind::Recording),
        ];
        if let Some((_, kind)) = kinds.iter().find(|(mark, _)| start.starts_with(mark)) {
            return *kind;
        }
        if let Some(packing) = Packing::of(start) {
            return Kind::Packed(packing);
        }
        let has = |foreign: &&Foreign| {
            let rest = start.get(foreign.at..);
            rest.is_some_and(|rest| rest.starts_with(foreign.mark))
        };
        match FOREIGN.iter().find(has) {
            Some(foreign) => Kind::Foreign(foreign),
            None => Kind::Unknown,
        }
    }

    /// What it is, in words, for one that is no image of RAM.
    pub(crate) fn what(self) -> Option<&'static str> {
        match self {
            Kind::Elf => Some("an ELF file"),
            Kind::Kdump => Some("a kdump-compressed dump"),
            Kind::Flattened => Some("a dump in makedumpfile's flattened form"),
            Kind::Lime => Some("a LiME image"),
            Kind::Avml => Some("a compressed AVML image"),
            Kind::WindowsDump => Some("a Windows crash dump"),
            Kind::Migration => Some("a migration stream of QEMU's"),
            Kind::Libvirt => Some("a saved guest of libvirt's"),
            Kind::Vmware => Some("a saved state of VMware's"),
            Kind::Firecracker => Some("the state of a snapshot of Firecracker's"),
            Kind::Qcow2 => Some("a qcow2 image"),
            Kind::Recording => Some("a recording of heirloom's"),
            Kind::Packed(packing) => Some(packing.what()),
            Kind::Foreign(foreign) => Some(foreign.what),
            Kind::Unknown => None,
        }
    }

    /// What to do where a prefix says that it is something else.
    pub(crate) fn without_a_prefix(self) -> &'static str {
        match self {
            Kind::Foreign(foreign) => foreign.remedy,
            Kind::Qcow2 => A_DISK,
            Kind::Libvirt => {
                "leave out the prefix, and it is read as what it is; or make a core with `virsh dump \
                 --memory-only DOMAIN FILE`"
            }
            Kind::Vmware => VMWARE_REMEDY,
            _ => "leave out the prefix, and it is read as what it is",
        }
    }
}

const fn foreign(mark: &'static [u8], what: &'static str, remedy: &'static str) -> Foreign {
    Foreign {
        at: 0,
        mark,
        what,
        remedy,
    }
}

/// For a state of VMware's that is not understood, or lacks its memory.
pub(crate) const VMWARE_CORE: &str = "put the .vmem with the guest's memory beside it, or name it with \
    with=FILE; or make a core of both with `vmss2core -M FILE.vmss FILE.vmem`";
const VMWARE_REMEDY: &str = "leave out the prefix, and it is read with the .vmem beside it; or \
    make a core of both with `vmss2core -M FILE.vmss FILE.vmem`";
/// For files that hold a disk.
pub(crate) const A_DISK: &str = "it holds a disk and no memory; start the guest, and write its memory with \
    `dump-guest-memory FILE` in QEMU's monitor or `virsh dump --memory-only DOMAIN FILE`";
/// Kinds of files that people try, and that are not read.
const FOREIGN: &[Foreign] = &[
    foreign(
        b"\x89LZO\0\r\n\x1a\n",
        "compressed by lzop",
        "unpack it with `lzop -dc FILE > core`, and give that",
    ),
    foreign(
        b"PK\x03\x04",
        "a ZIP archive",
        "unpack it with `unzip FILE`, and give what was in it",
    ),
    foreign(
        b"LibvirtQemudPart",
        "a guest that libvirt has not saved whole",
        "make a core with `virsh dump --memory-only DOMAIN FILE`",
    ),
    foreign(b"KDMV", "a VMDK image", A_DISK),
    foreign(b"# Disk DescriptorFile", "a VMDK image", A_DISK),
    foreign(b"vhdxfile", "a VHDX image", A_DISK),
    foreign(b"conectix", "a VHD image", A_DISK),
    Foreign {
        at: 0x40,
        mark: b"\x7f\x10\xda\xbe",
        what: "a VDI image",
        remedy: "it holds a disk and no memory; start the guest, and write its memory with \
                 `VBoxManage debugvm VM dumpvmcore --filename FILE`",
    },
    foreign(
        b"\x7fVirtualBox SavedState",
        "a saved state of VirtualBox's",
        "let the guest run on, and make a core with `VBoxManage debugvm VM dumpvmcore --filename FILE`",
    ),
    foreign(
        b"EVF\x09\x0d\x0a\xff\0",
        "an EnCase image (E01)",
        "make a raw image of it with `ewfexport -u -t NAME -f raw FILE`, and give NAME.raw",
    ),
    foreign(
        b"PAGEDUMP",
        "a crash dump of 32-bit Windows",
        "only x86-64 guests can be inspected",
    ),
    foreign(
        b"MDMP",
        "a Windows minidump, which has no page tables",
        "write a complete memory dump",
    ),
    foreign(b"HIBR", HIBERNATED, FROM_HIBERNATION),
    foreign(b"hibr", HIBERNATED, FROM_HIBERNATION),
    foreign(b"WAKE", HIBERNATED, FROM_HIBERNATION),
    foreign(b"wake", HIBERNATED, FROM_HIBERNATION),
    foreign(b"RSTR", HIBERNATED, FROM_HIBERNATION),
    Foreign {
        at: 4086,
        mark: b"S1SUSPEND",
        what: "a swap area with a hibernated Linux",
        remedy: "resume it, and dump the running guest",
    },
];

const HIBERNATED: &str = "a hibernation file of Windows";
const FROM_HIBERNATION: &str = "resume it, and dump the running guest";
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_told_by_its_first_bytes_and_zeros_are_none() {
        let what = |start: &[u8]| Kind::of_bytes(start).what();
        assert_eq!(what(b"\x7fELF\x02"), Some("an ELF file"));
        assert_eq!(what(b"EMiL\x01\0\0\0"), Some("a LiME image"));
        assert_eq!(what(&[0; 4096]), None);
        assert_eq!(what(b""), None);
        for foreign in FOREIGN {
            let mut start = vec![0; foreign.at];
            start.extend(foreign.mark);
            assert_eq!(what(&start), Some(foreign.what));
            assert_eq!(what(&start[..start.len() - 1]), None, "{}", foreign.what);
            assert!(!foreign.remedy.is_empty());
        }
    }
}
