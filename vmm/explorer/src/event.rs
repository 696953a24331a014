//! What happened at a moment, as the page shows it.

use heirloom_inspect::{RootLabel, VirtRange};
use serde::Serialize;

use crate::timeline::SpaceId;

/// What kind of thing happened: decides the row and the sign on the page's timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sign {
    /// The guest as it was found.
    Found,
    /// The kernel is up.
    Boot,
    /// A process has its address space.
    Created,
    /// A process runs another program.
    Executed,
    /// A process has ended.
    Exited,
    /// A process was ended for what it did.
    Killed,
    /// Kernel memory was mapped.
    Mapped,
    /// Kernel memory has other permissions.
    Protected,
    /// Kernel memory was unmapped.
    Unmapped,
    /// Kernel memory was read.
    Read,
    /// Kernel memory was written.
    Written,
    /// An access that the CPU refused.
    Refused,
    /// A page fault that was handled.
    Faulted,
    /// A program says how far it is.
    Checkpoint,
    /// The kernel cannot go on.
    Crash,
    /// The first process has ended.
    Done,
}

/// What happened at a moment.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// As the guest counts.
    pub number: u64,
    /// What kind of thing happened.
    pub sign: Sign,
    /// The same in a sentence.
    pub text: String,
    /// Who did it; shown as the space that has this label.
    #[serde(skip)]
    pub who: Option<RootLabel>,
    /// The addresses concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<VirtRange>,
    /// What was read or written.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "hexadecimal"
    )]
    pub value: Option<u64>,
    /// The CPU's page-fault error code.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "hexadecimal"
    )]
    pub fault: Option<u64>,
    /// The space of `who`; filled in by [`crate::Timeline::moment`].
    #[serde(rename = "who", skip_serializing_if = "Option::is_none")]
    pub(crate) space: Option<SpaceId>,
}

impl Event {
    /// An event about no address and nobody.
    pub fn new(number: u64, sign: Sign, text: impl Into<String>) -> Event {
        Event {
            number,
            sign,
            text: text.into(),
            who: None,
            range: None,
            value: None,
            fault: None,
            space: None,
        }
    }
}

#[expect(clippy::ref_option, reason = "serde passes fields by reference")]
fn hexadecimal<S: serde::Serializer>(
    value: &Option<u64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(&format_args!("{value:#x}")),
        None => serializer.serialize_none(),
    }
}
