//! What a Linux kernel's own data say of it: the names of its functions and variables, and whose each
//! address space is.
//!
//! Nothing is needed but the guest's memory: a kernel has its symbols (`CONFIG_KALLSYMS`) and the layout of
//! its structures (BTF, `CONFIG_DEBUG_INFO_BTF`) in its own read-only data. What they say is evidence beside
//! the tables, and decides nothing: which address spaces there are, and what each is, only CR3 and the tables
//! tell. All of it is hostile data, so every loop and every allocation has a bound.

mod btf;
mod kallsyms;
mod ram;
mod tasks;

use std::collections::HashMap;

use serde::Serialize;

use crate::discover::{Discovery, Kind};
use crate::layout::DirectMap;
use crate::memory::PhysicalMemory;
use crate::snapshot::{RootId, RootLabel, Snapshot};
use crate::target::Target;
use heirloom_paging::addr::{PAGE_SIZE, PhysAddr, VirtAddr};

pub use crate::symbols::Symbols;
pub use btf::Btf;
pub(crate) use ram::Ram;

/// Bytes of a kernel image that are looked through.
const MAX_IMAGE: u64 = 256 << 20;

/// Whose an address space is, as the kernel's own data have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "owner")]
pub enum Owner {
    /// A process.
    Process {
        /// Its number.
        pid: u32,
        /// Its command's name; control characters are replaced.
        comm: String,
    },
    /// One of the kernel's own.
    Kernel {
        /// The variable that holds it: `init_mm`.
        name: &'static str,
    },
}

impl Owner {
    /// The number of a process.
    pub const fn pid(&self) -> Option<u32> {
        match self {
            Owner::Process { pid, .. } => Some(*pid),
            Owner::Kernel { .. } => None,
        }
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Owner::Process { pid, comm } => write!(f, "{pid} {comm}"),
            Owner::Kernel { name } => f.write_str(name),
        }
    }
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct KernelNames {
    /// The kernel's functions and variables.
    pub symbols: Symbols,
    /// The root tables that the kernel's data name, and their owners: processes in the order of the kernel's
    /// list, several for a root that they share.
    pub owners: Vec<(PhysAddr, Owner)>,
}

impl KernelNames {
    /// Reads the names of the kernel whose image `discovery` found in `target`; `None` if there are none: the
    /// kernel is not Linux, or keeps no symbols. Owners are empty without BTF.
    pub fn read(target: &Target, discovery: &Discovery) -> Option<KernelNames> {
        let kernel = KernelMemory::of(target, discovery)?;
        let (bytes, first) = image(target, discovery)?;
        let symbols = kallsyms::find(&bytes, first)?;
        let owners = Btf::find(&bytes)
            .map(|btf| tasks::owners(&kernel, &symbols, &btf))
            .unwrap_or_default();
        Some(KernelNames { symbols, owners })
    }
}

/// Where the kernel whose image `discovery` found in `target` has RAM, and the variable that says so; `None` if it is
/// not Linux, or keeps no symbols.
pub(crate) fn ram_of(target: &Target, discovery: &Discovery) -> Option<(&'static str, Ram)> {
    let kernel = KernelMemory::of(target, discovery)?;
    let (bytes, first) = image(target, discovery)?;
    let symbols = kallsyms::find(&bytes, first)?;
    let read = |at: u64, buffer: &mut [u8]| kernel.read(at, buffer);
    ram::listed(&read, &symbols, Btf::find(&bytes).as_ref())
}

/// The kernel's image, and where it begins.
fn image(target: &Target, discovery: &Discovery) -> Option<(Vec<u8>, VirtAddr)> {
    let image = discovery.layout.kernel_image?;
    let physical = image.physical();
    let mut bytes = vec![0; usize::try_from(physical.bytes.min(MAX_IMAGE)).ok()?];
    for (number, page) in (0..).zip(bytes.chunks_mut(PAGE_BYTES)) {
        // What is not there reads as zero: images have holes.
        let at = physical.start.wrapping_add(number * PAGE_SIZE);
        if target.memory.read_bytes(at, page).is_err() {
            page.fill(0);
        }
    }
    Some((bytes, image.range.first))
}

impl Discovery {
    /// Reads, out of `target`, of which this is, what the kernel's own data say: its symbols, and whose each
    /// address space is. Where it lists its processes, a root without pages that is none's, on no CPU, is idle or
    /// freed: one of a process that has ended, or what reading `/proc/kcore` left of a root. Nothing else changes.
    /// Whether there are any names.
    pub fn read_names(&mut self, target: &Target) -> bool {
        let Some(names) = KernelNames::read(target, self) else {
            return false;
        };
        self.symbols = names.symbols;
        let mut owners: HashMap<PhysAddr, Vec<Owner>> = HashMap::new();
        let mut lists_processes = false;
        for (root, owner) in names.owners {
            lists_processes |= matches!(owner, Owner::Process { .. });
            owners.entry(root).or_default().push(owner);
        }
        for space in &mut self.spaces {
            space.owners = owners.remove(&space.address).unwrap_or_default();
            let is_nobodys = space.owners.is_empty()
                && space.cpus.is_empty()
                && matches!(space.label, RootLabel::Found(_));
            if lists_processes && is_nobodys && space.kind == Kind::NoPages {
                space.kind = Kind::Idle;
                space.evidence += ", and no process has it";
            }
        }
        true
    }
}

const PAGE_BYTES: usize = 4096;
/// The direct map's area with four levels (mm.rst), beyond which an address is of another.
const DIRECT_MAP_BYTES: u64 = 64 << 40;

/// Kernel memory by virtual address, as the kernel's own root translates it.
struct KernelMemory<'a> {
    memory: &'a dyn PhysicalMemory,
    snapshot: &'a Snapshot,
    root: RootId,
    direct_map: Option<DirectMap>,
}

impl<'a> KernelMemory<'a> {
    fn of(target: &'a Target, discovery: &'a Discovery) -> Option<KernelMemory<'a>> {
        Some(KernelMemory {
            memory: &*target.memory,
            snapshot: &discovery.snapshot,
            root: discovery.reference?,
            direct_map: discovery.layout.direct_map,
        })
    }

    /// Where `va` is; `None` if it is not mapped. Of the direct map it is known without the tables, which may lack.
    fn physical(&self, va: u64) -> Option<PhysAddr> {
        let va = VirtAddr::new(va);
        let walk = self.snapshot.translate(self.root, va);
        let by_tables = walk.translation().map(|found| found.pa);
        by_tables.or_else(|| {
            let map = self.direct_map.as_ref()?;
            let at = map.physical(va);
            (map.base <= va && at.get() < DIRECT_MAP_BYTES).then_some(at)
        })
    }

    /// Fills `buffer` from `va` on.
    fn read(&self, va: u64, buffer: &mut [u8]) -> Option<()> {
        let mut at = va;
        let mut rest = buffer;
        while !rest.is_empty() {
            let in_page = PAGE_BYTES - usize::try_from(at % PAGE_SIZE).ok()?;
            let (now, later) = rest.split_at_mut(in_page.min(rest.len()));
            self.memory.read_bytes(self.physical(at)?, now).ok()?;
            at = at.checked_add(now.len() as u64)?;
            rest = later;
        }
        Some(())
    }

    fn read_u64(&self, va: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(va, &mut bytes)?;
        Some(u64::from_le_bytes(bytes))
    }

    fn read_u32(&self, va: u64) -> Option<u32> {
        let mut bytes = [0; 4];
        self.read(va, &mut bytes)?;
        Some(u32::from_le_bytes(bytes))
    }
}
