//! The bytes of a stream, one after the other.

use crate::input::{Input, Window};

/// Bytes that are read at once.
const BLOCK: usize = 256 << 10;

/// Why reading ends.
#[derive(Debug)]
pub(super) enum Stop {
    /// The file does.
    Cut,
    Damaged(String),
    /// It is a stream `with …` or such, which nobody can read without more.
    Unread(String),
}

pub(super) struct Stream<'a> {
    input: &'a Input,
    window: Window,
    at: u64,
}

impl<'a> Stream<'a> {
    pub(super) fn new(input: &'a Input, at: u64) -> Stream<'a> {
        Stream {
            input,
            window: Window::default(),
            at,
        }
    }

    pub(super) fn at(&self) -> u64 {
        self.at
    }

    fn take(&mut self, length: usize) -> Result<&[u8], Stop> {
        let bytes = self.window.get(self.input, self.at, length, BLOCK);
        let bytes = bytes.ok_or(Stop::Cut)?;
        self.at += length as u64;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Stop> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn word16(&mut self) -> Result<u16, Stop> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(super) fn word32(&mut self) -> Result<u32, Stop> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(super) fn word64(&mut self) -> Result<u64, Stop> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// The next byte, which is not taken.
    pub(super) fn peek(&mut self) -> Result<u8, Stop> {
        let byte = self.byte();
        self.at -= u64::from(byte.is_ok());
        byte
    }

    /// A text behind a byte with its length.
    pub(super) fn text(&mut self) -> Result<String, Stop> {
        let length = self.byte()?;
        self.letters(length.into())
    }

    /// A text of `length` bytes. It goes to a terminal.
    pub(super) fn letters(&mut self, length: usize) -> Result<String, Stop> {
        let bytes = self.take(length)?;
        let printable = bytes.iter().filter(|byte| byte.is_ascii_graphic());
        Ok(printable.map(|byte| char::from(*byte)).collect())
    }

    pub(super) fn skip(&mut self, bytes: u64) -> Result<(), Stop> {
        self.go_to(self.at.saturating_add(bytes))
    }

    /// Goes on at `at`.
    pub(super) fn go_to(&mut self, at: u64) -> Result<(), Stop> {
        if at > self.input.length() {
            return Err(Stop::Cut);
        }
        self.at = at;
        Ok(())
    }
}
