//! Numbers in as few bytes as they need: seven bits a byte, the lowest first, the high bit on all but
//! the last (LEB128); signed ones with the sign in the lowest bit.

/// Appends `value`.
pub(crate) fn put(bytes: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            bytes.push(low & 0x7f);
            return;
        }
        bytes.push(low | 0x80);
    }
}

/// Appends the difference `to` − `from`, modulo 2^64.
pub(crate) fn put_difference(bytes: &mut Vec<u8>, from: u64, to: u64) {
    let difference = to.wrapping_sub(from).cast_signed();
    put(
        bytes,
        ((difference << 1) ^ (difference >> 63)).cast_unsigned(),
    );
}

/// Takes a number off the front, as [`put`] wrote it.
#[cfg(test)]
pub(crate) fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Takes a number off the front, as [`put_difference`] wrote it.
#[cfg(test)]
pub(crate) fn take_difference(bytes: &mut &[u8], from: u64) -> Option<u64> {
    let folded = take(bytes)?;
    let difference = (folded >> 1).cast_signed() ^ -(folded & 1).cast_signed();
    Some(from.wrapping_add(difference.cast_unsigned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_put_is_taken(values: Vec<u64>) {
            let mut bytes = Vec::new();
            let mut last = 0;
            for &value in &values {
                put(&mut bytes, value);
                put_difference(&mut bytes, last, value);
                last = value;
            }
            let mut rest = bytes.as_slice();
            let mut last = 0;
            for &value in &values {
                prop_assert_eq!(take(&mut rest), Some(value));
                prop_assert_eq!(take_difference(&mut rest, last), Some(value));
                last = value;
            }
            prop_assert_eq!(take(&mut rest), None);
        }
    }
}
