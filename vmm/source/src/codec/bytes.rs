//! Numbers and texts as bytes: how they are written, and how they are read from bytes that may be anything.

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// There are too few bytes for what was being read.
    #[error("it ends in the middle of {0}")]
    Short(&'static str),
    /// A number or a text that is not possible where it stands.
    #[error("{0} is not one that there can be")]
    Value(&'static str),
    /// Bytes that nothing says the meaning of.
    #[error("{0} bytes are left over at its end")]
    LeftOver(usize),
    /// More than any reader takes.
    #[error("it has more than {max} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// As many are allowed.
        max: usize,
    },
}

/// Appends numbers and texts to bytes.
pub trait Put {
    /// Appends a number, seven bits a byte, the lowest first (LEB128).
    fn put_varint(&mut self, value: u64);

    /// Appends the difference `to` − `from`, modulo 2^64, as a signed number: small where the two are near
    /// each other, whichever is greater.
    fn put_difference(&mut self, from: u64, to: u64) {
        self.put_varint(zigzag(to.wrapping_sub(from)));
    }

    /// Appends a text: its length in bytes, and the bytes.
    fn put_text(&mut self, text: &str);
}

impl Put for Vec<u8> {
    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.push((value & 0x7f) as u8);
    }

    fn put_text(&mut self, text: &str) {
        self.put_varint(text.len() as u64);
        self.extend(text.as_bytes());
    }
}

/// A signed number as an unsigned one, small where it is near zero: 0, -1, 1, -2 … are 0, 1, 2, 3 …
const fn zigzag(value: u64) -> u64 {
    (value << 1) ^ (value.cast_signed() >> 63).cast_unsigned()
}

/// The inverse of [`zigzag`].
const fn unzigzag(value: u64) -> u64 {
    (value >> 1) ^ 0_u64.wrapping_sub(value & 1)
}

/// Reads bytes from front to back. Each method takes what it reads off the front; `what` names it in errors.
#[derive(Clone, Debug)]
pub struct Get<'a>(&'a [u8]);

impl<'a> Get<'a> {
    /// From the first of `bytes` on.
    pub fn new(bytes: &'a [u8]) -> Get<'a> {
        Get(bytes)
    }

    /// `count` bytes.
    ///
    /// # Errors
    /// [`Malformed`] if there are fewer.
    pub fn bytes(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(Malformed::Short(what))?;
        self.0 = rest;
        Ok(head)
    }

    /// One byte.
    ///
    /// # Errors
    /// [`Malformed`] if there is none.
    pub fn byte(&mut self, what: &'static str) -> Result<u8, Malformed> {
        Ok(self.bytes(1, what)?[0])
    }

    /// A number, as [`Put::put_varint`] wrote it.
    ///
    /// # Errors
    /// [`Malformed`] if there is none, or it has more than 64 bits.
    pub fn varint(&mut self, what: &'static str) -> Result<u64, Malformed> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte(what)?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Malformed::Value(what));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed::Value(what))
    }

    /// The number that [`Put::put_difference`] wrote as its difference from `from`.
    ///
    /// # Errors
    /// As [`Get::varint`].
    pub fn difference(&mut self, from: u64, what: &'static str) -> Result<u64, Malformed> {
        Ok(from.wrapping_add(unzigzag(self.varint(what)?)))
    }

    /// A number below 2^32.
    ///
    /// # Errors
    /// [`Malformed`] if it is none.
    pub fn varint32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        u32::try_from(self.varint(what)?).map_err(|_| Malformed::Value(what))
    }

    /// How many things follow. Each takes at least one byte, so there are no more than bytes.
    ///
    /// # Errors
    /// [`Malformed`] if there are fewer bytes.
    pub fn count(&mut self, what: &'static str) -> Result<usize, Malformed> {
        let count = self.varint(what)?;
        usize::try_from(count)
            .ok()
            .filter(|count| *count <= self.0.len())
            .ok_or(Malformed::Short(what))
    }

    /// A text, as [`Put::put_text`] wrote it.
    ///
    /// # Errors
    /// [`Malformed`] if the bytes are too few or no UTF-8.
    pub fn text(&mut self, what: &'static str) -> Result<String, Malformed> {
        let length = self.count(what)?;
        let bytes = self.bytes(length, what)?;
        let text = std::str::from_utf8(bytes).map_err(|_| Malformed::Value(what))?;
        Ok(text.to_owned())
    }

    /// Nothing may be left.
    ///
    /// # Errors
    /// [`Malformed`] if something is.
    pub fn end(self) -> Result<(), Malformed> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(Malformed::LeftOver(left)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_number_comes_back(values: Vec<u64>) {
            let mut bytes = Vec::new();
            let mut last = 0;
            for &value in &values {
                bytes.put_varint(value);
                bytes.put_difference(last, value);
                last = value;
            }
            let mut get = Get::new(&bytes);
            let mut last = 0;
            for &value in &values {
                prop_assert_eq!(get.varint("a number"), Ok(value));
                prop_assert_eq!(get.difference(last, "a number"), Ok(value));
                last = value;
            }
            prop_assert_eq!(get.end(), Ok(()));
        }
    }

    #[test]
    fn a_number_takes_a_byte_for_every_seven_bits_and_no_more() {
        for (value, written) in [
            (0, &[0][..]),
            (1, &[1]),
            (0x7f, &[0x7f]),
            (0x80, &[0x80, 0x01]),
            (0x81, &[0x81, 0x01]),
            (300, &[0xac, 0x02]),
            (0x3fff, &[0xff, 0x7f]),
            (0x4000, &[0x80, 0x80, 0x01]),
            (
                1 << 63,
                &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01],
            ),
        ] {
            let mut bytes = Vec::new();
            bytes.put_varint(value);
            assert_eq!(bytes, written, "{value:#x}");
        }
    }

    #[test]
    fn a_number_of_more_than_64_bits_is_none() {
        let mut nines = [0xff; 10];
        nines[9] = 0x01;
        assert_eq!(Get::new(&nines).varint("n"), Ok(u64::MAX));
        nines[9] = 0x02;
        assert_eq!(Get::new(&nines).varint("n"), Err(Malformed::Value("n")));
        assert_eq!(
            Get::new(&[0xff; 11]).varint("n"),
            Err(Malformed::Value("n"))
        );
        assert_eq!(Get::new(&[0x80]).varint("n"), Err(Malformed::Short("n")));
    }

    #[test]
    fn a_number_of_32_bits_ends_there() {
        for (value, read) in [
            (0xffff_ffff, Ok(u32::MAX)),
            (1 << 32, Err(Malformed::Value("n"))),
        ] {
            let mut bytes = Vec::new();
            bytes.put_varint(value);
            assert_eq!(Get::new(&bytes).varint32("n"), read);
        }
    }

    #[test]
    fn a_count_that_the_bytes_cannot_hold_is_refused_before_anything_is_allocated() {
        let mut bytes = Vec::new();
        bytes.put_varint(u64::MAX);
        assert_eq!(Get::new(&bytes).count("n"), Err(Malformed::Short("n")));
        assert_eq!(Get::new(&bytes).text("n"), Err(Malformed::Short("n")));
        assert_eq!(Get::new(&[2, 0, 0]).count("n"), Ok(2));
        assert_eq!(Get::new(&[3, 0, 0]).count("n"), Err(Malformed::Short("n")));
    }

    #[test]
    fn a_text_is_its_length_and_its_bytes() {
        let mut bytes = Vec::new();
        bytes.put_text("né");
        assert_eq!(bytes, [3, b'n', 0xc3, 0xa9]);
        assert_eq!(Get::new(&bytes).text("t"), Ok("né".to_owned()));
        assert_eq!(Get::new(&bytes[..3]).text("t"), Err(Malformed::Short("t")));
        assert_eq!(Get::new(&[1, 0xc3]).text("t"), Err(Malformed::Value("t")));
    }

    #[test]
    fn what_is_left_over_is_counted() {
        assert_eq!(Get::new(&[]).end(), Ok(()));
        assert_eq!(Get::new(&[1, 2]).end(), Err(Malformed::LeftOver(2)));
    }

    #[test]
    fn neighbours_of_zero_are_small() {
        assert_eq!([0, u64::MAX, 1, u64::MAX - 1].map(zigzag), [0, 1, 2, 3]);
        assert_eq!([0, 1, 2, 3].map(unzigzag), [0, u64::MAX, 1, u64::MAX - 1]);
    }
}
