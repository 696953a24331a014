//! The CPU's registers that decide how page tables are read.

use core::fmt;

use crate::addr::{PhysAddr, VirtAddr};
use crate::entry::Entry;
use crate::level::Depth;

const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_PGE: u64 = 1 << 7;
const CR4_LA57: u64 = 1 << 12;
const CR4_PCIDE: u64 = 1 << 17;
const CR4_SMEP: u64 = 1 << 20;
const CR4_SMAP: u64 = 1 << 21;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;

/// What a vCPU's registers held when it was stopped. Values as the CPU has them (Intel SDM vol. 3A,
/// 2.5 and 2.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct CpuState {
    /// CR0: PG and WP decide here.
    pub cr0: u64,
    /// The address of the last page fault.
    pub cr2: VirtAddr,
    /// CR3: the root table and the PCID.
    pub cr3: Cr3,
    /// CR4: PAE, PGE, LA57, PCIDE, SMEP and SMAP decide here.
    pub cr4: u64,
    /// The EFER MSR: LMA and NXE decide here.
    pub efer: u64,
    /// Privilege level: 0 in the kernel, 3 in a process.
    pub cpl: u8,
    /// The instruction pointer.
    pub rip: VirtAddr,
    /// The stack pointer.
    pub rsp: VirtAddr,
    /// The frame pointer, where the code keeps one.
    pub rbp: VirtAddr,
    /// RFLAGS.
    pub rflags: u64,
    /// Where the interrupt descriptor table is, if the source tells: whatever root a CPU runs on must
    /// translate it, or the next interrupt is its last.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub idt: Option<VirtAddr>,
    /// Where the global descriptor table is, if the source tells.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub gdt: Option<VirtAddr>,
    /// Where the task state segment is, if the source tells.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub tss: Option<VirtAddr>,
}

/// CR3: where the root table is, and how to switch to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(transparent))]
pub struct Cr3(PhysAddr);

impl Cr3 {
    /// CR3 with this value.
    pub const fn new(raw: u64) -> Self {
        Cr3(PhysAddr::new(raw))
    }

    /// All 64 bits.
    pub const fn get(self) -> u64 {
        self.0.get()
    }

    /// The root table: bits 51–12. Bit 63 (do not flush) and bits 62–61 (linear address masking)
    /// are no address, nor are bits 11–0, which hold the PCID or PWT and PCD. Bit 12, by which
    /// Linux tells the two roots of a KPTI pair apart, is an ordinary address bit to the CPU: the
    /// user root is the frame after the kernel root.
    pub const fn root(self) -> PhysAddr {
        PhysAddr::new(self.get() & 0x000f_ffff_ffff_f000)
    }

    /// The same CR3 without these bits: those that say that the root is encrypted ([`Mode::encryption`]).
    #[must_use]
    pub const fn without(self, encryption: Entry) -> Cr3 {
        Cr3::new(self.get() & !encryption.get())
    }

    /// The process-context identifier, bits 11–0; meaningful while CR4.PCIDE is set.
    pub const fn pcid(self) -> u16 {
        (self.get() & 0xfff) as u16
    }
}

/// Why a vCPU's tables cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModeError {
    /// The CPU does not translate.
    PagingOff {
        /// CR0 as it was found.
        cr0: u64,
    },
    /// 32-bit paging.
    NotLongMode {
        /// CR4 as it was found.
        cr4: u64,
        /// EFER as it was found.
        efer: u64,
    },
}

impl fmt::Display for ModeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModeError::PagingOff { cr0 } => write!(
                f,
                "reading page tables: the CPU has paging off (CR0 {cr0:#x}, PG clear), so it has none; \
                 stop it after its kernel has switched paging on"
            ),
            ModeError::NotLongMode { cr4, efer } => write!(
                f,
                "reading page tables: the CPU pages, but not in long mode (CR4 {cr4:#x}, EFER \
                 {efer:#x}); only 4- and 5-level tables can be read, so stop it after its kernel has \
                 entered long mode"
            ),
        }
    }
}

impl core::error::Error for ModeError {}

/// Width of physical addresses, MAXPHYADDR of CPUID leaf 0x80000008: 32 to 52 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(transparent))]
pub struct PhysBits(u8);

impl PhysBits {
    /// The most that the architecture knows.
    pub const MAX: PhysBits = PhysBits(52);

    /// `bits` wide, if that is 32 to 52.
    pub const fn new(bits: u32) -> Option<Self> {
        match bits {
            #[expect(clippy::cast_possible_truncation, reason = "at most 52")]
            32..=52 => Some(PhysBits(bits as u8)),
            _ => None,
        }
    }

    /// The width in bits.
    pub const fn get(self) -> u32 {
        self.0 as u32
    }

    /// A mask of the bits that an address may have.
    pub const fn address_mask(self) -> u64 {
        (1 << self.0) - 1
    }
}

/// How the CPU reads page tables.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one bit of a control register, named as the manual names it"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Mode {
    /// 4 or 5 levels: CR4.LA57.
    pub depth: Depth,
    /// EFER.NXE: bit 63 of an entry is NX; else it is reserved.
    pub nxe: bool,
    /// CR0.WP: the kernel, too, cannot write through read-only entries.
    pub wp: bool,
    /// CR4.PGE: the G bit counts.
    pub pge: bool,
    /// CR4.SMEP: the kernel does not execute what ring 3 may access.
    pub smep: bool,
    /// CR4.SMAP: the kernel does not access it by accident either.
    pub smap: bool,
    /// CR4.PCIDE: the low bits of CR3 are a PCID.
    pub pcide: bool,
    /// Whether a PDPT may have leaves: CPUID 0x80000001 EDX bit 26.
    pub gigabyte_pages: bool,
    /// MAXPHYADDR.
    pub phys_bits: PhysBits,
    /// Bits of an entry that say that its frame is encrypted (AMD's C-bit, APM vol. 2, 7.10): no part of
    /// any address. None, mostly.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Entry::is_zero"))]
    pub encryption: Entry,
}

impl Mode {
    /// The mode of a vCPU with these registers, whose CPUID offers `phys_bits` and, or not, 1 GiB
    /// pages.
    ///
    /// # Errors
    /// [`ModeError`] unless the CPU pages in long mode.
    pub const fn of_cpu(
        cpu: &CpuState,
        phys_bits: PhysBits,
        gigabyte_pages: bool,
    ) -> Result<Mode, ModeError> {
        if cpu.cr0 & CR0_PG == 0 {
            return Err(ModeError::PagingOff { cr0: cpu.cr0 });
        }
        if cpu.cr4 & CR4_PAE == 0 || cpu.efer & EFER_LMA == 0 {
            return Err(ModeError::NotLongMode {
                cr4: cpu.cr4,
                efer: cpu.efer,
            });
        }
        Ok(Mode {
            depth: if cpu.cr4 & CR4_LA57 == 0 {
                Depth::Four
            } else {
                Depth::Five
            },
            nxe: cpu.efer & EFER_NXE != 0,
            wp: cpu.cr0 & CR0_WP != 0,
            pge: cpu.cr4 & CR4_PGE != 0,
            smep: cpu.cr4 & CR4_SMEP != 0,
            smap: cpu.cr4 & CR4_SMAP != 0,
            pcide: cpu.cr4 & CR4_PCIDE != 0,
            gigabyte_pages,
            phys_bits,
            encryption: Entry::ABSENT,
        })
    }

    /// The mode of a present-day kernel on a present-day CPU: everything on but PCID, 46 physical
    /// bits. For images that come without registers, and for tests.
    pub const fn typical(depth: Depth) -> Mode {
        Mode {
            depth,
            nxe: true,
            wp: true,
            pge: true,
            smep: true,
            smap: true,
            pcide: false,
            gigabyte_pages: true,
            phys_bits: PhysBits(46),
            encryption: Entry::ABSENT,
        }
    }

    /// The same mode where these bits of entries say that a frame is encrypted.
    #[must_use]
    pub const fn with_encryption(self, encryption: Entry) -> Mode {
        Mode { encryption, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::prelude::rust_2024::*;

    const LONG_MODE: CpuState = CpuState {
        cr0: CR0_PG | 1,
        cr2: VirtAddr::new(0),
        cr3: Cr3::new(0),
        cr4: CR4_PAE,
        efer: EFER_LMA | 1 << 8,
        cpl: 0,
        rip: VirtAddr::new(0),
        rsp: VirtAddr::new(0),
        rbp: VirtAddr::new(0),
        rflags: 2,
        idt: None,
        gdt: None,
        tss: None,
    };

    fn mode(cpu: CpuState) -> Result<Mode, ModeError> {
        Mode::of_cpu(&cpu, PhysBits::new(40).unwrap(), false)
    }

    #[test]
    fn la57_makes_five_levels() {
        assert_eq!(mode(LONG_MODE).unwrap().depth, Depth::Four);
        let cr4 = CR4_PAE | CR4_LA57;
        assert_eq!(
            mode(CpuState { cr4, ..LONG_MODE }).unwrap().depth,
            Depth::Five
        );
    }

    #[test]
    fn each_bit_is_read_from_its_own_register() {
        let plain = mode(LONG_MODE).unwrap();
        for (cpu, expected) in [
            (
                CpuState {
                    efer: LONG_MODE.efer | EFER_NXE,
                    ..LONG_MODE
                },
                Mode { nxe: true, ..plain },
            ),
            (
                CpuState {
                    cr0: LONG_MODE.cr0 | CR0_WP,
                    ..LONG_MODE
                },
                Mode { wp: true, ..plain },
            ),
            (
                CpuState {
                    cr4: CR4_PAE | CR4_PGE | CR4_SMEP,
                    ..LONG_MODE
                },
                Mode {
                    pge: true,
                    smep: true,
                    ..plain
                },
            ),
            (
                CpuState {
                    cr4: CR4_PAE | CR4_SMAP | CR4_PCIDE,
                    ..LONG_MODE
                },
                Mode {
                    smap: true,
                    pcide: true,
                    ..plain
                },
            ),
        ] {
            assert_eq!(mode(cpu), Ok(expected));
        }
    }

    /// Bit numbers as the manual has them (Intel SDM vol. 3A, 2.5 and 2.2.1), each alone.
    #[test]
    fn each_bit_has_its_number_and_decides_nothing_else() {
        let base = mode(CpuState {
            cr0: 1 << 31,
            cr4: 1 << 5,
            efer: 1 << 10,
            ..LONG_MODE
        })
        .unwrap();
        let cr4 = |bit: u32| {
            let cr4 = LONG_MODE.cr4 | 1 << bit;
            mode(CpuState { cr4, ..LONG_MODE }).unwrap()
        };
        assert_eq!(cr4(7), Mode { pge: true, ..base });
        assert_eq!(
            cr4(12),
            Mode {
                depth: Depth::Five,
                ..base
            }
        );
        assert_eq!(
            cr4(17),
            Mode {
                pcide: true,
                ..base
            }
        );
        assert_eq!(cr4(20), Mode { smep: true, ..base });
        assert_eq!(cr4(21), Mode { smap: true, ..base });
        let efer = LONG_MODE.efer | 1 << 11;
        assert_eq!(
            mode(CpuState { efer, ..LONG_MODE }),
            Ok(Mode { nxe: true, ..base })
        );
        let cr0 = LONG_MODE.cr0 | 1 << 16;
        assert_eq!(
            mode(CpuState { cr0, ..LONG_MODE }),
            Ok(Mode { wp: true, ..base })
        );
    }

    #[test]
    fn without_paging_or_long_mode_there_is_nothing_to_read_and_the_error_says_so() {
        let off = mode(CpuState {
            cr0: 1,
            ..LONG_MODE
        });
        assert_eq!(off, Err(ModeError::PagingOff { cr0: 1 }));
        let legacy = mode(CpuState {
            efer: 0,
            ..LONG_MODE
        })
        .unwrap_err();
        assert!(legacy.to_string().contains("long mode"), "{legacy}");
    }

    #[test]
    fn cr3_carries_more_than_an_address() {
        // No-flush, PCID 0x801 as KPTI has it for a user root, and KPTI's bit 12 of the address.
        let cr3 = Cr3::new(1 << 63 | 0x0123_4567_9000 | 0x801);
        assert_eq!(cr3.root(), PhysAddr::new(0x0123_4567_9000));
        assert_eq!(cr3.pcid(), 0x801);
        // Linear address masking: bits 61 and 62.
        assert_eq!(
            Cr3::new(0x6000_0000_0000_1018).root(),
            PhysAddr::new(0x1000)
        );
    }

    #[test]
    fn physical_addresses_have_32_to_52_bits() {
        assert_eq!(PhysBits::new(31), None);
        assert_eq!(PhysBits::new(53), None);
        assert_eq!(PhysBits::new(36).unwrap().address_mask(), 0xf_ffff_ffff);
    }
}
