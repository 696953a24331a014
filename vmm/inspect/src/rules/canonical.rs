//! Every address is where it belongs.

use super::context::{Context, PageAt, shown};
use super::cpus::pages;
use super::evidence::Evidence;
use super::finding::Finding;
use super::rule::{Broken, Clause, Fact, Judge, Reads, Rule, RuleInfo};
use crate::history::History;
use crate::layout::Area;
use heirloom_paging::addr::{PAGE_SIZE, VirtAddr};

pub(super) const CANONICAL: Rule = Rule {
    info: RuleInfo {
        name: "canonical",
        statement: "addresses lie where they belong: kernel mappings in named regions, the kernel image where it was linked, kernel memory in vmalloc, the CPU in kernel text",
        source: "lecture: virtual memory layout (x86_64), 47 bits and 0xffff800000000000; Linux mm.rst",
    },
    untried: "no kernel half",
    clauses: &[
        Clause {
            reads: Reads::KERNEL,
            judge: Judge::History(kernel_half_is_named),
        },
        Clause {
            reads: Reads::KERNEL,
            judge: Judge::KernelPages(image_is_in_place),
        },
        Clause {
            reads: Reads::EVENT,
            judge: Judge::History(event_is_in_place),
        },
    ],
};

/// Every kernel mapping lies in a region that has a name.
fn kernel_half_is_named(context: &Context<'_>, _: &History, evidence: &mut Evidence) {
    for subtree in context.index.kernel_half() {
        let mut areas = context.areas.iter();
        let named = areas.any(|area| area.range.overlaps(&subtree.range));
        evidence.check(named, || {
            let root = context.index.first_of(subtree.groups[0]);
            let top = context.snapshot().mode().depth.root_name();
            Finding {
                whose: Some(context.label(root)),
                place: format!("{top}[{}]", subtree.index),
                address: Some(subtree.range.first),
                expected: "absent: no region of the layout is there".into(),
                found: shown(subtree.entry),
                walks: vec![context.walk(root, subtree.range.first)],
                what: "no region",
                ..Finding::default()
            }
        });
    }
}

/// Each page of the kernel image shows what was loaded there.
fn image_is_in_place(context: &Context<'_>, PageAt { page, .. }: PageAt<'_>) -> Fact {
    let Some(image) = context.image() else {
        return Fact::Other;
    };
    if context.area_of(page.va) != Some(Area::KernelImage) {
        return Fact::Other;
    }
    let loaded = image.iter().find_map(|segment| {
        let offset = segment.offset_of(page.va)?;
        Some(segment.pa.wrapping_add(offset))
    });
    match loaded.filter(|loaded| *loaded != page.pa) {
        None => Fact::Holds,
        Some(loaded) => Fact::Broken(Broken {
            found: Some(format!("{} page at {}", page.size, page.pa)),
            ..Broken::new("another frame", format!("the kernel image, at {loaded}"))
        }),
    }
}

/// What the present event is about.
fn event_is_in_place(context: &Context<'_>, history: &History, evidence: &mut Evidence) {
    let mut address = |what: &str, at: VirtAddr, belongs: bool, expected: &str| {
        evidence.check(belongs, || Finding {
            whose: Some(history.reporting()),
            place: what.to_owned(),
            address: Some(at),
            expected: expected.to_owned(),
            found: format!(
                "{at}, {}",
                context.area_of(at).map_or("no region", Area::name)
            ),
            ..Finding::default()
        });
    };
    for (number, cpu) in context.cpus.iter().enumerate() {
        let mut image = history.truth().image.iter();
        let in_text =
            image.any(|segment| segment.executable && segment.offset_of(cpu.rip).is_some());
        if number == context.reporting {
            address("RIP", cpu.rip, in_text, "an address of kernel text");
        } else if cpu.cpl != 3 && pages(context, cpu) {
            // It may be on its way in or out. (Where ring 3 is, is its own business.)
            let area = history.area(Area::CpuEntryArea);
            let in_text = in_text || area.is_some_and(|area| area.contains(cpu.rip));
            let what = format!("RIP of CPU {number}");
            address(&what, cpu.rip, in_text, "an address of kernel text");
        }
    }
    let present = history.present();
    if let Some((at, pages)) = present.mapped {
        let bytes = pages.saturating_mul(PAGE_SIZE).max(1);
        let last = at.checked_add(bytes - 1);
        let inside = history
            .area(Area::Vmalloc)
            .is_some_and(|area| area.contains(at) && last.is_some_and(|last| area.contains(last)));
        address("kernel memory", at, inside, "inside the vmalloc area");
    }
    if let Some(rip) = present.ring_3_rip {
        // Ring 3 may well have jumped into the kernel half, and died of that.
        let canonical = rip.is_canonical(context.snapshot().mode().depth);
        address("RIP of ring 3", rip, canonical, "a canonical address");
    }
}
