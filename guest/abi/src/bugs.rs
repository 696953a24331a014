//! Deliberate bugs (`bug=NAME` on the kernel's command line): each a mistake that kernels really make,
//! at one named place, off unless asked for. They prove that the rules can fail.

use crate::event::machine;
use crate::propagation::Strategy;

/// A deliberate bug: what it is, where it shows, and which rule must catch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BugInfo {
    /// Which one.
    pub bug: Bug,
    /// Its name on the command line.
    pub name: &'static str,
    /// The mistake.
    pub mistake: &'static str,
    /// The rule that must catch it.
    pub rule: &'static str,
    /// The strategy under which it can be made.
    pub strategy: Strategy,
}

macro_rules! bugs {
    ($($bug:ident $name:literal $strategy:ident $rule:literal $mistake:literal)*) => {
        /// Which deliberate bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Bug {
            $(#[doc = concat!("`", $name, "` in [`ALL`].")] $bug,)*
        }

        /// All bugs, in the order of `Bug`.
        pub const ALL: &[BugInfo] = &[
            $(BugInfo {
                bug: Bug::$bug,
                name: $name,
                mistake: $mistake,
                rule: $rule,
                strategy: Strategy::$strategy,
            },)*
        ];
    };
}

bugs! {
    ChildMissesEntry "child-misses-entry" Prealloc "kernel-half-shared"
        "a child does not inherit the first PGD entry of the vmalloc area"
    ChildCopiesTable "child-copies-table" Prealloc "kernel-tables-same-frames"
        "a child gets a copy of a kernel PDPT instead of the table itself"
    SyncSkipsOne "sync-skips-one" Sync "propagated"
        "a new PGD entry is written to every PGD but the first on the list"
    WrongFrameInOne "wrong-frame-in-one" CopyAll "propagated"
        "one process's copy of a mapping points to the neighbouring frame"
    ProtectForgetsLast "protect-forgets-last" Prealloc "propagated"
        "making memory read-only leaves out its last page"
    LostWrite "lost-write" Prealloc "propagated"
        "a write to the second page of kernel memory never reaches it"
    UnmapForgetsLast "unmap-forgets-last" Prealloc "revoked"
        "freeing kernel memory leaves the entry of its last page"
    StaleInOne "stale-in-one" CopyAll "revoked"
        "freeing kernel memory leaves one process its copy of the mapping"
    ForkKeepsWritable "fork-keeps-writable" Prealloc "user-half-private"
        "fork shares pages and leaves them writable"
    ForkSharesTable "fork-shares-table" Prealloc "user-half-private"
        "fork gives the child the parent's page table instead of a copy"
    CopyOnWriteSkipsCopy "copy-on-write-skips-copy" Prealloc "user-half-private"
        "the first write to a shared page makes it writable and does not copy it"
    IdentityMapLeft "identity-map-left" Prealloc "user-half-private"
        "the identity map of boot stays in the kernel's own root"
    DirectMapHole "direct-map-hole" Prealloc "direct-map-complete"
        "one frame of low memory is left out of the direct map"
    DirectMapShort "direct-map-short" Prealloc "direct-map-complete"
        "the direct map ends a page too early"
    DirectMapOverrun "direct-map-overrun" Prealloc "direct-map-exact"
        "the direct map ends a page too late"
    DirectMapWrongFrame "direct-map-wrong-frame" Prealloc "direct-map-exact"
        "one address of the direct map shows the neighbouring frame"
    UserBit "user-bit" Prealloc "kernel-not-user"
        "kernel memory and its tables are mapped with the user bit"
    WritableText "writable-text" Prealloc "write-xor-execute"
        "kernel text is mapped writable"
    ExecutableData "executable-data" Prealloc "write-xor-execute"
        "kernel memory is mapped without NX"
    ExecutableDirectMap "executable-direct-map" Prealloc "direct-map-exact"
        "the direct map is mapped without NX"
    WritableTextAlias "writable-text-alias" Prealloc "no-writable-text-alias"
        "the direct map shows kernel text writable"
    TableUserMapped "table-user-mapped" Prealloc "tables-not-user-mapped"
        "a process finds its own PGD mapped in its user half"
    ReservedBit "reserved-bit" Prealloc "reserved-bits-clear"
        "a PGD entry has the page-size bit set"
    UnnamedRegion "unnamed-region" Prealloc "canonical"
        "a kernel table hangs below PGD[256], where the layout has nothing"
    ExitKeepsCr3 "exit-keeps-cr3" Prealloc "cr3-known"
        "the CPU goes on with the root of a process that has ended"
    LyingPid "lying-pid" Prealloc "cr3-known"
        "events name process 1 whoever it was"
    LyingFrames "lying-frames" Prealloc "claims-match-tables"
        "the event of a mapping names the neighbouring frames"
    LyingCounter "lying-counter" Prealloc "claims-match-tables"
        "the count of page tables is one too low"
    ForgottenEvent "forgotten-event" Prealloc "claims-match-tables"
        "kernel memory is mapped and nobody told"
    AliasByHighTable "alias-by-high-table" Prealloc "no-dangling-table"
        "two PGD entries share a PDPT, so memory appears twice"
    LeakedTable "leaked-table" Prealloc "frames-released"
        "a process's last-level tables are not freed when it ends"
    LeakedPage "leaked-page" Prealloc "frames-released"
        "a process's pages are not freed when it ends"
    LeakedKernelMemory "leaked-kernel-memory" Prealloc "frames-released"
        "freed kernel memory is unmapped, but its frames are lost"
    FreedSharedTable "freed-shared-table" Prealloc "no-dangling-table"
        "freeing kernel memory frees the page table that it was mapped by"
    TrampolineLeaks "trampoline-leaks" Isolated "user-root-isolated"
        "user roots hold the direct map beside the entry trampoline"
    IdleKeepsRoot "idle-keeps-root" Prealloc "cr3-known"
        "a CPU that has nothing to run keeps the root of the process that it ran last (4 CPUs)"
    LostEntry "lost-entry" Sync "propagated"
        "a PGD entry that was missing is written without the lock, whatever another CPU has put there (4 CPUs)"
    UnmapWithoutFlush "unmap-without-flush" Prealloc "no-stale-translation"
        "freeing kernel memory drops no translations"
    FlushBeforeUnmap "flush-before-unmap" Prealloc "no-stale-translation"
        "each page of freed kernel memory is flushed before its entry is cleared"
    FlushWrongPage "flush-wrong-page" Prealloc "no-stale-translation"
        "freeing kernel memory flushes the page behind each one that it unmaps"
    FlushCutsAddress "flush-cuts-address" Prealloc "no-stale-translation"
        "addresses to flush are sign-extended from one level too few: from 48 bits where there are 57"
    FlushKeepsGlobal "flush-keeps-global" Prealloc "no-stale-translation"
        "freed kernel memory is flushed by loading CR3, which keeps global translations"
    ProtectWithoutFlush "protect-without-flush" Prealloc "no-stale-translation"
        "making kernel memory read-only drops no translations"
    TableFreedUnflushed "table-freed-unflushed" Prealloc "no-stale-translation"
        "freeing kernel memory frees its page table, too, and drops nothing that leads there"
    ForkWithoutFlush "fork-without-flush" Prealloc "no-stale-translation"
        "fork makes the parent's pages read-only and drops no translations"
    ReuseBeforeFlush "reuse-before-flush" Prealloc "frame-not-reused-early"
        "the frames of freed kernel memory are given out again, and its translations never dropped"
    NoShootdown "no-shootdown" Prealloc "no-stale-translation"
        "a CPU that changes kernel memory drops its own translations alone (4 CPUs)"
    ShootdownSkipsOne "shootdown-skips-one" Prealloc "no-stale-translation"
        "the first of the other CPUs is not asked to drop what was changed (4 CPUs)"
    PcidNotFlushed "pcid-not-flushed" Prealloc "no-stale-translation"
        "a process gets the PCID of one that has ended, and the CPU keeps what it remembers of that (a CPU with PCIDs)"
    FreedBeforeAnswer "freed-before-answer" Prealloc "frame-not-reused-early"
        "freed kernel memory is given out again when the other CPUs were asked to drop it, and before they have (4 CPUs)"
}

impl Bug {
    /// The bug of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Bug> {
        ALL.iter()
            .find(|info| info.name == name)
            .map(|info| info.bug)
    }

    /// How many CPUs it takes.
    #[must_use]
    pub const fn cpus(self) -> u8 {
        match self {
            Bug::IdleKeepsRoot
            | Bug::LostEntry
            | Bug::NoShootdown
            | Bug::ShootdownSkipsOne
            | Bug::FreedBeforeAnswer => 4,
            _ => 1,
        }
    }

    /// What the guest's CPU must have for it: [`machine`] bits.
    #[must_use]
    pub const fn machine(self) -> u64 {
        match self {
            Bug::PcidNotFlushed => machine::PCID,
            _ => 0,
        }
    }

    /// The embedded program under which it shows, and its arguments, if the default scenario is too orderly.
    #[must_use]
    pub const fn program(self) -> Option<(&'static str, &'static [&'static str])> {
        match self {
            Bug::LostEntry => Some(("crowd", &["16", "1", "20"])),
            // A CPU that waits for the lock, or sleeps, has answered already.
            Bug::FreedBeforeAnswer => Some(("beside", &["busy", "4", "4", "2"])),
            _ => None,
        }
    }

    /// All that is known of it.
    #[must_use]
    pub fn info(self) -> &'static BugInfo {
        &ALL[self as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_is_found_by_its_name_and_no_name_is_used_twice() {
        for info in ALL {
            assert_eq!(Bug::from_name(info.name), Some(info.bug));
            assert_eq!(info.bug.info(), info);
        }
        assert_eq!(Bug::from_name("none"), None);
    }
}
