//! Which function, and which line of source, an address of the guest kernel is in.

use std::fmt;

use addr2line::Context;
use addr2line::gimli::{Dwarf, EndianSlice, LittleEndian, SectionId};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};

use crate::address::GuestVirtual;

/// Inlined functions that a location lists at most.
const DEPTH_LIMIT: usize = 64;

/// Why a kernel's symbols cannot be read.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "each variant's message says what it is and what its fields are"
)]
pub enum SymbolsError {
    #[error("could not read the symbols of the kernel: {0}; it is damaged: build it again")]
    Object(#[from] object::Error),
}

/// A line of source: file and number, counted from 1.
pub type Line = (String, u32);

/// What an address is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The function's demangled name and the address's offset from its start, in bytes.
    pub function: Option<(String, u64)>,
    /// The line of that function, where the kernel has DWARF for it.
    pub source: Option<Line>,
    /// The functions that the compiler inlined there, innermost first.
    pub inlined: Vec<Inlined>,
}

/// A function whose code became part of another's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inlined {
    /// Its demangled name.
    pub function: String,
    /// Where it was called, where the kernel has DWARF for it.
    pub source: Option<Line>,
}

/// ` (file:line)`, or nothing.
fn write_line(f: &mut fmt::Formatter<'_>, line: Option<&Line>) -> fmt::Result {
    line.map_or(Ok(()), |(file, line)| write!(f, " ({file}:{line})"))
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for inlined in &self.inlined {
            f.write_str(&inlined.function)?;
            write_line(f, inlined.source.as_ref())?;
            f.write_str(", inlined in ")?;
        }
        match &self.function {
            Some((name, offset)) => write!(f, "{name}+{offset:#x}")?,
            None => f.write_str("a nameless function")?,
        }
        write_line(f, self.source.as_ref())
    }
}

/// A function of the symbol table.
struct Function {
    start: u64,
    /// 0 where the table does not say: then it reaches to the next one.
    bytes: u64,
    name: String,
}

/// The names of a kernel's addresses.
pub struct Symbols<'k> {
    /// Sorted by start.
    functions: Vec<Function>,
    lines: Option<Context<EndianSlice<'k, LittleEndian>>>,
}

impl<'k> Symbols<'k> {
    /// Reads the symbol table and DWARF of a kernel ELF. A kernel that has neither gives no names.
    ///
    /// # Errors
    /// [`SymbolsError`] for what is no ELF. Damaged DWARF is as good as none.
    pub fn new(kernel: &'k [u8]) -> Result<Symbols<'k>, SymbolsError> {
        let file = object::File::parse(kernel)?;
        let mut functions: Vec<Function> = file
            .symbols()
            .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition())
            .filter_map(|symbol| {
                let name = symbol.name().ok().filter(|name| !name.is_empty())?;
                Some(Function {
                    start: symbol.address(),
                    bytes: symbol.size(),
                    name: format!("{:#}", rustc_demangle::demangle(name)),
                })
            })
            .collect();
        functions.sort_by_key(|function| function.start);
        let section = |id: SectionId| -> Result<_, addr2line::gimli::Error> {
            let data = file
                .section_by_name(id.name())
                .and_then(|section| section.data().ok())
                .unwrap_or_default();
            Ok(EndianSlice::new(data, LittleEndian))
        };
        let lines = Dwarf::load(section).and_then(Context::from_dwarf).ok();
        Ok(Symbols { functions, lines })
    }

    /// Whether no function has a name.
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    /// What is at `address`; `None` if it is in no known function or line.
    pub fn locate(&self, address: GuestVirtual) -> Option<Location> {
        let function = self.function(address.0);
        let mut inlined = self.frames(address.0);
        // The last one is the function itself, at the line that the inlined ones were called from.
        let source = inlined.pop().and_then(|outermost| outermost.source);
        (function.is_some() || source.is_some()).then_some(Location {
            function,
            source,
            inlined,
        })
    }

    fn function(&self, address: u64) -> Option<(String, u64)> {
        let behind = self
            .functions
            .partition_point(|function| function.start <= address);
        let function = self.functions[..behind].last()?;
        let offset = address - function.start;
        let inside = function.bytes == 0 || offset < function.bytes;
        inside.then(|| (function.name.clone(), offset))
    }

    /// The functions at `address` that DWARF knows, innermost first; damage ends the list.
    fn frames(&self, address: u64) -> Vec<Inlined> {
        let mut frames = Vec::new();
        let Some(Ok(mut found)) = self
            .lines
            .as_ref()
            .map(|lines| lines.find_frames(address).skip_all_loads())
        else {
            return frames;
        };
        while frames.len() < DEPTH_LIMIT
            && let Ok(Some(frame)) = found.next()
        {
            let name = frame
                .function
                .as_ref()
                .and_then(|name| name.raw_name().ok());
            frames.push(Inlined {
                function: name.map_or_else(
                    || "a nameless function".into(),
                    |name| format!("{:#}", rustc_demangle::demangle(&name)),
                ),
                source: frame
                    .location
                    .and_then(|location| Some((location.file?.to_string(), location.line?))),
            });
        }
        frames
    }
}
