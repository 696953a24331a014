//! Kernel page-table isolation: what ring 3 runs on, and what the kernel does (Linux's
//! Documentation/arch/x86/pti.rst).

use std::collections::{BTreeMap, HashSet};

use super::context::{Context, shown};
use super::evidence::Evidence;
use super::exceptions::{
    CPU_TSS, ESPFIX, Exception, GLOBAL_IMAGE, LDT_REMAP, NO_NX_GUARD, VSYSCALL,
};
use super::finding::{EntryPlace, Finding};
use super::rule::{Clause, Judge, Reads, Rule, RuleInfo};
use crate::discover::{Discovery, Kind, Space};
use crate::layout::{Area, area_at};
use crate::leaves::Mapping;
use crate::table::Table;
use heirloom_paging::addr::{PhysAddr, VirtAddr, VirtRange};
use heirloom_paging::entry::Entry;
use heirloom_paging::level::{Half, PageSize};
use heirloom_paging::rights::Rights;

const NO_PAIR: &str = "no pair of a kernel root and a user root";
const NO_USER_ROOT: &str = "no user root: the kernel is not isolated";

pub(super) const USER_ROOT_MINIMAL: Rule = Rule {
    info: RuleInfo {
        name: "user-root-minimal",
        statement: "of the kernel half, a user root maps the cpu entry area and entry text, and nothing else (of a kernel whose entry area is not known: no large page of the line of all memory)",
        source: "lecture: a small part of the kernel can not be isolated; Linux pti.rst: user space page tables",
    },
    untried: NO_USER_ROOT,
    clauses: &[Clause {
        reads: Reads::EVENT,
        judge: Judge::Found(user_root_minimal),
    }],
};

/// Entries of user roots' kernel halves that are looked at; they have a few dozen pages each.
const MAX_ENTRIES: u32 = 1 << 22;

/// Each user root by itself: tables that only one of them has are what this is about.
fn user_root_minimal(context: &Context<'_>, found: &Discovery, evidence: &mut Evidence) {
    let depth = context.snapshot().mode().depth;
    let is_known = context
        .profile
        .place_of(Area::CpuEntryArea, depth)
        .is_some();
    if !is_known && found.layout.direct_map.is_none() {
        // What ring 3's way into this kernel needs is not known, nor what it cannot need.
        return;
    }
    // Kernel halves that are the same entry for entry need one look.
    let mut clusters: BTreeMap<usize, Vec<&Space>> = BTreeMap::new();
    for space in context
        .judged
        .iter()
        .filter(|space| space.kind == Kind::UserRoot)
    {
        clusters.entry(space.cluster).or_default().push(space);
    }
    let mut entries_left = MAX_ENTRIES;
    for members in clusters.values() {
        let space = members[0];
        let entry_area = frames_of_cpu_entry_area(context, space, &mut entries_left);
        let range = VirtRange::half(Half::Kernel);
        let mut leaves = context
            .snapshot()
            .leaves(space.root, range)
            .limited(entries_left);
        for mapping in leaves.by_ref() {
            evidence.checked(1);
            let allowed = if is_known {
                allowed(context, found, &mapping, &entry_area)
            } else {
                allowed_of_any_kernel(found, &mapping)
            };
            match allowed {
                Allowed::Always => {}
                Allowed::As(exception) => evidence.excepted(exception, mapping.va),
                Allowed::No => evidence.broken(|| leak(context, found, members, &mapping)),
            }
        }
        entries_left = leaves.steps_left();
        if let Some(at) = leaves.stopped_at() {
            evidence.broken(|| Finding {
                expected: "a few pages: ring 3 runs on this root".into(),
                found: "more pages than can be looked at".into(),
                ..finding(context, found, members, at)
            });
        }
    }
}

/// Whether a user root may have a page.
enum Allowed {
    Always,
    As(Exception),
    No,
}

fn allowed(
    context: &Context<'_>,
    found: &Discovery,
    page: &Mapping,
    entry_area: &HashSet<PhysAddr>,
) -> Allowed {
    let Rights {
        write,
        user,
        execute,
    } = page.rights;
    let is_small = page.size == PageSize::Size4KiB;
    match area_at(&found.layout, page.va) {
        Some(Area::CpuEntryArea) => Allowed::Always,
        Some(Area::KernelImage) if !write && execute => Allowed::Always,
        Some(Area::KernelImage) if !write => Allowed::As(GLOBAL_IMAGE),
        Some(Area::KernelImage) if !user => context.early_boot().map_or(Allowed::No, Allowed::As),
        Some(Area::EspFix) => Allowed::As(ESPFIX),
        Some(Area::Vsyscall) if !write => Allowed::As(VSYSCALL),
        Some(Area::Ldt) if is_small && !write && !execute && !user => Allowed::As(LDT_REMAP),
        Some(Area::DirectMap | Area::Vmalloc)
            if is_small && !execute && entry_area.contains(&page.pa) =>
        {
            Allowed::As(CPU_TSS)
        }
        _ => Allowed::No,
    }
}

/// Whether the way into a kernel of which nothing is known may need a page. A CPU's tables and stacks may be seen in
/// the line of all memory; with a large page of that goes what lies beside them.
fn allowed_of_any_kernel(found: &Discovery, page: &Mapping) -> Allowed {
    let map = found.layout.direct_map;
    if map.is_some_and(|map| map.range.contains(page.va)) && page.size != PageSize::Size4KiB {
        Allowed::No
    } else {
        Allowed::Always
    }
}

/// A page that a user root must not have.
fn leak(context: &Context<'_>, found: &Discovery, members: &[&Space], page: &Mapping) -> Finding {
    let level = page.size.level();
    Finding {
        place: context.entry_name(level, page.index),
        entry: Some(EntryPlace {
            level,
            table: page.table,
            index: page.index,
            entry: page.entry,
        }),
        range: Some(page.range()),
        found: format!("{} page at {}, {}", page.size, page.pa, page.rights),
        ..finding(context, found, members, page.va)
    }
}

/// What findings about user roots have in common.
fn finding(context: &Context<'_>, found: &Discovery, members: &[&Space], va: VirtAddr) -> Finding {
    let roots: Vec<PhysAddr> = members.iter().map(|space| space.address).collect();
    Finding {
        whose: Some(members[0].label),
        place: va.to_string(),
        address: Some(va),
        area: area_at(&found.layout, va),
        spaces: context.spaces(&roots),
        expected: "nothing: ring 3 runs on this root".into(),
        found: String::new(),
        walks: vec![context.walk(members[0].root, va)],
        ..Finding::default()
    }
}

/// The 4 KiB pages that the cpu entry area of a root shows.
fn frames_of_cpu_entry_area(
    context: &Context<'_>,
    space: &Space,
    entries_left: &mut u32,
) -> HashSet<PhysAddr> {
    let depth = context.snapshot().mode().depth;
    let Some(area) = context.profile.place_of(Area::CpuEntryArea, depth) else {
        return HashSet::new();
    };
    let mut leaves = context
        .snapshot()
        .leaves(space.root, area)
        .limited(*entries_left);
    let frames = leaves
        .by_ref()
        .filter(|page| page.size == PageSize::Size4KiB)
        .map(|page| page.pa)
        .collect();
    *entries_left = leaves.steps_left();
    frames
}

pub(super) const USER_HALF_NX: Rule = Rule {
    info: RuleInfo {
        name: "user-half-nx",
        statement: "in the kernel root of a pair, every entry of the user half for ring 3 has NX",
        source: "Linux __pti_set_user_pgtbl: a forgotten switch of CR3 on the way to ring 3 must not go unnoticed",
    },
    untried: NO_PAIR,
    clauses: &[Clause {
        reads: Reads::EVENT,
        judge: Judge::Found(user_half_nx),
    }],
};

fn user_half_nx(context: &Context<'_>, found: &Discovery, evidence: &mut Evidence) {
    if !context.uses_nx() {
        return;
    }
    let kernels = || {
        let kernels = pairs(context, found).map(|(kernel, _)| kernel);
        kernels.filter_map(|kernel| Some((kernel, context.snapshot().root_table(kernel.root)?)))
    };
    let is_guarded = |(_, entry): (u16, Entry)| entry.user() && entry.no_execute();
    let has_none = context.excepts(NO_NX_GUARD)
        && !kernels().any(|(_, table)| user_half(table).any(is_guarded));
    for (kernel, table) in kernels() {
        for (index, entry) in user_half(table) {
            evidence.checked(1);
            if !entry.user() || entry.no_execute() {
                continue;
            }
            if has_none {
                evidence.excepted(NO_NX_GUARD, context.address_below(index));
                continue;
            }
            evidence.broken(|| top_finding(context, kernel, table, index, "NX", &shown(entry)));
        }
    }
}

pub(super) const USER_HALVES_MIRRORED: Rule = Rule {
    info: RuleInfo {
        name: "user-halves-mirrored",
        statement: "the two roots of a pair have the same tables in the user half",
        source: "Linux pti_set_user_pgtbl: each top-level entry of the user half is written to both",
    },
    untried: NO_PAIR,
    clauses: &[Clause {
        reads: Reads::EVENT,
        judge: Judge::Found(user_halves_mirrored),
    }],
};

fn user_halves_mirrored(context: &Context<'_>, found: &Discovery, evidence: &mut Evidence) {
    for (kernel, user) in pairs(context, found) {
        let (Some(ours), Some(theirs)) = (
            context.snapshot().root_table(kernel.root),
            context.snapshot().root_table(user.root),
        ) else {
            continue;
        };
        for index in Half::User.indices() {
            let (kernels, users) = (ours.entry(index), theirs.entry(index));
            // What the kernel maps there for itself is not for ring 3.
            let is_for_ring_3 = kernels.present() && kernels.user();
            if !is_for_ring_3 && !users.present() {
                continue;
            }
            evidence.checked(1);
            let same = users.present() && kernels.present() && kernels.address() == users.address();
            if !same {
                evidence.broken(|| {
                    let expected = format!("{}, as in {}", shown(kernels), kernel.address);
                    top_finding(context, user, theirs, index, &expected, &shown(users))
                });
            }
        }
    }
}

/// Kernel roots with their user roots.
fn pairs<'a>(
    context: &Context<'a>,
    found: &'a Discovery,
) -> impl Iterator<Item = (&'a Space, &'a Space)> {
    context.judged.iter().filter_map(|space| {
        let user = found.space_at(space.partner?)?;
        (space.kind != Kind::UserRoot && user.kind == Kind::UserRoot).then_some((*space, user))
    })
}

fn user_half(table: &Table) -> impl Iterator<Item = (u16, Entry)> {
    table
        .entries()
        .filter(|(index, _)| Half::of_index(*index) == Half::User)
}

fn top_finding(
    context: &Context<'_>,
    space: &Space,
    table: &Table,
    index: u16,
    expected: &str,
    found: &str,
) -> Finding {
    let range = VirtRange::of_top_entry(index, context.snapshot().mode().depth);
    let first = context.snapshot().leaves(space.root, range).next();
    let va = first.map_or(range.first, |page| page.va);
    Finding {
        whose: Some(space.label),
        place: context.entry_name(table.level(), index),
        address: Some(va),
        entry: Some(EntryPlace {
            level: table.level(),
            table: table.pfn(),
            index,
            entry: table.entry(index),
        }),
        range: Some(range),
        area: Some(Area::User),
        spaces: context.only(space.root),
        expected: expected.to_owned(),
        found: found.to_owned(),
        walks: vec![context.walk(space.root, va)],
        ..Finding::default()
    }
}
