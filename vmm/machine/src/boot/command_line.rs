//! The kernel's command line: what it may hold, and the features that it tells a kernel to leave alone.

use linux_loader::cmdline::{Cmdline, Error};
use linux_loader::loader::load_cmdline;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::BootError;

/// Linux's word for features that a kernel must not use; our own kernel knows it too.
const CLEAR_CPUID: &str = "clearcpuid=";

/// A command line, checked: printable ASCII, with its final NUL at most `limit` bytes.
pub(super) struct CommandLine {
    line: Cmdline,
    bytes: usize,
}

impl CommandLine {
    pub(super) fn new(text: &str, limit: usize) -> Result<CommandLine, BootError> {
        let refused = |error: Error| BootError::CommandLine {
            reason: error.to_string(),
            limit,
        };
        let mut line = Cmdline::new(limit).map_err(refused)?;
        line.insert_str(text).map_err(refused)?;
        let bytes = line
            .as_cstring()
            .map_err(refused)?
            .as_bytes_with_nul()
            .len();
        Ok(CommandLine { line, bytes })
    }

    /// Bytes that it takes in memory, its NUL included.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn write(
        &self,
        memory: &GuestMemoryMmap,
        at: GuestAddress,
    ) -> Result<(), BootError> {
        load_cmdline(memory, at, &self.line).map_err(|error| BootError::Write {
            what: "command line",
            reason: error.to_string(),
        })
    }
}

/// The command line with the features in front that the kernel must not use. Kernels heed only one such
/// word, so where `text` has its own, both become one.
pub(crate) fn without_features(text: &str, names: &[&str]) -> String {
    if names.is_empty() {
        return text.to_owned();
    }
    let (own, others): (Vec<&str>, Vec<&str>) = text
        .split(' ')
        .partition(|word| word.starts_with(CLEAR_CPUID));
    let own = own.iter().map(|word| &word[CLEAR_CPUID.len()..]);
    let all: Vec<&str> = names.iter().copied().chain(own).collect();
    format!("{CLEAR_CPUID}{} {}", all.join(","), others.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_stand_in_front_and_nothing_changes_without_any() {
        assert_eq!(without_features("a  b", &[]), "a  b");
        assert_eq!(without_features("a  b", &["smep"]), "clearcpuid=smep a  b");
        assert_eq!(without_features("", &["smep"]), "clearcpuid=smep ");
    }

    #[test]
    fn the_users_own_features_are_kept_in_the_one_word_that_kernels_heed() {
        assert_eq!(
            without_features("a clearcpuid=avx,514 b", &["smep", "smap"]),
            "clearcpuid=smep,smap,avx,514 a b"
        );
    }

    #[test]
    fn the_final_nul_counts() {
        assert_eq!(CommandLine::new("1234567", 8).unwrap().bytes(), 8);
        let error = CommandLine::new("12345678", 8).err().unwrap().to_string();
        assert!(error.contains("8 bytes"), "{error}");
    }
}
