//! `heirloom extract`: the embedded guest as files, and how QEMU boots them.

use std::fs;
use std::path::{Path, PathBuf};

use heirloom_abi::options;
use heirloom_harness::{cpio, guest};

use crate::exit::{Exit, Failure};
use crate::output::{self, Output};

const KERNEL: &str = "heirloom-kernel";
const PROGRAMS: &str = "programs.cpio";
/// Where QEMU's isa-debug-exit listens below.
const EXIT_PORT: &str = "0xf4";

/// Options of `heirloom extract`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Where to write; made if it does not exist.
    directory: PathBuf,
    #[command(flatten)]
    force: output::Force,
}

/// Writes the files and prints QEMU's command line.
pub(crate) fn run(options: &Options) -> Result<Exit, Failure> {
    let directory = &options.directory;
    fs::create_dir_all(directory).map_err(|error| {
        Failure::new(
            Exit::Usage,
            format!(
                "could not make the directory {}: {error}",
                directory.display()
            ),
        )
    })?;
    let programs = guest::programs().map(|program| (program.name, program.bytes));
    let archive = cpio::archive(programs).map_err(|error| Failure::new(Exit::Usage, error))?;
    let kernel_path = directory.join(KERNEL);
    let programs_path = directory.join(PROGRAMS);
    let files =
        [&kernel_path, &programs_path].map(|path| options.force.file("the file", path, &[]));
    let [kernel, programs] = files;
    let (kernel, programs) = (kernel?, programs?);
    kernel.write(guest::kernel_file())?;
    programs.write(&archive)?;
    Output::new()?.line(&qemu_command(&kernel_path, &programs_path))?;
    Ok(Exit::Good)
}

/// A command for a POSIX shell. QEMU's exit status is 2 × the guest's + 1.
fn qemu_command(kernel: &Path, programs: &Path) -> String {
    let append = format!(
        "{}=family {} {}={EXIT_PORT}",
        options::INIT,
        options::SELFCHECK,
        options::EXIT_PORT
    );
    format!(
        "qemu-system-x86_64 -accel tcg -cpu max -m 256M -kernel {} -initrd {} -append {} -nographic \
         -no-reboot -device isa-debug-exit,iobase={EXIT_PORT},iosize=0x4",
        quoted(&kernel.display().to_string()),
        quoted(&programs.display().to_string()),
        quoted(&append),
    )
}

/// `text` as one word of a shell command.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-=+:,@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_a_shell_would_split_is_quoted() {
        assert_eq!(quoted("/tmp/a-b_c.d"), "/tmp/a-b_c.d");
        assert_eq!(quoted("my files"), "'my files'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
