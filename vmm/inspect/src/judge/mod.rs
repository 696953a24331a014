//! Judging: rules over snapshots and what the guest claimed, and the evidence for their verdicts.
//!
//! A [`Judge`] is shown one [`Moment`] after the other: an event of the guest, the CPU's registers,
//! and the tables of every address space while the guest stands still. It keeps a [`World`], what
//! must be so if the guest tells the truth, and holds every rule against CR3 and the tables. The
//! guest's word alone never makes a rule hold.

mod describe;
mod event;
mod finding;
mod kernel_memory;
mod rule;
pub mod rules;
mod survey;
mod surveyor;
mod truth;
mod world;

pub use describe::describe;
pub use event::{Claim, Counters, MalformedEvent, Told};
pub use finding::{Evidence, Finding, Findings, MOST_KEPT, SeenFinding, Verdict};
pub use kernel_memory::Allocation;
pub use rule::{Moment, Rule, RuleInfo};
pub use survey::{Page, Place, Survey, Twice};
pub use truth::{Expectation, GroundTruth, Image, Sharing};
pub use world::{Life, ProcessRecord, World};

use crate::snapshot::{RootLabel, Snapshot};
use crate::{PhysAddr, PhysicalMemory};
use heirloom_paging::addr::VirtAddr;
use heirloom_paging::mode::CpuState;
use surveyor::Surveyor;

/// Holds the rules against one run of a guest.
pub struct Judge {
    world: World,
    rules: Vec<Box<dyn Rule>>,
    findings: Findings,
    surveyor: Surveyor,
    last: Option<Snapshot>,
}

impl Judge {
    /// A judge with all rules for our own guest.
    pub fn new(truth: GroundTruth, expectation: Expectation) -> Judge {
        let rules = rules::all(expectation.sharing());
        let findings = Findings::new(rules.iter().map(|rule| rule.info()));
        Judge {
            world: World::new(truth, expectation),
            rules,
            findings,
            surveyor: Surveyor::default(),
            last: None,
        }
    }

    /// What is known of the guest.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The last moment's tables.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.last.as_ref()
    }

    /// Takes in what the guest told. The roots that must be captured for [`Judge::observe`] are
    /// those of the world afterwards.
    pub fn hear(&mut self, told: &Told) {
        self.world.hear(told);
    }

    /// The address spaces that exist, as far as the guest told.
    pub fn roots(&self) -> Vec<(RootLabel, PhysAddr)> {
        self.world.roots()
    }

    /// Holds every rule against the moment of the event that was heard last.
    pub fn observe<M: PhysicalMemory + ?Sized>(
        &mut self,
        told: &Told,
        cpu: &CpuState,
        snapshot: &Snapshot,
        memory: &M,
    ) {
        self.world.witness(told, snapshot);
        let survey = self.surveyor.survey(snapshot);
        let moment = Moment {
            told,
            cpu,
            snapshot,
            survey: &survey,
            world: &self.world,
            memory_value: self.accessed_value(told, snapshot, memory),
        };
        self.findings.next_moment();
        for (number, rule) in self.rules.iter_mut().enumerate() {
            self.findings.of_rule(number, told.sequence, |evidence| {
                rule.judge(&moment, evidence);
            });
        }
        self.last = Some(snapshot.clone());
    }

    /// For an access to kernel memory: what `memory` holds there, found through the tables of the
    /// address space that the kernel did it in. It is all that judging reads of memory beside tables.
    pub fn accessed_value<M: PhysicalMemory + ?Sized>(
        &self,
        told: &Told,
        snapshot: &Snapshot,
        memory: &M,
    ) -> Option<u64> {
        value_in_memory(told, self.world.kernel_view(told), snapshot, memory)
    }

    /// What each rule found so far.
    pub fn verdicts(&self) -> &[Verdict] {
        self.findings.verdicts()
    }

    /// Whether every rule holds and at least one moment was judged.
    pub fn all_hold(&self) -> bool {
        self.last.is_some()
            && self
                .verdicts()
                .iter()
                .all(|verdict| verdict.violations == 0)
    }
}

/// What memory holds where the kernel says it read or wrote 8 bytes, found through the tables of the
/// address space that it did it in. The bytes may lie in two pages.
fn value_in_memory<M: PhysicalMemory + ?Sized>(
    told: &Told,
    view: RootLabel,
    snapshot: &Snapshot,
    memory: &M,
) -> Option<u64> {
    let Claim::KernelAccess { address, .. } = told.claim else {
        return None;
    };
    let root = snapshot.root_of(view)?;
    let mut bytes = [0; 8];
    for (offset, byte) in (0..).zip(&mut bytes) {
        let va = VirtAddr::new(address).checked_add(offset)?;
        let walk = snapshot.translate(root.id, va);
        let at = walk.translation()?.pa;
        memory.read_bytes(at, std::slice::from_mut(byte)).ok()?;
    }
    Some(u64::from_le_bytes(bytes))
}
