//! Which QEMU a program is.

use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::program::Qemu;

/// How long it may take to say so.
const PATIENCE: Duration = Duration::from_secs(10);
/// From one look at it to the next.
const PAUSE: Duration = Duration::from_millis(5);
/// Bytes that are read of what it says.
const MOST: u64 = 1024;

impl Qemu {
    /// What the program calls its version, such as `7.2.22`; `None` if it does not say so.
    pub fn version(&self) -> Option<String> {
        let mut child = Command::new(&self.binary)
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match child.try_wait() {
                Ok(Some(_)) => break,
                Ok(None) if Instant::now() < deadline => thread::sleep(PAUSE),
                _ => {
                    // It says more than a pipe holds, or nothing for too long.
                    let _ = child.kill();
                    let _ = child.wait();
                    return None;
                }
            }
        }
        let mut said = Vec::new();
        child.stdout?.take(MOST).read_to_end(&mut said).ok()?;
        version_in(&String::from_utf8_lossy(&said))
    }
}

/// `QEMU emulator version 7.2.22 (Debian …)`
fn version_in(said: &str) -> Option<String> {
    let (_, behind) = said.lines().next()?.split_once("version ")?;
    let word = behind.split_whitespace().next()?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ".-+_".contains(c);
    word.chars().all(is_plain).then(|| word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::program::Accelerator;
    use super::*;

    #[test]
    fn the_version_is_the_word_behind_that_word() {
        let said = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright\n";
        assert_eq!(version_in(said).as_deref(), Some("7.2.22"));
        for nothing in ["", "QEMU", "version ", "version \u{1b}[2J"] {
            assert_eq!(version_in(nothing), None, "{nothing:?}");
        }
    }

    #[test]
    fn a_program_that_is_no_qemu_has_no_version() {
        for program in ["/bin/true", "/bin/false"] {
            let qemu = Qemu::new(program, Accelerator::Tcg).unwrap();
            assert_eq!(qemu.version(), None);
        }
    }
}
