//! Names of a kernel from a file: a vmlinux or another ELF, a System.map, or what `nm` prints.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use heirloom_inspect::symbols::SymbolFile;
use heirloom_inspect::{VirtAddr, VirtRange};
use object::elf::FileHeader64;
use object::read::elf::ElfFile;
use object::{
    Architecture, LittleEndian, Object, ObjectKind, ObjectSection, ObjectSymbol, ReadCache,
    SectionFlags, SectionKind, SymbolKind,
};

use crate::file::FileError;
use crate::input::{Cursor, Input};

/// More symbols are not believed; a kernel with everything built in has a quarter million.
const SYMBOLS: usize = 1 << 22;
/// Longer names are not believed.
const NAME_BYTES: usize = 512;
/// Longer lines of a list are none.
const LINE_BYTES: u64 = 4096;
/// Pieces of an ELF's code by which its kernel is known, and their length: short, because addresses in code are
/// changed when a kernel is moved, and instructions where it fits itself to the CPU.
const PIECES: u64 = 64;
const PIECE_BYTES: u64 = 16;
/// Of several sections each has its first piece.
const PIECES_MOST: usize = 256;
/// A list is read up to here.
const LIST_BYTES: u64 = 1 << 30;
const SHF_ALLOC: u64 = 2;

/// Why a file's symbols cannot be read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its variant is")]
pub enum SymbolFileError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(
        "{name} is no ELF of an x86-64 kernel: {what}; give the kernel's vmlinux, or its System.map"
    )]
    NoKernel { name: String, what: &'static str },
    #[error("{name} is damaged: {what}")]
    Damaged { name: String, what: String },
    #[error(
        "{name} has no symbols: it was stripped; give the kernel's file before that, or its System.map"
    )]
    NoSymbols { name: String },
    #[error(
        "line {line} of {name} is no symbol: it must be an address in hexadecimal, a type and a name, as `nm` \
         prints it"
    )]
    Line { name: String, line: usize },
}

/// Reads the symbols of `path`.
///
/// # Errors
/// [`SymbolFileError`].
pub fn read_symbols(path: &Path) -> Result<SymbolFile, SymbolFileError> {
    let name = path.display().to_string();
    let input = Input::open(path, "list of symbols")?;
    if input.start().starts_with(b"\x7fELF") {
        of_elf(name, &input)
    } else {
        of_list(name, &input)
    }
}

fn of_elf(name: String, input: &Input) -> Result<SymbolFile, SymbolFileError> {
    let damaged = |error: object::Error| SymbolFileError::Damaged {
        name: name.clone(),
        what: error.to_string(),
    };
    let no_kernel = |what| SymbolFileError::NoKernel {
        name: name.clone(),
        what,
    };
    let data = ReadCache::new(Cursor::new(input));
    let elf = ElfFile::<FileHeader64<LittleEndian>, _>::parse(&data)
        .map_err(|_| no_kernel("its header is that of another machine, or damaged"))?;
    if elf.architecture() != Architecture::X86_64 {
        return Err(no_kernel("it is for another machine"));
    }
    match elf.kind() {
        ObjectKind::Executable | ObjectKind::Dynamic => {}
        ObjectKind::Core => return Err(no_kernel("it is a core")),
        _ => return Err(no_kernel("it is not linked")),
    }
    let mut file = SymbolFile {
        name: name.clone(),
        ..SymbolFile::default()
    };
    let mut code: Vec<(u64, u64)> = Vec::new();
    for section in elf.sections() {
        let SectionFlags::Elf { sh_flags, .. } = section.flags() else {
            continue;
        };
        let (first, bytes) = (section.address(), section.size());
        let range = first.checked_add(bytes).filter(|_| bytes > 0 && first > 0);
        if sh_flags.0 & SHF_ALLOC == 0 || range.is_none() {
            continue;
        }
        file.ranges
            .extend(VirtRange::new(VirtAddr::new(first), bytes));
        if section.kind() == SectionKind::Text {
            code.push((first, bytes));
        }
    }
    let all: u64 = code
        .iter()
        .fold(0, |all: u64, (_, bytes)| all.saturating_add(*bytes));
    let step = (all / PIECES).max(PIECE_BYTES);
    for section in elf.sections() {
        let (first, bytes) = (section.address(), section.size());
        if !code.contains(&(first, bytes)) {
            continue;
        }
        let mut at = first;
        while at - first + PIECE_BYTES <= bytes && file.code.len() < PIECES_MOST {
            if let Ok(Some(piece)) = section.data_range(at, PIECE_BYTES)
                && piece.iter().any(|byte| *byte != 0)
            {
                file.code.push((VirtAddr::new(at), piece.to_vec()));
            }
            let Some(next) = at.checked_add(step) else {
                break;
            };
            at = next;
        }
    }
    let is_named = |kind| {
        matches!(
            kind,
            SymbolKind::Text | SymbolKind::Data | SymbolKind::Label | SymbolKind::Unknown
        )
    };
    let mut symbols: Vec<(VirtAddr, String)> = Vec::new();
    let tables = elf.symbols().chain(elf.dynamic_symbols());
    for symbol in tables.filter(|symbol| !symbol.is_undefined() && is_named(symbol.kind())) {
        let text = symbol.name().map_err(damaged)?;
        if is_name(text) && !text.starts_with(".L") {
            symbols.push((VirtAddr::new(symbol.address()), text.to_owned()));
        }
        if symbols.len() >= SYMBOLS {
            break;
        }
    }
    if symbols.is_empty() {
        return Err(SymbolFileError::NoSymbols { name });
    }
    file.symbols = symbols;
    Ok(file)
}

/// `ffffffff81000000 T _text`, a line each; the type may be missing, and the module in brackets follow.
fn of_list(name: String, input: &Input) -> Result<SymbolFile, SymbolFileError> {
    let mut symbols = Vec::new();
    let mut lines = BufReader::new(Cursor::new(input)).take(LIST_BYTES);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let refused = || SymbolFileError::Line {
            name: name.clone(),
            line: number,
        };
        let mut rest = (&mut lines).take(LINE_BYTES);
        if rest.read_until(b'\n', &mut line).map_err(|_| refused())? == 0 {
            break;
        }
        let text = std::str::from_utf8(&line).map_err(|_| refused())?;
        let words: Vec<&str> = text.split_ascii_whitespace().take(5).collect();
        let (address, symbol) = match words[..] {
            // What is defined elsewhere has no address.
            [] | ["U" | "w" | "v", _] => continue,
            [address, symbol] => (address, symbol),
            [address, kind, symbol] if kind.len() == 1 => (address, symbol),
            [address, kind, symbol, module] if kind.len() == 1 && module.starts_with('[') => {
                (address, symbol)
            }
            _ => return Err(refused()),
        };
        let digits = address.trim_start_matches("0x");
        let address = u64::from_str_radix(digits, 16).map_err(|_| refused())?;
        if is_name(symbol) {
            symbols.push((VirtAddr::new(address), symbol.to_owned()));
        }
        if symbols.len() >= SYMBOLS {
            break;
        }
    }
    if symbols.is_empty() {
        return Err(SymbolFileError::NoSymbols { name });
    }
    Ok(SymbolFile {
        name,
        symbols,
        ..SymbolFile::default()
    })
}

/// Whether people can be shown it as a name.
fn is_name(text: &str) -> bool {
    (1..=NAME_BYTES).contains(&text.len()) && text.chars().all(|c| !c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Result<Vec<(u64, String)>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let read = read_symbols(file.path()).map_err(|error| error.to_string())?;
        let symbols = read.symbols.into_iter();
        Ok(symbols.map(|(at, name)| (at.get(), name)).collect())
    }

    #[test]
    fn a_list_is_read_as_nm_and_kernels_print_it() {
        let text = "ffffffff81000000 T _text\n\n                 U elsewhere\n\
                    0xffffffff81000010 start\nffffffffc0000000 t probe\t[virtio]\n";
        let expected = [
            (0xffff_ffff_8100_0000, "_text"),
            (0xffff_ffff_8100_0010, "start"),
            (0xffff_ffff_c000_0000, "probe"),
        ];
        let found = list(text).unwrap();
        assert_eq!(found, expected.map(|(at, name)| (at, name.to_owned())));
    }

    #[test]
    fn what_is_no_list_is_refused_with_its_line() {
        // What Debian has in the place of a System.map.
        let stub = "ffffffffffffffff B The real System.map is elsewhere";
        for (text, line) in [
            (stub, 1),
            ("ffffffff81000000 T _text\nroot:x:0:0\n", 2),
            ("zz T a", 1),
        ] {
            let refused = list(text).unwrap_err();
            assert!(refused.starts_with(&format!("line {line} of")), "{refused}");
        }
        assert!(list("\n \n").unwrap_err().contains("no symbols"));
        assert!(list(&"a".repeat(10_000)).unwrap_err().contains("line 1"));
    }

    #[test]
    fn an_elf_has_names_and_the_code_that_it_is_known_by() {
        let path = std::env::current_exe().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let file = read_symbols(&path).unwrap();
        assert!(file.symbols.iter().any(|(_, name)| name == "main"));
        assert!(file.code.len() >= 32 && file.code.len() <= PIECES_MOST);
        for (at, piece) in &file.code {
            assert!(file.ranges.iter().any(|range| range.contains(*at)));
            assert!(bytes.windows(piece.len()).any(|window| window == piece));
        }
    }

    #[test]
    fn a_damaged_elf_is_refused_or_read_and_never_more() {
        let path = std::env::current_exe().unwrap();
        let bytes = std::fs::read(path).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        for (at, byte) in [(18, 3), (4, 1), (0x28, 0xff), (0x3c, 0xff), (0x3e, 0xff)] {
            let mut damaged = bytes[..bytes.len().min(1 << 16)].to_vec();
            damaged[at] = byte;
            std::fs::write(file.path(), &damaged).unwrap();
            if let Ok(read) = read_symbols(file.path()) {
                assert!(read.symbols.len() <= SYMBOLS);
            }
        }
    }
}
