//! What a CPU must do with an access: SDM vol. 3A, 4.6 (access rights) and 4.7 (page-fault exceptions).

use heirloom_inspect::paging::mode::PhysBits;
use heirloom_inspect::paging::walk::{Unreadable, Walk, translate};
use heirloom_inspect::{CpuState, Fault, Mode, Pfn, PhysAddr, VirtAddr};

use crate::image::{CpuBits, Image};

/// An access of 8 bytes, by ring 0 or by ring 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Access {
    Read(Ring),
    Write(Ring),
    Fetch(Ring),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ring {
    Zero,
    Three,
}

impl Access {
    pub(crate) const ALL: [Access; 6] = [
        Access::Read(Ring::Zero),
        Access::Write(Ring::Zero),
        Access::Fetch(Ring::Zero),
        Access::Read(Ring::Three),
        Access::Write(Ring::Three),
        Access::Fetch(Ring::Three),
    ];

    /// As the prober has it.
    pub(crate) fn number(self) -> u64 {
        let (kind, ring) = match self {
            Access::Read(ring) => (0, ring),
            Access::Write(ring) => (1, ring),
            Access::Fetch(ring) => (2, ring),
        };
        kind | u64::from(ring == Ring::Three) << 2
    }

    pub(crate) fn is_fetch(self) -> bool {
        matches!(self, Access::Fetch(_))
    }

    fn is_write(self) -> bool {
        matches!(self, Access::Write(_))
    }

    pub(crate) fn ring(self) -> Ring {
        match self {
            Access::Read(ring) | Access::Write(ring) | Access::Fetch(ring) => ring,
        }
    }
}

/// An exception: its vector and its error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Exception {
    pub vector: u8,
    pub error_code: u64,
}

const GENERAL_PROTECTION: u8 = 13;
pub(crate) const PAGE_FAULT: u8 = 14;
/// Bits of a page fault's error code.
pub(crate) const PROTECTION: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
pub(crate) const RESERVED: u64 = 1 << 3;
pub(crate) const FETCH: u64 = 1 << 4;

/// What the prober says of the CPU that it runs on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capabilities {
    pub phys_bits: PhysBits,
    pub gigabyte_pages: bool,
    pub cr4_bits: u64,
}

impl Capabilities {
    /// From the first words of its results: CPUID 7.0 EBX, 0x80000001 EDX, 0x80000008 EAX.
    pub(crate) fn of(words: &[u64]) -> Capabilities {
        let has = |bit, what| if words[0] & bit == 0 { 0 } else { what };
        Capabilities {
            phys_bits: PhysBits::new((words[2] & 0xff).try_into().unwrap()).unwrap(),
            gigabyte_pages: words[1] & 1 << 26 != 0,
            cr4_bits: has(1 << 7, CpuBits::SMEP) | has(1 << 20, CpuBits::SMAP),
        }
    }

    pub(crate) fn mode(&self, registers: &CpuState) -> Mode {
        Mode::of_cpu(registers, self.phys_bits, self.gigabyte_pages).unwrap()
    }
}

/// The walk from an image's root.
pub(crate) fn walk(image: &Image, mode: &Mode, cr3: u64, va: VirtAddr) -> Walk {
    translate(mode, PhysAddr::new(cr3), va, |table: Pfn, _, index| {
        image
            .entry(table.base(), index)
            .ok_or(Unreadable::OutsideMemory)
    })
}

/// Where an access leads, or which exception it raises.
pub(crate) fn predict(
    image: &Image,
    mode: &Mode,
    cr3: u64,
    va: VirtAddr,
    access: Access,
) -> Result<PhysAddr, Exception> {
    let fetch_is_told = mode.nxe || mode.smep;
    let page_fault = |reason| Exception {
        vector: PAGE_FAULT,
        error_code: reason
            | if access.is_write() { WRITE } else { 0 }
            | if access.ring() == Ring::Three {
                USER
            } else {
                0
            }
            | if access.is_fetch() && fetch_is_told {
                FETCH
            } else {
                0
            },
    };
    let walk = walk(image, mode, cr3, va);
    let page = walk.result.map_err(|fault| match fault {
        Fault::NonCanonical { .. } => Exception {
            vector: GENERAL_PROTECTION,
            error_code: 0,
        },
        Fault::NotPresent { .. } => page_fault(0),
        Fault::Reserved { .. } => page_fault(PROTECTION | RESERVED),
        Fault::TableOutsideMemory { .. } | Fault::TableNotCaptured { .. } => {
            unreachable!("all tables lie in the image: {walk}")
        }
    })?;
    let rights = page.rights;
    let allowed = match access {
        Access::Read(Ring::Zero) => !(mode.smap && rights.user),
        Access::Write(Ring::Zero) => !(mode.smap && rights.user) && (rights.write || !mode.wp),
        Access::Fetch(Ring::Zero) => rights.execute && !(mode.smep && rights.user),
        Access::Read(Ring::Three) => rights.user,
        Access::Write(Ring::Three) => rights.user && rights.write,
        Access::Fetch(Ring::Three) => rights.user && rights.execute,
    };
    if allowed {
        Ok(page.pa)
    } else {
        Err(page_fault(PROTECTION))
    }
}
