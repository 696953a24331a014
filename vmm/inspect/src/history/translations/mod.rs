//! What CPUs may still remember of tables that were changed, from two witnesses: what each CPU was asked to
//! forget, and what it read and wrote.
//!
//! An entry that is cleared, moved or loses rights stays in TLBs until they are flushed (Intel SDM vol. 3A,
//! 4.10.4). Whether the CPU had cached it is not known: A tells that only as it was at the write, which nobody
//! saw, so every entry that was present counts as cached. A user half can be cached by a CPU only while that has
//! its root: where CR3 is another one, the load dropped what there was. Global pages outlive such a load, and
//! neither loads nor page flushes of other CPUs matter. With PCIDs a CPU keeps what it has of other roots, too, until
//! it drops that PCID; it uses none of it before it has loaded the PCID again.

mod order;
mod pcid;

use std::collections::BTreeMap;

pub use pcid::PcidAsked;

use self::pcid::Roots;

use super::Access;
use crate::index::{Lost, Remembered, TableIndex};
use crate::memory::PhysicalMemory;
use crate::snapshot::RootLabel;
use heirloom_paging::addr::{PAGE_SIZE, Pfn, PhysAddr, VirtAddr, VirtRange};
use heirloom_paging::level::Half;
use heirloom_paging::rights::Rights;

/// Translations that are followed at one time; of more it is said that they were not.
const MAX_HELD: usize = 1 << 14;
/// Pages of the kernel half of which it is remembered where they led before.
const MAX_FORMER: usize = 1 << 16;

/// What was asked of one CPU since the event before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flushes {
    /// Pages, in order.
    pub pages: Vec<FlushedPages>,
    /// How often CR3 was loaded so that all but global translations were dropped. Does not count with PCIDs.
    pub root_loads: u64,
    /// Entries of user halves that had been written when CR3 was last loaded.
    pub user_writes_at_load: u64,
    /// Entries that had been written when everything was last dropped, global translations, too, if it was.
    pub everything: Option<Writes>,
    /// The CPU sleeps or waits, and is to drop everything before it goes on.
    pub owes: bool,
    /// There were more page flushes than these.
    pub missed: bool,
    /// Where CR4.PCIDE is set: what is noted of each PCID.
    pub pcids: Option<Vec<PcidAsked>>,
}

/// Pages that were flushed one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushedPages {
    /// From the first to the last.
    pub range: VirtRange,
    /// Of a user half, with PCIDs: the one of which they were dropped. Global pages have none.
    pub pcid: u16,
    /// Entries that had been written when the last of them was flushed.
    pub writes: Writes,
}

/// Entries that were written since the boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Writes {
    /// Of kernel tables below the roots.
    pub kernel: u64,
    /// Of user halves.
    pub user: u64,
}

/// One CPU as it stands at an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuAsked {
    /// Its number.
    pub cpu: u32,
    /// The root that it has loaded.
    pub root: PhysAddr,
    /// Its PCID, where there are any.
    pub pcid: u16,
    /// What was asked of it; `None` where nobody noted that.
    pub flushes: Option<Flushes>,
}

/// Why a CPU may still hold a translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Nothing that would have dropped it was asked of the CPU.
    NotAsked,
    /// It was, but before the entry was written.
    TooEarly,
    /// The CPU sleeps, and is to drop it before it goes on.
    Asleep,
    /// The CPU has another PCID loaded, and is to drop this one when it comes back to it.
    Elsewhere,
}

/// A translation that a CPU may still hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) lost: Lost,
    pub(crate) why: Why,
    /// The PCID that it has, if it has one.
    pub(crate) pcid: Option<u16>,
    /// Another root that has that PCID now.
    pub(crate) has_pcid_now: Option<PhysAddr>,
    /// The event at which the tables no longer said so.
    pub(crate) since: u64,
    /// Nobody else had the frame then, or it was seen to be free since.
    is_free: bool,
    /// What it leads to is something else now.
    pub(crate) reused: Option<Reused>,
}

/// What a frame is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reused {
    Table,
    Page,
}

/// A CPU made use of an old translation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StaleAccess {
    pub(crate) access: Access,
    pub(crate) page: VirtAddr,
    pub(crate) former: Former,
}

/// Where a page led before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Former {
    pub(crate) pa: PhysAddr,
    pub(crate) rights: Rights,
    /// The event at which that was no longer so.
    pub(crate) until: u64,
}

/// Of which CPU, of whose user half and under which PCID, at which address, page (0) or table (its level).
pub(crate) type Key = (u32, Option<(PhysAddr, Option<u16>)>, VirtAddr, u8);

/// In which half, and, of a user half where there are PCIDs, under which.
type Where = (Half, Option<u16>);

/// What CPUs may still remember.
#[derive(Debug, Default)]
pub struct Translations {
    /// What was lost since the last event, of which the CPUs were not asked yet.
    lost: Vec<Lost>,
    /// Parts of the tables that may have lost more.
    left_out: u64,
    held: BTreeMap<Key, Held>,
    roots: Roots,
    former: BTreeMap<VirtAddr, Former>,
    /// Counted at the last event: what was lost, on each CPU that may have had it …
    pub(crate) looked_at: u64,
    /// … frames that were given back with it …
    pub(crate) frames: u64,
    /// … accesses where something else had been before …
    pub(crate) accesses: u64,
    /// … and what is not known.
    pub(crate) unknown: u64,
    pub(crate) stale_access: Option<StaleAccess>,
}

impl Translations {
    /// Tables were looked at: at an event, or between two.
    pub(crate) fn see(&mut self, index: &TableIndex) {
        let (lost, left_out) = index.lost();
        self.left_out += left_out;
        if self.lost.len() <= MAX_HELD {
            self.lost.extend(lost);
        } else {
            self.left_out += lost.len() as u64;
        }
    }

    /// The CPUs stand at event `event`; before it, `before` entries had been written.
    pub(crate) fn settle(
        &mut self,
        index: &TableIndex,
        (cpus, before): (&[CpuAsked], Writes),
        event: u64,
    ) {
        (self.looked_at, self.frames) = (0, 0);
        self.unknown = std::mem::take(&mut self.left_out);
        let lost = std::mem::take(&mut self.lost);
        self.remember(&lost, event);
        for asked in cpus {
            if let Some(flushes) = &asked.flushes {
                self.forget(index, asked, flushes);
                self.ask(index, (asked, flushes), before, (&lost, event));
                if let Some(noted) = &flushes.pcids {
                    self.roots.update(asked, noted);
                }
            }
        }
        for held in self.held.values_mut() {
            held.look_at_frame(index);
        }
    }

    /// What CPUs may hold and use, by CPU and address.
    pub(crate) fn held(&self) -> impl Iterator<Item = (&Key, &Held)> {
        let held = self.held.iter();
        held.filter(|(_, held)| !matches!(held.why, Why::Asleep | Why::Elsewhere))
    }

    fn remember(&mut self, lost: &[Lost], event: u64) {
        for lost in lost.iter().filter(|lost| lost.root.is_none()) {
            let Remembered::Page { pa, rights, .. } = lost.was else {
                continue;
            };
            let former = Former {
                pa,
                rights,
                until: event,
            };
            let is_known = self.former.contains_key(&lost.range.first);
            if is_known || self.former.len() < MAX_FORMER {
                self.former.insert(lost.range.first, former);
            }
        }
    }

    /// Takes out what the CPU has dropped by now, or is so again.
    fn forget(&mut self, index: &TableIndex, asked: &CpuAsked, flushes: &Flushes) {
        self.held.retain(|(cpu, ..), held| {
            let is_dropped = || held.is_dropped(asked, flushes) && !held.came_back(flushes);
            *cpu != asked.cpu || !(is_dropped() || held.is_again(index, flushes))
        });
        let held = self.held.iter_mut();
        for (_, held) in held.filter(|((cpu, ..), _)| *cpu == asked.cpu) {
            if held.why == Why::Asleep && !flushes.owes {
                held.why = Why::NotAsked;
            }
            held.comes_back(asked, flushes);
        }
    }

    /// Adds what it may hold of what was lost since.
    fn ask(
        &mut self,
        index: &TableIndex,
        (asked, flushes): (&CpuAsked, &Flushes),
        before: Writes,
        (lost, event): (&[Lost], u64),
    ) {
        for ((half, pcid), may_be_held) in self.may_hold(index, (asked, flushes), lost) {
            self.looked_at += may_be_held.len() as u64;
            let freed = may_be_held.iter().filter(|lost| !lost.is_restricted());
            self.frames += freed.count() as u64;
            let is_elsewhere = pcid.is_some_and(|pcid| pcid != asked.pcid);
            for (lost, why) in order::not_dropped(&may_be_held, (half, pcid), flushes, before) {
                let Some(why) = why else {
                    self.unknown += 1;
                    continue;
                };
                if self.held.len() >= MAX_HELD {
                    self.unknown += 1;
                    continue;
                }
                let held = Held {
                    lost,
                    why: match flushes.owes {
                        _ if is_elsewhere => Why::Elsewhere,
                        true => Why::Asleep,
                        false => why,
                    },
                    pcid,
                    has_pcid_now: None,
                    since: event,
                    is_free: lost.was_exclusive(),
                    reused: None,
                };
                self.held.insert(key(asked.cpu, &lost, pcid), held);
            }
        }
        // An entry that came back before anybody looked.
        self.held
            .retain(|(cpu, ..), held| *cpu != asked.cpu || !held.is_again(index, flushes));
    }

    /// What of `lost` the CPU may hold unless it has dropped it: by half and PCID.
    fn may_hold(
        &self,
        index: &TableIndex,
        (asked, flushes): (&CpuAsked, &Flushes),
        lost: &[Lost],
    ) -> Vec<(Where, Vec<Lost>)> {
        let of_kernel = lost.iter().filter(|lost| lost.root.is_none());
        let mut found = vec![((Half::Kernel, None), of_kernel.copied().collect())];
        let Some(noted) = &flushes.pcids else {
            let own = lost.iter().filter(|lost| lost.root == Some(asked.root));
            found.push(((Half::User, None), own.copied().collect()));
            return found;
        };
        let mut of_roots: BTreeMap<PhysAddr, Vec<Lost>> = BTreeMap::new();
        for lost in lost {
            if let Some(root) = lost.root {
                of_roots.entry(root).or_default().push(*lost);
            }
        }
        for (root, lost) in of_roots {
            let pcids = self.roots.pcids_of(root, asked, noted);
            if pcids.is_empty() {
                continue;
            }
            let lost = pcid::followed(lost, index);
            found.extend(
                pcids
                    .into_iter()
                    .map(|pcid| ((Half::User, Some(pcid)), lost.clone())),
            );
        }
        found
    }

    /// What the access of the present event says of the CPU that made it.
    pub(crate) fn witness<M: PhysicalMemory + ?Sized>(
        &mut self,
        (access, view): (Option<&Access>, RootLabel),
        index: &TableIndex,
        memory: &M,
    ) {
        (self.accesses, self.stale_access) = (0, None);
        let Some(access) = access else { return };
        let page = VirtAddr::new(access.address & !(PAGE_SIZE - 1));
        let Some(former) = self.former.get(&page).copied() else {
            return;
        };
        let snapshot = index.snapshot();
        let Some(root) = snapshot.root_of(view) else {
            return;
        };
        self.accesses = 1;
        if access.fault.is_some() {
            return;
        }
        let walk = snapshot.translate(root.id, VirtAddr::new(access.address));
        let is_stale = match walk.translation() {
            None => true,
            Some(found) if access.write && !found.rights.write => former.rights.write,
            Some(found) if found.pa.pfn() == former.pa.pfn() => false,
            Some(_) if access.in_memory == Some(access.value) => false,
            // The old frame has what was read or written, and the new one has not.
            Some(_) => {
                let at = former.pa.wrapping_add(access.address % PAGE_SIZE);
                let mut bytes = [0; 8];
                access.address % PAGE_SIZE <= PAGE_SIZE - 8
                    && memory.read_bytes(at, &mut bytes).is_ok()
                    && u64::from_le_bytes(bytes) == access.value
            }
        };
        if is_stale {
            self.stale_access = Some(StaleAccess {
                access: *access,
                page,
                former,
            });
        }
    }
}

fn key(cpu: u32, lost: &Lost, pcid: Option<u16>) -> Key {
    let level = match lost.was {
        Remembered::Page { .. } => 0,
        Remembered::Table { level, .. } => u8::try_from(level.shift()).unwrap_or(u8::MAX),
    };
    let whose = lost.root.map(|root| (root, pcid));
    (cpu, whose, lost.range.first, level)
}

impl Lost {
    /// Whether nobody else can have used the frame: what two share is read-only.
    fn was_exclusive(&self) -> bool {
        match self.was {
            Remembered::Page { rights, .. } => {
                !self.is_restricted() && (rights.write || self.root.is_none())
            }
            Remembered::Table { .. } => true,
        }
    }
}

impl Held {
    /// Whether the CPU was asked for what drops it, after the last event.
    fn is_dropped(&self, asked: &CpuAsked, flushes: &Flushes) -> bool {
        let is_elsewhere = self.lost.root.is_some_and(|root| root != asked.root);
        (self.pcid.is_none() && is_elsewhere)
            || order::latest(&self.lost, self.pcid, flushes).is_some()
    }

    /// Whether the tables say again what they said before: those of the root that has the PCID.
    fn is_again(&self, index: &TableIndex, flushes: &Flushes) -> bool {
        let snapshot = index.snapshot();
        let mut roots = snapshot.roots().iter();
        let noted = self.pcid.and_then(|pcid| flushes.of_pcid(pcid));
        let root = match noted.map(|noted| noted.root).or(self.lost.root) {
            Some(address) => roots.find(|root| root.address == address),
            None => roots.find(|root| root.label == RootLabel::Kernel),
        };
        let Some(root) = root else { return false };
        let walk = snapshot.translate(root.id, self.lost.range.first);
        match self.lost.was {
            Remembered::Page { pa, rights, .. } => walk
                .translation()
                .is_some_and(|found| found.pa == pa && found.rights == rights),
            Remembered::Table { frame, level } => walk
                .steps()
                .iter()
                .any(|step| step.table == frame && step.level == level),
        }
    }

    fn look_at_frame(&mut self, index: &TableIndex) {
        if self.lost.is_restricted() {
            return;
        }
        let frame = self.lost.frame();
        let used = use_of(index, frame);
        self.is_free |= used.is_none();
        self.reused = used.filter(|_| self.is_free);
    }
}

fn use_of(index: &TableIndex, frame: Pfn) -> Option<Reused> {
    if index.tables().frames.contains_key(&frame) {
        Some(Reused::Table)
    } else if index.frames().is_mapped(frame) {
        Some(Reused::Page)
    } else {
        None
    }
}
