//! The kernel's command line: `key=value` words, then ` -- ` and the arguments of the first program.

pub use crate::propagation::Strategy;

/// `propagation=NAME`: a [`Strategy`]; [`Strategy::DEFAULT`] without it.
pub const PROPAGATION: &str = "propagation";
/// `vmalloc-start=0xADDRESS`: where the vmalloc area begins to be used; page aligned. `vmalloc-start=below:PAGES`:
/// so many pages below the area's second PGD entry, whatever the depth of the page tables is.
pub const VMALLOC_START: &str = "vmalloc-start";
/// What a value of [`VMALLOC_START`] begins with that counts pages.
pub const BELOW_SECOND_ENTRY: &str = "below:";
/// `la57=off`: four levels of page tables though the CPU has five. The boot looks for `la57` in the command
/// line before the kernel can read it, so [`CLEAR_CPUID`] with that name does the same.
pub const LA57: &str = "la57";
/// `pcid=off`: the CPU's translations are not tagged, though it has PCIDs; [`CLEAR_CPUID`] with that name does the
/// same.
pub const PCID: &str = "pcid";
/// `bug=NAME`: a deliberate mistake, see [`crate::bugs`].
pub const BUG: &str = "bug";
/// `init=NAME`: the boot module that becomes process 1.
pub const INIT: &str = "init";
/// `probe`: a host listens at the doorbell; without it no event is written. `probe=serial`: the doorbell is
/// a serial port ([`PROBE_SERIAL`]); `probe=serial:0xPORT`: that is somewhere else.
pub const PROBE: &str = "probe";
/// The value of [`PROBE`] for a doorbell that is a 16550 serial port at
/// [`DOORBELL_PORT`](crate::event::DOORBELL_PORT): the kernel sends the 4 bytes of the frame's number, least
/// significant first, and goes on when it has received one byte.
pub const PROBE_SERIAL: &str = "serial";
/// `probe-faults`: each user page fault that was handled is an event, too.
pub const PROBE_FAULTS: &str = "probe-faults";
/// `fresh-memory=zero`: RAM that nobody has used yet reads as zero (an mmap by the VMM does).
pub const FRESH_MEMORY: &str = "fresh-memory";
/// `clearcpuid=NAME,NAME…`: CPU features ([`crate::event::machine`] names) that the kernel shall not
/// use though CPUID shows them: some KVMs show what they cannot do. Linux's option of that name.
pub const CLEAR_CPUID: &str = "clearcpuid";
/// `selfcheck`: the kernel tries its own protections before process 1 runs.
pub const SELFCHECK: &str = "selfcheck";
/// `exit-port=0xPORT`: where to write the final status, 4 bytes wide (QEMU's isa-debug-exit).
pub const EXIT_PORT: &str = "exit-port";

/// `cpus=N`: how many CPUs there are, [`MAX_CPUS`] at most; one without it. Their APIC ids are 0 to N - 1.
pub const CPUS: &str = "cpus";
/// CPUs that the kernel drives at most.
pub const MAX_CPUS: usize = 8;

/// A parsed command line; borrows the text.
#[derive(Clone, Copy, Debug)]
pub struct CommandLine<'a> {
    kernel: &'a str,
    program: &'a str,
}

impl<'a> CommandLine<'a> {
    /// No words at all.
    pub const EMPTY: CommandLine<'static> = CommandLine {
        kernel: "",
        program: "",
    };

    /// Splits at the first ` -- `.
    #[must_use]
    pub fn new(text: &'a str) -> Self {
        let text = text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\0');
        let (kernel, program) = match text.split_once(" -- ") {
            Some((kernel, program)) => (kernel, program),
            None => (text.strip_suffix(" --").unwrap_or(text), ""),
        };
        CommandLine { kernel, program }
    }

    /// The value of `key=value`; `Some("")` for a bare `key`. The last one wins, as on Linux.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&'a str> {
        // Byte by byte, with one comparison each: a kernel whose every instruction is emulated asks for ten.
        let bytes = self.kernel.as_bytes();
        let (mut found, mut start) = (None, 0);
        while let Some(rest) = bytes.get(start..).filter(|rest| !rest.is_empty()) {
            let length = rest.iter().position(|byte| *byte <= b' ');
            let end = start + length.unwrap_or(rest.len());
            let value = rest.strip_prefix(key.as_bytes());
            match value.and_then(|value| value.first()) {
                Some(b'=') => found = self.kernel.get(start + key.len() + 1..end),
                None | Some(0..=b' ') if value.is_some() => found = Some(""),
                _ => {}
            }
            start = end + 1;
        }
        found
    }

    /// Each word for the kernel: its key, and its value, which is empty for a bare key. All are found by one look at
    /// each byte: a kernel whose every instruction is emulated asks for a dozen.
    pub fn words(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let line = self.kernel;
        let mut start = 0;
        core::iter::from_fn(move || {
            let bytes = line.as_bytes();
            while *bytes.get(start)? <= b' ' {
                start += 1;
            }
            let mut end = start;
            let mut equals = None;
            while let Some(byte) = bytes.get(end).filter(|byte| **byte > b' ') {
                if *byte == b'=' && equals.is_none() {
                    equals = Some(end);
                }
                end += 1;
            }
            let first = core::mem::replace(&mut start, end);
            let key = line.get(first..equals.unwrap_or(end))?;
            let value = line.get(equals.map_or(end, |equals| equals + 1)..end)?;
            Some((key, value))
        })
    }

    /// The value of `key` as a number, hexadecimal with `0x`. `Some(Err(text))` if it is none.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<Result<u64, &'a str>> {
        let text = self.get(key)?;
        Some(parse_number(text).ok_or(text))
    }

    /// The words for the first program.
    pub fn arguments(&self) -> impl Iterator<Item = &'a str> + Clone + use<'a> {
        self.program.split_ascii_whitespace()
    }
}

/// A number, hexadecimal with `0x`.
#[must_use]
pub fn parse_number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_of_a_key_wins() {
        let line = CommandLine::new("probe init=a init=b");
        assert_eq!(line.get("init"), Some("b"));
        assert_eq!(line.get("probe"), Some(""));
        assert_eq!(line.get("prob"), None);
    }

    #[test]
    fn all_words_are_found_as_one_by_one() {
        let line = CommandLine::new(" probe  init=a x=y=z bug=\tü=ß -- init=b");
        let words = [
            ("probe", ""),
            ("init", "a"),
            ("x", "y=z"),
            ("bug", ""),
            ("ü", "ß"),
        ];
        assert!(line.words().eq(words));
        for (key, value) in words {
            assert_eq!(line.get(key), Some(value));
        }
        assert_eq!(CommandLine::EMPTY.words().count(), 0);
    }

    #[test]
    fn words_behind_the_dashes_belong_to_the_program() {
        let line = CommandLine::new("init=a -- init=b 8\0");
        assert_eq!(line.get("init"), Some("a"));
        assert!(line.arguments().eq(["init=b", "8"]));
        assert_eq!(CommandLine::new("a --").arguments().count(), 0);
    }

    #[test]
    fn numbers_are_decimal_or_hexadecimal_and_anything_else_is_said() {
        let line = CommandLine::new("a=0x10 b=10 c=ten d");
        assert_eq!(line.number("a"), Some(Ok(16)));
        assert_eq!(line.number("b"), Some(Ok(10)));
        assert_eq!(line.number("c"), Some(Err("ten")));
        assert_eq!(line.number("d"), Some(Err("")));
        assert_eq!(line.number("e"), None);
    }
}
