//! The command is ended at any moment, by any signal: what it leaves behind is whole, guests run on, and the terminal
//! is as it was.
//!
//! `HEIRLOOM_KILLS=1000` ends it so often; `HEIRLOOM_SEED` chooses other moments.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use heirloom_inspect::Depth;
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::termios::{Termios, tcgetattr};

use crate::cores::table_web;
use crate::fake::{Fake, Served};
use crate::file;
use crate::qemu::Qemu;
use crate::running::{Running, names};
use crate::tiny::{BzImage, HALT};

/// Those that end a process unless it does something about them, and those that stop it.
const SIGNALS: [&str; 16] = [
    "INT", "KILL", "TERM", "STOP", "HUP", "QUIT", "ABRT", "SEGV", "TSTP", "PIPE", "USR1", "ALRM",
    "BUS", "SYS", "XCPU", "TTIN",
];
/// After these it goes on when it is told to.
const STOPPING: [&str; 3] = ["STOP", "TSTP", "TTIN"];
/// After these it tidies up.
const GENTLE: [&str; 3] = ["INT", "TERM", "HUP"];
/// How often, unless `HEIRLOOM_KILLS` says otherwise.
const KILLS: u64 = 80;
/// CPU time after which all of them have ended, in milliseconds.
const LONGEST: u64 = 160;
/// CPU time in which whatever was written is read.
const AMPLE: Duration = Duration::from_secs(60);
/// A guest that stands still for so long does so for ever, on a busy machine, too.
const FOR_EVER: Duration = Duration::from_secs(600);

/// What is being done when it is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Page,
    Recording,
    Core,
    Report,
    FakeGuest,
    LiveGuest,
    Terminal,
}

/// The guest of a real QEMU first: it needs a CPU of its own as long as it is there.
const DOING: [Doing; 7] = [
    Doing::LiveGuest,
    Doing::Page,
    Doing::Recording,
    Doing::FakeGuest,
    Doing::Core,
    Doing::Terminal,
    Doing::Report,
];

/// Numbers by chance, the same for the same seed (xorshift, Marsaglia 2003).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % end
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[usize::try_from(self.below(list.len() as u64)).unwrap()]
    }
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |number| number.parse().unwrap())
}

/// What is there for all of them.
struct Scene {
    kernel: String,
    core: String,
    qemu: Option<Qemu>,
}

impl Scene {
    /// That the guest runs, or does soon.
    fn assert_runs(&mut self, what: &str) {
        let qemu = self.qemu.as_mut().expect(what);
        let start = Instant::now();
        while !qemu.is_running() {
            assert!(start.elapsed() < FOR_EVER, "{what}: the guest stands still");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A terminal of the command's own, and how it was set.
struct Terminal(OpenptyResult, Termios);

impl Terminal {
    fn new() -> Terminal {
        let size = Winsize {
            ws_row: 50,
            ws_col: 120,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let terminal = openpty(Some(&size), None).unwrap();
        let before = tcgetattr(&terminal.slave).unwrap();
        Terminal(terminal, before)
    }

    fn assert_as_before(&self, what: &str) {
        let now = tcgetattr(&self.0.slave).unwrap();
        assert_eq!(format!("{now:?}"), format!("{:?}", self.1), "{what}");
    }
}

fn start(
    doing: Doing,
    output: &Path,
    scene: &Scene,
) -> (Running, Option<Served>, Option<Terminal>) {
    let output = output.to_str().unwrap();
    let plain = |arguments: &[&str]| (Running::start(arguments), None, None);
    match doing {
        Doing::Page => plain(&["run", "-q", "--html", output]),
        Doing::Recording => plain(&["run", "-q", "--record", output]),
        Doing::Core => plain(&["boot", &scene.kernel, "--core", output]),
        Doing::Report => plain(&["check", &scene.core, "--json", "--output", output]),
        Doing::FakeGuest => {
            let fake = Fake::default().serve();
            (Running::start(&["check", &fake.spec]), Some(fake), None)
        }
        Doing::LiveGuest => {
            let spec = scene.qemu.as_ref().map(|qemu| qemu.spec(""));
            plain(&["check", &spec.unwrap()])
        }
        Doing::Terminal => {
            let terminal = Terminal::new();
            let mut command = Command::new(env!("CARGO_BIN_EXE_heirloom"));
            command.args(["run", "--html", output]);
            command.env("TERM", "xterm-256color");
            let running = Running::on(command, &terminal.0.slave);
            (running, None, Some(terminal))
        }
    }
}

/// That a file under its final name can be used.
fn assert_whole(doing: Doing, output: &Path, what: &str) {
    match doing {
        Doing::Page | Doing::Terminal => {
            let page = fs::read_to_string(output).unwrap();
            assert!(page.trim_end().ends_with("</html>"), "{what}");
        }
        Doing::Recording => {
            // It grows under its name, and may be cut where it was being written.
            let replay = Running::start(&["replay", output.to_str().unwrap()]);
            let ended = replay.ends_within(AMPLE);
            let is_read = matches!(ended.code, Some(0 | 2 | 4));
            assert!(is_read, "{what}: {:?}: {}", ended.code, ended.said());
        }
        Doing::Core => {
            let roots = Running::start(&["roots", &format!("core:{}", output.display())]);
            let ended = roots.ends_within(AMPLE);
            assert_eq!(ended.code, Some(0), "{what}: {}", ended.said());
        }
        Doing::Report => {
            let report = fs::read(output).unwrap();
            let report: serde_json::Value = serde_json::from_slice(&report).expect(what);
            assert!(report["rules"].is_array(), "{what}");
        }
        Doing::FakeGuest | Doing::LiveGuest => panic!("{what}: it writes nothing"),
    }
}

#[test]
fn on_kvm_whenever_the_command_is_ended_files_are_whole_and_guests_run_on() {
    let kills = number("HEIRLOOM_KILLS", KILLS);
    let seed = number("HEIRLOOM_SEED", 1);
    let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (_folder, kernel) = file("kernel", &BzImage::new(HALT).bytes());
    let (_other, core) = file("core", &table_web(4, 64));
    let mut scene = Scene {
        kernel: kernel.to_str().unwrap().to_owned(),
        core: format!("core:{}", core.display()),
        qemu: Some(Qemu::start(Depth::Four, "-m 64")),
    };
    let (mut by_signal, mut gently, mut late) = (0, 0, 0);
    for kill in 0..kills {
        // Each with each signal, and at moments by chance.
        let doing = DOING[usize::try_from(kill * DOING.len() as u64 / kills).unwrap()];
        if doing != Doing::LiveGuest {
            scene.qemu = None;
        }
        let signal = SIGNALS[usize::try_from(kill % SIGNALS.len() as u64).unwrap()];
        let used = Duration::from_millis(chance.below(LONGEST / 10) * 10);
        let then = Duration::from_micros(chance.below(10_000));
        let goes_on = chance.of(&[true, false]);
        let what = format!("kill {kill}: {doing:?}, {signal} after {used:?} and {then:?}");
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("output");
        let (mut running, fake, terminal) = start(doing, &output, &scene);
        running.until_ended_or_used(used);
        thread::sleep(then);
        running.signal(signal);
        let stops = STOPPING.contains(&signal);
        if stops {
            thread::sleep(then);
            if doing == Doing::LiveGuest {
                scene.assert_runs(&what);
            }
            running.signal(if goes_on { "CONT" } else { "KILL" });
        }
        let ended = running.ends_within(AMPLE);
        if kill % 50 == 49 {
            println!("{what}");
        }
        match ended.code {
            None => by_signal += 1,
            Some(4) => gently += 1,
            Some(0..=2) => late += 1,
            Some(other) => panic!("{what}: {other}: {}", ended.said()),
        }
        if output.exists() {
            assert_whole(doing, &output, &what);
        }
        if GENTLE.contains(&signal) || stops && goes_on {
            let left = names(folder.path());
            assert!(left.iter().all(|name| name == "output"), "{what}: {left:?}");
        }
        if let Some(terminal) = terminal {
            terminal.assert_as_before(&what);
        }
        if let Some(fake) = fake {
            // A command that was ended before it came leaves the fake waiting for it.
            let socket = fake.spec.trim_start_matches("qemu:");
            drop(UnixStream::connect(socket));
            let asked = fake.asked();
            let stopped = asked.iter().any(|question| question == "stop");
            let runs = asked.last().is_some_and(|last| last == "cont");
            assert!(!stopped || runs, "{what}: {asked:?}");
        }
        if doing == Doing::LiveGuest {
            scene.assert_runs(&what);
        }
    }
    println!(
        "of {kills}: {by_signal} by the signal, {gently} gently, {late} had ended before or went on"
    );
    assert!(by_signal > 0 && gently > 0, "it was never in time");
}
