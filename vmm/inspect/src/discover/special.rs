//! Roots that only some kernels have: what Linux calls firmware on, and what Xen's guests run on.

use std::collections::HashMap;

use super::{Discovery, Kind};
use crate::layout::Area;
use crate::snapshot::RootId;
use heirloom_paging::entry::Entry;
use heirloom_paging::level::Half;

/// Entries that are passed to see whether firmware is mapped.
const MOST_STEPS: u32 = 1 << 12;

impl Discovery {
    /// Says which of the roots with memory at its own address is the one that firmware is called on.
    pub(super) fn name_firmware(&mut self) {
        let Some(efi) = self.profile.place_of(Area::Efi, self.mode().depth) else {
            return;
        };
        let maps_firmware = |root: RootId| {
            let mut leaves = self.snapshot.leaves(root, efi).limited(MOST_STEPS);
            leaves.next().is_some()
        };
        if self.reference.is_some_and(maps_firmware) {
            return;
        }
        let found: Vec<usize> = (0..self.spaces.len())
            .filter(|at| {
                let space = &self.spaces[*at];
                space.kind == Kind::Trampoline && maps_firmware(space.root)
            })
            .collect();
        for at in found {
            let evidence = &mut self.spaces[at].evidence;
            evidence.push_str("; it alone maps EFI's services: firmware is called on it (efi_mm)");
        }
    }

    /// Sees whether pages are kept from being executed, and whether no page of the kernel's image is read-only
    /// yet.
    pub(super) fn see_whether_protected(&mut self) {
        let mut tables = self.snapshot.tables();
        self.uses_nx = tables.any(|table| table.entries().any(|(_, entry)| entry.no_execute()));
        let (Some(root), Some(image)) = (self.reference, self.layout.kernel_image) else {
            return;
        };
        let mut leaves = self.snapshot.leaves(root, image.range).limited(MOST_STEPS);
        self.is_unprotected = self.spaces.len() == 1 && leaves.all(|page| page.rights.write);
    }

    /// Says what the roots of paravirtualized guests are, whose kernels and processes both run in ring 3.
    pub(super) fn name_guests(&mut self) {
        let Some(part) = self.profile.kernel_entries(self.mode().depth) else {
            return;
        };
        let guests = || {
            Half::Kernel
                .indices()
                .filter(|index| !part.contains(*index))
        };
        // How much of the guest's kernel each has; of those with the same lower half the one with most is it.
        let mut much = vec![0; self.spaces.len()];
        let mut kernels: HashMap<Vec<Entry>, usize> = HashMap::new();
        let lower = |at: usize| -> Option<Vec<Entry>> {
            let table = self.snapshot.root_table(self.spaces[at].root)?;
            let half = Half::User.indices();
            Some(half.map(|index| table.entry(index).as_written()).collect())
        };
        for at in 0..self.spaces.len() {
            let Some(half) = lower(at) else { continue };
            let Some(table) = self.snapshot.root_table(self.spaces[at].root) else {
                continue;
            };
            much[at] = guests()
                .filter(|index| table.entry(*index).present())
                .count();
            let kernel = kernels.entry(half).or_insert(at);
            if much[at] > much[*kernel] {
                *kernel = at;
            }
        }
        let kernels: Vec<Option<usize>> = (0..self.spaces.len())
            .map(|at| kernels.get(&lower(at)?).copied())
            .collect();
        for (at, kernel) in kernels.into_iter().enumerate() {
            let kind = self.spaces[at].kind;
            let more = match kernel {
                Some(kernel) if much[kernel] > much[at] => {
                    let kernel = self.spaces[kernel].address;
                    format!("; ring 3 of a paravirtualized guest, whose kernel runs on {kernel}")
                }
                _ if much[at] == 0 => continue,
                _ => "; a paravirtualized guest's".to_owned(),
            };
            if !matches!(kind, Kind::Process | Kind::NoPages | Kind::Idle) {
                continue;
            }
            self.spaces[at].evidence.push_str(&more);
        }
    }
}
