//! How a guest to inspect is written: `[KIND:]FILE[,OPTION=VALUE…]`.
//!
//! Without a kind it is a file that tells by its content what it is. A colon behind a slash is a part of the
//! path.
//!
//! What stands behind the colon is [`Fields`].

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

mod fields;

use crate::core::CoreSpec;
use crate::file::KCORE;
use crate::found::FileSpec;
use crate::qemu::QemuSpec;
use crate::raw::RawSpec;
use crate::recording::RecordingSpec;
pub(crate) use fields::{FieldOption, Fields, Given, number};

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
