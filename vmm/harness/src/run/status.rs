//! How the guest's first program ended.

/// How the guest's first program ended, as `wait4` would report it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitStatus(pub u64);

impl ExitStatus {
    /// Whether it returned 0.
    pub const fn is_success(self) -> bool {
        self.0 == 0
    }

    /// What it returned; `None` if it was killed.
    pub const fn code(self) -> Option<u64> {
        if self.0.is_multiple_of(1 << 7) {
            Some(self.0 >> 8)
        } else {
            None
        }
    }
}

impl ExitStatus {
    /// The one number that a shell makes of it: what it returned, or 128 and the signal.
    pub(crate) fn of_shell(self) -> u8 {
        let number = self.code().unwrap_or(128 | self.0 & 0x7f);
        u8::try_from(number & 0xff).unwrap_or(u8::MAX)
    }
}

/// `exit code 3`, `signal 11`.
impl std::fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.code() {
            Some(code) => write!(f, "exit code {code}"),
            None => write!(f, "signal {}", self.0 & 0x7f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_an_exit_code_or_a_signal() {
        assert!(ExitStatus(0).is_success());
        assert_eq!(ExitStatus(0).to_string(), "exit code 0");
        assert_eq!(ExitStatus(0x300).to_string(), "exit code 3");
        assert_eq!(ExitStatus(11).to_string(), "signal 11");
        assert_eq!(ExitStatus(0x8b).to_string(), "signal 11");
        let numbers = [0, 0x300, 11].map(|raw| ExitStatus(raw).of_shell());
        assert_eq!(numbers, [0, 3, 139]);
    }
}
