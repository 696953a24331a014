//! The command is ended at any moment, by any signal: what it leaves behind is whole, and guests run on.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::fake::{Fake, Served};
use crate::file;
use crate::running::{Running, names};
use crate::tiny::{BzImage, HALT};

const SIGNALS: [&str; 6] = ["INT", "TERM", "HUP", "QUIT", "KILL", "STOP"];
/// How often, unless `HEIRLOOM_KILLS` says otherwise.
const KILLS: u64 = 72;
/// CPU time after which all of them have ended.
const LONGEST: u64 = 160;
const AMPLE: Duration = Duration::from_secs(60);

/// What is being done when it is ended.
#[derive(Clone, Copy, Debug)]
enum Doing {
    Page,
    Recording,
    Core,
    LiveGuest,
}

const DOING: [Doing; 4] = [Doing::Page, Doing::Recording, Doing::Core, Doing::LiveGuest];

fn start(doing: Doing, output: &Path, kernel: &Path) -> (Running, Option<Served>) {
    let (output, kernel) = (output.to_str().unwrap(), kernel.to_str().unwrap());
    let live = || Fake::default().serve();
    match doing {
        Doing::Page => (Running::start(&["run", "-q", "--html", output]), None),
        Doing::Recording => (Running::start(&["run", "-q", "--record", output]), None),
        Doing::Core => (Running::start(&["boot", kernel, "--core", output]), None),
        Doing::LiveGuest => {
            let fake = live();
            (Running::start(&["check", &fake.spec]), Some(fake))
        }
    }
}

/// That a file under its final name can be used.
fn assert_whole(doing: Doing, output: &Path, what: &str) {
    match doing {
        Doing::Page => {
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
        Doing::LiveGuest => panic!("{what}: it writes nothing"),
    }
}

#[test]
fn whenever_the_command_is_ended_files_are_whole_and_guests_run_on() {
    let kills = std::env::var("HEIRLOOM_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let (_folder, kernel) = file("kernel", &BzImage::new(HALT).bytes());
    let mut killed = 0;
    for kill in 0..kills {
        // Each with each, at moments that differ from run to run as machines do.
        let doing = DOING[usize::try_from(kill % 4).unwrap()];
        let signal = SIGNALS[usize::try_from(kill / 4 % 6).unwrap()];
        let after = Duration::from_millis(kill.wrapping_mul(7919) % LONGEST);
        let what = format!("{doing:?}, {signal} after {after:?}");
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("output");
        let (mut running, fake) = start(doing, &output, &kernel);
        running.until_ended_or_used(after);
        running.signal(signal);
        if signal == "STOP" {
            running.signal("KILL");
        }
        let ended = running.ends_within(AMPLE);
        killed += u32::from(matches!(ended.code, None | Some(4)));
        if output.exists() {
            assert_whole(doing, &output, &what);
        }
        if !matches!(signal, "QUIT" | "KILL" | "STOP") {
            let left = names(folder.path());
            assert!(left.iter().all(|name| name == "output"), "{what}: {left:?}");
        }
        if let Some(fake) = fake {
            let asked = fake.asked();
            let stopped = asked.iter().any(|question| question == "stop");
            let runs = asked.last().is_some_and(|last| last == "cont");
            assert!(!stopped || runs, "{what}: {asked:?}");
        }
    }
    assert!(killed > 0, "it was never in time");
}
