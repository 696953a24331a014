//! The strategies by which a change of a kernel mapping becomes visible in every address space.
//!
//! [`with_strategies!`](crate::with_strategies) holds the one table of them. A strategy is a row there and a file
//! `guest/kernel/src/mm/propagation/NAME.rs`; the guest kernel, the judge, the command line's help, the lab
//! and the test of the README's table all read the row.

/// The table of strategies, in the order in which people read about them: `$then!` is called with all rows.
///
/// A row is `Variant { module: …, name: …, does: …, source: …, promise: …, propagates: …, costs: (…) }`:
/// `module` is the strategy's file in the guest kernel, in which a unit struct `Variant` implements it; the
/// other fields are those of [`StrategyInfo`](crate::propagation::StrategyInfo).
#[macro_export]
macro_rules! with_strategies {
    ($then:ident) => {
        $then! {
            CopyAll {
                module: copy_all,
                name: "copy-all",
                does: "every process has private copies of all kernel tables; each change is written into every one",
                source: "the lecture's \"update mapping in every process\"; xv6",
                promise: PrivateCopies,
                propagates: true,
                costs: ("1 + N", "1 + N", "0"),
            }
            Prealloc {
                module: prealloc,
                name: "prealloc",
                does: "all kernel PGD entries exist from boot; a child inherits them",
                source: "Linux since 5.9",
                promise: SharedTables,
                propagates: true,
                costs: ("1", "0", "0"),
            }
            Sync {
                module: sync,
                name: "sync",
                does: "a new PGD entry is written to every PGD on the list",
                source: "Linux 5.8",
                promise: SharedTables,
                propagates: true,
                costs: ("1", "1 + N", "0"),
            }
            Fault {
                module: fault,
                name: "fault",
                does: "a new PGD entry is copied on the first kernel fault of each process",
                source: "Linux to 5.7",
                promise: EntriesOnFault,
                propagates: true,
                costs: ("1", "1 + N", "N"),
            }
            Isolated {
                module: isolated,
                name: "isolated",
                does: "the kernel has its own root; user roots hold only the entry trampoline",
                source: "the lecture's \"isolated MM context\"; KPTI",
                promise: EntryAreaOnly,
                propagates: true,
                costs: ("1", "1", "0"),
            }
            None {
                module: none,
                name: "none",
                does: "a new PGD entry stays with the process that made it",
                source: "the bug the lecture warns of",
                promise: SharedTables,
                propagates: false,
                costs: ("1", "1", "0"),
            }
        }
    };
}

/// What a strategy promises of the kernel half of every process; the host holds the guest to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Promise {
    /// The kernel's own PGD entries, and so its own tables.
    SharedTables,
    /// The same, but that an entry of the vmalloc area may come only when the process's first access
    /// faults.
    EntriesOnFault,
    /// Tables of its own that map the same.
    PrivateCopies,
    /// The CPU entry area and nothing else; the kernel runs on its own root.
    EntryAreaOnly,
}

/// How the work for a kernel mapping grows with the number N of processes, as `heirloom lab` writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Costs {
    /// Entries below the PGD that are written for a page whose PGD entry exists.
    pub mapping: &'static str,
    /// PGD entries that are written for a page that needs a new one.
    pub new_pgd_entry: &'static str,
    /// Page faults in the kernel that bring the new PGD entry to those who use it.
    pub kernel_faults: &'static str,
}

/// All that is known of a strategy outside its own file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StrategyInfo {
    /// Which one.
    pub strategy: Strategy,
    /// Its name on the command line.
    pub name: &'static str,
    /// What it does about a change of a kernel mapping.
    pub does: &'static str,
    /// Who does it so.
    pub source: &'static str,
    /// What the host holds it to.
    pub promise: Promise,
    /// Whether kernel memory below a new PGD entry reaches every address space. Where it does not, the
    /// strategy is a mistake, shown for what it is: it is held to its promise and breaks it.
    pub propagates: bool,
    /// What the lab measures of it.
    pub costs: Costs,
}

macro_rules! declare {
    ($($strategy:ident {
        module: $module:ident,
        name: $name:literal,
        does: $does:literal,
        source: $source:literal,
        promise: $promise:ident,
        propagates: $propagates:literal,
        costs: ($mapping:literal, $new_pgd_entry:literal, $kernel_faults:literal),
    })*) => {
        /// How a change of a kernel mapping becomes visible in every address space.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Strategy {
            $(#[doc = concat!("`", $name, "`: ", $does, ".")] $strategy,)*
        }

        impl Strategy {
            /// How many there are.
            pub const COUNT: usize = [$($name),*].len();

            /// Every strategy, in the order of the table.
            pub const ALL: [Strategy; Strategy::COUNT] = [$(Strategy::$strategy),*];
        }

        const TABLE: [StrategyInfo; Strategy::COUNT] = [
            $(StrategyInfo {
                strategy: Strategy::$strategy,
                name: $name,
                does: $does,
                source: $source,
                promise: Promise::$promise,
                propagates: $propagates,
                costs: Costs {
                    mapping: $mapping,
                    new_pgd_entry: $new_pgd_entry,
                    kernel_faults: $kernel_faults,
                },
            },)*
        ];
    };
}

with_strategies!(declare);

impl Strategy {
    /// That of a kernel whose command line names none.
    pub const DEFAULT: Strategy = Strategy::Prealloc;

    /// Its row of the table.
    #[must_use]
    pub const fn info(self) -> &'static StrategyInfo {
        &TABLE[self as usize]
    }

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.info().name
    }

    /// What the host holds it to.
    #[must_use]
    pub const fn promise(self) -> Promise {
        self.info().promise
    }

    /// Whether kernel memory below a new PGD entry reaches every address space.
    #[must_use]
    pub const fn propagates(self) -> bool {
        self.info().propagates
    }

    /// The strategy of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Strategy> {
        Strategy::ALL.into_iter().find(|s| s.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_strategy_is_found_by_its_name_and_has_its_own_row() {
        for strategy in Strategy::ALL {
            assert_eq!(Strategy::from_name(strategy.name()), Some(strategy));
            assert_eq!(strategy.info().strategy, strategy);
        }
        assert_eq!(Strategy::from_name("sometimes"), None);
    }
}
