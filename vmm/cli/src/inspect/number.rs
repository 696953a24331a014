//! Addresses on the command line.

use std::str::FromStr;
use std::time::Duration;

use heirloom_inspect::{Discovery, VirtAddr, VirtRange};

use crate::exit::{Exit, Failure};

/// A number in hexadecimal (`0xffff888000000000`, also with `_` between digits) or decimal.
pub(super) fn parse(text: &str) -> Result<u64, String> {
    let digits = text.replace('_', "");
    let number = match digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"))
    {
        Some(hexadecimal) if !hexadecimal.starts_with(['+', '-']) => {
            u64::from_str_radix(hexadecimal, 16)
        }
        Some(_) => return Err(refused(text)),
        None if digits.starts_with(['+', '-']) => return Err(refused(text)),
        None => digits.parse(),
    };
    number.map_err(|_| refused(text))
}

fn refused(text: &str) -> String {
    format!("`{text}` is no address: write it in hexadecimal, such as 0xffff888000000000")
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

/// An address, and whose it is: `pid:N:ADDRESS`, or `ADDRESS` alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OwnAddress {
    /// The process that is named.
    pub(super) process: Option<u32>,
    /// The address.
    pub(super) address: Address,
}

impl FromStr for OwnAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<OwnAddress, String> {
        let (process, address) = match text.strip_prefix("pid:") {
            None => (None, text),
            Some(rest) => {
                let split = rest
                    .split_once(':')
                    .and_then(|(pid, address)| Some((pid.parse().ok()?, address)));
                let (pid, address) = split.ok_or_else(|| {
                    format!("`{text}` is no address of a process: write it as pid:7:0x400000")
                })?;
                (Some(pid), address)
            }
        };
        let address = address.parse()?;
        Ok(OwnAddress { process, address })
    }
}

/// A virtual address, as users write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Number(u64),
    /// A symbol of the kernel's, and bytes behind it.
    Symbol(String, u64),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        let (name, offset) = match text.split_once('+') {
            Some((name, offset)) => (name, parse(offset)?),
            None => (text, 0),
        };
        let is_name = name.starts_with(|c: char| c.is_alphabetic() || c == '_')
            && name
                .chars()
                .all(|c| c.is_alphanumeric() || "_.$".contains(c));
        if is_name {
            return Ok(Address::Symbol(name.to_owned(), offset));
        }
        parse(text).map(Address::Number)
    }
}

impl Address {
    /// The address in a guest whose names were read.
    pub(super) fn resolve(&self, discovery: &Discovery) -> Result<VirtAddr, Failure> {
        let (name, offset) = match self {
            Address::Number(number) => return Ok(VirtAddr::new(*number)),
            Address::Symbol(name, offset) => (name, *offset),
        };
        let at = discovery.symbols.address_of(name).ok_or_else(|| {
            let why = if discovery.symbols.is_empty() {
                "the guest's memory has no symbols of a Linux kernel; write the address in hexadecimal, such as \
                 0xffff888000000000"
                    .to_owned()
            } else {
                format!("none of the kernel's {} symbols is called so", discovery.symbols.len())
            };
            Failure::new(Exit::Usage, format!("`{name}` is no address: {why}"))
        })?;
        Ok(at.wrapping_add(offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_say_whose_it_is() {
        let of = |text: &str| text.parse::<OwnAddress>();
        let address = Address::Number(0x40_0000);
        for (text, process) in [("pid:7:0x400000", Some(7)), ("0x400000", None)] {
            let address = address.clone();
            assert_eq!(of(text), Ok(OwnAddress { process, address }));
        }
        let symbol = of("pid:1:init_task+8").unwrap();
        assert_eq!(symbol.address, Address::Symbol("init_task".into(), 8));
        for text in ["pid:7", "pid::0x1", "pid:x:0x1", "pid:-1:0x1", "pid:7:zz:"] {
            assert!(of(text).is_err(), "{text}");
        }
    }

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

    #[test]
    fn an_address_is_hexadecimal_with_0x_and_decimal_without() {
        assert_eq!(parse("0xffff_8880_0000_0000"), Ok(0xffff_8880_0000_0000));
        assert_eq!(parse("0XFF"), Ok(255));
        assert_eq!(parse("4096"), Ok(4096));
        for text in [
            "",
            "0x",
            "ffff",
            "-1",
            "+1",
            "0x-1",
            "0x10000000000000000",
            "0xg",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
