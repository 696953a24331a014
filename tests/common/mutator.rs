//! Bytes that were sound, changed a little, again and again: the same changes on every run and machine.

/// Makes changes.
pub(crate) struct Mutator(u64);

/// Numbers at which programs go wrong.
const NUMBERS: [u64; 16] = [
    0,
    1,
    7,
    0x7f,
    0x80,
    0xff,
    0xfff,
    0x1000,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x10_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_ffff_f000,
    0xffff_ffff_ffff_ffff,
];

impl Mutator {
    pub(crate) fn new(seed: u64) -> Mutator {
        Mutator(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Below `end`, which is not 0 (xorshift, Marsaglia 2003).
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % end
    }

    /// `sound`, with one to four changes, most of them where it begins.
    pub(crate) fn mutant(&mut self, sound: &[u8]) -> Vec<u8> {
        let mut bytes = sound.to_vec();
        for _ in 0..=self.below(4) {
            self.change(&mut bytes);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return bytes.push(0);
        }
        let beginning = if self.below(3) == 0 {
            bytes.len()
        } else {
            bytes.len().min(1024)
        };
        let at = self.below(beginning);
        match self.below(8) {
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes[at] = u8::try_from(self.below(256)).unwrap(),
            2..=4 => {
                let number = NUMBERS[self.below(NUMBERS.len())].to_le_bytes();
                let width = 1 << self.below(4);
                for (byte, new) in bytes[at..].iter_mut().zip(&number[..width]) {
                    *byte = *new;
                }
            }
            5 => bytes.truncate(at),
            6 => {
                let some = bytes[at..].iter().take(64).copied().collect::<Vec<_>>();
                let to = self.below(bytes.len());
                bytes.splice(to..to, some);
            }
            _ => {
                let end = at + self.below(bytes.len() - at).min(16);
                bytes.drain(at..end);
            }
        }
    }
}
