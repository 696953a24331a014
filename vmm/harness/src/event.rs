//! What the guest kernel reports: it fills its probe page and rings the doorbell. An event is a claim;
//! what it claims is checked against CR3 and the page tables.

pub use heirloom_inspect::judge::{
    Claim as EventKind, Counters, MalformedEvent, Told as Event, describe,
};
