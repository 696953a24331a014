//! Ranges of addresses and times on the command line.

use std::ops::RangeInclusive;
use std::time::Duration;

use heirloom_inspect::{VirtAddr, VirtRange, names};

/// An address in hexadecimal or decimal.
pub(super) fn parse(text: &str) -> Result<u64, String> {
    names::address(text).map_err(|error| error.to_string())
}

/// Guest-physical addresses: `FIRST-LAST`, both included, or one.
pub(super) fn physical(text: &str) -> Result<RangeInclusive<u64>, String> {
    if !text.contains('-') {
        let at = parse(text)?;
        return Ok(at..=at);
    }
    let range = range(text)?;
    Ok(range.first.get()..=range.last.get())
}

/// `FIRST-LAST`, both included.
pub(super) fn range(text: &str) -> Result<VirtRange, String> {
    let refused = || {
        format!("`{text}` is no range of addresses: write FIRST-LAST, such as 0x400000-0x4fffff")
    };
    let (first, last) = text.split_once('-').ok_or_else(refused)?;
    let range = VirtRange {
        first: VirtAddr::new(parse(first)?),
        last: VirtAddr::new(parse(last)?),
    };
    if range.first > range.last {
        return Err(refused());
    }
    Ok(range)
}

/// A time: `500ms`, `5s`, `10m`, `1h`; a number alone is seconds. At most a year.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    const YEAR: f64 = 365.0 * 86400.0;
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => Some(0.001),
        "" | "s" => Some(1.0),
        "m" => Some(60.0),
        "h" => Some(3600.0),
        _ => None,
    };
    let is_plain = digits
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number = digits.parse::<f64>().ok().filter(|_| is_plain);
    let seconds = unit.zip(number).map(|(unit, number)| unit * number);
    match seconds.filter(|seconds| (0.001..=YEAR).contains(seconds)) {
        Some(seconds) => Ok(Duration::from_secs_f64(seconds)),
        None => Err(format!(
            "`{text}` is no time from 1ms to a year: write it such as 500ms, 5s, 10m or 1h"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit_or_is_seconds_and_is_neither_nothing_nor_endless() {
        for (text, milliseconds) in [("250ms", 250), ("5s", 5000), ("1.5", 1500), ("2m", 120_000)] {
            assert_eq!(
                duration(text),
                Ok(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
        for text in [
            "", "s", "0", "-1s", "+1s", "1d", "5 s", "1e3", "inf", "nan", "9000h",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
