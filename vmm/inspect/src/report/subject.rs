//! What a report about a target begins with: which one it is, and how it was read.

use serde::Serialize;

use crate::discover::{Basis, Discovery};
use crate::memory::PhysRange;
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
            basis: discovery.basis,
            cpus: discovery.cpus.clone(),
            ram: discovery.ram.clone(),
            notes: discovery.notes.clone(),
        }
    }

    /// Bytes of RAM.
    pub fn ram_bytes(&self) -> u64 {
        self.ram.iter().map(|range| range.bytes).sum()
    }
}
