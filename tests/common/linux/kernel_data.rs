//! What the guest's kernel knows of its address spaces, read out of its own data by its symbols: which
//! roots are in use. The inspector knows no symbols, so this is another witness.

use std::collections::BTreeMap;

use heirloom_inspect::{Mode, Pfn, PhysAddr, PhysicalMemory, VirtAddr, translate_in_memory};

use super::Listing;

// struct page of Linux 6.1 to 6.12 (include/linux/mm_types.h): 64 bytes; a page table's has `lru` (later
// `pt_list`), which chains the roots, and `pt_mm`; every one has `_refcount`.
const PAGE_BYTES: u64 = 64;
const PAGE_LIST: u64 = 8;
const PAGE_MM: u64 = 32;
const PAGE_REFERENCES: u64 = 52;

/// More roots than any of our guests has.
const MAX_ROOTS: usize = 1000;

/// A guest's kernel data.
pub(crate) struct KernelData<'a, M> {
    memory: &'a M,
    mode: Mode,
    /// Any root that has the kernel half.
    root: PhysAddr,
    listing: &'a Listing,
}

impl<'a, M: PhysicalMemory> KernelData<'a, M> {
    /// `root` may be of any process, or the kernel's own, but no user root of a pair.
    pub(crate) fn new(memory: &'a M, mode: Mode, root: PhysAddr, listing: &'a Listing) -> Self {
        KernelData {
            memory,
            mode,
            root,
            listing,
        }
    }

    /// The kernel's own root.
    pub(crate) fn init_top_pgt(&self) -> PhysAddr {
        self.physical(self.listing.symbol("init_top_pgt"))
    }

    /// The root of every address space that has an owner, but the kernel's own, with the address of its
    /// `mm_struct`: the kernel keeps them on a list, `pgd_list`.
    pub(crate) fn roots(&self) -> BTreeMap<PhysAddr, u64> {
        let head = self.listing.symbol("pgd_list");
        let mut roots = BTreeMap::new();
        let mut next = self.read(head);
        while next != head {
            let page = next - PAGE_LIST;
            let pfn = Pfn::new((page - self.base_of("vmemmap_base")) / PAGE_BYTES);
            roots.insert(pfn.base(), self.read(page + PAGE_MM));
            assert!(roots.len() < MAX_ROOTS, "pgd_list has no end");
            next = self.read(next);
        }
        roots
    }

    /// The address space in which the kernel writes to its own text.
    pub(crate) fn poking_mm(&self) -> u64 {
        self.read(self.listing.symbol("poking_mm"))
    }

    /// The first entry of the root that CPUs come up on.
    pub(crate) fn trampoline_entry(&self) -> u64 {
        self.read(self.listing.symbol("trampoline_pgd_entry"))
    }

    /// Whether nobody has allocated a frame. Of an allocation of two frames only the first one counts.
    pub(crate) fn is_free(&self, pfn: Pfn) -> bool {
        let page = self.base_of("vmemmap_base") + pfn.get() * PAGE_BYTES;
        // Four bytes; the word begins at a multiple of four.
        self.read(page + PAGE_REFERENCES - 4) >> 32 == 0
    }

    /// What a variable that holds an area's base holds.
    pub(crate) fn base_of(&self, variable: &str) -> u64 {
        self.read(self.listing.symbol(variable))
    }

    fn read(&self, va: u64) -> u64 {
        self.memory.read_u64(self.physical(va)).unwrap()
    }

    fn physical(&self, va: u64) -> PhysAddr {
        translate_in_memory(self.memory, &self.mode, self.root, VirtAddr::new(va))
            .result
            .unwrap_or_else(|fault| panic!("kernel address {va:#x}: {fault}"))
            .pa
    }
}
