//! One address: cut into its indices, and walked entry by entry.

use std::fmt;

use heirloom_inspect::discover::Kind;
use heirloom_inspect::report::{Index, TranslateReport};

use super::{Shown, Text};

impl Text for TranslateReport {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", Shown(&self.target))?;
        write!(f, "{:#018x} =", self.walk.va)?;
        for Index { level, index } in &self.indices {
            write!(f, " {} {index} ·", self.walk.depth.name(*level))?;
        }
        write!(f, " byte {:#x}", self.offset)?;
        if let Some(area) = self.area {
            write!(f, ", {}", self.target.name_of(area))?;
        }
        if let Some(symbol) = &self.symbol {
            write!(f, ", {symbol}")?;
        }
        match (self.kind, self.partner) {
            (Kind::UserRoot, Some(kernel)) => write!(
                f,
                "\nthis is what ring 3 runs on; the kernel's root of the pair is {kernel}"
            )?,
            (Kind::UserRoot, None) => f.write_str("\nthis is what ring 3 runs on")?,
            (Kind::Idle | Kind::Freed | Kind::Foreign | Kind::NotUnderstood, _) => {
                write!(f, "\nthis root is {}", self.kind)?;
            }
            _ => {}
        }
        write!(f, "\n{}: {}", self.whose, self.walk)
    }
}
