//! The pages of an index: by part, and by frame.

use std::collections::BTreeMap;

use super::frames::Frames;
use super::{Page, Part, PartId, TableIndex};
use crate::snapshot::RootId;
use heirloom_paging::addr::{PAGE_SIZE, PhysAddr};
use heirloom_paging::level::Half;

impl TableIndex {
    /// All parts of the kernel half, or all user halves.
    pub fn parts(&self, half: Half) -> impl Iterator<Item = (PartId, &Part)> {
        self.parts.iter().filter(move |(_, part)| part.half == half)
    }

    pub(crate) fn part(&self, id: PartId) -> &Part {
        self.parts.get(id)
    }

    /// Every leaf of the kernel half, or of processes' user halves: each once for each set of rights.
    pub fn pages(&self, half: Half) -> impl Iterator<Item = (PartId, &Page)> {
        self.parts(half)
            .flat_map(|(id, part)| part.pages.iter().map(move |page| (id, page)))
    }

    /// How many there are.
    pub fn page_count(&self, half: Half) -> u64 {
        self.parts.totals(half).pages
    }

    /// How many of them ring 3 can access.
    pub fn ring_3_page_count(&self, half: Half) -> u64 {
        self.parts.totals(half).ring_3
    }

    /// How many tables were passed on the way to them.
    pub fn table_count(&self, half: Half) -> u64 {
        self.parts.totals(half).tables
    }

    /// Kernel pages in the dynamic area.
    pub fn dynamic_pages(&self) -> impl Iterator<Item = (PartId, &Page)> {
        let area = self.scope.dynamic;
        let parts = self
            .parts(Half::Kernel)
            .filter(move |(_, part)| area.is_some_and(|area| area.overlaps(&part.range)));
        parts
            .flat_map(|(id, part)| part.pages.iter().map(move |page| (id, page)))
            .filter(move |(_, page)| area.is_some_and(|area| area.contains(page.va)))
    }

    /// How many there are.
    pub fn dynamic_page_count(&self) -> u64 {
        self.parts.dynamic_pages()
    }

    /// An address space that has a part: the first, of the kernel half.
    pub fn root_of(&self, part: PartId) -> RootId {
        let found = match &self.part(part).entry {
            Some((index, entry)) => {
                let groups = self.groups.having(*index, *entry);
                let firsts = groups.iter().map(|group| self.group(*group).first);
                firsts.min().map(|first| self.spaces[first].root)
            }
            None => self.owners().get(part.0 as usize).copied().flatten(),
        };
        found.unwrap_or(RootId(0))
    }

    /// By part: an address space that has it for its user half.
    fn owners(&self) -> &[Option<RootId>] {
        self.owners.get_or_init(|| {
            let mut owners = Vec::new();
            for space in &self.spaces {
                if let Some(PartId(part)) = space.user {
                    let part = part as usize;
                    owners.resize(owners.len().max(part + 1), None);
                    owners[part] = Some(space.root);
                }
            }
            owners
        })
    }

    /// Pages of user halves, ascending by physical address, then by address space.
    pub fn user_pages_by_frame(&self) -> impl Iterator<Item = (PartId, &Page)> {
        self.sorted_user_pages().iter().map(|at| self.page_at(*at))
    }

    fn page_at(&self, (part, page): (PartId, u32)) -> (PartId, &Page) {
        (part, &self.part(part).pages[page as usize])
    }

    fn sorted_user_pages(&self) -> &[(PartId, u32)] {
        self.by_frame.get_or_init(|| {
            let users: BTreeMap<PartId, usize> = self
                .spaces
                .iter()
                .enumerate()
                .filter_map(|(at, space)| Some((space.user?, at)))
                .collect();
            let mut pages: Vec<(PartId, u32)> = self
                .parts(Half::User)
                .flat_map(|(id, part)| (0u32..).zip(&part.pages).map(move |(at, _)| (id, at)))
                .collect();
            pages.sort_unstable_by_key(|at| {
                let (part, page) = self.page_at(*at);
                (page.pa, users.get(&part), page.va)
            });
            pages
        })
    }

    /// User pages that have one of `bytes` physical addresses from `start`, ascending.
    pub fn user_pages_in(
        &self,
        start: PhysAddr,
        bytes: u64,
    ) -> impl Iterator<Item = (PartId, &Page)> {
        let end = start.wrapping_add(bytes);
        let pages = self.sorted_user_pages();
        let has_large = self.frames.has_large();
        let largest = if has_large { 1 << 30 } else { PAGE_SIZE };
        let first =
            pages.partition_point(|at| self.page_at(*at).1.pa.wrapping_add(largest) <= start);
        pages[first..]
            .iter()
            .map(|at| self.page_at(*at))
            .take_while(move |(_, page)| page.pa < end)
            .filter(move |(_, page)| page.end() > start)
    }

    /// What is known of frames.
    pub(crate) fn frames(&self) -> &Frames {
        &self.frames
    }

    /// Different frames that user pages map.
    pub fn user_frames(&self) -> u64 {
        if !self.frames.has_large() {
            return self.frames.user_count();
        }
        let (mut frames, mut counted) = (0, 0);
        for (_, page) in self.user_pages_by_frame() {
            let start = page.pa.get().max(counted);
            let end = page.end().get();
            if end > start {
                frames += (end - start) / PAGE_SIZE;
                counted = end;
            }
        }
        frames
    }
}
