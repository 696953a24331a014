//! What kernels do on purpose that would otherwise break a rule: a named table, so that nothing is
//! passed over in silence. Every use is counted in the report.

use serde::Serialize;

/// A deviation that is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Exception {
    /// In kebab case.
    pub name: &'static str,
    /// What is let pass, exactly.
    pub what: &'static str,
    /// Where it comes from.
    pub source: &'static str,
}

/// The LDT of a process that called `modify_ldt`.
pub(crate) const LDT_REMAP: Exception = Exception {
    name: "ldt-remap",
    what: "an entry of the LDT area that one process alone has, with 4 KiB read-only pages for ring 0",
    source: "Linux arch/x86/kernel/ldt.c: with KPTI each process maps its own LDT at one address",
};

/// The page of the legacy system calls.
pub(crate) const VSYSCALL: Exception = Exception {
    name: "vsyscall-page",
    what: "the page at 0xffffffffff600000, readable by ring 3, never writable",
    source: "Linux arch/x86/entry/vsyscall: vsyscall=emulate",
};

/// Constants of the kernel image in user roots.
pub(crate) const GLOBAL_IMAGE: Exception = Exception {
    name: "kpti-global-image",
    what: "read-only pages of the kernel image in a user root",
    source: "Linux arch/x86/mm/pti.c: pti_clone_kernel_text where the CPU has no PCID, and whole 2 MiB pages of entry text",
};

/// The word of scratch space that system calls need before they can switch stacks.
pub(crate) const CPU_TSS: Exception = Exception {
    name: "kpti-cpu-tss",
    what: "in a user root, a 4 KiB data page of the direct map whose frame the cpu entry area shows, too",
    source: "Linux arch/x86/mm/pti.c: pti_clone_user_shared maps each CPU's TSS at its own address",
};

/// The stacks for returning to 16-bit code.
pub(crate) const ESPFIX: Exception = Exception {
    name: "espfix-clones",
    what: "tables of the espfix area that are used at many addresses of it",
    source: "Linux arch/x86/kernel/espfix_64.c: one page is seen at 65536 places",
};

/// Page tables that processes share for huge pages.
pub(crate) const HUGETLB: Exception = Exception {
    name: "hugetlb-shared-pd",
    what: "a PD of nothing but 2 MiB pages in the user halves of several processes",
    source: "Linux mm/hugetlb.c: huge_pmd_share",
};

/// The user half of a trampoline's root.
pub(crate) const TRAMPOLINE: Exception = Exception {
    name: "trampoline-identity-map",
    what: "the user half of a trampoline root: memory at its own address, for ring 0 alone",
    source: "Linux arch/x86/realmode/init.c: CPUs come up on it",
};

/// The lower half of a root that no process has.
pub(crate) const BOOT_MAP: Exception = Exception {
    name: "boot-map",
    what: "tables of the kernel half in the lower half of a root without a page for ring 3",
    source: "many kernels boot on one PDPT or PD that shows memory at its own address and in the kernel half",
};

/// The first mebibyte in the direct map.
pub(crate) const ISA_HOLE: Exception = Exception {
    name: "isa-hole",
    what: "the direct map of 640 KiB to 1 MiB, where a PC has video memory and ROMs",
    source: "Linux arch/x86/mm/init.c: init_memory_mapping maps 0 to ISA_END_ADDRESS as one",
};

/// What is no RAM, in the line of all memory.
pub(crate) const BEYOND_RAM: Exception = Exception {
    name: "linear-map-beyond-ram",
    what: "pages of the linear map that lead to their own addresses, where there is no RAM: holes, ROMs, devices",
    source: "many kernels map all addresses from 0 on, as xv6's setupkvm maps 0 to PHYSTOP; a note says which",
};

/// A kernel that gives each process tables of its own for the kernel half.
pub(crate) const PRIVATE_COPIES: Exception = Exception {
    name: "private-kernel-tables",
    what: "kernel entries that map the same by tables of their own, where no two address spaces share a kernel table",
    source: "lecture: update the mapping in every process; xv6's setupkvm",
};

/// The same table by entries that are not equal.
pub(crate) const ENTRY_FLAGS: Exception = Exception {
    name: "entry-flags",
    what: "entries of roots that lead to one table with different flags, of which none changes what is mapped",
    source: "kernels that set US or bits of their own in a process's entries, as xv6's setupkvm does",
};

/// Kernels that do not protect their text in the direct map at all.
pub(crate) const WRITABLE_DIRECT_MAP: Exception = Exception {
    name: "writable-direct-map",
    what: "a writable page of the direct map that shows kernel text, where the kernel is none like Linux and the direct map shows all of its text so",
    source: "most kernels but Linux map all memory writable; the alias is there, and the kernel means it",
};

/// One page that many addresses show.
pub(crate) const SHADOW: Exception = Exception {
    name: "one-page-shadow",
    what: "tables of the kernel half that are used at many addresses and show one page at all of them",
    source: "Linux mm/kasan/init.c: one zero page is the shadow of all memory that is not checked",
};

/// What the profile says that each address space has of its own.
pub(crate) const PRIVATE_AREA: Exception = Exception {
    name: "private-area",
    what: "an entry of an area that by the kernel's profile each address space has of its own, or lacks",
    source: "Xen include/asm-x86/config.h: the per-domain mappings, and the table that guests read",
};

/// What every process has of its own at one address, as can be seen.
pub(crate) const EACH_ITS_OWN: Exception = Exception {
    name: "each-its-own",
    what: "an entry by which each of at least three processes has frames of its own at the same addresses, for ring 0 alone, and all else is alike",
    source: "kernels that have the stack or the state of the running process, or CPU, at one address in all",
};

/// A kernel that leaves the user halves of its own roots executable.
pub(crate) const NO_NX_GUARD: Exception = Exception {
    name: "no-nx-guard",
    what: "no kernel root of any pair has NX in an entry for ring 3: the kernel has no such guard",
    source: "kernels other than Linux, which need not guard themselves against a forgotten switch of CR3",
};

/// Xen's table for guests.
pub(crate) const GUEST_TABLE: Exception = Exception {
    name: "xen-guest-table",
    what: "the machine-to-physical table at 0xffff800000000000, readable by ring 3, never writable",
    source: "Xen include/public/arch-x86: guests translate frames by it",
};

/// The two roots of a process in a paravirtualized guest.
pub(crate) const PV_PAIR: Exception = Exception {
    name: "xen-pv-pair",
    what: "a table of the lower half that two roots share whose lower halves are the same, entry for entry, of which one has less of the guest's kernel",
    source: "Xen arch/x86/pv: a 64-bit guest's kernel and its processes both run in ring 3, on a root each",
};

/// Page tables that a paravirtualized guest reads.
pub(crate) const PV_TABLES_READ: Exception = Exception {
    name: "xen-pv-page-table",
    what: "a page table that a paravirtualized guest's kernel sees, readable by ring 3, never writable",
    source: "Xen arch/x86/mm.c: direct paging: the guest owns its page tables, and Xen writes them",
};

/// Xen before it has protected itself.
pub(crate) const EARLY_BOOT: Exception = Exception {
    name: "xen-early-boot",
    what: "pages that are writable and executable while Xen boots: no address space has a page for ring 3, and most of Xen's image is so",
    source: "Xen arch/x86/setup.c: __start_xen maps the image anew and then sets its rights",
};

/// Linux before it has protected itself.
pub(crate) const LINUX_EARLY_BOOT: Exception = Exception {
    name: "linux-early-boot",
    what: "pages of Linux's image that are writable and executable while it boots, the same in user roots, and what only one of the kernel's two roots has: no address space has a page for ring 3, and most of the image is so",
    source: "Linux init/main.c: mark_readonly comes before the first process; arch/x86/kernel/head64.c: early_top_pgt",
};

/// All of them.
pub const ALL: [Exception; 22] = [
    LDT_REMAP,
    VSYSCALL,
    GLOBAL_IMAGE,
    CPU_TSS,
    ESPFIX,
    HUGETLB,
    TRAMPOLINE,
    BOOT_MAP,
    ISA_HOLE,
    BEYOND_RAM,
    PRIVATE_COPIES,
    ENTRY_FLAGS,
    WRITABLE_DIRECT_MAP,
    SHADOW,
    PRIVATE_AREA,
    EACH_ITS_OWN,
    NO_NX_GUARD,
    GUEST_TABLE,
    PV_PAIR,
    PV_TABLES_READ,
    EARLY_BOOT,
    LINUX_EARLY_BOOT,
];
