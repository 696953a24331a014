//! What the CPU and the layout demand of any page table and any address.

use heirloom_abi::layout::Region;

use super::shown;
use crate::judge::event::Claim;
use crate::judge::finding::{Evidence, Finding};
use crate::judge::rule::{Moment, Rule, RuleInfo};
use crate::region::regions_of_top_entry;
use crate::snapshot::RootLabel;
use heirloom_paging::addr::{PAGE_SIZE, VirtAddr};
use heirloom_paging::entry::Decoded;

/// No entry makes the CPU fault for a reserved bit.
pub(super) struct ReservedBitsClear;

impl Rule for ReservedBitsClear {
    fn info(&self) -> RuleInfo {
        RuleInfo {
            name: "reserved-bits-clear",
            statement: "no present entry of any table has a reserved bit set",
            source: "SDM vol. 3A, 4.5 and 4.7 (RSVD); APM vol. 2, 5.3",
        }
    }

    fn judge(&mut self, moment: &Moment<'_>, evidence: &mut Evidence) {
        for table in moment.snapshot.tables() {
            evidence.checked(table.present().len() as u64);
            if table.is_sound() {
                continue;
            }
            for (index, entry) in table.entries() {
                if let Decoded::Reserved { bits } = table.decode(index) {
                    evidence.broken(|| {
                        let this = (table.pfn(), table.level());
                        let place = moment.survey.place_of(moment.snapshot, this, index);
                        Finding {
                            whose: place.map(|(root, _)| moment.label(root)),
                            place: format!("{}[{index}] in frame {}", table.level(), table.pfn()),
                            address: place.map(|(_, va)| va),
                            expected: "reserved bits clear".into(),
                            found: format!("{}; reserved: {bits}", shown(entry)),
                            walks: place
                                .into_iter()
                                .map(|(root, va)| moment.walk(root, va))
                                .collect(),
                        }
                    });
                }
            }
        }
    }
}

/// Every address is where it belongs.
pub(super) struct Canonical;

impl Rule for Canonical {
    fn info(&self) -> RuleInfo {
        RuleInfo {
            name: "canonical",
            statement: "addresses lie where they belong: kernel mappings in named regions, the kernel image where it was linked, kernel memory in vmalloc, the CPU in kernel text",
            source: "lecture: virtual memory layout (x86_64), 47 bits and 0xffff800000000000; Linux mm.rst",
        }
    }

    fn judge(&mut self, moment: &Moment<'_>, evidence: &mut Evidence) {
        kernel_half_is_named(moment, evidence);
        image_is_in_place(moment, evidence);
        let mut address = |what: &str, at: VirtAddr, belongs: bool, expected: &str| {
            evidence.check(belongs, || Finding {
                whose: Some(moment.told.label()),
                place: what.to_owned(),
                address: Some(at),
                expected: expected.to_owned(),
                found: format!(
                    "{at}, {}",
                    crate::region::region_of(at).map_or("no region", Region::name)
                ),
                walks: Vec::new(),
            });
        };
        let rip = moment.cpu.rip;
        let mut image = moment.world.truth().image.iter();
        let in_text = image.any(|segment| segment.executable && segment.offset_of(rip).is_some());
        address("RIP", rip, in_text, "an address of kernel text");
        match moment.told.claim {
            Claim::KernelMapped {
                address: at, pages, ..
            } => {
                let bytes = pages.saturating_mul(PAGE_SIZE).max(1);
                let last = at.checked_add(bytes - 1);
                let area = crate::region::range_of_region(Region::Vmalloc);
                let inside = area.contains(at) && last.is_some_and(|last| area.contains(last));
                address("kernel memory", at, inside, "inside the vmalloc area");
            }
            Claim::ProcessKilled { rip, .. } => {
                // Ring 3 may well have jumped into the kernel half, and died of that.
                let canonical = rip.is_canonical(moment.snapshot.mode().depth);
                address("RIP of ring 3", rip, canonical, "a canonical address");
            }
            _ => {}
        }
    }
}

/// Every kernel mapping lies in a region that has a name.
fn kernel_half_is_named(moment: &Moment<'_>, evidence: &mut Evidence) {
    let depth = moment.snapshot.mode().depth;
    for subtree in &moment.survey.kernel_half {
        let named = regions_of_top_entry(subtree.index, depth).next().is_some();
        let whose = moment.label(subtree.roots[0]);
        evidence.check(named, || Finding {
            whose: Some(whose),
            place: format!("PGD[{}]", subtree.index),
            address: Some(subtree.range.first),
            expected: "absent: no region of the layout is there".into(),
            found: shown(subtree.entry),
            walks: vec![moment.walk(subtree.roots[0], subtree.range.first)],
        });
    }
}

/// Each page of the kernel image shows what the host loaded there.
fn image_is_in_place(moment: &Moment<'_>, evidence: &mut Evidence) {
    let image = &moment.world.truth().image;
    let area = crate::region::range_of_region(Region::KernelImage);
    let pages = moment.survey.kernel_pages.iter();
    for page in pages.filter(|page| area.contains(page.va)) {
        let loaded = image.iter().find_map(|segment| {
            let offset = segment.offset_of(page.va)?;
            Some(segment.pa.wrapping_add(offset))
        });
        evidence.check(loaded.is_none_or(|loaded| loaded == page.pa), || Finding {
            whose: Some(moment.label(page.root)),
            place: format!("kernel image at {}", page.va),
            address: Some(page.va),
            expected: loaded.map_or_else(String::new, |at| format!("the kernel image, at {at}")),
            found: format!("{} page at {}", page.size, page.pa),
            walks: vec![moment.walk(page.root, page.va)],
        });
    }
}

/// The CPU uses the tables that it should.
pub(super) struct Cr3Known;

impl Rule for Cr3Known {
    fn info(&self) -> RuleInfo {
        RuleInfo {
            name: "cr3-known",
            statement: "CR3 holds the root of the process that the kernel says is running, or of the kernel where it has its own, and no other",
            source: "SDM vol. 3A, 4.5: CR3 locates the PML4 table",
        }
    }

    fn judge(&mut self, moment: &Moment<'_>, evidence: &mut Evidence) {
        let root = moment.cpu.cr3.root();
        let expected = match moment.world.kernel_view(moment.told) {
            RootLabel::Kernel => moment.world.kernel_root(),
            _ => moment.world.root_of(moment.told.pid),
        };
        evidence.check(Some(root) == expected, || {
            let owner = moment
                .snapshot
                .roots()
                .iter()
                .find(|known| known.address == root);
            let owner = match owner {
                Some(owner) => owner.label.to_string(),
                None => "nobody that is known".into(),
            };
            Finding {
                whose: Some(moment.told.label()),
                place: "CR3".into(),
                address: None,
                expected: match expected {
                    Some(expected) => format!("{expected}, the root of {}", moment.told.label()),
                    None => format!("a root: {} has none", moment.told.label()),
                },
                found: format!("{root}, the root of {owner}"),
                walks: Vec::new(),
            }
        });
        evidence.check(moment.cpu.cpl == 0, || Finding {
            whose: Some(moment.told.label()),
            place: "privilege level".into(),
            address: None,
            expected: "ring 0 at the doorbell".into(),
            found: format!("ring {}", moment.cpu.cpl),
            walks: Vec::new(),
        });
    }
}
