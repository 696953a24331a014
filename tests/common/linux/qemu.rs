//! A Linux guest under QEMU, from its boot to its end.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::{Listing, artifacts, initramfs, qmp::Qmp};
use crate::common::machine::Machine;

/// A boot takes five seconds where there is time for it; this is so that nothing hangs.
const BOOT_LIMIT: Duration = Duration::from_secs(600);
/// QEMU emulates several CPUs not perfectly: on two, Linux 6.12 dies in one of some dozen boots under QEMU 7.2.
/// Such a boot says nothing of what is tested, so it is done again, and told; one CPU has no such excuse.
const MAX_CRASHED_BOOTS: u32 = 2;
/// Boots of this process, and those of them that have crashed.
static BOOTS: AtomicU32 = AtomicU32::new(0);
static CRASHED_BOOTS: AtomicU32 = AtomicU32::new(0);
/// What the guest prints when it stands still, and when it has done what it was told.
const READY: &str = "== ready";
const DONE: &str = "\n== done\n";
/// What the kernel prints when it dies.
const CRASHED: &str = "Kernel panic";
/// What it prints before that.
const CAUSES: [&str; 4] = ["BUG:", "Oops:", "general protection fault", "RIP: "];

/// What differs between the guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Variant {
    pub(crate) name: &'static str,
    /// Kernel page-table isolation: two roots for each process.
    pub(crate) pti: bool,
    /// Five levels.
    pub(crate) la57: bool,
    pub(crate) cpus: u32,
    /// More words of the kernel's command line.
    pub(crate) words: &'static str,
}

impl Variant {
    pub(crate) const PTI_ON: Variant = Variant {
        name: "pti-on",
        pti: true,
        la57: false,
        cpus: 1,
        words: "",
    };
    /// The page of the legacy system calls is there, too.
    pub(crate) const PTI_OFF: Variant = Variant {
        name: "pti-off",
        pti: false,
        cpus: 2,
        words: "vsyscall=emulate",
        ..Variant::PTI_ON
    };
    /// One CPU is in ring 3 most of the time, on a user root.
    pub(crate) const LA57_PTI_ON: Variant = Variant {
        name: "la57-pti-on",
        la57: true,
        cpus: 2,
        words: "more=spin sleepers=37",
        ..Variant::PTI_ON
    };
    pub(crate) const LA57_PTI_OFF: Variant = Variant {
        name: "la57-pti-off",
        la57: true,
        pti: false,
        cpus: 1,
        ..Variant::PTI_ON
    };
    pub(crate) const ALL: [Variant; 4] = [
        Variant::PTI_ON,
        Variant::PTI_OFF,
        Variant::LA57_PTI_ON,
        Variant::LA57_PTI_OFF,
    ];

    /// QEMU's options, the kernel's among them.
    pub(crate) fn options(&self) -> Vec<String> {
        let switch = |on| if on { "on" } else { "off" };
        let words = format!(
            // On a busy machine the first ticks come later than the kernel is ready to wait.
            "console=ttyS0 quiet no_timer_check pti={} {}",
            switch(self.pti),
            self.words
        );
        [
            "-accel",
            "tcg",
            "-machine",
            "q35",
            "-cpu",
            &format!("max,la57={}", switch(self.la57)),
            "-smp",
            &self.cpus.to_string(),
            "-m",
            "512M",
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-append",
            words.trim_end(),
        ]
        .map(String::from)
        .to_vec()
    }
}

/// A booted guest; it ends with this value, or with the test's process.
pub(crate) struct Guest {
    pub(crate) variant: Variant,
    /// What the guest says of itself.
    pub(crate) listing: Listing,
    /// The time until it was ready.
    pub(crate) boot_time: Duration,
    machine: Machine,
}

impl Guest {
    /// Boots, and waits until the guest stands still.
    ///
    /// # Panics
    /// If QEMU or the guest's parts are missing, or it does not become ready in time.
    pub(crate) fn boot(variant: Variant) -> Guest {
        Guest::boot_with(variant, &[])
    }

    /// The same with more `options` for QEMU.
    pub(crate) fn boot_with(variant: Variant, options: &[&str]) -> Guest {
        Guest::boot_with_files(variant, options, &[])
    }

    /// The same with more `files`.
    pub(crate) fn boot_with_files(
        variant: Variant,
        options: &[&str],
        files: &[(String, Vec<u8>)],
    ) -> Guest {
        let mut reasons: Vec<String> = Vec::new();
        loop {
            let started = Instant::now();
            let machine = start(variant, options, files);
            let boots = BOOTS.fetch_add(1, Relaxed) + 1;
            match wait_until_ready(&machine) {
                Ok(console) => {
                    return Guest {
                        variant,
                        listing: Listing::parse(&console),
                        boot_time: started.elapsed(),
                        machine,
                    };
                }
                Err(reason) => {
                    let crashed = CRASHED_BOOTS.fetch_add(1, Relaxed) + 1;
                    eprintln!(
                        "`{}` crashed, as {crashed} of {boots} boots did: {reason}",
                        variant.name
                    );
                    reasons.push(reason);
                    assert!(
                        variant.cpus > 1 && crashed <= MAX_CRASHED_BOOTS,
                        "the guest `{}` crashed, as {crashed} of {boots} boots did: {reasons:#?}",
                        variant.name
                    );
                }
            }
        }
    }

    /// Has the guest's shell do something, and waits until it is done.
    pub(crate) fn tell(&self, command: &str) {
        let before = self.machine.console().matches(DONE).count();
        let mut stream = UnixStream::connect(self.machine.at("serial")).unwrap();
        writeln!(stream, "{command}").unwrap();
        let started = Instant::now();
        while self.machine.console().matches(DONE).count() == before {
            assert!(
                started.elapsed() < BOOT_LIMIT,
                "`{command}` is not done: {}",
                self.machine.console()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Has the guest's shell do something: what it writes until it is done.
    pub(crate) fn answer(&self, command: &str) -> String {
        let mut stream = UnixStream::connect(self.machine.at("serial")).unwrap();
        stream.set_read_timeout(Some(BOOT_LIMIT)).unwrap();
        writeln!(stream, "{command}").unwrap();
        // What is read here has each byte once; the console's file has some twice, where QEMU had to wait.
        let mut said = Vec::new();
        let mut part = [0; 4096];
        loop {
            let count = stream.read(&mut part).unwrap();
            said.extend(&part[..count]);
            let text = String::from_utf8_lossy(&said).replace('\r', "");
            assert_ne!(count, 0, "`{command}` is not done: {text}");
            if let Some((answer, _)) = text.split_once(DONE) {
                return answer.to_owned();
            }
        }
    }

    /// Where QEMU listens for QMP; one client at a time, so this is for the command under test.
    pub(crate) fn socket(&self) -> PathBuf {
        self.machine.socket()
    }

    /// The test's own connection.
    pub(crate) fn qmp(&self) -> Qmp {
        self.machine.qmp()
    }

    /// A folder that ends with the guest.
    pub(crate) fn folder(&self) -> &Path {
        self.machine.folder()
    }
}

fn start(variant: Variant, options: &[&str], files: &[(String, Vec<u8>)]) -> Machine {
    static INITRAMFS: OnceLock<Vec<u8>> = OnceLock::new();
    Machine::start(|machine| {
        let mut archive = INITRAMFS.get_or_init(initramfs::build).clone();
        if !files.is_empty() {
            archive.extend(initramfs::with_files(files));
        }
        std::fs::write(machine.at("initrd"), archive).unwrap();
        let console = format!(
            "socket,id=console,path={},server=on,wait=off,logfile={}",
            machine.at("serial").display(),
            machine.at("console").display()
        );
        let mut arguments = variant.options();
        arguments.extend(options.iter().map(|option| (*option).to_owned()));
        let kernel = artifacts::kernel().display().to_string();
        let initrd = machine.at("initrd").display().to_string();
        let more = ["-kernel", &kernel, "-initrd", &initrd];
        let console = ["-chardev", &console, "-serial", "chardev:console"];
        arguments.extend(more.into_iter().chain(console).map(String::from));
        arguments
    })
}

/// Waits: the console's text, or if the guest has crashed what its kernel says of that.
fn wait_until_ready(machine: &Machine) -> Result<String, String> {
    let started = Instant::now();
    loop {
        let console = machine.console();
        if console.lines().any(|line| line == READY) {
            return Ok(console);
        }
        if let Some(crash) = crash_in(&console) {
            return Err(crash);
        }
        let errors = machine.read("errors");
        assert!(
            errors.is_empty() && started.elapsed() < BOOT_LIMIT,
            "the guest is not ready after {:?}: {errors}\n{console}",
            started.elapsed()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What a kernel says when it dies: the first complaint, which is the cause, and the panic itself.
fn crash_in(console: &str) -> Option<String> {
    let panic = console.lines().find(|line| line.contains(CRASHED))?;
    let is_cause = |line: &&str| CAUSES.iter().any(|word| line.contains(word));
    let causes = console.lines().filter(is_cause).take(3);
    let lines: Vec<&str> = causes.chain([panic]).map(str::trim).collect();
    Some(lines.join("; "))
}
