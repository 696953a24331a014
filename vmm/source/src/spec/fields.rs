//! What stands behind the kind: a path, and options.
//!
//! A comma in a path is written twice, as QEMU has it. Numbers are decimal or, with `0x`, hexadecimal;
//! `K`, `M`, `G` and `T` behind one multiply it by powers of 1024.

use heirloom_inspect::paging::mode::PhysBits;
use heirloom_inspect::{Cr3, Entry};

use super::SpecError;
use crate::assumed::Registers;
use crate::packed::Unpack;

/// A spec's parts behind the colon.
pub(crate) struct Fields<'a> {
    spec: &'a str,
    file: String,
    options: Vec<String>,
}

impl<'a> Fields<'a> {
    pub(super) fn split(spec: &'a str, rest: &str) -> Fields<'a> {
        let mut fields = vec![String::new()];
        let mut letters = rest.chars().peekable();
        while let Some(letter) = letters.next() {
            if letter == ',' && letters.next_if_eq(&',').is_none() {
                fields.push(String::new());
            } else if let Some(last) = fields.last_mut() {
                last.push(letter);
            }
        }
        let options = fields.split_off(1);
        Fields {
            spec,
            file: fields.concat(),
            options,
        }
    }

    /// The path, doubled commas made single.
    pub(crate) fn file(&self) -> &str {
        &self.file
    }

    /// Every option as its name, its value, and itself whole.
    ///
    /// # Errors
    /// [`SpecError::Option`] for one without a `=`; the error names `usage`.
    pub(crate) fn options(&self, usage: &'static str) -> Result<Vec<FieldOption<'_>>, SpecError> {
        self.options
            .iter()
            .map(|whole| {
                let (name, value) = whole
                    .split_once('=')
                    .ok_or_else(|| self.unknown(whole, usage))?;
                Ok(FieldOption { name, value, whole })
            })
            .collect()
    }

    /// # Errors
    /// [`SpecError::Option`] if there is any.
    pub(crate) fn no_options(&self, usage: &'static str) -> Result<(), SpecError> {
        match self.options.first() {
            Some(option) => Err(self.unknown(option, usage)),
            None => Ok(()),
        }
    }

    /// The error that `option` is not known.
    pub(crate) fn unknown(&self, option: &str, usage: &'static str) -> SpecError {
        SpecError::Option {
            spec: self.spec.into(),
            option: option.into(),
            usage,
        }
    }

    /// The error that the value of `option` will not do.
    pub(crate) fn bad_value(
        &self,
        option: &str,
        problem: &'static str,
        usage: &'static str,
    ) -> SpecError {
        SpecError::Value {
            spec: self.spec.into(),
            option: option.into(),
            problem,
            usage,
        }
    }

    /// Takes `option` into `given` if it is one that all files have: whether it was.
    pub(crate) fn given(
        &self,
        option: &FieldOption<'_>,
        given: &mut Given,
    ) -> Result<bool, SpecError> {
        const UNPACK: &str = "unpack=SIZE once, such as unpack=512G";
        if option.name != "unpack" {
            return self.register(option, &mut given.registers);
        }
        let limit = number(option.value)
            .filter(|limit| *limit > 0)
            .ok_or_else(|| self.bad_value(option.whole, "is no size", UNPACK))?;
        if given.unpack.0.replace(limit).is_some() {
            return Err(self.bad_value(option.whole, "is a second unpack", UNPACK));
        }
        Ok(true)
    }

    /// Takes `option` into `registers` if it is one of theirs: whether it was.
    fn register(
        &self,
        option: &FieldOption<'_>,
        registers: &mut Registers,
    ) -> Result<bool, SpecError> {
        const CR3: &str = "cr3=0x… as the guest's CPU had it";
        const CR4: &str = "cr4=0x… once, as the guest's CPU had it";
        const ENCRYPT_BIT: &str = "encrypt-bit=N once, as CPUID 0x8000001f EBX bits 5–0 have it: 32 to 51, mostly 47 or 51";
        const PHYS_BITS: &str =
            "phys-bits=N once, as CPUID 0x80000008 EAX bits 7–0 have it: 32 to 52, mostly 39 to 48";
        /// Without PAE there are no tables of 64-bit entries (Intel SDM vol. 3A, 4.1.1).
        const PAE: u64 = 1 << 5;
        match option.name {
            "cr3" => {
                let value = number(option.value)
                    .ok_or_else(|| self.bad_value(option.whole, "is no number", CR3))?;
                registers.cr3.push(Cr3::new(value));
            }
            "cr4" => {
                let value = number(option.value)
                    .ok_or_else(|| self.bad_value(option.whole, "is no number", CR4))?;
                if value & PAE == 0 {
                    let problem = "has PAE (bit 5) clear, so it is no CR4 of long mode";
                    return Err(self.bad_value(option.whole, problem, CR4));
                }
                if registers.cr4.replace(value).is_some() {
                    return Err(self.bad_value(option.whole, "is a second cr4", CR4));
                }
            }
            "encrypt-bit" => {
                let problem = "is no number of an address bit";
                let bit = width(option.value).filter(|bit| *bit != PhysBits::MAX);
                let bit = bit.ok_or_else(|| self.bad_value(option.whole, problem, ENCRYPT_BIT))?;
                let bit = Entry::new(1 << bit.get());
                if registers.encryption.replace(bit).is_some() {
                    let problem = "is a second encrypt-bit";
                    return Err(self.bad_value(option.whole, problem, ENCRYPT_BIT));
                }
            }
            "phys-bits" => {
                let width = width(option.value)
                    .ok_or_else(|| self.bad_value(option.whole, "is no width", PHYS_BITS))?;
                if registers.phys_bits.replace(width).is_some() {
                    return Err(self.bad_value(option.whole, "is a second phys-bits", PHYS_BITS));
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// # Errors
    /// CR4 without a CR3 says nothing.
    pub(crate) fn complete(&self, registers: &Registers) -> Result<(), SpecError> {
        if registers.cr4.is_some() && registers.cr3.is_empty() {
            return Err(self.bad_value("cr4", "is useless alone", "cr3=0x… with it"));
        }
        Ok(())
    }
}

/// What a user may say of any file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) registers: Registers,
    pub(crate) unpack: Unpack,
}

/// `name=value`.
pub(crate) struct FieldOption<'a> {
    pub(crate) name: &'a str,
    pub(crate) value: &'a str,
    pub(crate) whole: &'a str,
}

/// A width of physical addresses.
fn width(text: &str) -> Option<PhysBits> {
    PhysBits::new(u32::try_from(number(text)?).ok()?)
}

/// `4096`, `0x1000`, `4K`; `None` for anything else and above 64 bits.
pub(crate) fn number(text: &str) -> Option<u64> {
    let (text, shift) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 10),
        b'm' | b'M' => (&text[..text.len() - 1], 20),
        b'g' | b'G' => (&text[..text.len() - 1], 30),
        b't' | b'T' => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    // `from_str_radix` takes a sign, too.
    if !digits.chars().all(|digit| digit.is_digit(radix)) {
        return None;
    }
    let number = u64::from_str_radix(digits, radix).ok()?;
    number.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_of_the_path_is_written_twice() {
        for (rest, parts) in [
            ("a", vec!["a"]),
            ("a,,b", vec!["a,b"]),
            ("a,b", vec!["a", "b"]),
            ("a,,,b", vec!["a,", "b"]),
            (",,a,", vec![",a", ""]),
        ] {
            let fields = Fields::split("", rest);
            let mut all = vec![fields.file.as_str()];
            all.extend(fields.options.iter().map(String::as_str));
            assert_eq!(all, parts, "{rest}");
        }
    }

    #[test]
    fn numbers_are_decimal_or_hexadecimal_with_units() {
        for (text, value) in [
            ("0", 0),
            ("4096", 4096),
            ("0x1000", 0x1000),
            ("0Xff", 255),
            ("4K", 4096),
            ("0x10m", 16 << 20),
            ("3G", 3 << 30),
            ("2t", 2 << 40),
            ("0xffffffffffffffff", u64::MAX),
        ] {
            assert_eq!(number(text), Some(value), "{text}");
        }
        for text in [
            "",
            "K",
            "0x",
            "0xK",
            "-1",
            "+1",
            "1 ",
            "1KK",
            "1.5G",
            "ff",
            "0x+1",
            "１",
            "18446744073709551616",
            "99999999999T",
        ] {
            assert_eq!(number(text), None, "{text}");
        }
    }
}
