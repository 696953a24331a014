//! Events in words.

use super::{Claim, Told};
use crate::snapshot::RootLabel;

/// An event in words: `process 6 read kernel memory at 0xffffc98000009000`.
pub fn describe(told: &Told) -> String {
    let who = match told.label() {
        RootLabel::Process(pid) => format!("process {pid}"),
        _ => "the kernel".into(),
    };
    match &told.claim {
        Claim::Boot { .. } => "the kernel is up".into(),
        Claim::ProcessCreated {
            child, parent: 0, ..
        } => format!("process {child} is the first"),
        Claim::ProcessCreated { child, parent, .. } => {
            format!("process {parent} has a child, process {child}")
        }
        Claim::ProcessExecuted { process } => format!("process {process} starts its program"),
        Claim::ProcessExited { process, .. } => format!("process {process} has ended"),
        Claim::ProcessKilled { process, .. } => format!("process {process} is killed"),
        Claim::KernelMapped { address, pages, .. } => {
            format!("{who} allocated {pages} pages of kernel memory at {address}")
        }
        Claim::KernelUnmapped { address, .. } => format!("{who} freed kernel memory at {address}"),
        Claim::KernelProtected {
            address, writable, ..
        } => {
            let rights = if *writable { "writable" } else { "read-only" };
            format!("{who} made kernel memory at {address} {rights}")
        }
        Claim::KernelAccess {
            address,
            write,
            fault,
            ..
        } => {
            let did = match (write, fault) {
                (false, None) => "read",
                (true, None) => "wrote to",
                (false, Some(_)) => "could not read",
                (true, Some(_)) => "could not write to",
            };
            format!("{who} {did} kernel memory at {address:#x}")
        }
        Claim::PageFaultHandled {
            process, address, ..
        } => format!("process {process} faulted at {address}, and goes on"),
        Claim::Checkpoint { text } => text.clone(),
        Claim::Crash { .. } => "the kernel crashed".into(),
        Claim::Done { .. } => "the run is over".into(),
    }
}
