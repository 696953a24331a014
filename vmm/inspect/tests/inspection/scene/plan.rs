//! What kind of guest is made.

use std::fmt;

use heirloom_inspect::{Depth, VirtAddr};

use super::{GIB, MIB};

/// Where the areas are that KASLR moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bases {
    pub(crate) direct_map: VirtAddr,
    pub(crate) vmalloc: VirtAddr,
    pub(crate) vmemmap: VirtAddr,
    pub(crate) image: VirtAddr,
}

impl Bases {
    /// Where KASLR may have moved them.
    pub(crate) fn moved(depth: Depth) -> Bases {
        let [direct_map, vmalloc, vmemmap] = match depth {
            Depth::Four => [
                0xffff_9c41_4000_0000,
                0xffff_b0c8_0000_0000,
                0xffff_e5d3_c000_0000,
            ],
            Depth::Five => [
                0xff2c_a3c0_4000_0000,
                0xff61_0e00_0000_0000,
                0xffd6_4a80_0000_0000,
            ],
        };
        Bases {
            direct_map: VirtAddr::new(direct_map),
            vmalloc: VirtAddr::new(vmalloc),
            vmemmap: VirtAddr::new(vmemmap),
            image: VirtAddr::new(0xffff_ffff_9a40_0000),
        }
    }

    /// Where they are with `nokaslr` (Documentation/arch/x86/x86_64/mm.rst).
    pub(crate) fn fixed(depth: Depth) -> Bases {
        let [direct_map, vmalloc, vmemmap] = match depth {
            Depth::Four => [
                0xffff_8880_0000_0000,
                0xffff_c900_0000_0000,
                0xffff_ea00_0000_0000,
            ],
            Depth::Five => [
                0xff11_0000_0000_0000,
                0xffa0_0000_0000_0000,
                0xffd4_0000_0000_0000,
            ],
        };
        Bases {
            direct_map: VirtAddr::new(direct_map),
            vmalloc: VirtAddr::new(vmalloc),
            vmemmap: VirtAddr::new(vmemmap),
            image: VirtAddr::new(0xffff_ffff_8100_0000),
        }
    }
}

/// How the guest is made.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) depth: Depth,
    pub(crate) kpti: bool,
    pub(crate) processes: usize,
    pub(crate) cpus: u8,
    pub(crate) bases: Bases,
    /// Where the target says that RAM is.
    pub(crate) ram: Vec<(u64, u64)>,
    /// What of it the kernel manages.
    pub(crate) managed: Vec<(u64, u64)>,
    /// The direct map uses 1 GiB leaves.
    pub(crate) gigabyte_pages: bool,
    pub(crate) vmemmap: bool,
}

impl Plan {
    /// 64 MiB as QEMU's cores tell: from 0 on without a hole, and the firmware below 4 GiB. The kernel
    /// does not map the last 128 KiB, where firmware has its tables.
    pub(crate) fn new(depth: Depth, kpti: bool) -> Plan {
        Plan {
            depth,
            kpti,
            processes: 4,
            cpus: 2,
            bases: Bases::moved(depth),
            ram: vec![(0, 64 * MIB), (0xfffc_0000, 256 << 10)],
            managed: vec![(0, 64 * MIB - (128 << 10))],
            gigabyte_pages: false,
            vmemmap: true,
        }
    }

    pub(crate) fn all() -> Vec<Plan> {
        [Depth::Four, Depth::Five]
            .into_iter()
            .flat_map(|depth| [false, true].map(|kpti| Plan::new(depth, kpti)))
            .collect()
    }

    /// A PC with 2 GiB below the PCI hole and 1 GiB above 4 GiB, the legacy hole left out.
    pub(crate) fn large(depth: Depth, kpti: bool) -> Plan {
        let usable = [(0x10_0000, 2 * GIB - 0x10_0000), (4 * GIB, GIB)];
        Plan {
            ram: [(0, 0xa_0000)].into_iter().chain(usable).collect(),
            managed: [(0, 0x10_0000)].into_iter().chain(usable).collect(),
            ..Plan::new(depth, kpti)
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kpti = if self.kpti { "with" } else { "without" };
        write!(f, "{} levels {kpti} KPTI", self.depth.levels())
    }
}
