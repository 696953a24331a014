//! Judging our own guest: what it tells, held against CR3 and its tables.
//!
//! A [`Judge`] hears one event of the guest after the other and sees the CPU's registers and the tables
//! of every address space while the guest stands still. It keeps a [`World`], what must be so if the guest
//! tells the truth, and holds every rule against it. The guest's word alone never makes a rule hold.

mod accounting;
mod claims;
mod describe;
mod event;
mod model;

pub use describe::describe;
pub use event::{Claim, Counters, MalformedEvent, Told};
pub use model::{Expectation, World, areas};

pub use crate::history::{Allocation, GroundTruth, Image, Life, ProcessRecord, Sharing};
pub use crate::rules::{Finding, MAX_FINDINGS, RuleInfo, Seen, Verdict};

use crate::index::{Scope, TableIndex};
use crate::layout::Area;
use crate::rules::{Context, Examination, RuleSet, WITH_HISTORY};
use crate::snapshot::{RootLabel, Snapshot};
use crate::{PhysAddr, PhysicalMemory};
use heirloom_paging::mode::CpuState;

/// What the rules over claims are held against: the present event, as it was told.
struct Event {
    told: Told,
    expectation: Expectation,
    /// The counters of the boot event.
    at_boot: Option<Counters>,
}

/// Holds the rules against one run of a guest.
pub struct Judge {
    world: World,
    examination: Examination,
    index: Option<TableIndex>,
    /// The last event that was observed, with the CPU that told it.
    last: Option<(Event, CpuState)>,
}

/// All rules that a guest is held to, in the order in which they are shown.
fn rules(sharing: Sharing) -> RuleSet {
    let rules = RuleSet::new(WITH_HISTORY)
        .with_before("no-dangling-table", claims::CLAIMS_MATCH_TABLES)
        .with_before("no-dangling-table", accounting::FRAMES_RELEASED);
    match sharing {
        Sharing::EntryAreaOnly => rules,
        _ => rules.without("user-root-isolated"),
    }
}

impl Judge {
    /// A judge with all rules for our own guest.
    pub fn new(truth: GroundTruth, expectation: Expectation) -> Judge {
        Judge {
            world: World::new(truth, expectation),
            examination: Examination::new(&rules(expectation.sharing())),
            index: None,
            last: None,
        }
    }

    /// What is known of the guest.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The last moment's tables.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.index.as_ref().map(TableIndex::snapshot)
    }

    /// Takes in what the guest told. The roots that must be captured for [`Judge::observe`] are
    /// those of the world afterwards.
    pub fn hear(&mut self, told: &Told) {
        self.world.hear(told);
    }

    /// The address spaces that exist, as far as the guest told.
    pub fn roots(&self) -> Vec<(RootLabel, PhysAddr)> {
        self.world.roots().to_vec()
    }

    /// Holds every rule against the moment of the event that was heard last.
    pub fn observe<M: PhysicalMemory + ?Sized>(
        &mut self,
        told: &Told,
        cpu: &CpuState,
        snapshot: &Snapshot,
        memory: &M,
    ) {
        self.world.witness(snapshot, memory);
        let history = self.world.history();
        match &mut self.index {
            Some(index) => index.update(snapshot),
            None => {
                let scope = Scope {
                    ram: history.truth().ram.clone(),
                    dynamic: history.area(Area::Vmalloc),
                    kernel_has_own_root: true,
                };
                self.index = Some(TableIndex::new(snapshot, scope));
            }
        }
        self.last = Some((
            Event {
                told: told.clone(),
                expectation: self.world.expectation(),
                at_boot: self.world.counters_at_boot().copied(),
            },
            *cpu,
        ));
        if let Some(context) = context(&self.world, self.index.as_ref(), self.last.as_ref()) {
            self.examination.event(&context, told.sequence);
        }
    }

    /// For an access to kernel memory: what `memory` holds there, found through the tables of the
    /// address space that the kernel did it in. It is all that judging reads of memory beside tables.
    pub fn accessed_value<M: PhysicalMemory + ?Sized>(
        &self,
        _told: &Told,
        snapshot: &Snapshot,
        memory: &M,
    ) -> Option<u64> {
        self.world.history().in_memory(snapshot, memory)
    }

    /// What each rule found so far.
    pub fn verdicts(&self) -> &[Verdict] {
        self.examination.verdicts()
    }

    /// Whether every rule holds and at least one moment was judged.
    pub fn all_hold(&self) -> bool {
        let mut verdicts = self.verdicts().iter();
        self.index.is_some() && verdicts.all(|verdict| !verdict.is_broken())
    }

    /// Whether the last moment comes out the same where nothing is remembered of those before. For tests.
    ///
    /// # Errors
    /// The first difference, in words.
    pub fn verify(&self) -> Result<(), String> {
        match context(&self.world, self.index.as_ref(), self.last.as_ref()) {
            Some(context) => self.examination.verify(&context),
            None => Ok(()),
        }
    }
}

/// What the rules are held against; `None` before the first moment.
fn context<'a>(
    world: &'a World,
    index: Option<&'a TableIndex>,
    last: Option<&'a (Event, CpuState)>,
) -> Option<Context<'a>> {
    let (event, cpu) = last?;
    let history = world.history();
    Some(Context {
        cpus: std::slice::from_ref(cpu),
        areas: history.areas(),
        ram: &history.truth().ram,
        history: Some(history),
        extension: Some(event),
        ..Context::new(index?)
    })
}
