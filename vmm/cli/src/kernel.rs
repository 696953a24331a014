//! `--kernel FILE`: a kernel of the user's own instead of the embedded one.

use std::path::{Path, PathBuf};

use heirloom_machine::KernelImage;

use crate::exit::{Exit, Failure};

/// The option.
#[derive(clap::Args)]
// Several commands' options have it, and clap makes a group of each.
#[group(skip)]
pub(crate) struct Options {
    /// Boots this kernel (an ELF with a PVH note) instead of the embedded one.
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
}

impl Options {
    /// The files that are read: none of these is to be written.
    pub(crate) fn inputs(&self) -> Vec<&Path> {
        self.kernel.as_deref().into_iter().collect()
    }

    /// The kernel, checked; `None` for the embedded one.
    ///
    /// # Errors
    /// It cannot be used.
    pub(crate) fn image(&self) -> Result<Option<KernelImage>, Failure> {
        let image = self
            .kernel
            .as_deref()
            .map(|path| KernelImage::read(path).and_then(KernelImage::require_pvh));
        image
            .transpose()
            .map_err(|error| Failure::new(Exit::Usage, error))
    }
}
