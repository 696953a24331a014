//! Writes the built guest where this crate's package takes it from: FOLDER/kernel and FOLDER/programs/*.

use std::path::PathBuf;
use std::{env, fs, io};

use heirloom_harness::guest;

fn main() -> io::Result<()> {
    let folder = env::args_os()
        .nth(1)
        .map(PathBuf::from)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "usage: prebuilt FOLDER"))?;
    let programs = folder.join("programs");
    // A program that the guest no longer has must not be packaged again.
    match fs::remove_dir_all(&programs) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => fs::create_dir_all(&programs)?,
    }
    fs::write(folder.join("kernel"), guest::kernel_file())?;
    for program in guest::programs() {
        fs::write(programs.join(program.name), program.bytes)?;
    }
    Ok(())
}
