//! The command line, taken apart: what the kernel is asked for.

use heirloom_abi::bugs::Bug;
use heirloom_abi::options::{self, CommandLine};
use heirloom_abi::propagation::Strategy;

/// The boot module that becomes process 1 unless another is named.
const DEFAULT_INIT: &str = "init";

/// What the words say; the last one of a key counts. Words that mean nothing here are the program's or nobody's.
#[derive(Clone, Copy)]
pub struct Options {
    pub init: &'static str,
    pub strategy: Strategy,
    pub vmalloc_start: Option<&'static str>,
    pub la57: Option<&'static str>,
    pub pcid: Option<&'static str>,
    pub clear_cpuid: &'static str,
    pub bug: Option<Bug>,
    pub probe: Option<&'static str>,
    pub probe_faults: bool,
    pub self_check: bool,
    pub fresh_memory_is_zero: bool,
    pub exit_port: Option<u16>,
    pub cpus: usize,
}

impl Options {
    /// Without any word.
    pub const NONE: Options = Options {
        init: DEFAULT_INIT,
        strategy: Strategy::DEFAULT,
        vmalloc_start: None,
        la57: None,
        pcid: None,
        clear_cpuid: "",
        bug: None,
        probe: None,
        probe_faults: false,
        self_check: false,
        fresh_memory_is_zero: false,
        exit_port: None,
        cpus: 1,
    };

    /// Reads each word once.
    ///
    /// # Panics
    /// If one has a value that it cannot have. It is said which.
    pub fn of(line: CommandLine<'static>) -> Options {
        let mut found = Options::NONE;
        for (key, value) in line.words() {
            match key {
                options::INIT => found.init = value,
                options::PROPAGATION => {
                    found.strategy = Strategy::from_name(value).unwrap_or_else(|| {
                        panic!("propagation={value} is no strategy of this kernel")
                    });
                }
                options::VMALLOC_START => found.vmalloc_start = Some(value),
                options::LA57 => found.la57 = Some(value),
                options::PCID => found.pcid = Some(value),
                options::CLEAR_CPUID => found.clear_cpuid = value,
                options::BUG => {
                    let bug = Bug::from_name(value);
                    found.bug =
                        Some(bug.unwrap_or_else(|| {
                            panic!("bug={value} is no bug that this kernel knows")
                        }));
                }
                options::PROBE => found.probe = Some(value),
                options::PROBE_FAULTS => found.probe_faults = true,
                options::SELFCHECK => found.self_check = true,
                options::FRESH_MEMORY => found.fresh_memory_is_zero = value == "zero",
                options::EXIT_PORT => {
                    let port = u16::try_from(number(key, value));
                    found.exit_port = Some(port.expect("exit-port= is a port number"));
                }
                options::CPUS => found.cpus = cpus(number(key, value)),
                _ => {}
            }
        }
        found
    }
}

fn cpus(count: u64) -> usize {
    let most = options::MAX_CPUS;
    usize::try_from(count)
        .ok()
        .filter(|count| (1..=most).contains(count))
        .unwrap_or_else(|| panic!("cpus={count}: this kernel drives 1 to {most} CPUs"))
}

/// The value of a numeric option.
pub fn number(key: &str, text: &str) -> u64 {
    options::parse_number(text).unwrap_or_else(|| panic!("{key}={text} is no number"))
}
