//! Kernel page-table isolation: what ring 3 runs on, and what the kernel does (Linux's
//! Documentation/arch/x86/pti.rst).

use std::collections::HashSet;

use super::Rule;
use crate::addr::{GuestPhys, VirtRange};
use crate::check::evidence::{EntryPlace, Finding, Spaces, Verdict};
use crate::check::exceptions::{CPU_TSS, ESPFIX, GLOBAL_IMAGE, LDT_REMAP};
use crate::check::scene::{Scene, shown, top_place};
use crate::discover::{Kind, Space};
use crate::entry::Entry;
use crate::judge::RuleInfo;
use crate::layout::{Area, area_at, cpu_entry_area};
use crate::level::{Half, PageSize};

use crate::table::Table;

pub(super) const USER_ROOT_MINIMAL: Rule = Rule {
    info: RuleInfo {
        name: "user-root-minimal",
        statement: "of the kernel half, a user root maps the cpu entry area and entry text, and nothing else",
        source: "lecture: a small part of the kernel can not be isolated; Linux pti.rst: user space page tables",
    },
    judge: user_root_minimal,
};

/// Each user root by itself: tables that only one of them has are what this is about.
fn user_root_minimal(scene: &Scene<'_>, verdict: &mut Verdict) {
    let users = || {
        let spaces = scene.live.iter();
        spaces.filter(|space| space.kind == Kind::UserRoot)
    };
    // Kernel halves that are the same entry for entry need one look.
    let mut looked = HashSet::new();
    for space in users() {
        if !looked.insert(space.cluster) {
            continue;
        }
        let members: Vec<_> = users()
            .filter(|other| other.cluster == space.cluster)
            .map(|other| other.address)
            .collect();
        let entry_area = frames_of_cpu_entry_area(scene, space);
        for mapping in scene
            .snapshot
            .leaves(space.root, VirtRange::half(Half::Kernel))
        {
            verdict.checked(1);
            let exception = match area_at(&scene.discovery.layout, scene.snapshot, mapping.va) {
                Some(Area::CpuEntryArea) => continue,
                Some(Area::KernelImage) if !mapping.rights.write && mapping.rights.execute => {
                    continue;
                }
                Some(Area::KernelImage) if !mapping.rights.write => GLOBAL_IMAGE,
                Some(Area::EspFix) => ESPFIX,
                Some(Area::DirectMap | Area::Vmalloc)
                    if mapping.size == PageSize::Size4KiB
                        && !mapping.rights.execute
                        && entry_area.contains(&mapping.pa) =>
                {
                    CPU_TSS
                }
                Some(Area::Ldt) if !mapping.rights.write && !mapping.rights.execute => LDT_REMAP,
                area => {
                    verdict.broken(|| Finding {
                        place: format!("{}[{}]", mapping.size.level(), mapping.index),
                        entry: Some(EntryPlace {
                            level: mapping.size.level(),
                            table: mapping.table,
                            index: mapping.index,
                            entry: mapping.entry,
                        }),
                        range: Some(mapping.range()),
                        area,
                        spaces: Spaces::new(&members, scene.live.len()),
                        expected: "nothing: ring 3 runs on this root".into(),
                        found: format!(
                            "{} page at {}, {}",
                            mapping.size, mapping.pa, mapping.rights
                        ),
                        walks: vec![scene.walk(space.root, mapping.va)],
                    });
                    continue;
                }
            };
            verdict.excepted(exception);
        }
    }
}

/// The 4 KiB pages that the cpu entry area of a root shows.
fn frames_of_cpu_entry_area(scene: &Scene<'_>, space: &Space) -> HashSet<GuestPhys> {
    scene
        .snapshot
        .leaves(space.root, cpu_entry_area(scene.snapshot.mode().depth))
        .filter(|page| page.size == PageSize::Size4KiB)
        .map(|page| page.pa)
        .collect()
}

pub(super) const USER_HALF_NX: Rule = Rule {
    info: RuleInfo {
        name: "user-half-nx",
        statement: "in the kernel root of a pair, every entry of the user half for ring 3 has NX",
        source: "Linux __pti_set_user_pgtbl: a forgotten switch of CR3 on the way to ring 3 must not go unnoticed",
    },
    judge: |scene, verdict| {
        for (kernel, _) in pairs(scene) {
            let Some(table) = scene.snapshot.root_table(kernel.root) else {
                continue;
            };
            for (index, entry) in user_half(table) {
                verdict.checked(1);
                if entry.user() && !entry.no_execute() {
                    verdict
                        .broken(|| top_finding(scene, kernel, table, index, "NX", &shown(entry)));
                }
            }
        }
    },
};

pub(super) const USER_HALVES_MIRRORED: Rule = Rule {
    info: RuleInfo {
        name: "user-halves-mirrored",
        statement: "the two roots of a pair have the same tables in the user half",
        source: "Linux pti_set_user_pgtbl: each top-level entry of the user half is written to both",
    },
    judge: |scene, verdict| {
        for (kernel, user) in pairs(scene) {
            let (Some(ours), Some(theirs)) = (
                scene.snapshot.root_table(kernel.root),
                scene.snapshot.root_table(user.root),
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
                verdict.checked(1);
                let same =
                    users.present() && kernels.present() && kernels.address() == users.address();
                if !same {
                    verdict.broken(|| {
                        let expected = format!("{}, as in {}", shown(kernels), kernel.address);
                        top_finding(scene, user, theirs, index, &expected, &shown(users))
                    });
                }
            }
        }
    },
};

/// Kernel roots with their user roots.
fn pairs<'s>(scene: &'s Scene<'_>) -> impl Iterator<Item = (&'s Space, &'s Space)> {
    scene.live.iter().filter_map(|space| {
        let user = scene.discovery.space_at(space.partner?)?;
        (space.kind != Kind::UserRoot && user.kind == Kind::UserRoot).then_some((*space, user))
    })
}

fn user_half(table: &Table) -> impl Iterator<Item = (u16, Entry)> {
    table
        .entries()
        .filter(|(index, _)| Half::of_index(*index) == Half::User)
}

fn top_finding(
    scene: &Scene<'_>,
    space: &Space,
    table: &Table,
    index: u16,
    expected: &str,
    found: &str,
) -> Finding {
    let range = VirtRange::of_top_entry(index, scene.snapshot.mode().depth);
    let first = scene.snapshot.leaves(space.root, range).next();
    let va = first.map_or(range.first, |page| page.va);
    Finding {
        place: top_place(table.level(), index),
        entry: Some(EntryPlace {
            level: table.level(),
            table: table.pfn(),
            index,
            entry: table.entry(index),
        }),
        range: Some(range),
        area: Some(Area::User),
        spaces: scene.only(space.root),
        expected: expected.to_owned(),
        found: found.to_owned(),
        walks: vec![scene.walk(space.root, va)],
    }
}
