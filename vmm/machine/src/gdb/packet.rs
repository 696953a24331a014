//! The remote serial protocol's packets (GDB's manual, E.1): `$words#checksum`, bytes that say something by
//! themselves in between.

/// Bytes of the longest packet that is taken; gdb is told.
pub(super) const PACKET_BYTES: usize = 16 << 10;

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// The words of a whole packet.
    Packet(Vec<u8>),
    /// A packet whose checksum is wrong.
    Damaged,
    /// The other end wants to have the last packet again.
    Again,
    /// Ctrl-C.
    Interrupt,
}

/// A packet that is longer than any is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// Takes bytes apart into packets.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    place: Place,
    words: Vec<u8>,
    sum: u8,
    said: u8,
}

#[derive(Debug, Default)]
enum Place {
    #[default]
    Between,
    Words,
    Escaped,
    FirstDigit,
    SecondDigit,
}

impl Decoder {
    /// Takes one more byte; what has come with it.
    pub(super) fn take(&mut self, byte: u8) -> Result<Option<Received>, TooLong> {
        match (&self.place, byte) {
            (Place::Between, b'$') => {
                *self = Decoder {
                    place: Place::Words,
                    ..Decoder::default()
                };
            }
            (Place::Between, b'-') => return Ok(Some(Received::Again)),
            (Place::Between, 3) => return Ok(Some(Received::Interrupt)),
            // `+`, and noise.
            (Place::Between, _) => {}
            (Place::Words, b'#') => self.place = Place::FirstDigit,
            (Place::Words | Place::Escaped, _) => {
                self.sum = self.sum.wrapping_add(byte);
                let escaped = matches!(self.place, Place::Escaped);
                self.place = Place::Words;
                if !escaped && byte == b'}' {
                    self.place = Place::Escaped;
                } else if self.words.len() == PACKET_BYTES {
                    return Err(TooLong);
                } else {
                    self.words.push(if escaped { byte ^ 0x20 } else { byte });
                }
            }
            (Place::FirstDigit, _) => {
                self.said = byte;
                self.place = Place::SecondDigit;
            }
            (Place::SecondDigit, _) => {
                self.place = Place::Between;
                let said = digits(&[self.said, byte]);
                return Ok(Some(if said == Some(u64::from(self.sum)) {
                    Received::Packet(std::mem::take(&mut self.words))
                } else {
                    Received::Damaged
                }));
            }
        }
        Ok(None)
    }
}

/// `words` as a packet.
pub(super) fn packet(words: &[u8]) -> Vec<u8> {
    let mut packet = vec![b'$'];
    let mut sum = 0_u8;
    for byte in words {
        let escaped = [b'}', byte ^ 0x20];
        let written: &[u8] = match byte {
            b'$' | b'#' | b'}' | b'*' => &escaped,
            _ => std::slice::from_ref(byte),
        };
        for byte in written {
            sum = sum.wrapping_add(*byte);
            packet.push(*byte);
        }
    }
    packet.push(b'#');
    push_hex(&mut packet, &[sum]);
    packet
}

/// Appends two digits for each byte.
pub(super) fn push_hex(text: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        text.extend([byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[usize::from(digit)]));
    }
}

/// The number that hexadecimal digits stand for; `None` for anything else.
pub(super) fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 16 {
        return None;
    }
    text.iter().try_fold(0, |number, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(number << 4 | u64::from(digit))
    })
}

/// The bytes that pairs of digits stand for.
pub(super) fn bytes(text: &[u8]) -> Option<Vec<u8>> {
    let pairs = text.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    pairs.map(|pair| u8::try_from(digits(pair)?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(bytes: &[u8]) -> Vec<Received> {
        let mut decoder = Decoder::default();
        let taken = bytes.iter().filter_map(|byte| decoder.take(*byte).unwrap());
        taken.collect()
    }

    #[test]
    fn packets_and_the_bytes_between_them_are_told_apart() {
        let noise = [0, 0xff, b'#', b'+'];
        let mut sent = noise.to_vec();
        sent.extend(packet(b"g"));
        sent.extend([3, b'-']);
        // Inside of a packet it is a byte like others.
        sent.extend(packet(b"X0,1:\x03"));
        sent.extend(b"$g#00");
        assert_eq!(
            received(&sent),
            [
                Received::Packet(b"g".to_vec()),
                Received::Interrupt,
                Received::Again,
                Received::Packet(b"X0,1:\x03".to_vec()),
                Received::Damaged,
            ]
        );
        assert_eq!(packet(b"OK"), b"$OK#9a");
    }

    #[test]
    fn bytes_that_mean_something_to_the_protocol_come_through() {
        let words: Vec<u8> = (0..=u8::MAX).collect();
        assert_eq!(received(&packet(&words)), [Received::Packet(words)]);
    }

    #[test]
    fn a_packet_without_an_end_is_refused_when_it_is_too_long() {
        let mut decoder = Decoder::default();
        let mut sent = b"$".iter().chain(std::iter::repeat(&b'a'));
        let refused = sent.position(|byte| decoder.take(*byte).is_err());
        assert_eq!(refused, Some(PACKET_BYTES + 1));
    }

    #[test]
    fn only_digits_are_numbers() {
        assert_eq!(digits(b"ffffffffffffffff"), Some(u64::MAX));
        for text in [&b""[..], b"10000000000000000", b"x", b"-1", b"+1"] {
            assert_eq!(digits(text), None);
        }
        assert_eq!(bytes(b"00ff"), Some(vec![0, 255]));
        assert_eq!((bytes(b"0"), bytes(b"0g")), (None, None));
    }
}
