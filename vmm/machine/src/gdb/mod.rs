//! gdb attached to a guest: gdbstub's protocol on KVM's debug registers (KVM_SET_GUEST_DEBUG).
//!
//! While gdb holds the guest, all CPUs stand still inside of [`Machine::run`](crate::Machine::run), and that time is not
//! the guest's ([`Machine::held`](crate::Machine::held)). Nothing that the other end sends is trusted: what is too long, or
//! not read in time, ends the connection, and the guest runs on without.
//!
//! Breakpoints of both kinds are the CPU's own four: nothing is written into the guest's code. A CPU is a thread to gdb,
//! numbered from 1.

mod breakpoints;
mod documents;
mod listen;
mod machine;
mod memory;
mod registers;
mod session;
mod target;

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::boot::BootError;
use crate::kvm::{Host, KvmModule};
use crate::machine::{Config, Machine};
use crate::virtual_machine::{Doorbell, Platform, VirtualMachine};

pub use listen::{Address, Connection, ListenError, Listener};
pub(crate) use session::Session;
pub(crate) use target::Wishes;

/// What answers gdb's `monitor WORDS`, asked about the CPU with that number.
pub type Monitor = Box<dyn FnMut(&Machine, usize, &str) -> String + Send>;

/// A KVM whose first machine is debugged.
pub struct Debugged {
    host: Host,
    waiting: Mutex<Option<(Connection, Monitor)>>,
}

impl Debugged {
    /// The first machine on `host` is held before its first instruction, for whoever is connected.
    pub fn new(host: Host, connection: Connection, monitor: Monitor) -> Debugged {
        Debugged {
            host,
            waiting: Mutex::new(Some((connection, monitor))),
        }
    }
}

impl Platform for Debugged {
    fn machine(&self, config: Config, _: Instant) -> Result<Box<dyn VirtualMachine>, BootError> {
        let mut machine = Machine::on(&self.host, config)?;
        let waiting = self.waiting.lock();
        if let Some((connection, monitor)) = waiting.unwrap_or_else(PoisonError::into_inner).take()
        {
            machine.wishes = Wishes::new(monitor, self.host.module() == Some(KvmModule::Pvm));
            machine.gdb = Some(Box::new(Session::begin(connection, &mut machine)));
        }
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
