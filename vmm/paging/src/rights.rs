//! Effective rights: what all entries of a walk together allow.

use core::fmt;

use crate::entry::Entry;

/// What the entries from the root down to some point allow, taken together: a walk may write (or be
/// made by ring 3) only if *every* entry says so, and may execute only if *no* entry has NX
/// (Intel SDM vol. 3A, 4.6.1). Reading needs no bit.
///
/// CR0.WP, SMEP, SMAP and protection keys restrict further, depending on who accesses; they belong
/// to the access, not to the mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Rights {
    /// R/W set in every entry.
    pub write: bool,
    /// U/S set in every entry: ring 3 may access it.
    pub user: bool,
    /// NX clear in every entry.
    pub execute: bool,
}

impl Rights {
    /// What a root allows before its first entry: everything.
    pub const ALL: Rights = Rights {
        write: true,
        user: true,
        execute: true,
    };

    /// These rights restricted by one more entry of the walk. NX counts even where EFER.NXE is
    /// clear; there it is a reserved bit, and such an entry is no part of a walk at all.
    #[must_use]
    pub const fn through(self, entry: Entry) -> Rights {
        Rights {
            write: self.write && entry.writable(),
            user: self.user && entry.user(),
            execute: self.execute && !entry.no_execute(),
        }
    }

    /// A number below 8, one for each combination.
    pub const fn number(self) -> u32 {
        self.write as u32 | (self.user as u32) << 1 | (self.execute as u32) << 2
    }
}

/// `rwxu`, with `-` for what is missing: `r--` is read-only kernel data, `r-xu` user text.
impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = |set, letter| if set { letter } else { '-' };
        let (write, execute, user) = (
            letter(self.write, 'w'),
            letter(self.execute, 'x'),
            letter(self.user, 'u'),
        );
        crate::text::pad::<4>(f, format_args!("r{write}{execute}{user}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::prelude::rust_2024::*;

    #[test]
    fn write_and_user_need_every_entry_and_one_nx_forbids_execution() {
        let all = Entry::PRESENT | Entry::WRITABLE | Entry::USER;
        let rights = |entries: &[Entry]| {
            entries
                .iter()
                .fold(Rights::ALL, |rights, &entry| rights.through(entry))
        };
        assert_eq!(rights(&[all, all]), Rights::ALL);
        assert!(!rights(&[all, Entry::PRESENT | Entry::USER]).write);
        assert!(!rights(&[Entry::PRESENT | Entry::WRITABLE, all]).user);
        assert!(!rights(&[all | Entry::NO_EXECUTE, all]).execute);
        assert!(!rights(&[all, all | Entry::NO_EXECUTE]).execute);
    }

    #[test]
    fn rights_read_like_a_file_mode() {
        assert_eq!(Rights::ALL.to_string(), "rwxu");
        let none = Rights::ALL.through(Entry::PRESENT | Entry::NO_EXECUTE);
        assert_eq!(none.to_string(), "r---");
    }
}
