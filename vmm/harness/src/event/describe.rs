//! Events in words.

use super::{Event, EventKind};
use heirloom_inspect::RootLabel;

/// An event in words: `process 6 read kernel memory at 0xffffc98000009000`.
pub fn describe(event: &Event) -> String {
    let who = match event.label() {
        RootLabel::Process(pid) => format!("process {pid}"),
        _ => "the kernel".into(),
    };
    match &event.claim {
        EventKind::Boot { .. } => "the kernel is up".into(),
        EventKind::ProcessCreated {
            child, parent: 0, ..
        } => format!("process {child} is the first"),
        EventKind::ProcessCreated { child, parent, .. } => {
            format!("process {parent} has a child, process {child}")
        }
        EventKind::ProcessExecuted { process } => format!("process {process} starts its program"),
        EventKind::ProcessExited { process, .. } => format!("process {process} has ended"),
        EventKind::ProcessKilled { process, .. } => format!("process {process} is killed"),
        EventKind::KernelMapped { address, pages, .. } => {
            format!("{who} allocated {pages} pages of kernel memory at {address}")
        }
        EventKind::KernelUnmapped { address, .. } => {
            format!("{who} freed kernel memory at {address}")
        }
        EventKind::KernelProtected {
            address, writable, ..
        } => {
            let rights = if *writable { "writable" } else { "read-only" };
            format!("{who} made kernel memory at {address} {rights}")
        }
        EventKind::KernelAccess {
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
        EventKind::PageFaultHandled {
            process, address, ..
        } => format!("process {process} faulted at {address}, and goes on"),
        EventKind::Checkpoint { text } => text.clone(),
        EventKind::Crash { .. } => "the kernel crashed".into(),
        EventKind::Done { .. } => "the run is over".into(),
    }
}
