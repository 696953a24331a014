//! QEMU, the program: where it is, and the command line that makes the machine.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::QemuError;
use crate::cpus::Cpus;
use crate::memory::HOLE_START;

/// The program's usual name.
pub const PROGRAM: &str = "qemu-system-x86_64";

/// First port of COM1, and its interrupt line.
const CONSOLE: (u16, u8) = (0x3f8, 4);
/// The interrupt line of the doorbell, which nobody uses.
const DOORBELL_IRQ: u8 = 3;
/// Who runs the guest's instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accelerator {
    /// QEMU itself, by translating them.
    #[default]
    Tcg,
    /// The host's KVM.
    Kvm,
}

impl Accelerator {
    /// All there are.
    pub const ALL: [Accelerator; 2] = [Accelerator::Tcg, Accelerator::Kvm];

    /// The CPU with all that it can do.
    const fn cpu(self) -> &'static str {
        match self {
            Accelerator::Tcg => "max",
            // kvm_pvm shows that register, and refuses the write with which QEMU sets it.
            Accelerator::Kvm => "max,arch-capabilities=off",
        }
    }

    /// QEMU's name for it.
    pub const fn name(self) -> &'static str {
        match self {
            Accelerator::Tcg => "tcg",
            Accelerator::Kvm => "kvm",
        }
    }
}

/// A QEMU program, to make machines with.
#[derive(Clone, Debug)]
pub struct Qemu {
    pub(super) binary: PathBuf,
    pub(super) accelerator: Accelerator,
}

impl Qemu {
    /// The program `binary`, which is looked for in PATH if it names no folder.
    ///
    /// # Errors
    /// [`QemuError::Missing`].
    pub fn new(binary: impl Into<PathBuf>, accelerator: Accelerator) -> Result<Qemu, QemuError> {
        let binary = binary.into();
        if !is_there(&binary) {
            return Err(QemuError::Missing {
                binary: binary.display().to_string(),
            });
        }
        Ok(Qemu {
            binary,
            accelerator,
        })
    }

    /// Whether [`PROGRAM`] is in PATH.
    pub fn is_installed() -> bool {
        is_there(Path::new(PROGRAM))
    }

    /// The command that starts it, with what it shares with this program.
    pub(super) fn command(
        &self,
        memory: u64,
        cpus: Cpus,
        shared: &Shared,
        doorbell: Option<u16>,
    ) -> Command {
        let mut command = Command::new(&self.binary);
        let accelerator = self.accelerator.name();
        let file = |file: &OwnedFd| format!("/proc/self/fd/{}", file.as_raw_fd());
        let socket = |name: &str, socket: &OwnedFd| {
            let number = socket.as_raw_fd();
            format!("socket,id={name},fd={number}")
        };
        let mut words: Vec<String> = vec![
            "-nodefaults".into(),
            "-no-user-config".into(),
            "-display".into(),
            "none".into(),
            "-no-reboot".into(),
            "-no-shutdown".into(),
            "-S".into(),
            "-machine".into(),
            format!("pc,accel={accelerator},memory-backend=ram,max-ram-below-4g={HOLE_START}"),
            "-cpu".into(),
            self.accelerator.cpu().into(),
            "-smp".into(),
            format!("cpus={0},sockets=1,cores={0},threads=1", cpus.count()),
            "-m".into(),
            format!("{}M", memory >> 20),
            "-object".into(),
            format!(
                "memory-backend-file,id=ram,size={memory},share=on,mem-path={}",
                file(&shared.memory)
            ),
            "-bios".into(),
            file(&shared.firmware),
            "-chardev".into(),
            socket("monitor", &shared.monitor),
            "-mon".into(),
            "chardev=monitor,mode=control".into(),
            "-chardev".into(),
            socket("console", &shared.console),
            "-device".into(),
            format!(
                "isa-serial,chardev=console,iobase={:#x},irq={}",
                CONSOLE.0, CONSOLE.1
            ),
        ];
        if let Some(port) = doorbell {
            words.extend([
                "-chardev".into(),
                socket("doorbell", &shared.doorbell),
                "-device".into(),
                format!("isa-serial,chardev=doorbell,iobase={port:#x},irq={DOORBELL_IRQ}"),
            ]);
        }
        command.args(words);
        // An audio library asks for a sound card as soon as it is loaded.
        command.env("QEMU_AUDIO_DRV", OsString::from("none"));
        command
    }
}

/// Whether `binary` is a file, in PATH if it names no folder.
fn is_there(binary: &Path) -> bool {
    if binary.components().count() > 1 {
        return binary.is_file();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(binary).is_file())
}

/// What the child has open: guest memory, the firmware, and its ends of the sockets.
pub(super) struct Shared {
    pub(super) memory: OwnedFd,
    pub(super) firmware: OwnedFd,
    pub(super) monitor: OwnedFd,
    pub(super) console: OwnedFd,
    pub(super) doorbell: OwnedFd,
}
