//! Whose each address space is: the kernel's list of processes, and the `mm_struct`s of its own.

use std::collections::HashSet;

use super::btf::Btf;
use super::{KernelMemory, Owner};
use crate::symbols::Symbols;
use heirloom_paging::addr::{PhysAddr, VirtAddr};

/// Processes that are read: four times Linux's limit of `pid_max` on small machines.
const MAX_PROCESSES: usize = 1 << 17;
/// `TASK_COMM_LEN`.
const COMM_BYTES: usize = 16;

/// The kernel's own address spaces, by the variable that holds each, and whether that is a pointer.
const KERNEL_SPACES: [(&str, bool); 4] = [
    ("init_mm", false),
    ("efi_mm", false),
    // Linux to 6.13, and from then on.
    ("poking_mm", true),
    ("text_poke_mm", true),
];

/// The root tables that the kernel's data name, with their owners. A list that leads nowhere ends there.
pub(super) fn owners(
    kernel: &KernelMemory<'_>,
    symbols: &Symbols,
    btf: &Btf<'_>,
) -> Vec<(PhysAddr, Owner)> {
    let mut owners = Vec::new();
    let Some(pgd) = btf.offset_of("mm_struct", "pgd") else {
        return owners;
    };
    let root = |mm: u64| {
        let root = kernel.read_u64(mm.checked_add(pgd)?)?;
        kernel.physical(root)
    };
    for (name, is_pointer) in KERNEL_SPACES {
        let mm = symbols.address_of(name).map(VirtAddr::get);
        let mm = if is_pointer {
            mm.and_then(|at| kernel.read_u64(at))
        } else {
            mm
        };
        if let Some(root) = mm.and_then(root) {
            owners.push((root, Owner::Kernel { name }));
        }
    }
    owners.extend(processes(kernel, symbols, btf, root).unwrap_or_default());
    owners
}

/// Every process that has an address space, with its root.
fn processes(
    kernel: &KernelMemory<'_>,
    symbols: &Symbols,
    btf: &Btf<'_>,
    root: impl Fn(u64) -> Option<PhysAddr>,
) -> Option<Vec<(PhysAddr, Owner)>> {
    let member = |name| btf.offset_of("task_struct", name);
    let (tasks, pid, comm, mm) = (
        member("tasks")?,
        member("pid")?,
        member("comm")?,
        member("mm")?,
    );
    // The list begins and ends at the idle task, which is not on it.
    let head = symbols.address_of("init_task")?.get().checked_add(tasks)?;
    let mut found = Vec::new();
    let mut seen = HashSet::from([head]);
    let mut next = kernel.read_u64(head);
    while let Some(at) = next
        && seen.insert(at)
        && seen.len() <= MAX_PROCESSES
    {
        next = kernel.read_u64(at);
        let task = at.wrapping_sub(tasks);
        let field = |offset: u64| task.checked_add(offset);
        let process = || {
            let mm = kernel.read_u64(field(mm)?)?;
            // A kernel thread has none.
            let root = root(mm)?;
            let pid = kernel.read_u32(field(pid)?)?;
            let mut bytes = [0; COMM_BYTES];
            kernel.read(field(comm)?, &mut bytes)?;
            let length = bytes.iter().position(|byte| *byte == 0);
            let comm = String::from_utf8_lossy(&bytes[..length.unwrap_or(COMM_BYTES)])
                .replace(char::is_control, "\u{fffd}");
            Some((root, Owner::Process { pid, comm }))
        };
        found.extend(process());
    }
    Some(found)
}
