//! The sandbox: what the command needs no more once it reads what may be hostile, it cannot do any more.
//!
//! A guest, a dump or a recording that found a hole in this program could make it do anything that its user may
//! do. So before such a thing is read, the process gives up what it does not need: by seccomp all system calls
//! but those of a list (no program is started, nothing is connected to, nobody is signalled, no page becomes
//! executable, nothing is typed into the terminal), and by Landlock all files but those that the user named and the folders in
//! which it writes. Threads that are made later, those that run vCPUs among them, are born with both; those that
//! are there already get the first.
//!
//! Linux has seccomp's filters since 3.5 and Landlock since 5.13, if it is built with them; what is not there is
//! done without, and `heirloom doctor` says so.

mod blocked;
mod calls;
mod files;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use heirloom_source::Spec;
use seccompiler::{BpfProgram, apply_filter_all_threads};

use crate::exit::{Exit, Failure};
use crate::ui;

pub(crate) use calls::are_filtered_here;
pub(crate) use files::landlock_version;

/// The user wants none.
static OFF: AtomicBool = AtomicBool::new(false);
/// The process is in it.
static ENTERED: AtomicBool = AtomicBool::new(false);

/// `--no-sandbox`.
pub(crate) fn switch_off() {
    OFF.store(true, Ordering::Relaxed);
}

/// What the command still needs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sandbox {
    /// Files, and folders with all below, that it reads.
    read: Vec<PathBuf>,
    /// Files that it writes.
    written: Vec<PathBuf>,
    /// Folders in which it makes files.
    folders: Vec<PathBuf>,
    /// Another process.
    beside: Beside,
    /// Guests in other processes that are not connected to yet.
    to_connect: Cell<usize>,
}

/// Which other process it has to do with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Beside {
    #[default]
    None,
    /// One that it has started, and will end.
    Child,
    /// One whose memory it reads. Landlock forbids that, so that it is done without.
    Guest,
}

impl Sandbox {
    /// For a command that reads `files` and no others.
    pub(crate) fn reading<P: AsRef<Path>>(files: impl IntoIterator<Item = P>) -> Sandbox {
        Sandbox::default().and_reading(files)
    }

    /// Other files are read, too.
    pub(crate) fn and_reading<P: AsRef<Path>>(
        mut self,
        files: impl IntoIterator<Item = P>,
    ) -> Sandbox {
        let files = files.into_iter().map(|file| file.as_ref().to_owned());
        self.read.extend(files);
        self
    }

    /// For a command that reads these guests.
    pub(crate) fn of(specs: &[&Spec]) -> Sandbox {
        let mut sandbox = Sandbox::default();
        for spec in specs {
            if spec.is_live() {
                sandbox.beside = Beside::Guest;
                sandbox.to_connect.set(sandbox.to_connect.get() + 1);
            } else {
                sandbox.read.extend(spec.places());
            }
        }
        // Where files are unpacked to.
        sandbox.folders.push(heirloom_source::unpacked_to());
        sandbox.folders.push(std::env::temp_dir());
        sandbox
    }

    /// It writes these files.
    pub(crate) fn writing<P: AsRef<Path>>(mut self, files: impl IntoIterator<Item = P>) -> Sandbox {
        let files = files.into_iter().map(|file| file.as_ref().to_owned());
        self.written.extend(files);
        self
    }

    /// It makes files in this folder.
    pub(crate) fn making_files_in(mut self, folder: Option<&Path>) -> Sandbox {
        self.folders.extend(folder.map(Path::to_owned));
        self
    }

    /// It has started a machine that may be a process of its own, which it ends.
    pub(crate) fn with_child(mut self) -> Sandbox {
        self.beside = Beside::Child;
        self.folders.push(std::env::temp_dir());
        self
    }

    /// Of a command that starts processes until its end.
    pub(crate) fn never_entered(self) -> Sandbox {
        self.to_connect.set(usize::MAX);
        self
    }

    /// One more of the guests that run is connected to, and whoever lets it run on is there.
    ///
    /// # Errors
    /// As [`Sandbox::enter`].
    pub(crate) fn connected(&self) -> Result<(), Failure> {
        if self.to_connect.get() != usize::MAX {
            self.to_connect.set(self.to_connect.get().saturating_sub(1));
        }
        self.enter_if_connected()
    }

    /// Enters it, unless there is a guest to be connected to.
    ///
    /// # Errors
    /// As [`Sandbox::enter`].
    pub(crate) fn enter_if_connected(&self) -> Result<(), Failure> {
        match self.to_connect.get() {
            0 => self.enter(),
            _ => Ok(()),
        }
    }

    /// Enters it, for good. Who is in one already stays in that one.
    ///
    /// # Errors
    /// The system has it and refuses it.
    pub(crate) fn enter(&self) -> Result<(), Failure> {
        if OFF.load(Ordering::Relaxed) || ENTERED.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        // Some terminals are asked by a program of their own.
        ui::columns();
        blocked::report();
        if self.beside != Beside::Guest {
            files::confine(self).map_err(|error| refused(&error))?;
        }
        if !are_filtered_here() {
            log::warn!(
                "this host's kernel filters no system calls (seccomp), so this runs without a sandbox"
            );
            return Ok(());
        }
        for filter in calls::filters(self.beside).map_err(|error| refused(&error))? {
            let program: BpfProgram = filter.try_into().map_err(|error| refused(&error))?;
            apply_filter_all_threads(&program).map_err(|error| refused(&error))?;
        }
        Ok(())
    }
}

fn refused(error: &dyn std::fmt::Display) -> Failure {
    let what = format!(
        "could not enter the sandbox: {error}; --no-sandbox does without, if what is read is trusted"
    );
    Failure::new(Exit::Host, what)
}
