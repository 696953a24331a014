//! gdb attached to a guest: its stub (the remote serial protocol, GDB's manual, appendix E), on KVM's debug registers
//! (KVM_SET_GUEST_DEBUG).
//!
//! While gdb holds the guest, all CPUs stand still inside of [`Machine::run`](crate::Machine::run), and that time is not
//! the guest's ([`Machine::held`](crate::Machine::held)). Nothing that the other end sends is trusted: what is too long, or
//! not read in time, ends the connection, and the guest runs on without.
//!
//! Breakpoints of both kinds are the CPU's own four: nothing is written into the guest's code. A CPU is a thread to gdb,
//! numbered from 1.

mod breakpoints;
mod command;
mod documents;
mod listen;
mod machine;
mod memory;
mod packet;
mod registers;
mod session;

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::boot::BootError;
use crate::kvm::Host;
use crate::machine::{Config, Machine};
use crate::virtual_machine::{Doorbell, Platform, VirtualMachine};

pub use listen::{Address, Connection, ListenError, Listener};
pub(crate) use session::Session;

/// What answers gdb's `monitor WORDS`, asked about the CPU with that number.
pub type Monitor = Box<dyn FnMut(&Machine, usize, &str) -> String + Send>;

/// A KVM whose first machine is debugged.
pub struct Debugged {
    host: Host,
    session: Mutex<Option<Box<Session>>>,
}

impl Debugged {
    /// The first machine on `host` is held before its first instruction, for whoever is connected.
    pub fn new(host: Host, connection: Connection, monitor: Monitor) -> Debugged {
        let session = Session::new(connection, host.module(), monitor);
        Debugged {
            host,
            session: Mutex::new(Some(Box::new(session))),
        }
    }
}

impl Platform for Debugged {
    fn machine(&self, config: Config, _: Instant) -> Result<Box<dyn VirtualMachine>, BootError> {
        let mut machine = Machine::on(&self.host, config)?;
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        machine.gdb = session.take();
        Ok(Box::new(machine))
    }

    fn doorbell(&self) -> Doorbell {
        self.host.doorbell()
    }

    fn name(&self) -> &'static str {
        self.host.name()
    }

    fn translator(&self) -> &'static str {
        self.host.translator()
    }
}
