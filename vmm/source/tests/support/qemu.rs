//! A real QEMU with the small guest, and a second QMP connection to ask it behind heirloom's back.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use heirloom_inspect::Depth;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::guest;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Killed when it is dropped.
pub(crate) struct Qemu {
    child: Child,
    pub(crate) directory: TempDir,
    other: Option<Qmp>,
}

impl Qemu {
    /// Starts QEMU with the small guest and waits until that counts. `arguments` are separated by
    /// spaces; `DIR` in them is the directory of its files.
    pub(crate) fn start(depth: Depth, arguments: &str) -> Qemu {
        let directory = tempfile::tempdir().unwrap();
        let kernel = directory.path().join("kernel");
        std::fs::write(&kernel, guest::kernel(depth)).unwrap();
        let place = directory.path().to_str().unwrap();
        let socket = |name: &str| format!("unix:{place}/{name},server=on,wait=off");
        // It dies with the thread that started it, whatever ends that.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
            .args(["-display", "none", "-nodefaults", "-no-user-config"])
            .arg("-kernel")
            .arg(&kernel)
            .args(["-qmp", &socket("qmp"), "-qmp", &socket("other")])
            .args(["-monitor", &socket("monitor")])
            .args(arguments.replace("DIR", place).split_whitespace())
            .stdin(Stdio::null())
            .spawn()
            .expect("this test needs qemu-system-x86_64, Debian's package qemu-system-x86");
        let mut qemu = Qemu {
            child,
            directory,
            other: None,
        };
        let deadline = Instant::now() + PATIENCE;
        while qemu.other.is_none() {
            assert!(Instant::now() < deadline, "QEMU opens no socket");
            assert_eq!(qemu.child.try_wait().unwrap(), None, "QEMU ended at once");
            std::thread::sleep(Duration::from_millis(20));
            qemu.other = UnixStream::connect(qemu.path("other")).ok().map(Qmp::over);
        }
        qemu
    }

    /// [`Qemu::start`], and waits until the guest has entered long mode and counts.
    pub(crate) fn start_counting(depth: Depth, arguments: &str) -> Qemu {
        let mut qemu = Qemu::start(depth, arguments);
        let deadline = Instant::now() + PATIENCE;
        while qemu.word(guest::COUNTER) == 0 {
            assert!(Instant::now() < deadline, "the guest does not count");
            std::thread::sleep(Duration::from_millis(20));
        }
        qemu
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Its spec.
    pub(crate) fn spec(&self, options: &str) -> String {
        format!("qemu:{}{options}", self.path("qmp").display())
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks over the second connection.
    pub(crate) fn ask(&mut self, command: &str, arguments: Value) -> Value {
        self.other.as_mut().unwrap().ask(command, arguments)
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.ask("query-status", Value::Null)["running"] == true
    }

    /// The word at a guest-physical address, as the monitor shows it.
    pub(crate) fn word(&mut self, at: u64) -> u64 {
        let line = json!({ "command-line": format!("xp /1gx {at:#x}") });
        let printed = self.ask("human-monitor-command", line);
        let (_, word) = printed.as_str().unwrap().trim().split_once(": 0x").unwrap();
        u64::from_str_radix(word, 16).unwrap()
    }

    /// Guest memory as QEMU itself saves it.
    pub(crate) fn saved(&mut self, at: u64, bytes: usize) -> Vec<u8> {
        let file = self.path("saved");
        let arguments = json!({ "val": at, "size": bytes, "filename": file });
        self.ask("pmemsave", arguments);
        std::fs::read(file).unwrap()
    }
}

impl Qemu {
    /// Kills it; its files stay.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.kill();
    }
}

/// As little of QMP as it takes.
struct Qmp(BufReader<UnixStream>);

impl Qmp {
    fn over(stream: UnixStream) -> Qmp {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut qmp = Qmp(BufReader::new(stream));
        qmp.line();
        qmp.ask("qmp_capabilities", Value::Null);
        qmp
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn ask(&mut self, command: &str, arguments: Value) -> Value {
        let mut message = json!({ "execute": command });
        if !arguments.is_null() {
            message["arguments"] = arguments;
        }
        writeln!(self.0.get_mut(), "{message}").unwrap();
        loop {
            let mut answer = self.line();
            assert!(answer.get("error").is_none(), "{message}: {answer}");
            if let Some(value) = answer.get_mut("return") {
                return value.take();
            }
        }
    }
}
