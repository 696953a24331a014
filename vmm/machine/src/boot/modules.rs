//! Boot modules, behind the kernel.

use vm_memory::GuestAddress;

use super::{BootError, Module, high_ram_end, write};
use crate::PAGE_SIZE;
use crate::memory::Ram;

/// Copies the modules behind the kernel, below 4 GiB, and returns where each went.
pub(super) fn load(
    ram: &Ram,
    kernel_end: GuestAddress,
    modules: &[Module],
) -> Result<Vec<GuestAddress>, BootError> {
    let limit = high_ram_end(ram);
    let mut next = kernel_end.0.next_multiple_of(PAGE_SIZE);
    let mut placed = Vec::with_capacity(modules.len());
    for module in modules {
        if module.name.is_empty() || module.name.contains('\0') {
            return Err(BootError::ModuleName {
                name: module.name.clone(),
            });
        }
        let end = next.saturating_add(module.bytes.len() as u64);
        if end > limit {
            return Err(BootError::ModulesTooBig {
                module: module.name.clone(),
                end,
                limit,
            });
        }
        write(
            ram.memory(),
            "boot module",
            &module.bytes,
            GuestAddress(next),
        )?;
        placed.push(GuestAddress(next));
        next = end.next_multiple_of(PAGE_SIZE);
    }
    Ok(placed)
}
