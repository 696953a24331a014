//! Judging: rules over snapshots and what the guest claimed, and the evidence for their verdicts.
//!
//! A [`Judge`] is shown one [`Moment`] after the other: an event of the guest, the CPU's registers,
//! and the tables of every address space while the guest stands still. It keeps a [`World`], what
//! must be so if the guest tells the truth, and holds every rule against CR3 and the tables. The
//! guest's word alone never makes a rule hold.

mod event;
mod finding;
mod rule;
pub mod rules;
mod world;

pub use event::{Claim, Counters, MalformedEvent, Told};
pub use finding::{Finding, Findings, Verdict};
pub use rule::{Moment, Rule, RuleInfo};
pub use world::{
    Allocation, Expectation, GroundTruth, Image, Life, PhysRange, ProcessRecord, World,
};

use std::sync::Arc;

use crate::addr::{GuestVirt, VirtRange};
use crate::level::Half;
use crate::mode::CpuState;
use crate::snapshot::{RootLabel, Snapshot};
use crate::table::Table;
use crate::{GuestPhys, PhysicalMemory};

/// Pages of one process that are looked at: 1 GiB in 4 KiB pages. Tables that point to themselves can
/// claim far more with a single frame.
const MOST_USER_PAGES: usize = 1 << 18;

/// Holds the rules against one run of a guest.
pub struct Judge {
    world: World,
    rules: Vec<Box<dyn Rule>>,
    findings: Findings,
    previous: Option<Snapshot>,
    /// The kernel half's tables at the event before.
    kernel_tables: Vec<Arc<Table>>,
}

impl Judge {
    /// A judge with all rules for our own guest.
    pub fn new(truth: GroundTruth, expectation: Expectation) -> Judge {
        let rules = rules::all();
        let findings = Findings::new(rules.iter().map(|rule| rule.info()));
        Judge {
            world: World::new(truth, expectation),
            rules,
            findings,
            previous: None,
            kernel_tables: Vec::new(),
        }
    }

    /// What is known of the guest.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The last moment's tables.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.previous.as_ref()
    }

    /// Takes in what the guest told. The roots that must be captured for [`Judge::observe`] are
    /// those of the world afterwards.
    pub fn hear(&mut self, told: &Told) {
        self.world.hear(told);
    }

    /// The address spaces that exist, as far as the guest told.
    pub fn roots(&self) -> Vec<(RootLabel, GuestPhys)> {
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
        let kernel_half = snapshot.subtrees(Half::Kernel);
        let kernel_tables = rule::kernel_tables(snapshot, &kernel_half);
        let kernel_unchanged = kernel_tables.len() == self.kernel_tables.len()
            && kernel_tables
                .iter()
                .zip(&self.kernel_tables)
                .all(|(placed, known)| Arc::ptr_eq(placed.table, known));
        let user_pages: Vec<_> = snapshot
            .roots()
            .iter()
            .flat_map(|root| {
                let pages = snapshot.leaves(root.id, VirtRange::half(Half::User));
                pages.take(MOST_USER_PAGES).map(|page| (root.id, page))
            })
            .collect();
        let table_frames = snapshot.tables().map(|table| table.pfn()).collect();
        let moment = Moment {
            told,
            cpu,
            snapshot,
            kernel_half: &kernel_half,
            kernel_tables: &kernel_tables,
            kernel_unchanged,
            user_pages: &user_pages,
            table_frames: &table_frames,
            previous: self.previous.as_ref(),
            world: &self.world,
            memory_value: value_in_memory(told, snapshot, memory),
        };
        for (number, rule) in self.rules.iter_mut().enumerate() {
            self.findings.of_rule(number, told.sequence, |evidence| {
                rule.judge(&moment, evidence);
            });
        }
        self.kernel_tables = kernel_tables
            .iter()
            .map(|placed| Arc::clone(placed.table))
            .collect();
        self.previous = Some(snapshot.clone());
    }

    /// What each rule found so far.
    pub fn verdicts(&self) -> &[Verdict] {
        self.findings.verdicts()
    }

    /// Whether every rule holds and at least one moment was judged.
    pub fn all_hold(&self) -> bool {
        self.previous.is_some()
            && self
                .verdicts()
                .iter()
                .all(|verdict| verdict.violations == 0)
    }
}

/// What memory holds where the kernel says it read or wrote, found through the tables of the process
/// in whose address space it did.
fn value_in_memory<M: PhysicalMemory + ?Sized>(
    told: &Told,
    snapshot: &Snapshot,
    memory: &M,
) -> Option<u64> {
    let Claim::KernelAccess { address, .. } = told.claim else {
        return None;
    };
    let root = snapshot.root_of(told.label())?;
    let walk = snapshot.translate(root.id, GuestVirt::new(address));
    memory.read_u64(walk.translation()?.pa).ok()
}
