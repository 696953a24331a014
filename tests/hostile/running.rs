//! The command while it runs: the CPU time that it uses, signals to it, and how it ends.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

/// So that nothing hangs: nothing here takes a tenth of that on a busy machine.
const AMPLE: Duration = Duration::from_secs(600);
const TICKS_PER_SECOND: u64 = 100;

/// `heirloom`, started.
pub(crate) struct Running {
    child: Child,
    folder: tempfile::TempDir,
}

/// How it ended.
pub(crate) struct Ended {
    /// `None` where a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

impl Ended {
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

impl Running {
    /// Whatever signals the tests' own starter ignores, as `nohup` and a shell's `&` do: the command does not.
    pub(crate) fn start(arguments: &[&str]) -> Running {
        let mut command = Command::new("env");
        command
            .args(["--default-signal", env!("CARGO_BIN_EXE_heirloom")])
            .args(arguments);
        Running::of(command)
    }

    /// The same under a shell's `ulimit`.
    pub(crate) fn start_limited(limits: &str, arguments: &[&str]) -> Running {
        let mut command = Command::new("sh");
        let script = format!("{limits}; exec \"$0\" \"$@\"");
        command
            .args(["-c", &script, env!("CARGO_BIN_EXE_heirloom")])
            .args(arguments);
        Running::of(command)
    }

    pub(crate) fn of(command: Command) -> Running {
        let folder = tempfile::tempdir().unwrap();
        let output = |name: &str| fs::File::create(folder.path().join(name)).unwrap();
        let streams = [output("stdout"), output("stderr")].map(Stdio::from);
        Running::with(command, Stdio::null(), streams, folder)
    }

    /// On a terminal, which nobody reads: what it says must fit into the terminal's own buffer.
    pub(crate) fn on(command: Command, terminal: &OwnedFd) -> Running {
        let folder = tempfile::tempdir().unwrap();
        for name in ["stdout", "stderr"] {
            fs::File::create(folder.path().join(name)).unwrap();
        }
        let stream = || Stdio::from(terminal.try_clone().unwrap());
        Running::with(command, stream(), [stream(), stream()], folder)
    }

    fn with(
        mut command: Command,
        stdin: Stdio,
        [stdout, stderr]: [Stdio; 2],
        folder: tempfile::TempDir,
    ) -> Running {
        let child = command
            .env_remove("RUST_LOG")
            .stdin(stdin)
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .unwrap();
        Running { child, folder }
    }

    pub(crate) fn signal(&self, name: &str) {
        let mut kill = Command::new("kill");
        kill.args(["-s", name, &self.child.id().to_string()]);
        assert!(kill.status().unwrap().success());
    }

    pub(crate) fn process(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    /// The folders of its threads in /proc; the first is the one that it began with. KVM's own, which run nothing
    /// of the program's, are left out.
    pub(crate) fn threads(&self) -> Vec<PathBuf> {
        let folder = format!("/proc/{}/task", self.child.id());
        let threads = fs::read_dir(folder).into_iter().flatten();
        let is_kvms = |thread: &PathBuf| {
            fs::read(thread.join("comm")).is_ok_and(|name| name.starts_with(b"kvm-"))
        };
        let mut threads: Vec<PathBuf> = threads
            .map(|thread| thread.unwrap().path())
            .filter(|thread| !is_kvms(thread))
            .collect();
        threads.sort();
        threads
    }

    /// What it has printed so far.
    pub(crate) fn stdout(&self) -> Vec<u8> {
        self.printed("stdout")
    }

    fn printed(&self, name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut file = fs::File::open(self.folder.path().join(name)).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }

    /// State and CPU time of the whole process; `None` once it has ended.
    fn stat(&self) -> Option<(char, Duration)> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        // The name may hold blanks and ends with the last bracket; then state is the first word, user and
        // system time are the twelfth and the thirteenth.
        let (_, words) = stat.rsplit_once(") ")?;
        let words: Vec<&str> = words.split(' ').collect();
        let ticks = words[11].parse::<u64>().ok()? + words[12].parse::<u64>().ok()?;
        let state = words[0].chars().next()?;
        (state != 'Z').then(|| {
            (
                state,
                Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND),
            )
        })
    }

    /// Waits until `is_there`.
    pub(crate) fn until(&mut self, mut is_there: impl FnMut(&Running) -> bool) {
        let start = Instant::now();
        while !is_there(self) {
            let ended = self.child.try_wait().unwrap();
            assert_eq!(ended, None, "it ended: {}", self.said_so_far());
            assert!(start.elapsed() < AMPLE, "it does not come to that");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until `is_there`, or until it has ended, whichever is first.
    pub(crate) fn until_ended_or(&mut self, mut is_there: impl FnMut() -> bool) {
        let start = Instant::now();
        while self.stat().is_some() && !is_there() {
            assert!(start.elapsed() < AMPLE, "it does not come to that");
            thread::yield_now();
        }
    }

    /// Waits until it has used this much CPU time.
    pub(crate) fn until_used(&mut self, cpu_time: Duration) {
        self.until(|it| it.stat().is_some_and(|(_, used)| used >= cpu_time));
    }

    /// Waits until it has used this much CPU time, or has ended.
    pub(crate) fn until_ended_or_used(&mut self, cpu_time: Duration) {
        let start = Instant::now();
        while self.stat().is_some_and(|(_, used)| used < cpu_time) {
            assert!(start.elapsed() < AMPLE, "it does not come to that");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until it sleeps and uses no CPU time any more.
    pub(crate) fn until_blocked(&mut self) {
        let (mut last, mut same) = (None, 0);
        self.until(|it| {
            let now = it.stat();
            let sleeps = now.is_some_and(|(state, _)| state == 'S');
            same = if sleeps && now == last { same + 1 } else { 0 };
            last = now;
            same >= 100
        });
    }

    fn said_so_far(&self) -> String {
        String::from_utf8_lossy(&self.printed("stderr")).into_owned()
    }

    /// Its end, for which it has this much CPU time from now on.
    pub(crate) fn ends_within(mut self, cpu_time: Duration) -> Ended {
        let used_before = self.stat().map_or(Duration::ZERO, |(_, used)| used);
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            let used = self.stat().map_or(Duration::ZERO, |(_, used)| used);
            let used = used.saturating_sub(used_before);
            let is_late = used > cpu_time || start.elapsed() > AMPLE;
            if is_late {
                let _ = self.child.kill();
                let _ = self.child.wait();
                panic!(
                    "not ended after {used:?} of CPU time and {:?}: {}",
                    start.elapsed(),
                    self.said_so_far()
                );
            }
            thread::sleep(Duration::from_millis(5));
        };
        Ended {
            code: status.code(),
            stdout: self.printed("stdout"),
            stderr: self.printed("stderr"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The names in a folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}
