//! Names of kernels, areas and exceptions, whoever gave them.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{LazyLock, Mutex, PoisonError};

use serde::{Serialize, Serializer};

/// Characters that a name has at most.
const LONGEST: usize = 200;
/// Names that are kept at most: a profile has a few dozen.
const MOST: usize = 4096;
/// What stands for those beyond.
const TOO_MANY: &str = "…";

/// A name that is as cheap to copy as a number. Names that are not built in are kept as long as the process
/// lives; there are few.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(&'static str);

impl Name {
    /// A name that is built in.
    pub const fn fixed(name: &'static str) -> Name {
        Name(name)
    }

    /// The name that `text` is, in one line, cut where it is very long.
    pub fn new(text: &str) -> Name {
        static KNOWN: LazyLock<Mutex<BTreeSet<&'static str>>> = LazyLock::new(Mutex::default);
        let shown: String = text
            .chars()
            .filter(|letter| !letter.is_control())
            .take(LONGEST)
            .collect();
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = known.get(shown.as_str()) {
            return Name(name);
        }
        if known.len() >= MOST {
            return Name(TOO_MANY);
        }
        let name: &'static str = Box::leak(shown.into_boxed_str());
        known.insert(name);
        Name(name)
    }

    /// As text.
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.0, f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_one_name_and_lines_and_lengths_are_bounded() {
        assert_eq!(Name::new("heap"), Name::new("heap"));
        assert_eq!(
            Name::new("heap").as_str().as_ptr(),
            Name::new("heap").as_str().as_ptr()
        );
        assert_eq!(Name::new("two\nlines\u{1b}[2J").as_str(), "twolines[2J");
        assert_eq!(Name::new(&"é".repeat(1000)).as_str().chars().count(), 200);
    }
}
