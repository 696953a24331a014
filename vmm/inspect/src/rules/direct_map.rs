//! "Direct map virtual address maps the whole physical memory": all of it, and nothing else.

use std::collections::HashMap;

use super::context::{Context, PageAt, shown_end};
use super::evidence::Evidence;
use super::exceptions::{BEYOND_RAM, ISA_HOLE};
use super::finding::Finding;
use super::rule::{Broken, Clause, Fact, Judge, Reads, Rule, RuleInfo};
use crate::history::{History, Sharing};
use crate::index::GroupId;
use crate::layout::Area;
use crate::leaves::Leaves;
use crate::snapshot::{RootId, RootLabel};
use heirloom_paging::addr::{PAGE_SIZE, PhysAddr, VirtAddr, VirtRange};
use heirloom_paging::level::PageSize;

/// 640 KiB to 1 MiB.
const ISA: std::ops::Range<u64> = 0xa_0000..0x10_0000;

/// Every frame of RAM is at its place in the direct map. Address spaces that have the same entries for it
/// are judged as one, and a finding names the first of them.
pub(super) const DIRECT_MAP_COMPLETE: Rule = Rule {
    info: RuleInfo {
        name: "direct-map-complete",
        statement: "every frame of RAM is mapped at direct map + its address, wherever the kernel runs",
        source: "lecture: every PFN has a direct mapped kernel virtual address; Linux mm.rst",
    },
    untried: "no direct map",
    clauses: &[Clause {
        reads: Reads::KERNEL,
        judge: Judge::History(complete),
    }],
};

fn complete(context: &Context<'_>, history: &History, evidence: &mut Evidence) {
    let Some(area) = history.area(Area::DirectMap) else {
        return;
    };
    let map = Map {
        context,
        base: area.first,
    };
    if history.sharing() == Sharing::EntryAreaOnly {
        // The kernel alone has a direct map; that nobody else has is another rule.
        if let Some(kernel) = context.root_of(RootLabel::Kernel) {
            map.shows_ram(area, kernel.id, history, evidence, |evidence, frames| {
                evidence.checked(frames);
                1
            });
        }
        return;
    }
    for groups in groups_by_direct_map(context, area) {
        let root = context.index.first_of(groups[0]);
        let members = context.index.member_count(&groups);
        let goes_on = map.shows_ram(area, root, history, evidence, |evidence, frames| {
            for group in &groups {
                evidence.checked_each(*group, frames);
            }
            members
        });
        if !goes_on {
            return;
        }
    }
}

/// The direct map of an address space.
struct Map<'a> {
    context: &'a Context<'a>,
    base: VirtAddr,
}

impl Map<'_> {
    /// Looks for all RAM in the direct map of `root`. `count` counts the frames of a range of RAM, and
    /// says for how many address spaces the answer is. Whether there is more that may be looked at.
    fn shows_ram(
        &self,
        area: VirtRange,
        root: RootId,
        history: &History,
        evidence: &mut Evidence,
        count: impl Fn(&mut Evidence, u64) -> u64,
    ) -> bool {
        let mut pages = self.context.snapshot().leaves(root, area).peekable();
        for ram in &history.truth().ram {
            let members = count(evidence, ram.frames());
            let mut rest = ram.whole_frames();
            while !rest.is_empty() {
                let (step, right) = self.look(&mut pages, &rest);
                if !evidence.may_walk(1) {
                    return false;
                }
                if !right {
                    let frames = (step - rest.start) / PAGE_SIZE * members;
                    evidence.broken_at(frames, || self.missing(root, rest.start));
                }
                rest.start = step;
            }
        }
        true
    }

    /// Where the direct map shows physical address `physical`.
    fn place_of(&self, physical: u64) -> VirtAddr {
        self.base.wrapping_add(physical)
    }

    /// Looks at the start of `rest`, the RAM that is still to be found: how far there is one answer, and
    /// whether it is that the RAM is in its place.
    fn look(
        &self,
        pages: &mut std::iter::Peekable<Leaves<'_>>,
        rest: &std::ops::Range<u64>,
    ) -> (u64, bool) {
        let va = self.place_of(rest.start);
        while pages.next_if(|page| page.range().last < va).is_some() {}
        let Some(page) = pages.peek() else {
            return (rest.end, false);
        };
        let shown = |va: VirtAddr| va.get() - self.base.get();
        if page.va > va {
            return (shown(page.va).min(rest.end), false);
        }
        let right = self.place_of(page.pa.get()) == page.va;
        (
            shown(page.range().last).saturating_add(1).min(rest.end),
            right,
        )
    }

    fn missing(&self, root: RootId, physical: u64) -> Finding {
        let va = self.place_of(physical);
        let (label, walk) = self.context.walk(root, va);
        Finding {
            whose: Some(label),
            place: format!("frame {}", PhysAddr::new(physical).pfn()),
            address: Some(va),
            expected: "this frame of RAM".into(),
            found: shown_end(&walk),
            walks: vec![(label, walk)],
            what: "missing",
            ..Finding::default()
        }
    }
}

/// The groups of address spaces, those together that have the same entries for the direct map.
fn groups_by_direct_map(context: &Context<'_>, area: VirtRange) -> Vec<Vec<GroupId>> {
    let top = context.snapshot().mode().depth.top();
    let (first, last) = (area.first.index(top), area.last.index(top));
    let mut classes: Vec<Vec<GroupId>> = Vec::new();
    let mut known: HashMap<Vec<u64>, usize> = HashMap::new();
    for (id, group) in context.index.groups() {
        let entries = (first..=last).map(|index| group.entry(index));
        let key = entries
            .map(|entry| if entry.present() { entry.get() } else { 0 })
            .collect();
        let class = *known.entry(key).or_insert(classes.len());
        match classes.get_mut(class) {
            Some(groups) => groups.push(id),
            None => classes.push(vec![id]),
        }
    }
    classes
}

/// The direct map shows RAM and nothing else, each frame at its own place.
pub(super) const DIRECT_MAP_EXACT: Rule = Rule {
    info: RuleInfo {
        name: "direct-map-exact",
        statement: "the direct map maps RAM only, each address to its own frame, and, where kernel text is known, nothing of it is executable",
        source: "lecture: every PFN has a direct mapped kernel virtual address; Linux mm.rst: direct mapping of all physical memory",
    },
    untried: "no direct map",
    clauses: &[Clause {
        reads: Reads::KERNEL,
        judge: Judge::KernelPages(exact),
    }],
};

fn exact(context: &Context<'_>, PageAt { page, .. }: PageAt<'_>) -> Fact {
    let Some((base, range)) = context.direct_map() else {
        return Fact::Other;
    };
    if !range.contains(page.va) {
        return Fact::Other;
    }
    let own = PhysAddr::new(page.va.get().wrapping_sub(base.get()));
    if page.pa != own {
        let expected = format!("its own frame, at {own}");
        return Fact::Broken(Broken::new("another's frame", expected));
    }
    if !context.is_ram(page.pa, page.size.bytes()) {
        let all_isa = ISA.contains(&page.pa.get()) && page.end().get() <= ISA.end;
        let is_large = page.size != PageSize::Size4KiB;
        return if all_isa && context.excepts(ISA_HOLE) {
            Fact::Excepted(ISA_HOLE)
        } else if is_large && context.found.is_some() {
            // Large ones reach past RAM and over holes on many kernels: a note says which.
            Fact::Holds
        } else if context.excepts(BEYOND_RAM) {
            Fact::Excepted(BEYOND_RAM)
        } else {
            Fact::Broken(Broken::new("no RAM", "nothing: there is no RAM"))
        };
    }
    // Linux executes there to start CPUs; a kernel whose text is known has no such need.
    if page.rights.execute && context.image().is_some() {
        return Fact::Broken(Broken::new("executable", "no execute"));
    }
    Fact::Holds
}
