//! Numbers and texts inside chunks: how they are written, and how they are read from bytes that may
//! be anything.

/// Why a chunk's contents make no sense, although its checksum is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nonsense {
    #[error("it ends in the middle of {0}")]
    Short(&'static str),
    #[error("{0} is not one that there can be")]
    Value(&'static str),
    #[error("{0} bytes are left over at its end")]
    LeftOver(usize),
    #[error("it has more than {most} {what}")]
    TooMany { what: &'static str, most: usize },
}

/// Appends to a chunk's contents.
pub(super) trait Put {
    fn put_varint(&mut self, value: u64);
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
pub(super) const fn zigzag(value: u64) -> u64 {
    (value << 1) ^ (value.cast_signed() >> 63).cast_unsigned()
}

/// The inverse of [`zigzag`].
pub(super) const fn unzigzag(value: u64) -> u64 {
    (value >> 1) ^ 0_u64.wrapping_sub(value & 1)
}

/// Reads a chunk's contents from front to back.
#[derive(Clone, Debug)]
pub(super) struct Get<'a>(&'a [u8]);

impl<'a> Get<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Get<'a> {
        Get(bytes)
    }

    pub(super) fn bytes(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], Nonsense> {
        let (head, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(Nonsense::Short(what))?;
        self.0 = rest;
        Ok(head)
    }

    pub(super) fn byte(&mut self, what: &'static str) -> Result<u8, Nonsense> {
        Ok(self.bytes(1, what)?[0])
    }

    pub(super) fn varint(&mut self, what: &'static str) -> Result<u64, Nonsense> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte(what)?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Nonsense::Value(what));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Nonsense::Value(what))
    }

    pub(super) fn varint32(&mut self, what: &'static str) -> Result<u32, Nonsense> {
        u32::try_from(self.varint(what)?).map_err(|_| Nonsense::Value(what))
    }

    /// How many things follow. Each takes at least one byte, so there are no more than bytes.
    pub(super) fn count(&mut self, what: &'static str) -> Result<usize, Nonsense> {
        let count = self.varint(what)?;
        usize::try_from(count)
            .ok()
            .filter(|count| *count <= self.0.len())
            .ok_or(Nonsense::Short(what))
    }

    pub(super) fn text(&mut self, what: &'static str) -> Result<String, Nonsense> {
        let length = self.count(what)?;
        let bytes = self.bytes(length, what)?;
        let text = std::str::from_utf8(bytes).map_err(|_| Nonsense::Value(what))?;
        Ok(text.to_owned())
    }

    /// Nothing may be left.
    pub(super) fn end(self) -> Result<(), Nonsense> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(Nonsense::LeftOver(left)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_number_comes_back(value: u64) {
            let mut bytes = Vec::new();
            bytes.put_varint(value);
            bytes.put_varint(zigzag(value));
            let mut get = Get::new(&bytes);
            prop_assert_eq!(get.varint("a number"), Ok(value));
            prop_assert_eq!(unzigzag(get.varint("a number").unwrap()), value);
            prop_assert_eq!(get.end(), Ok(()));
        }
    }

    #[test]
    fn a_number_of_more_than_64_bits_is_none() {
        let mut nines = [0xff; 10];
        nines[9] = 0x01;
        assert_eq!(Get::new(&nines).varint("n"), Ok(u64::MAX));
        nines[9] = 0x02;
        assert_eq!(Get::new(&nines).varint("n"), Err(Nonsense::Value("n")));
        assert_eq!(Get::new(&[0xff; 11]).varint("n"), Err(Nonsense::Value("n")));
        assert_eq!(Get::new(&[0x80]).varint("n"), Err(Nonsense::Short("n")));
    }

    #[test]
    fn a_count_that_the_bytes_cannot_hold_is_refused_before_anything_is_allocated() {
        let mut bytes = Vec::new();
        bytes.put_varint(u64::MAX);
        assert_eq!(Get::new(&bytes).count("n"), Err(Nonsense::Short("n")));
        assert_eq!(Get::new(&bytes).text("n"), Err(Nonsense::Short("n")));
    }

    #[test]
    fn neighbours_of_zero_are_small() {
        assert_eq!([0, u64::MAX, 1, u64::MAX - 1].map(zigzag), [0, 1, 2, 3]);
    }
}
