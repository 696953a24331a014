//! What a stream says of its devices: JSON behind its end.

use serde::Deserialize;

use crate::input::Input;

/// A longer one is not read: that of a machine with hundreds of CPUs takes 2 MiB.
const LONGEST: u64 = 4 << 20;
/// So many zeros may follow it, where a file is written in blocks.
const PADDING: u64 = 1 << 20;
/// The byte in front of it, and that of the stream's end.
const MARK: [u8; 2] = [0, 6];

#[derive(Debug, Default, Deserialize)]
pub(super) struct Description {
    #[serde(default)]
    devices: Vec<Device>,
}

/// A section, and what of it follows what.
#[derive(Debug, Deserialize)]
pub(super) struct Device {
    name: String,
    instance_id: u32,
    #[serde(default)]
    pub(super) fields: Vec<Field>,
    #[serde(default)]
    subsections: Vec<Subsection>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Field {
    pub(super) name: String,
    /// Of one element.
    #[serde(default)]
    size: u64,
    /// How many there are, if only one is described.
    array_len: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Subsection {
    vmsd_name: String,
    #[serde(default)]
    fields: Vec<Field>,
    #[serde(default)]
    subsections: Vec<Subsection>,
}

impl Description {
    /// Looks for it at the end of `input`, whose stream begins at `start`; nothing if there is none.
    pub(super) fn find(input: &Input, start: u64) -> Description {
        let end = input.length();
        let from = end.saturating_sub(LONGEST + PADDING).max(start);
        let Some(bytes) = usize::try_from(end - from)
            .ok()
            .and_then(|length| input.bytes(from, length))
        else {
            return Description::default();
        };
        let Some(last) = bytes.iter().rposition(|byte| *byte != 0) else {
            return Description::default();
        };
        let bytes = &bytes[..=last];
        let is_it = |at: &usize| {
            let rest = &bytes[*at..];
            let length = rest.get(2..6).and_then(|length| length.first_chunk());
            let length = length.map(|length| u32::from_be_bytes(*length) as usize);
            rest.starts_with(&MARK) && length == Some(rest.len() - 6)
        };
        let places = 0..bytes.len().saturating_sub(6);
        places
            .rev()
            .find(is_it)
            .and_then(|at| serde_json::from_slice(&bytes[at + 6..]).ok())
            .unwrap_or_default()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    pub(super) fn device(&self, name: &str, instance: u32) -> Option<&Device> {
        let mut devices = self.devices.iter();
        devices.find(|device| device.instance_id == instance && device.name == name)
    }
}

impl Device {
    /// How long its section is.
    pub(super) fn bytes(&self) -> u64 {
        of(&self.fields, &self.subsections)
    }
}

impl Field {
    /// Of all its elements.
    pub(super) fn bytes(&self) -> u64 {
        self.size.saturating_mul(self.array_len.unwrap_or(1))
    }
}

fn of(fields: &[Field], subsections: &[Subsection]) -> u64 {
    let fields = fields.iter().map(Field::bytes);
    let subsections = subsections.iter().map(|section| {
        // A byte, the name behind its length, the version.
        let head = 1 + 1 + section.vmsd_name.len() as u64 + 4;
        of(&section.fields, &section.subsections).saturating_add(head)
    });
    fields.chain(subsections).fold(0, u64::saturating_add)
}
