//! `--gdb`: the guest of our own machine waits for gdb, which can also ask this command about it.

use std::io::{self, Write};

use heirloom_harness::machine_target;
use heirloom_inspect::check::{Check, Strictness};
use heirloom_inspect::names::OwnAddress;
use heirloom_inspect::report::{CheckReport, Roots, TranslateReport};
use heirloom_inspect::{Discovery, VirtRange};
use heirloom_machine::gdb::{Address, Debugged, Listener};
use heirloom_machine::{Machine, Platform};

use crate::exit::{Exit, Failure};
use crate::inspect::maps;
use crate::machine;
use crate::output::Output;
use crate::signals;
use crate::text::Shown;

/// Bytes of an answer inside of gdb, at most. A hostile guest can claim that it maps more than anybody reads.
const ANSWER_BYTES: usize = 256 << 10;

/// What can be asked.
const HELP: &str = "\
heirloom about this guest, as it stands:
  monitor translate ADDRESS  walks the page tables of this CPU for it
  monitor maps               lists what its address space maps
  monitor roots              lists all address spaces
  monitor check              holds the rules against them
";

/// Options of commands whose guest can be debugged.
#[derive(clap::Args)]
#[group(skip)]
pub(crate) struct Options {
    /// Has the guest wait for gdb before its first instruction: at a port of this host (:1234; :0 takes any that is
    /// free) or a UNIX socket (a path). Time that gdb holds the guest does not count.
    #[arg(long, value_name = "ADDRESS")]
    gdb: Option<Address>,
}

impl Options {
    /// Where the machine is made. If it is to be debugged, gdb is connected when this returns.
    pub(crate) fn platform(
        &self,
        machine: &machine::Options,
    ) -> Result<Box<dyn Platform>, Failure> {
        let Some(address) = &self.gdb else {
            return machine.platform();
        };
        let host = machine.kvm_for("--gdb")?;
        let listener = Listener::bind(address.clone());
        let listener = listener.map_err(|error| Failure::new(Exit::Usage, error))?;
        let place = listener.address().clone();
        let left = place.clone();
        // Ctrl-C does not wait for gdb, and leaves no socket behind.
        signals::stop_by(move || {
            if let Address::Unix(path) = &left {
                let _ = std::fs::remove_file(path);
            }
        })?;
        Output::standard_error()?
            .line(&format!("the guest waits for gdb: target remote {place}"))?;
        let connection = listener
            .accept()
            .map_err(|error| Failure::new(Exit::Host, format!("gdb could not connect: {error}")))?;
        Ok(Box::new(Debugged::new(host, connection, Box::new(answer))))
    }
}

/// What gdb's `monitor WORDS` shows.
fn answer(machine: &Machine, cpu: usize, words: &str) -> String {
    let mut text = Bounded::default();
    let written = match words.split_once(' ').unwrap_or((words, "")) {
        ("translate", address) => translate(machine, cpu, address.trim(), &mut text),
        ("maps", "") => about(machine, cpu).and_then(|discovery| {
            let root = discovery
                .root_named(None)
                .map_err(|error| error.to_string())?;
            let all = maps::Filter::default();
            // It ends early where there is too much.
            let _ = maps::write_lines(&mut text, NAME, &discovery, root, VirtRange::ALL, &all);
            Ok(())
        }),
        ("roots", "") => about(machine, cpu).map(|discovery| {
            let _ = write!(text, "{}", Shown(&Roots::new(NAME, &discovery)));
        }),
        ("check", "") => about(machine, cpu).map(|discovery| {
            let check = Check::of(&discovery, Strictness::default());
            let _ = write!(
                text,
                "{}",
                Shown(&CheckReport::new(NAME, &discovery, check))
            );
        }),
        _ => {
            let _ = text.write_all(HELP.as_bytes());
            Ok(())
        }
    };
    let mut text = text.end();
    if let Err(why) = written {
        text.push_str(&why);
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// What people call it.
const NAME: &str = "the guest";

/// The guest as it stands, its first CPU the one that is asked about.
fn about(machine: &Machine, cpu: usize) -> Result<Discovery, String> {
    let mut target = machine_target::target(machine, NAME).map_err(|error| error.to_string())?;
    if cpu < target.cpus.len() {
        target.cpus.rotate_left(cpu);
    }
    let mut discovery = Discovery::of(&target).map_err(|error| error.to_string())?;
    discovery.read_names(&target);
    Ok(discovery)
}

fn translate(
    machine: &Machine,
    cpu: usize,
    address: &str,
    text: &mut Bounded,
) -> Result<(), String> {
    let address: OwnAddress = address.parse().map_err(|error| format!("{error}"))?;
    let discovery = about(machine, cpu)?;
    let root = address
        .process
        .map(heirloom_inspect::names::RootName::Process);
    let root = discovery.root_named(root.as_ref());
    let root = root.map_err(|error| error.to_string())?;
    let va = address.address.resolve(&discovery);
    let va = va.map_err(|error| error.to_string())?;
    let _ = write!(
        text,
        "{}",
        Shown(&TranslateReport::new(NAME, &discovery, root, va))
    );
    Ok(())
}

/// Text with an end.
#[derive(Default)]
struct Bounded(Vec<u8>);

impl Bounded {
    fn end(self) -> String {
        let is_cut = self.0.len() == ANSWER_BYTES;
        let mut text = String::from_utf8_lossy(&self.0).into_owned();
        if is_cut {
            text.push_str("\n… and more, which is left out here\n");
        }
        text
    }
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(ANSWER_BYTES - self.0.len());
        self.0.extend(&bytes[..taken]);
        // Nothing taken is an error to whoever writes.
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_an_end_is_cut_and_that_is_said() {
        let mut text = Bounded::default();
        let line = "x".repeat(1000);
        let written = std::iter::repeat_with(|| writeln!(text, "{line}")).take(1000);
        assert!(written.filter(Result::is_err).count() > 0);
        let text = text.end();
        assert!(text.len() < ANSWER_BYTES + 100);
        assert!(text.ends_with("left out here\n"));
    }
}
