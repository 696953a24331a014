//! The breakpoints that gdb has set, each in a register of every CPU.

use crate::vcpu::debug::BREAKPOINTS;

/// What gdb calls it. Both are the same to the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `break`.
    Software,
    /// `hbreak`.
    Hardware,
}

/// Those that are set.
#[derive(Debug, Default)]
pub(super) struct Breakpoints([Option<Breakpoint>; BREAKPOINTS]);

#[derive(Clone, Copy, Debug)]
struct Breakpoint {
    address: u64,
    software: bool,
    hardware: bool,
}

impl Breakpoints {
    /// Sets one; whether there is a register for it.
    pub(super) fn set(&mut self, kind: Kind, address: u64) -> bool {
        let there = |slot: &&mut Option<Breakpoint>| slot.is_some_and(|at| at.address == address);
        let slot = match self.0.iter_mut().find(there) {
            Some(slot) => slot,
            None => match self.0.iter_mut().find(|slot| slot.is_none()) {
                Some(slot) => slot,
                None => return false,
            },
        };
        let breakpoint = slot.get_or_insert(Breakpoint {
            address,
            software: false,
            hardware: false,
        });
        match kind {
            Kind::Software => breakpoint.software = true,
            Kind::Hardware => breakpoint.hardware = true,
        }
        true
    }

    /// Takes one away, if it is there.
    pub(super) fn remove(&mut self, kind: Kind, address: u64) {
        for slot in &mut self.0 {
            if let Some(breakpoint) = slot
                && breakpoint.address == address
            {
                match kind {
                    Kind::Software => breakpoint.software = false,
                    Kind::Hardware => breakpoint.hardware = false,
                }
                if !breakpoint.software && !breakpoint.hardware {
                    *slot = None;
                }
            }
        }
    }

    /// What is set at `address`.
    pub(super) fn at(&self, address: u64) -> Option<Kind> {
        let there = |at: &&Breakpoint| at.address == address;
        let breakpoint = self.0.iter().flatten().find(there)?;
        Some(if breakpoint.hardware {
            Kind::Hardware
        } else {
            Kind::Software
        })
    }

    /// Their addresses.
    pub(super) fn addresses(&self) -> [Option<u64>; BREAKPOINTS] {
        self.0.map(|slot| slot.map(|breakpoint| breakpoint.address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_four_and_one_that_is_set_in_both_ways_takes_one_register() {
        let mut set = Breakpoints::default();
        for address in [1, 2, 3, 4] {
            assert!(set.set(Kind::Software, address));
        }
        assert!(set.set(Kind::Hardware, 2));
        assert!(!set.set(Kind::Hardware, 5));
        assert_eq!(set.at(2), Some(Kind::Hardware));
        set.remove(Kind::Hardware, 2);
        assert_eq!(set.at(2), Some(Kind::Software));
        set.remove(Kind::Software, 2);
        assert_eq!(set.at(2), None);
        set.remove(Kind::Software, 2);
        assert!(set.set(Kind::Hardware, 5));
        assert_eq!(set.addresses(), [Some(1), Some(5), Some(3), Some(4)]);
    }
}
