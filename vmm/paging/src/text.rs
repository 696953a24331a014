//! Text that keeps to the width a caller asks for, without an allocator.

use core::fmt::{self, Write};

/// Writes `text`, which has at most `N` bytes, padded as `f` asks.
pub(crate) fn pad<const N: usize>(
    f: &mut fmt::Formatter<'_>,
    text: fmt::Arguments<'_>,
) -> fmt::Result {
    let mut buffer = Buffer::<N> {
        bytes: [0; N],
        length: 0,
    };
    buffer.write_fmt(text)?;
    f.pad(core::str::from_utf8(&buffer.bytes[..buffer.length]).map_err(|_| fmt::Error)?)
}

struct Buffer<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Write for Buffer<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        let room = self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}
