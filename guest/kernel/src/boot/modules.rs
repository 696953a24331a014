//! Boot modules: the programs that processes can execute.
//!
//! A module is one ELF file named by its command line, or, because some loaders pass just one
//! module, a cpio archive ("newc", cpio(5)) of many.

/// Programs that are kept.
const MAX_MODULES: usize = 32;
const ARCHIVE_MAGIC: &[u8] = b"070701";
const ARCHIVE_HEADER: usize = 110;

/// A program's name and ELF file.
#[derive(Clone, Copy)]
pub struct Module {
    pub name: &'static str,
    pub bytes: &'static [u8],
}

/// All programs.
pub struct Modules {
    modules: [Module; MAX_MODULES],
    count: usize,
}

/// There are more programs than this kernel keeps.
#[derive(Clone, Copy, Debug)]
pub struct TooManyModules;

impl Modules {
    pub const fn new() -> Modules {
        Modules {
            modules: [Module {
                name: "",
                bytes: &[],
            }; MAX_MODULES],
            count: 0,
        }
    }

    /// Adds a boot module: a program, or an archive of programs.
    pub fn add(&mut self, name: &'static str, bytes: &'static [u8]) -> Result<(), TooManyModules> {
        if !bytes.starts_with(ARCHIVE_MAGIC) {
            return self.push(Module { name, bytes });
        }
        let mut rest = bytes;
        while let Some((module, after)) = archive_member(rest) {
            if module.name == "TRAILER!!!" {
                break;
            }
            self.push(module)?;
            rest = after;
        }
        Ok(())
    }

    pub fn find(&self, name: &[u8]) -> Option<usize> {
        self.modules[..self.count]
            .iter()
            .position(|module| module.name.as_bytes() == name)
    }

    pub fn get(&self, index: usize) -> Module {
        self.modules[..self.count][index]
    }

    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.modules[..self.count].iter().map(|module| module.name)
    }

    fn push(&mut self, module: Module) -> Result<(), TooManyModules> {
        *self.modules.get_mut(self.count).ok_or(TooManyModules)? = module;
        self.count += 1;
        Ok(())
    }
}

/// The first file of an archive and what follows it; `None` at the end or where it is damaged.
fn archive_member(archive: &'static [u8]) -> Option<(Module, &'static [u8])> {
    let header = archive.get(..ARCHIVE_HEADER)?;
    if !header.starts_with(ARCHIVE_MAGIC) {
        return None;
    }
    // Thirteen fields of eight hexadecimal digits follow the magic; file size is 6, name size 11.
    let field = |index: usize| {
        let digits = core::str::from_utf8(&header[6 + 8 * index..14 + 8 * index]).ok()?;
        usize::from_str_radix(digits, 16).ok()
    };
    let (file_size, name_size) = (field(6)?, field(11)?);
    let file_start = (ARCHIVE_HEADER + name_size).next_multiple_of(4);
    let name = archive.get(ARCHIVE_HEADER..ARCHIVE_HEADER + name_size.checked_sub(1)?)?;
    let bytes = archive.get(file_start..file_start.checked_add(file_size)?)?;
    let after = archive.get((file_start + file_size).next_multiple_of(4)..)?;
    Some((
        Module {
            name: core::str::from_utf8(name).ok()?,
            bytes,
        },
        after,
    ))
}
