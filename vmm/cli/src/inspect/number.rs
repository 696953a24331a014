//! Addresses on the command line.

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

#[cfg(test)]
mod tests {
    use super::*;

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
