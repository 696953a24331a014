//! What the CPU and the layout demand of any page table and any address.

use heirloom_abi::layout::Region;

use super::shown;
use crate::addr::GuestVirt;
use crate::entry::Decoded;
use crate::judge::event::Claim;
use crate::judge::finding::{Evidence, Finding};
use crate::judge::rule::{Moment, Rule, RuleInfo};
use crate::level::Half;
use crate::snapshot::RootLabel;

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
                    evidence.broken(|| Finding {
                        whose: None,
                        place: format!("{}[{index}] in frame {}", table.level(), table.pfn()),
                        address: None,
                        expected: "reserved bits clear".into(),
                        found: format!("{}; reserved: {bits}", shown(entry)),
                        walks: Vec::new(),
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
            statement: "addresses lie where they belong: kernel mappings in named regions, kernel memory in vmalloc, the CPU in kernel text",
            source: "lecture: virtual memory layout (x86_64), 47 bits and 0xffff800000000000; Linux mm.rst",
        }
    }

    fn judge(&mut self, moment: &Moment<'_>, evidence: &mut Evidence) {
        for subtree in moment.kernel_half {
            let named = Region::of_pgd_entry(usize::from(subtree.index)).is_some();
            evidence.check(named, || Finding {
                whose: Some(moment.label(subtree.roots[0])),
                place: format!("PGD[{}]", subtree.index),
                address: Some(subtree.range.first),
                expected: "absent: no region of the layout is there".into(),
                found: shown(subtree.entry),
                walks: Vec::new(),
            });
        }
        let mut address = |what: &str, at: GuestVirt, belongs: bool, expected: &str| {
            evidence.check(belongs, || Finding {
                whose: Some(moment.told.label()),
                place: what.to_owned(),
                address: Some(at),
                expected: expected.to_owned(),
                found: format!("{at}, {}", at.region().map_or("no region", Region::name)),
                walks: Vec::new(),
            });
        };
        let rip = moment.cpu.rip;
        let in_text = moment.world.truth().image.iter().any(|segment| {
            let offset = rip.get().wrapping_sub(segment.va.get());
            segment.executable && offset < segment.bytes
        });
        address("RIP", rip, in_text, "an address of kernel text");
        match moment.told.claim {
            Claim::KernelMapped {
                address: at, pages, ..
            } => {
                let bytes = pages.saturating_mul(crate::addr::PAGE_SIZE);
                let last = at.wrapping_add(bytes.saturating_sub(1));
                let inside = [at, last]
                    .iter()
                    .all(|at| at.region() == Some(Region::Vmalloc));
                address(
                    "kernel memory",
                    at,
                    inside && last >= at,
                    "inside the vmalloc area",
                );
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

/// The CPU uses the tables that it should.
pub(super) struct Cr3Known;

impl Rule for Cr3Known {
    fn info(&self) -> RuleInfo {
        RuleInfo {
            name: "cr3-known",
            statement: "CR3 holds the root of the process that the kernel says is running, and no other",
            source: "SDM vol. 3A, 4.5: CR3 locates the PML4 table",
        }
    }

    fn judge(&mut self, moment: &Moment<'_>, evidence: &mut Evidence) {
        let root = moment.cpu.cr3.root();
        let expected = moment.world.root_of(moment.told.pid);
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
        let kernel_has_user_half = moment
            .snapshot
            .root_of(RootLabel::Kernel)
            .filter(|kernel| kernel.address == root)
            .and_then(|kernel| moment.snapshot.root_table(kernel.id))
            .is_some_and(|top| {
                top.present()
                    .iter()
                    .any(|i| Half::of_index(i) == Half::User)
            });
        evidence.check(moment.cpu.cpl == 0 && !kernel_has_user_half, || Finding {
            whose: Some(moment.told.label()),
            place: "privilege level".into(),
            address: None,
            expected: "ring 0 at the doorbell, without a user half in the kernel's own root".into(),
            found: format!("ring {}", moment.cpu.cpl),
            walks: Vec::new(),
        });
    }
}
