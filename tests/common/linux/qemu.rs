//! A Linux guest under QEMU, from its boot to its end.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{Listing, artifacts, initramfs, qmp::Qmp};

/// A boot takes five seconds where there is time for it.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
const READY: &str = "== ready";

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
    pub(crate) const PTI_OFF: Variant = Variant {
        name: "pti-off",
        pti: false,
        cpus: 2,
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
            "console=ttyS0 quiet pti={} {}",
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
    /// The console's text.
    pub(crate) console: String,
    /// Seconds until it was ready.
    pub(crate) boot_time: Duration,
    /// QEMU, by way of a shell.
    watchdog: Child,
    folder: TempDir,
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
        static INITRAMFS: OnceLock<Vec<u8>> = OnceLock::new();
        let started = Instant::now();
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let listens_at = |name| format!("unix:{},server=on,wait=off", at(name).display());
        std::fs::write(at("initrd"), INITRAMFS.get_or_init(initramfs::build)).unwrap();
        // Whatever ends this process, its end of the pipe closes, the shell reads the end of the file,
        // and QEMU ends. Statics, as guests that tests share are, are never dropped.
        let mut watchdog = Command::new("sh")
            .args([
                "-c",
                r#""$@" </dev/null & read -r _; kill $! 2>/dev/null; wait $!"#,
                "sh",
            ])
            .arg("qemu-system-x86_64")
            .args(variant.options())
            .args(options)
            .arg("-kernel")
            .arg(artifacts::kernel())
            .arg("-initrd")
            .arg(at("initrd"))
            .arg("-serial")
            .arg(format!("file:{}", at("console").display()))
            .arg("-qmp")
            .arg(listens_at("qmp"))
            .arg("-qmp")
            .arg(listens_at("qmp-of-the-test"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(File::create(at("errors")).unwrap())
            .spawn()
            .unwrap();
        let read = |name: &str| {
            let bytes = std::fs::read(at(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\r', "")
        };
        let console = loop {
            let console = read("console");
            if console.lines().any(|line| line == READY) {
                break console;
            }
            let errors = read("errors");
            if !errors.is_empty() || started.elapsed() > BOOT_LIMIT {
                drop(watchdog.stdin.take());
                let _ = watchdog.wait();
                panic!(
                    "the guest `{}` is not ready after {:?}: {errors}\n{console}",
                    variant.name,
                    started.elapsed()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        Guest {
            variant,
            listing: Listing::parse(&console),
            console,
            boot_time: started.elapsed(),
            watchdog,
            folder,
        }
    }

    /// Where QEMU listens for QMP; one client at a time, so this is for the command under test.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("qmp")
    }

    /// The test's own connection.
    pub(crate) fn qmp(&self) -> Qmp {
        Qmp::connect(&self.folder.path().join("qmp-of-the-test"))
    }

    /// A folder that ends with the guest.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}
