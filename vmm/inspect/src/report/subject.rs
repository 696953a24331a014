//! What a report about a target begins with: which one it is, and how it was read.

use serde::Serialize;

use crate::discover::{Basis, Discovery};
use crate::layout::Area;
use crate::memory::{MAX_RAM, PhysRange};
use crate::profile::{Name, Recognized};
use heirloom_paging::mode::{CpuState, Mode};

/// Version of the JSON of the commands that inspect a target; grows when a field changes its meaning or
/// goes.
pub const INSPECTION_VERSION: u32 = 1;

/// A guest, as reports name it.
#[derive(Clone, Debug, Serialize)]
pub struct Subject {
    /// As the user named it.
    pub name: String,
    /// How the CPUs page.
    pub mode: Mode,
    /// Which profile is taken, and what tells so.
    pub profile: Recognized,
    /// What people call areas of this kernel, where that is not the usual name.
    #[serde(skip)]
    pub area_names: Vec<(Area, Name)>,
    /// What the search for address spaces began with.
    pub basis: Basis,
    /// The registers of the CPUs, by number.
    pub cpus: Vec<CpuState>,
    /// The guest's RAM, ascending.
    pub ram: Vec<PhysRange>,
    /// What was assumed.
    pub notes: Vec<String>,
}

impl Subject {
    /// The guest that `discovery` is of.
    pub fn new(name: &str, discovery: &Discovery) -> Subject {
        Subject {
            name: name.to_owned(),
            mode: *discovery.mode(),
            profile: discovery.recognized.clone(),
            area_names: discovery.profile.names.clone(),
            basis: discovery.basis,
            cpus: discovery.cpus.clone(),
            ram: discovery.ram.clone(),
            notes: discovery.notes.clone(),
        }
    }

    /// What people call an area of this kernel.
    pub fn name_of(&self, area: Area) -> &'static str {
        let own = self.area_names.iter().find(|(known, _)| *known == area);
        own.map_or(area.name(), |(_, name)| name.as_str())
    }

    /// Bytes of RAM; `None` if nobody knows where it ends.
    pub fn ram_bytes(&self) -> Option<u64> {
        let ends = self
            .ram
            .last()
            .is_none_or(|range| range.end().get() < MAX_RAM);
        ends.then(|| self.ram.iter().map(|range| range.bytes).sum())
    }
}
