//! A file without a prefix: what it is, its content tells. `FILE[,cr3=…][,cr4=…][,encrypt-bit=…]`, and what
//! else that kind takes.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::assumed::Registers;
use crate::content::Kind;
use crate::core::CoreSpec;
use crate::dump::{self, DumpError, Kdump};
use crate::file::FileError;
use crate::input::Input;
use crate::qemu::QemuSpec;
use crate::raw::{Arrangement, RawSpec};
use crate::recording::RecordingSpec;
use crate::spec::{Fields, SpecError};
use crate::{Target, TargetError, flattened};

const USAGE: &str = "FILE[,cr3=0x…][,cr4=0x…][,encrypt-bit=N], for an image of RAM also \
    [,map=OFFSET:GPA:LEN…] or [,hole=ADDRESS], for a split dump [,part=FILE…]";

/// Which file, and what the user knows of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSpec {
    file: PathBuf,
    registers: Registers,
    arrangement: Arrangement,
    /// The other files of a split dump.
    parts: Vec<PathBuf>,
}

impl FileSpec {
    pub(crate) fn parse(fields: &Fields) -> Result<FileSpec, SpecError> {
        let mut registers = Registers::default();
        let mut arrangement = Arrangement::default();
        let mut parts = Vec::new();
        for option in fields.options(USAGE)? {
            if fields.register(&option, &mut registers)? || arrangement.take(fields, &option)? {
                continue;
            }
            if option.name != "part" {
                return Err(fields.unknown(option.whole, USAGE));
            }
            parts.push(option.value.into());
        }
        fields.complete(&registers)?;
        Ok(FileSpec {
            file: fields.file().into(),
            registers,
            arrangement,
            parts,
        })
    }

    pub(crate) fn open(&self, name: String) -> Result<Target, TargetError> {
        let file_name = self.file.display().to_string();
        let kind = std::fs::metadata(&self.file).map(|metadata| metadata.file_type());
        match kind {
            Ok(kind) if kind.is_socket() => {
                self.only(&name, "a socket, taken for QEMU's", false, false)?;
                return Ok(QemuSpec::of(self.file.clone()).open(name)?);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(DumpError::NoTarget { name: file_name }.into());
            }
            _ => {}
        }
        let mut input = Input::open(&self.file, "dump or image").map_err(DumpError::File)?;
        let mut notes = Vec::new();
        let mut kind = self.kind_of(&input)?;
        let is_flattened = matches!(kind, Kind::Flattened);
        if is_flattened {
            input = flattened::put_together(&file_name, input, &mut notes)?;
            notes.push("by its content this is a dump in makedumpfile's flattened form".into());
            kind = Kind::of_bytes(&input.start());
        }
        let what = kind.what().unwrap_or("an image of RAM");
        match kind {
            Kind::Elf => {
                self.only(&name, what, true, false)?;
                notes.push("by its content this is an ELF core".into());
                let spec = CoreSpec::of(self.file.clone(), self.registers.clone());
                Ok(spec.open_input(name, input, notes)?)
            }
            Kind::Kdump => {
                self.not_arranged(&name, what)?;
                let mut inputs = vec![(file_name.clone(), input)];
                for part in &self.parts {
                    inputs.push(FileSpec::open_part(part)?);
                }
                let mut dump = Kdump::read(inputs)?;
                notes.append(&mut dump.contents.notes);
                dump.contents.notes = notes;
                let mut target = dump.contents.into_target(name, &file_name)?;
                if let Some(info) = dump.vmcoreinfo {
                    info.tell(&mut target);
                }
                dump::add(&self.registers, &mut target, &file_name)?;
                Ok(target)
            }
            Kind::Lime | Kind::Avml => {
                self.only(&name, what, true, false)?;
                let contents = match kind {
                    Kind::Lime => dump::open_lime(&file_name, input)?,
                    _ => dump::open_avml(&file_name, input)?,
                };
                let mut target = contents.into_target(name, &file_name)?;
                dump::add(&self.registers, &mut target, &file_name)?;
                Ok(target)
            }
            Kind::Recording => {
                self.only(&name, what, false, false)?;
                Ok(RecordingSpec::of(self.file.clone()).open()?)
            }
            Kind::WindowsDump => Err(DumpError::Unread {
                name: file_name,
                what: what.into(),
                remedy: "make a core with QEMU's `dump-guest-memory FILE`, without -w",
            }
            .into()),
            Kind::Foreign(foreign) => Err(DumpError::Unread {
                name: file_name,
                what: foreign.what.into(),
                remedy: foreign.remedy,
            }
            .into()),
            Kind::Unknown | Kind::Flattened if is_flattened => Err(DumpError::Damaged {
                name: file_name,
                kind: "dump in makedumpfile's flattened form",
                what: "what it holds is neither a kdump-compressed dump nor an ELF core".into(),
            }
            .into()),
            Kind::Unknown | Kind::Flattened => {
                self.only(&name, what, true, true)?;
                notes.push(
                    "by its content this is none of the dumps that are known, and taken for an image of \
                     RAM"
                    .into(),
                );
                let spec = RawSpec::of(
                    self.file.clone(),
                    self.registers.clone(),
                    self.arrangement.clone(),
                );
                Ok(spec.open_input(name, input, notes)?)
            }
        }
    }

    /// What the file is.
    fn kind_of(&self, input: &Input) -> Result<Kind, DumpError> {
        let failed = |source| FileError::new(&self.file.display().to_string(), source);
        match input.plain() {
            Some(file) => Ok(Kind::of(file, input.length()).map_err(failed)?),
            None => Ok(Kind::of_bytes(&input.start())),
        }
    }

    /// Another file of a split dump.
    fn open_part(part: &Path) -> Result<(String, Input), DumpError> {
        let name = part.display().to_string();
        let input = Input::open(part, "part of a dump")?;
        if !matches!(Kind::of_bytes(&input.start()), Kind::Kdump) {
            return Err(DumpError::Part {
                name,
                what: "it is no kdump-compressed dump".into(),
            });
        }
        Ok((name, input))
    }

    /// Makes sure that there is no option that this kind does not take.
    fn only(
        &self,
        spec: &str,
        what: &'static str,
        registers: bool,
        arrangement: bool,
    ) -> Result<(), DumpError> {
        let wrong = |option, kinds| {
            Err(DumpError::Option {
                spec: spec.into(),
                what,
                option,
                kinds,
            })
        };
        if !self.parts.is_empty() {
            return wrong("part=", "kdump-compressed dumps that were split");
        }
        if !registers && self.registers != Registers::default() {
            return wrong("cr3=, cr4= or encrypt-bit=", "dumps and images of RAM");
        }
        if arrangement {
            return Ok(());
        }
        self.not_arranged(spec, what)
    }

    fn not_arranged(&self, spec: &str, what: &'static str) -> Result<(), DumpError> {
        if self.arrangement == Arrangement::default() {
            return Ok(());
        }
        Err(DumpError::Option {
            spec: spec.into(),
            what,
            option: "map= or hole=",
            kinds: "images of RAM",
        })
    }
}
