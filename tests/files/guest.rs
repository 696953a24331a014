//! A Linux guest that stands still, and what QEMU knows of it.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use heirloom_inspect::{PhysAddr, PhysicalMemory};
use serde_json::{Value, json};

use crate::answers::{Answers, named};
use crate::common::linux::core::Core;
use crate::common::linux::qmp::Qmp;
use crate::common::linux::{Guest, Variant};

/// It has set memory aside for a kernel that would dump it.
const GUEST: Variant = Variant {
    name: "crashkernel",
    words: "crashkernel=64M",
    ..Variant::PTI_ON
};

/// The guest of all these tests.
pub(crate) struct Stopped {
    guest: Guest,
    qmp: Mutex<Qmp>,
    /// An ELF core of it.
    pub(crate) core: PathBuf,
    /// What that answers.
    pub(crate) answers: Answers,
    /// RAM from 0 on.
    memory: Vec<u8>,
    /// Where it has set memory aside.
    pub(crate) crash_kernel: Range<usize>,
    /// Where its kernel has RAM.
    pub(crate) system_ram: Vec<Range<usize>>,
}

impl Stopped {
    pub(crate) fn get() -> &'static Stopped {
        static STOPPED: OnceLock<Stopped> = OnceLock::new();
        STOPPED.get_or_init(|| {
            let guest = Guest::boot(GUEST);
            guest.tell("grep 'Crash kernel' /proc/iomem");
            let console = std::fs::read_to_string(guest.folder().join("console")).unwrap();
            let mut qmp = guest.qmp();
            qmp.stop();
            let core = guest.folder().join("core");
            qmp.dump(&core, false);
            let opened = Core::open(&core);
            let ram = opened.ram().next().unwrap();
            let mut memory = vec![0; usize::try_from(ram.bytes).unwrap()];
            opened.read_bytes(PhysAddr::new(0), &mut memory).unwrap();
            Stopped {
                crash_kernel: crash_kernel(&console),
                system_ram: system_ram(&console),
                answers: Answers::of(&named(&core)),
                memory,
                core,
                qmp: Mutex::new(qmp),
                guest,
            }
        })
    }

    /// A file of this name, in a folder that goes with the guest.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    fn folder(&self) -> &Path {
        self.guest.folder()
    }

    pub(crate) fn memory(&self) -> &[u8] {
        &self.memory
    }

    /// The notes of QEMU's core.
    pub(crate) fn notes(&self) -> Vec<u8> {
        let file = std::fs::File::open(&self.core).unwrap();
        let word = |at: u64| {
            let mut word = [0; 8];
            file.read_exact_at(&mut word, at).unwrap();
            u64::from_le_bytes(word)
        };
        // The first program header is that of the notes: its p_offset and p_filesz.
        let header = word(32);
        let mut notes = vec![0; usize::try_from(word(header + 32)).unwrap()];
        file.read_exact_at(&mut notes, word(header + 8)).unwrap();
        notes
    }

    /// The formats in which this QEMU dumps guests.
    pub(crate) fn formats(&self) -> Vec<String> {
        let answer = self.ask("query-dump-guest-memory-capability", &json!({}));
        serde_json::from_value(answer["formats"].clone()).unwrap()
    }

    /// Has QEMU dump the guest in one of them.
    pub(crate) fn dump(&self, format: &str) -> PathBuf {
        let file = self.path(format);
        let arguments = json!({
            "paging": false,
            "protocol": format!("file:{}", file.display()),
            "format": format,
        });
        self.ask("dump-guest-memory", &arguments);
        file
    }

    /// Has QEMU dump a part of the guest's RAM as a core.
    pub(crate) fn dump_part(&self, name: &str, begin: u64, length: u64) -> PathBuf {
        let file = self.path(name);
        let arguments = json!({
            "paging": false,
            "protocol": format!("file:{}", file.display()),
            "begin": begin,
            "length": length,
        });
        self.ask("dump-guest-memory", &arguments);
        file
    }

    /// Has QEMU write the guest as what another QEMU would go on with.
    pub(crate) fn migrate(&self) -> PathBuf {
        let file = self.path("stream");
        let mut qmp = self.qmp.lock().unwrap_or_else(PoisonError::into_inner);
        let uri = format!("exec:cat > '{}'", file.display());
        qmp.execute("migrate", &json!({ "uri": uri }));
        let deadline = Instant::now() + crate::common::AMPLE;
        loop {
            let answer = qmp.execute("query-migrate", &json!({}));
            match answer["status"].as_str() {
                Some("completed") => return file,
                Some("failed") => panic!("{answer}"),
                _ => assert!(Instant::now() < deadline, "{answer}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The first CPU's CR3.
    pub(crate) fn cr3(&self) -> u64 {
        let line = json!({ "command-line": "info registers" });
        let text = self.ask("human-monitor-command", &line);
        let (_, rest) = text.as_str().unwrap().split_once("CR3=").unwrap();
        u64::from_str_radix(rest.split_whitespace().next().unwrap(), 16).unwrap()
    }

    fn ask(&self, command: &str, arguments: &Value) -> Value {
        let mut qmp = self.qmp.lock().unwrap_or_else(PoisonError::into_inner);
        qmp.execute(command, arguments)
    }
}

/// `  1b000000-1effffff : Crash kernel`.
fn crash_kernel(console: &str) -> Range<usize> {
    ranges(console, "Crash kernel")
        .next()
        .unwrap_or_else(|| panic!("the guest set no memory aside: {console}"))
}

/// `00100000-1ffdffff : System RAM`, once each.
fn system_ram(console: &str) -> Vec<Range<usize>> {
    let mut ranges: Vec<_> = ranges(console, "System RAM").collect();
    ranges.sort_by_key(|range| range.start);
    ranges.dedup();
    ranges
}

/// The lines of `/proc/iomem` of what is called so.
fn ranges<'a>(console: &'a str, what: &'a str) -> impl Iterator<Item = Range<usize>> + 'a {
    console.lines().filter_map(move |line| {
        let (range, name) = line.trim().split_once(" : ")?;
        let (first, last) = range.split_once('-').filter(|_| name == what)?;
        let [first, last] = [first, last].map(|digits| usize::from_str_radix(digits, 16).unwrap());
        Some(first..last + 1)
    })
}
