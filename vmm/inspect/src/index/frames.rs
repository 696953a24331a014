//! Which frames are used for what, and which for two things that exclude each other.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::part::{Page, Part};
use heirloom_paging::addr::{Pfn, VirtRange};
use heirloom_paging::level::{Half, PageSize};

/// What maps a frame.
#[derive(Clone, Copy, Debug, Default)]
struct Mapped {
    user: u32,
    user_writable: u32,
    dynamic: u32,
}

/// Frames that 4 KiB pages of processes or of the dynamic area map. Of larger pages only that there are
/// some is known.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// Whether all parts are added: else nothing is known.
    is_kept: bool,
    mapped: HashMap<Pfn, Mapped>,
    users: u64,
    large: u64,
    /// Mapped by several user pages, one of which is writable.
    contested: HashSet<Pfn>,
    /// Mapped by processes and by the dynamic area.
    with_kernel: HashSet<Pfn>,
    /// Tables that are mapped.
    tables: BTreeSet<Pfn>,
}

impl Frames {
    /// Nothing is mapped; parts will be added, or not.
    pub(super) fn new(is_kept: bool) -> Frames {
        Frames {
            is_kept,
            ..Frames::default()
        }
    }

    pub(super) fn add(
        &mut self,
        part: &Part,
        dynamic: Option<VirtRange>,
        is_table: impl Fn(Pfn) -> bool,
    ) {
        self.each(part, dynamic, is_table, |count| *count += 1);
        self.large += large(part, dynamic);
    }

    pub(super) fn remove(
        &mut self,
        part: &Part,
        dynamic: Option<VirtRange>,
        is_table: impl Fn(Pfn) -> bool,
    ) {
        self.each(part, dynamic, is_table, |count| *count -= 1);
        self.large -= large(part, dynamic);
    }

    fn each(
        &mut self,
        part: &Part,
        dynamic: Option<VirtRange>,
        is_table: impl Fn(Pfn) -> bool,
        change: impl Fn(&mut u32),
    ) {
        for page in counted(part, dynamic).filter(|page| page.size == PageSize::Size4KiB) {
            let frame = page.pa.pfn();
            let mapped = self.mapped.entry(frame).or_default();
            let had_user = mapped.user > 0;
            match part.half {
                Half::Kernel => change(&mut mapped.dynamic),
                Half::User => {
                    change(&mut mapped.user);
                    if page.rights.write {
                        change(&mut mapped.user_writable);
                    }
                }
            }
            let now = *mapped;
            match (had_user, now.user > 0) {
                (false, true) => self.users += 1,
                (true, false) => self.users -= 1,
                _ => {}
            }
            set(
                &mut self.contested,
                frame,
                now.user > 1 && now.user_writable > 0,
            );
            set(
                &mut self.with_kernel,
                frame,
                now.user > 0 && now.dynamic > 0,
            );
            let is_mapped = now.user > 0 || now.dynamic > 0;
            if !is_mapped {
                self.mapped.remove(&frame);
            }
            self.note_table(frame, is_mapped && is_table(frame));
        }
    }

    /// A frame is a table now, or no longer.
    pub(super) fn table(&mut self, frame: Pfn, is_table: bool) {
        let is_mapped = self.mapped.contains_key(&frame);
        self.note_table(frame, is_mapped && is_table);
    }

    fn note_table(&mut self, frame: Pfn, is_both: bool) {
        if is_both {
            self.tables.insert(frame);
        } else if !self.tables.is_empty() {
            self.tables.remove(&frame);
        }
    }

    /// Whether there are pages of more than 4 KiB among those that count.
    pub(super) fn has_large(&self) -> bool {
        !self.is_kept || self.large > 0
    }

    /// Frames that user pages of 4 KiB map.
    pub(super) fn user_count(&self) -> u64 {
        self.users
    }

    /// Whether a page of 4 KiB of a process or of the dynamic area maps the frame.
    pub(crate) fn is_mapped(&self, frame: Pfn) -> bool {
        self.mapped.contains_key(&frame)
    }

    /// No user page may share a frame with another that one of them may write.
    pub(crate) fn users_agree(&self) -> bool {
        self.is_kept && self.large == 0 && self.contested.is_empty()
    }

    /// No user page shows a frame of the dynamic area.
    pub(crate) fn none_is_the_kernels(&self) -> bool {
        self.is_kept && self.large == 0 && self.with_kernel.is_empty()
    }

    /// No page of a process or of the dynamic area shows a table.
    pub(crate) fn none_is_a_table(&self) -> bool {
        self.is_kept && self.large == 0 && self.tables.is_empty()
    }
}

/// The pages of a part whose frames count.
fn counted(part: &Part, dynamic: Option<VirtRange>) -> impl Iterator<Item = &Page> {
    let is_dynamic = move |page: &&Page| {
        part.half == Half::User || dynamic.is_some_and(|area| area.contains(page.va))
    };
    let counts = part.half == Half::User || part.dynamic > 0;
    let pages = if counts { part.pages.as_slice() } else { &[] };
    pages.iter().filter(is_dynamic)
}

fn large(part: &Part, dynamic: Option<VirtRange>) -> u64 {
    counted(part, dynamic)
        .filter(|page| page.size != PageSize::Size4KiB)
        .count() as u64
}

fn set(frames: &mut HashSet<Pfn>, frame: Pfn, is_in: bool) {
    if is_in {
        frames.insert(frame);
    } else if !frames.is_empty() {
        frames.remove(&frame);
    }
}
