//! What an address space is for, by what its root holds.

use std::fmt;

use serde::Serialize;

use crate::snapshot::{Root, RootLabel};
use heirloom_paging::addr::PhysAddr;

use super::Role;
use super::look::Look;

/// What an address space is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A process's: kernel half and pages of its own.
    Process,
    /// What a process runs on in ring 3 where the kernel isolates itself (KPTI): its pages, and of the
    /// kernel the way in.
    UserRoot,
    /// The kernel's own: no user half.
    Kernel,
    /// A kernel half and a user half without a page for ring 3: the kernel maps something there for a
    /// moment (Linux's text poking), or a process is being made or has just ended.
    NoPages,
    /// What a CPU comes up on or firmware is called with: memory mapped to its own address, for ring 0
    /// alone, or nothing but a few of the kernel's entries.
    Trampoline,
    /// Memory mapped to its own address, and no kernel half: what firmware, a loader or a memory test runs on, or
    /// a kernel without processes.
    Identity,
    /// A CPU runs on it, and finds its own code there; but it is not of the kernel that the others are of.
    Separate,
    /// A kernel half and no user half, on no CPU: a kernel thread's, or one whose process has ended. Memory
    /// does not tell which.
    Idle,
    /// A root that was freed: its frame, or its tables, have been used for something else.
    Freed,
    /// The user or a dump's notes name it, and its kernel half is not that of the others.
    Foreign,
    /// A CPU is said to run on it, and what stands there is not what a CPU can run on.
    NotUnderstood,
}

impl Kind {
    /// Whether such a root has the whole kernel half, and must have the same as all others.
    pub const fn has_kernel_half(self) -> bool {
        matches!(self, Kind::Process | Kind::Kernel | Kind::NoPages)
    }

    /// Whether anybody can run on it.
    pub const fn is_live(self) -> bool {
        !matches!(self, Kind::Freed | Kind::Idle | Kind::NotUnderstood)
    }

    /// Whether such a root has the kernel half, so that it can be said what it lacks against the others: all
    /// that must have it, and those of which memory does not tell whether they live.
    pub const fn is_compared(self) -> bool {
        self.has_kernel_half() || matches!(self, Kind::Idle)
    }

    /// As it is printed.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Process => "process",
            Kind::UserRoot => "user root",
            Kind::Kernel => "kernel",
            Kind::NoPages => "no user pages",
            Kind::Trampoline => "trampoline",
            Kind::Identity => "identity map",
            Kind::Separate => "another kernel's",
            Kind::Idle => "idle or freed",
            Kind::Freed => "freed",
            Kind::Foreign => "foreign",
            Kind::NotUnderstood => "not understood",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Whether a CPU is on a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnCpu {
    /// None is.
    No,
    /// CR3 says so, and not where the CPU is, or that is no code by this root.
    Said,
    /// And the CPU finds the instruction there that it is at.
    Runs,
}

impl Look {
    /// What the root is for, and why it is taken for that. `own`: why it is the kernel's own, if it is.
    /// `may_be_alone`: a user root needs no kernel root beside it, because a CPU runs on it, or because the
    /// kernel has one root for all processes.
    pub(super) fn kind(
        &self,
        root: &Root,
        partner: Option<PhysAddr>,
        may_be_alone: bool,
        own: Option<String>,
        cpu: OnCpu,
    ) -> (Kind, String) {
        let is_known = matches!(root.label, RootLabel::Kernel | RootLabel::Process(_));
        match self.role {
            Role::User => match partner {
                Some(kernel) => (
                    Kind::UserRoot,
                    format!("a way into the kernel, and the kernel root {kernel} beside it"),
                ),
                None if is_known || may_be_alone => (
                    Kind::UserRoot,
                    "a kernel half that holds only a way into the kernel".into(),
                ),
                None => (
                    Kind::Freed,
                    "a user root's kernel half, but no kernel root beside it".into(),
                ),
            },
            Role::Few => (
                Kind::Trampoline,
                format!(
                    "{} entries, all of them the kernel's",
                    self.kernel_entries + self.user_entries
                ),
            ),
            Role::Named if self.kernel_entries + self.user_entries == 0 => {
                (Kind::Foreign, "no page table stands there".into())
            }
            Role::Named if self.is_identity() => (Kind::Identity, self.identity()),
            Role::Named => (
                Kind::Foreign,
                "its kernel half has little in common with that of the others".into(),
            ),
            Role::Full => self.kind_of_full(own, is_known, cpu),
        }
    }

    /// `is_known`: somebody says that the root lives.
    fn kind_of_full(&self, own: Option<String>, is_known: bool, cpu: OnCpu) -> (Kind, String) {
        if let Some(why) = own {
            return (Kind::Kernel, why);
        }
        let has_cpu = cpu != OnCpu::No;
        let is_said_to_live = is_known || has_cpu;
        if self.kernel_tables.reused > 0 && !is_said_to_live {
            let evidence = "a table below its kernel half has been used for something else";
            return (Kind::Freed, evidence.into());
        }
        if self.user_entries == 0 && is_known {
            return (Kind::NoPages, "a process that has no user half yet".into());
        }
        if self.user_entries == 0 {
            return (
                Kind::Idle,
                "no user half, on no CPU, and not the kernel's own root".into(),
            );
        }
        if self.is_identity() {
            return (
                Kind::Trampoline,
                format!(
                    "its user half maps {} pages, for ring 0 alone, {} of them to their own address",
                    self.supervisor_pages, self.identity_pages
                ),
            );
        }
        if self.is_boot_map && !is_said_to_live {
            let evidence = "memory at its own address by tables of the kernel half, for ring 3, too, and on no \
                            CPU: what the kernel booted on";
            return (Kind::Idle, evidence.into());
        }
        // A CPU's own root is not freed, whatever it looks like.
        let used_again = if has_cpu {
            Kind::NotUnderstood
        } else {
            Kind::Freed
        };
        // Where a CPU finds its code, what is for ring 0 alone is the kernel's.
        let odd_user_entries = match cpu {
            OnCpu::Runs => self.odd_user_entries - self.closed_user_entries,
            OnCpu::No | OnCpu::Said => self.odd_user_entries,
        };
        if 2 * odd_user_entries > self.user_entries && !is_known {
            return (
                used_again,
                format!(
                    "{odd_user_entries} of {} user entries are none that a kernel writes: the frame has been used again",
                    self.user_entries
                ),
            );
        }
        if self.lower_entries > 0 && 2 * self.odd_lower_entries > self.lower_entries && !is_known {
            return (
                used_again,
                format!(
                    "{} of {} entries of the tables below its user half are none that a kernel writes: their \
                     frames have been used again",
                    self.odd_lower_entries, self.lower_entries
                ),
            );
        }
        if self.user_tables.reused > 0 && self.user_tables.user_pages == 0 && !is_said_to_live {
            let evidence = "no page for ring 3 but by tables whose frames have been used again";
            return (Kind::Freed, evidence.into());
        }
        if self.user_pages == 0 {
            let what = match self.supervisor_pages {
                0 => "maps no page".to_owned(),
                pages => format!("maps {pages} pages, none for ring 3"),
            };
            return (
                Kind::NoPages,
                format!("its user half has tables, but {what}"),
            );
        }
        let evidence = match self.kernel_entries {
            0 => "a user half as the processes have it, and nothing of the kernel",
            _ => "a user half of its own",
        };
        (Kind::Process, evidence.into())
    }
}
