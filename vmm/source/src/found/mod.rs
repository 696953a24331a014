//! A file without a prefix: what it is, its content tells. `FILE[,cr3=…][,cr4=…][,encrypt-bit=…][,phys-bits=…]`, and what
//! else that kind takes.

mod beside;
mod qcow2;

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::assumed::Registers;
use crate::content::{Kind, VMWARE_CORE};
use crate::core::CoreSpec;
use crate::dump::{self, Contents, DumpError, Kdump, firecracker, vmware};
use crate::file::{FileError, KCORE};
use crate::input::Input;
use crate::packed::{Unpacking, Way, is_standard_input};
use crate::qemu::QemuSpec;
use crate::raw::{Arrangement, RawSpec};
use crate::recording::RecordingSpec;
use crate::spec::{Fields, Given, SpecError};
use crate::{Target, TargetError, flattened};

const USAGE: &str = "FILE[,cr3=0x…][,cr4=0x…][,encrypt-bit=N][,phys-bits=N][,unpack=SIZE], for an image of RAM also \
    [,map=OFFSET:GPA:LEN…] or [,hole=ADDRESS], for a split dump [,part=FILE…], \
    for a snapshot of two files [,with=FILE]";

/// Which file, and what the user knows of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSpec {
    file: PathBuf,
    given: Given,
    arrangement: Arrangement,
    /// The other files of a split dump.
    parts: Vec<PathBuf>,
    /// The other file of a snapshot that is two.
    other: Option<PathBuf>,
}

impl FileSpec {
    pub(crate) fn parse(fields: &Fields) -> Result<FileSpec, SpecError> {
        let mut given = Given::default();
        let mut arrangement = Arrangement::default();
        let (mut parts, mut other) = (Vec::new(), None);
        for option in fields.options(USAGE)? {
            if fields.given(&option, &mut given)? || arrangement.take(fields, &option)? {
                continue;
            }
            match option.name {
                "part" => parts.push(option.value.into()),
                "with" if other.is_none() => other = Some(option.value.into()),
                _ => return Err(fields.unknown(option.whole, USAGE)),
            }
        }
        fields.complete(&given.registers)?;
        Ok(FileSpec {
            file: fields.file().into(),
            given,
            arrangement,
            parts,
            other,
        })
    }

    /// The other files that the user names.
    pub(crate) fn others(&self) -> impl Iterator<Item = &PathBuf> {
        self.parts.iter().chain(&self.other)
    }

    /// The same of another file.
    pub(crate) fn at(self, file: PathBuf) -> FileSpec {
        FileSpec { file, ..self }
    }

    pub(crate) fn open(
        &self,
        name: String,
        tell: &dyn Fn(&Unpacking<'_>),
    ) -> Result<Target, TargetError> {
        let kind = std::fs::metadata(&self.file).map(|metadata| metadata.file_type());
        match kind {
            Ok(kind) if kind.is_socket() => {
                self.only(&name, "a socket, taken for QEMU's", &[])?;
                return Ok(QemuSpec::of(self.file.clone()).open(name)?);
            }
            Err(error)
                if error.kind() == std::io::ErrorKind::NotFound
                    && !is_standard_input(&self.file)
                    && self.file != Path::new(KCORE) =>
            {
                let name = self.file.display().to_string();
                return Err(DumpError::NoTarget { name }.into());
            }
            _ => {}
        }
        if let Some(folder) = beside::snapshot(&self.file) {
            return self.open_folder(name, &folder);
        }
        let mut notes = Vec::new();
        let way = self.given.unpack.way(tell);
        let opened = way.open(&self.file, "dump or image", &mut notes);
        let (file_name, mut input) = opened.map_err(DumpError::File)?;
        let mut kind = kind_of(&file_name, &input)?;
        let is_flattened = matches!(kind, Kind::Flattened);
        if is_flattened {
            input = flattened::put_together(&file_name, input, &mut notes)?;
            notes.push("by its content this is a dump in makedumpfile's flattened form".into());
            kind = Kind::of_bytes(&input.start());
        }
        let file = Opened {
            name: file_name,
            input,
            notes,
        };
        let what = kind.what().unwrap_or("an image of RAM");
        match kind {
            Kind::Elf => {
                self.only(&name, what, &[Takes::Registers])?;
                let Opened { mut notes, .. } = file;
                notes.push("by its content this is an ELF core".into());
                let spec = CoreSpec::of(self.file.clone(), self.given.clone());
                Ok(spec.open_input(name, file.name, file.input, notes)?)
            }
            Kind::Kdump => {
                self.only(&name, what, &[Takes::Registers, Takes::Parts])?;
                self.open_kdump(name, file, way)
            }
            Kind::Recording => {
                self.only(&name, what, &[])?;
                Ok(RecordingSpec::of(self.file.clone()).open()?)
            }
            Kind::Unknown | Kind::Flattened if is_flattened => Err(DumpError::Damaged {
                name: file.name,
                kind: "dump in makedumpfile's flattened form",
                what: "what it holds is neither a kdump-compressed dump nor an ELF core".into(),
            }
            .into()),
            Kind::Unknown | Kind::Flattened => self.open_image(name, file, way),
            _ => {
                let pair = matches!(kind, Kind::Vmware | Kind::Firecracker);
                let takes: &[Takes] = if pair {
                    &[Takes::Registers, Takes::Other]
                } else {
                    &[Takes::Registers]
                };
                self.only(&name, what, takes)?;
                let mut contents = self.contents(kind, &file.name, file.input, way)?;
                contents.notes.splice(0..0, file.notes);
                self.target(name, &file.name, contents)
            }
        }
    }

    /// What a reader of dumps finds in a file of this kind.
    fn contents(
        &self,
        kind: Kind,
        name: &str,
        input: Input,
        way: Way<'_>,
    ) -> Result<Contents, DumpError> {
        let unread = |what: &str, remedy| {
            Err(DumpError::Unread {
                name: name.into(),
                what: what.into(),
                remedy,
            })
        };
        match kind {
            Kind::Lime => dump::open_lime(name, input),
            Kind::Avml => dump::open_avml(name, input),
            Kind::Migration => dump::migration::open(name, input, 0),
            Kind::Libvirt => dump::libvirt::open(name, input, way),
            Kind::WindowsDump => dump::windows::open(name, input),
            Kind::Vmware => {
                let state = vmware::State::read(name, &input)?;
                if state.has_memory() {
                    return state.with(name, input);
                }
                match self.other(way, beside::vmem)? {
                    Some(memory) => state.with(name, memory),
                    None => unread(
                        "a saved state of VMware's without the guest's memory",
                        VMWARE_CORE,
                    ),
                }
            }
            Kind::Firecracker => match self.other(way, beside::firecracker_memory)? {
                Some(memory) => firecracker::open(name, &input, memory),
                None => unread(
                    "the state of a snapshot of Firecracker's without the guest's memory",
                    "name the file with the memory as with=FILE",
                ),
            },
            Kind::Qcow2 => Err(qcow2::refused(name, &input)),
            Kind::Foreign(foreign) => unread(foreign.what, foreign.remedy),
            _ => unread(
                "packed more often than files are",
                "unpack it, and give the result",
            ),
        }
    }

    /// The other file of a snapshot: as the user names it, or as `find` finds it.
    fn other(
        &self,
        way: Way<'_>,
        find: impl Fn(&Path) -> Option<PathBuf>,
    ) -> Result<Option<Input>, DumpError> {
        let Some(path) = self.other.clone().or_else(|| find(&self.file)) else {
            return Ok(None);
        };
        let (_, input) = way.open(&path, "other file of a snapshot", &mut Vec::new())?;
        Ok(Some(input))
    }

    fn target(
        &self,
        name: String,
        file_name: &str,
        contents: Contents,
    ) -> Result<Target, TargetError> {
        let mut target = contents.into_target(name, file_name)?;
        dump::add(&self.given.registers, &mut target, file_name)?;
        Ok(target)
    }

    /// Opens a folder with a snapshot of Cloud Hypervisor's.
    fn open_folder(&self, name: String, folder: &Path) -> Result<Target, TargetError> {
        let what = "a snapshot of Cloud Hypervisor's";
        self.only(&name, what, &[Takes::Registers])?;
        let open = |file: &str| Input::open(&folder.join(file), "part of a snapshot");
        let state = open(beside::STATE).map_err(DumpError::File)?;
        let memory = open(beside::RANGES).map_err(DumpError::File)?;
        let folder = folder.display().to_string();
        let contents = dump::cloud_hypervisor::open(&folder, &state, memory)?;
        self.target(name, &folder, contents)
    }

    fn open_kdump(&self, name: String, file: Opened, way: Way<'_>) -> Result<Target, TargetError> {
        let mut notes = file.notes;
        let mut inputs = vec![(file.name.clone(), file.input)];
        for part in &self.parts {
            inputs.push(open_part(part, way, &mut notes)?);
        }
        let mut dump = Kdump::read(inputs)?;
        dump.contents.notes.splice(0..0, notes);
        let mut target = dump.contents.into_target(name, &file.name)?;
        if let Some(info) = dump.vmcoreinfo {
            info.tell(&mut target);
        }
        dump::add(&self.given.registers, &mut target, &file.name)?;
        Ok(target)
    }

    /// Opens an image of RAM, with the state that belongs to it if there is one.
    fn open_image(&self, name: String, file: Opened, way: Way<'_>) -> Result<Target, TargetError> {
        let what = "an image of RAM";
        self.only(
            &name,
            what,
            &[Takes::Registers, Takes::Arrangement, Takes::Other],
        )?;
        let is_plain = self.arrangement == Arrangement::default();
        if let Some(state) = self
            .other(way, beside::state)
            .map(|state| state.filter(|_| is_plain))?
        {
            let file_name = &file.name;
            let mut contents = match Kind::of_bytes(&state.start()) {
                Kind::Vmware => {
                    vmware::State::read(file_name, &state)?.with(file_name, file.input)?
                }
                Kind::Firecracker => firecracker::open(file_name, &state, file.input)?,
                _ => {
                    return Err(DumpError::Part {
                        name: self.other.clone().unwrap_or_default().display().to_string(),
                        what: "it is no state of VMware's or Firecracker's".into(),
                    }
                    .into());
                }
            };
            contents.notes.splice(0..0, file.notes);
            return self.target(name, file_name, contents);
        }
        let mut notes = file.notes;
        notes.push(
            "by its content this is none of the dumps that are known, and taken for an image of RAM"
                .into(),
        );
        let given = self.given.clone();
        let spec = RawSpec::of(self.file.clone(), given, self.arrangement.clone());
        Ok(spec.open_input(name, file.name, file.input, notes)?)
    }

    /// Makes sure that there is no option that this kind does not take.
    fn only(&self, spec: &str, what: &'static str, takes: &[Takes]) -> Result<(), DumpError> {
        let plain = Arrangement::default();
        for (kind, is_given, option, kinds) in [
            (
                Takes::Parts,
                !self.parts.is_empty(),
                "part=",
                "kdump-compressed dumps that were split",
            ),
            (
                Takes::Registers,
                self.given.registers != Registers::default(),
                "cr3=, cr4=, encrypt-bit= or phys-bits=",
                "dumps and images of RAM",
            ),
            (
                Takes::Arrangement,
                self.arrangement != plain,
                "map= or hole=",
                "images of RAM",
            ),
            (
                Takes::Other,
                self.other.is_some(),
                "with=",
                "snapshots of VMware's and Firecracker's, which are two files",
            ),
        ] {
            if is_given && !takes.contains(&kind) {
                return Err(DumpError::Option {
                    spec: spec.into(),
                    what,
                    option,
                    kinds,
                });
            }
        }
        Ok(())
    }
}

/// What a kind of file takes of options that not all take.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Registers,
    Arrangement,
    Parts,
    Other,
}

/// A file that is open and unpacked.
struct Opened {
    name: String,
    input: Input,
    notes: Vec<String>,
}

/// Another file of a split dump.
fn open_part(
    part: &Path,
    way: Way<'_>,
    notes: &mut Vec<String>,
) -> Result<(String, Input), DumpError> {
    let (name, input) = way.open(part, "part of a dump", notes)?;
    if !matches!(Kind::of_bytes(&input.start()), Kind::Kdump) {
        return Err(DumpError::Part {
            name,
            what: "it is no kdump-compressed dump".into(),
        });
    }
    Ok((name, input))
}

/// What the file is.
fn kind_of(name: &str, input: &Input) -> Result<Kind, DumpError> {
    match input.plain() {
        Some(file) => {
            Ok(Kind::of(file, input.length()).map_err(|source| FileError::new(name, source))?)
        }
        None => Ok(Kind::of_bytes(&input.start())),
    }
}
