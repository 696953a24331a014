//! Roots that only some kernels have: what Linux calls firmware on, and what Xen's guests run on.

use std::collections::{HashMap, HashSet};

use super::{Discovery, Kind, NoExecute};
use crate::layout::Area;
use crate::snapshot::RootId;
use crate::table::{Slot, Table};
use heirloom_paging::entry::{Decoded, Entry};
use heirloom_paging::level::{Half, Level};

/// Entries that are passed to see whether firmware is mapped.
const MAX_STEPS: u32 = 1 << 12;

impl Discovery {
    /// Says which of the roots with memory at its own address is the one that firmware is called on.
    pub(super) fn name_firmware(&mut self) {
        let Some(efi) = self.profile.place_of(Area::Efi, self.mode().depth) else {
            return;
        };
        let maps_firmware = |root: RootId| {
            let mut leaves = self.snapshot.leaves(root, efi).limited(MAX_STEPS);
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

    /// Sees whether pages are kept from being executed, and whether most of the kernel's image is writable and
    /// executable yet.
    pub(super) fn see_whether_protected(&mut self) {
        let [any, kernels] = self.has_no_execute();
        self.no_execute = match (any, kernels) {
            (false, _) => NoExecute::Nowhere,
            (true, false) => NoExecute::UserHalves,
            (true, true) => NoExecute::Everywhere,
        };
        let (Some(root), Some(image)) = (self.reference, self.layout.kernel_image) else {
            return;
        };
        let has_processes = self.judged().any(|space| space.user_pages > 0);
        let (mut writable, mut read_only) = (0, 0);
        let leaves = self.snapshot.leaves(root, image.range);
        for page in leaves.limited(MAX_STEPS) {
            match (page.rights.write, page.rights.execute) {
                (true, true) => writable += page.size.bytes(),
                (true, false) => {}
                (false, _) => read_only += page.size.bytes(),
            }
        }
        self.is_unprotected = !has_processes && writable > read_only;
    }

    /// Says that pages are used that the CPU has not.
    pub(super) fn note_gigabyte_pages(&mut self) {
        let is_large = |table: &Table| {
            let mut entries = table.entries();
            table.level() == Level::Pdpt
                && entries.any(|(index, _)| matches!(table.decode(index), Decoded::Leaf(_)))
        };
        let tables = || {
            let spaces = self.judged();
            let roots = spaces.filter_map(|space| self.snapshot.root_table(space.root));
            roots.flat_map(|root| root.links().filter_map(|slot| self.snapshot.table_at(slot)))
        };
        let below = tables().flat_map(|table| table.links());
        let below = below.filter_map(|slot| self.snapshot.table_at(slot));
        if tables().chain(below).any(|table| is_large(table)) {
            self.notes.push(
                "there are pages of 1 GiB, which this CPU has not by its CPUID (pdpe1gb): QEMU translates them all \
                 the same, another CPU would fault"
                    .into(),
            );
        }
    }

    /// Whether any entry of a table of an address space that lives has NX, and whether one of its kernel half.
    fn has_no_execute(&self) -> [bool; 2] {
        let mut seen = HashSet::new();
        let mut has = |pending: &mut Vec<Slot>| {
            while let Some(slot) = pending.pop() {
                let Some(table) = self.snapshot.table_at(slot).filter(|_| seen.insert(slot)) else {
                    continue;
                };
                if table.entries().any(|(_, entry)| entry.no_execute()) {
                    return true;
                }
                pending.extend(table.links());
            }
            false
        };
        let (mut kernel, mut user) = (Vec::new(), Vec::new());
        let (mut in_kernel, mut in_user) = (false, false);
        for space in self.judged() {
            let Some(table) = self.snapshot.root_table(space.root) else {
                continue;
            };
            let [part, _] = self.parts(space.root);
            for (index, entry) in table.entries() {
                let is_kernels = part.contains(index);
                let (list, has) = if is_kernels {
                    (&mut kernel, &mut in_kernel)
                } else {
                    (&mut user, &mut in_user)
                };
                *has |= entry.no_execute();
                list.extend(table.link(index));
            }
        }
        in_kernel = in_kernel || has(&mut kernel);
        in_user = in_kernel || in_user || has(&mut user);
        [in_user, in_kernel]
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
