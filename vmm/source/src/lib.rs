//! Guests to inspect, wherever they come from: each becomes a [`Target`], which is all that the
//! inspector knows of it.
//!
//! ```text
//! spec      FILE, core:FILE, raw:FILE, qemu:SOCKET, rec:FILE, live: as users write them
//!   ├─ found     a file that tells by its content what it is
//!   ├─ dump      dumps, snapshots and streams, one reader each
//!   ├─ core      an ELF core: the RAM of a guest, and its CPUs' registers in notes; also written
//!   ├─ raw       an image of RAM, and nothing else
//!   ├─ qemu      a live QEMU, paused over QMP while it is looked at
//!   └─ recording a moment of our own recordings
//! content   what a file is, by its first bytes
//! input     the bytes of a file, flattened ones put together
//! memory    guest-physical memory, laid out over files and processes
//! packed      files that are compressed, and what comes through a pipe
//! symbols   names of a kernel from its ELF, or from a list
//! output_file  files that are written, by one rule
//! codec     page tables as few bytes, for recordings and the explorer
//! ```
//!
//! ```no_run
//! use heirloom_source::Spec;
//!
//! let spec: Spec = "core:guest.core".parse()?;
//! let target = spec.open()?;
//! for cpu in &target.cpus {
//!     println!("{}: CR3 {:#x}", target.name, cpu.cr3.get());
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(missing_docs)]

mod assumed;
pub mod codec;
mod content;
mod core;
mod dump;
mod file;
mod flattened;
mod found;
mod input;
mod memory;
mod output_file;
mod packed;
mod pc;
mod places;
mod qemu;
mod raw;
pub mod recording;
mod spec;
mod symbols;

pub use heirloom_inspect::Target;

pub use self::core::{CoreError, CoreSpec, CoreWriteError, write_core, write_core_to};
pub use dump::DumpError;
pub use file::FileError;
pub use found::FileSpec;
pub use output_file::{OutputError, OutputFile, remove_unfinished};
pub use packed::{UnpackError, Unpacking, unpacked_to};
pub use qemu::{
    AnswerError, QemuError, QemuSpec, QmpError, Reached, WaitError, WayError, left_paused,
    resume_all,
};
pub use raw::{RawError, RawSpec};
pub use recording::{RecordingError, RecordingSpec};
pub use spec::{Source, Spec, SpecError};
pub use symbols::{SymbolFileError, read_symbols};

/// Why a guest cannot be inspected.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its variant is")]
pub enum TargetError {
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Dump(#[from] DumpError),
    #[error(transparent)]
    Core(#[from] CoreError),
    #[error(transparent)]
    Raw(#[from] RawError),
    #[error(transparent)]
    Qemu(#[from] QemuError),
    #[error(transparent)]
    Recording(#[from] RecordingError),
}

impl Spec {
    /// Opens the guest. A live one stands still from now until the target is dropped.
    ///
    /// # Errors
    /// [`TargetError`] says what was tried, on what, and what to do.
    pub fn open(&self) -> Result<Target, TargetError> {
        self.open_telling(&|_| {})
    }

    /// The same. While a file has to be unpacked, `tell` is told how far that is.
    ///
    /// # Errors
    /// As [`Spec::open`].
    pub fn open_telling(&self, tell: &dyn Fn(&Unpacking<'_>)) -> Result<Target, TargetError> {
        let name = self.to_string();
        match self.source() {
            Source::File(file) => file.open(name, tell),
            Source::Core(core) => Ok(core.open(name, tell)?),
            Source::Raw(raw) => Ok(raw.open(name, tell)?),
            Source::Qemu(qemu) => Ok(qemu.open(name)?),
            Source::Recording(recording) => Ok(recording.open()?),
        }
    }
}
