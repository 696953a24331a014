//! Reports for people: short, in a terminal's width.

mod boots;
mod check;
pub(crate) mod ci;
mod difference;
mod layout;
pub(crate) mod maps;
mod report;
mod reverse;
mod roots;
mod rules;
mod subject;
mod translate;
pub(crate) mod wrap;

#[cfg(test)]
mod tests;

use std::fmt;

/// What the command can write for people.
pub(crate) trait Text {
    /// Writes it, without a line break at its end.
    ///
    /// # Errors
    /// Those of `f`.
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}

/// Something as text.
pub(crate) struct Shown<'a, T: ?Sized>(pub(crate) &'a T);

impl<T: Text + ?Sized> fmt::Display for Shown<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write(f)
    }
}
