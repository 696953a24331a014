//! How a guest to inspect is written: `[KIND:]FILE[,OPTION=VALUE…]`.
//!
//! Without a kind it is a file that tells by its content what it is. A colon behind a slash is a part of the
//! path.
//!
//! A comma in a path is written twice, as QEMU has it. Numbers are decimal or, with `0x`, hexadecimal;
//! `K`, `M`, `G` and `T` behind one multiply it by powers of 1024.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use heirloom_inspect::paging::mode::PhysBits;
use heirloom_inspect::{Cr3, Entry};

use crate::assumed::Registers;
use crate::core::CoreSpec;
use crate::file::KCORE;
use crate::found::FileSpec;
use crate::packed::Unpack;
use crate::qemu::QemuSpec;
use crate::raw::RawSpec;
use crate::recording::RecordingSpec;

/// Which guest to inspect, as users write it: `FILE`, `core:FILE`, `raw:FILE[,…]`, `qemu:SOCKET`, `rec:FILE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    text: String,
    file: PathBuf,
    source: Source,
}

/// What kind of source a guest comes from, and which one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file that tells by its content what it is.
    File(FileSpec),
    /// An ELF core.
    Core(CoreSpec),
    /// An image of RAM.
    Raw(RawSpec),
    /// A live QEMU.
    Qemu(QemuSpec),
    /// A moment of a recording.
    Recording(RecordingSpec),
}

/// Why a text names no guest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its variant is")]
pub enum SpecError {
    #[error(
        "`{spec}` names no target: write FILE, core:FILE, raw:FILE, qemu:SOCKET or rec:FILE, or live: for the \
         kernel that runs here, for example guest.elf or core:guest.elf (a file with a colon in its name: ./NAME)"
    )]
    Kind { spec: String },
    #[error("`{spec}` names no file: write one behind the colon, as in core:guest.elf")]
    NoFile { spec: String },
    #[error(
        "`{option}` in `{spec}` is no option of it: write {usage} (a comma that belongs to the path \
         is written twice)"
    )]
    Option {
        spec: String,
        option: String,
        usage: &'static str,
    },
    #[error("`{option}` in `{spec}` {problem}: write {usage}")]
    Value {
        spec: String,
        option: String,
        problem: &'static str,
        usage: &'static str,
    },
}

impl Spec {
    /// The file or socket that it is read from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The kernel that runs here.
    fn live(text: &str, fields: &Fields<'_>) -> Result<Spec, SpecError> {
        const USAGE: &str = "live: without a file, for the kernel that runs here";
        if !fields.file().is_empty() {
            return Err(fields.bad_value(fields.file(), "is a file", USAGE));
        }
        let file = PathBuf::from(KCORE);
        Ok(Spec {
            text: text.into(),
            file: file.clone(),
            source: Source::File(FileSpec::parse(fields)?.at(file)),
        })
    }

    /// The kind of source and which one.
    pub fn source(&self) -> &Source {
        &self.source
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl FromStr for Spec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Spec, SpecError> {
        let no_kind = || SpecError::Kind { spec: text.into() };
        if text.is_empty() {
            return Err(no_kind());
        }
        let (kind, rest) = match text.split_once(':') {
            Some((kind, rest)) if !kind.contains(['/', ',']) => (kind, rest),
            _ => ("", text),
        };
        let fields = Fields::split(text, rest);
        let source = match kind {
            "live" => return Spec::live(text, &fields),
            "" if rest.len() == text.len() => Source::File(FileSpec::parse(&fields)?),
            "core" => Source::Core(CoreSpec::parse(&fields)?),
            "raw" => Source::Raw(RawSpec::parse(&fields)?),
            "qemu" => Source::Qemu(QemuSpec::parse(&fields)?),
            "rec" => Source::Recording(RecordingSpec::parse(&fields)?),
            _ => return Err(no_kind()),
        };
        if fields.file().is_empty() {
            return Err(SpecError::NoFile { spec: text.into() });
        }
        let file = match &source {
            Source::Recording(recording) => recording.file.clone(),
            _ => fields.file().into(),
        };
        Ok(Spec {
            text: text.into(),
            file,
            source,
        })
    }
}

/// A spec's parts behind the colon.
pub(crate) struct Fields<'a> {
    spec: &'a str,
    file: String,
    options: Vec<String>,
}

impl<'a> Fields<'a> {
    fn split(spec: &'a str, rest: &str) -> Fields<'a> {
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

    fn source(text: &str) -> Source {
        let spec: Spec = text.parse().unwrap();
        assert_eq!(spec.to_string(), text);
        spec.source
    }

    #[test]
    fn each_kind_is_told_by_its_word() {
        assert!(matches!(source("a"), Source::File(_)));
        assert!(matches!(source("./a:b"), Source::File(_)));
        assert!(matches!(source("a,cr3=0x1000"), Source::File(_)));
        assert!(matches!(source("a,map=0:0:1M"), Source::File(_)));
        assert!(matches!(source("core:a"), Source::Core(_)));
        assert!(matches!(source("raw:a"), Source::Raw(_)));
        assert!(matches!(source("qemu:/run/q.sock"), Source::Qemu(_)));
        assert!(matches!(source("rec:a"), Source::Recording(_)));
        let spec: Spec = "live:,cr3=0x1000".parse().unwrap();
        assert_eq!(spec.file(), Path::new("/proc/kcore"));
    }

    #[test]
    fn a_recordings_event_stands_behind_the_last_at_sign() {
        for (text, file, event) in [
            ("rec:a", "a", None),
            ("rec:a@12", "a", Some(12)),
            ("rec:me@home/a", "me@home/a", None),
            ("rec:me@home/a@0", "me@home/a", Some(0)),
        ] {
            let Source::Recording(recording) = source(text) else {
                panic!("{text}")
            };
            assert_eq!(recording.file, Path::new(file), "{text}");
            assert_eq!(recording.event, event, "{text}");
        }
    }

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

    #[test]
    fn what_cannot_be_understood_is_named_with_the_remedy() {
        for (text, words) in [
            ("", &["names no target", "core:FILE"][..]),
            (":guest.elf", &["`:guest.elf`", "core:guest.elf"]),
            ("a,b", &["`b`", "map=OFFSET:GPA:LEN", "part=FILE"]),
            ("a,hole=1", &["`hole=1`", "4 GiB"]),
            ("a,hole=3G,map=0:0:1M", &["`map=0:0:1M`", "hole"]),
            ("elf:guest", &["`elf:guest`", "raw:FILE"]),
            ("core:", &["names no file"]),
            ("raw:,cr3=1", &["names no file"]),
            ("core:a,b.elf", &["`b.elf`", "written twice"]),
            ("core:a,map=0:0:1", &["`map=0:0:1`", "cr3=", "core:FILE"]),
            ("core:a,cr3=xyz", &["`cr3=xyz`", "no number"]),
            ("core:a,cr3=", &["`cr3=`", "no number"]),
            ("raw:a,cr4=0x20", &["useless alone"]),
            ("raw:a,cr3=1M,cr4=0x1000", &["PAE"]),
            ("raw:a,cr3=1M,cr4=0x20,cr4=0x20", &["second cr4"]),
            ("raw:a,encrypt-bit=12", &["`encrypt-bit=12`", "32 to 51"]),
            ("core:a,encrypt-bit=x", &["`encrypt-bit=x`", "32 to 51"]),
            (
                "raw:a,encrypt-bit=47,encrypt-bit=47",
                &["second encrypt-bit"],
            ),
            ("raw:a,phys-bits=53", &["`phys-bits=53`", "32 to 52"]),
            ("raw:a,map=0:1M", &["`map=0:1M`", "map=OFFSET:GPA:LEN"]),
            ("raw:a,map=0:0:0", &["`map=0:0:0`", "empty"]),
            ("raw:a,map=0:0:1:2", &["map=OFFSET:GPA:LEN"]),
            ("raw:a,map=0:4096T:1M", &["52 bits"]),
            ("raw:a,map=0:0:1M,map=0:1K:1M", &["overlaps"]),
            ("raw:a,map=0xffffffffffffffff:0:1M", &["64 bits"]),
            ("live:a", &["`a`", "live: without a file"]),
            ("qemu:a,b=c", &["`b=c`", "qemu:SOCKET"]),
            ("qemu:a,memory=x", &["`memory=x`", "memory=process"]),
            ("rec:a,b", &["`b`", "rec:FILE"]),
        ] {
            let message = text.parse::<Spec>().unwrap_err().to_string();
            for word in words {
                assert!(message.contains(word), "{text}: no {word} in: {message}");
            }
        }
    }
}
