//! Names of functions and variables, by address and by name: the kernel's own, or those of a file.

use std::collections::{HashMap, HashSet};

use crate::discover::Discovery;
use crate::snapshot::RootId;
use crate::target::Target;
use heirloom_paging::addr::{PAGE_SIZE, VirtAddr, VirtRange};

/// A kernel's symbols.
#[derive(Clone, Debug, Default)]
pub struct Symbols {
    /// All names, one behind the other.
    text: String,
    /// Ascending by address.
    sorted: Vec<Symbol>,
    /// Where names are known, ascending; everywhere if it is empty.
    ranges: Vec<VirtRange>,
}

#[derive(Clone, Copy, Debug)]
struct Symbol {
    address: u64,
    start: u32,
    length: u32,
}

impl Symbols {
    /// These names at these addresses, in any order.
    pub fn new<'a>(names: impl IntoIterator<Item = (VirtAddr, &'a str)>) -> Symbols {
        let mut text = String::new();
        let mut symbols = Vec::new();
        for (address, name) in names {
            let (Ok(start), Ok(length)) = (u32::try_from(text.len()), u32::try_from(name.len()))
            else {
                break;
            };
            text.push_str(name);
            symbols.push(Symbol {
                address: address.get(),
                start,
                length,
            });
        }
        symbols.sort_by_key(|symbol| symbol.address);
        Symbols {
            text,
            sorted: symbols,
            ranges: Vec::new(),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.sorted.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    /// All of them, ascending by address.
    pub fn iter(&self) -> impl Iterator<Item = (&str, VirtAddr)> {
        let symbols = self.sorted.iter();
        symbols.map(|symbol| (self.name(symbol), VirtAddr::new(symbol.address)))
    }

    /// The first symbol with this name.
    pub fn address_of(&self, name: &str) -> Option<VirtAddr> {
        let symbol = self
            .sorted
            .iter()
            .find(|symbol| self.name(symbol) == name)?;
        Some(VirtAddr::new(symbol.address))
    }

    /// The last symbol at or before `va`, and how far `va` is behind it, in bytes; `None` before the first
    /// and from the last one on, which ends the image.
    pub fn name_of(&self, va: VirtAddr) -> Option<(&str, u64)> {
        let known = |range: &VirtRange| range.contains(va);
        if !self.ranges.is_empty() && !self.ranges.iter().any(known) {
            return None;
        }
        let after = self
            .sorted
            .partition_point(|symbol| symbol.address <= va.get());
        if after == self.sorted.len() && self.ranges.is_empty() {
            return None;
        }
        // Of several at one address the first is the most telling: the rest are aliases and marks of ends.
        let address = self.sorted[after.checked_sub(1)?].address;
        // Of a kernel in the upper half what lies below is an offset, such as a per-CPU variable's, and no address.
        let is_upper = |address: u64| address >> 63 == 1;
        if is_upper(self.sorted.last()?.address) && !is_upper(address) {
            return None;
        }
        let first = self.sorted[..after].partition_point(|symbol| symbol.address < address);
        Some((self.name(&self.sorted[first]), va.get() - address))
    }

    /// How many symbols are in `range`, the first of them and the last.
    pub fn within(&self, range: VirtRange) -> Option<(usize, &str, &str)> {
        let from = |at: u64| self.sorted.partition_point(|symbol| symbol.address < at);
        let first = from(range.first.get());
        let end = match range.last.get().checked_add(1) {
            Some(end) => from(end),
            None => self.sorted.len(),
        };
        let found = self.sorted.get(first..end)?;
        let (one, other) = (found.first()?, found.last()?);
        Some((found.len(), self.name(one), self.name(other)))
    }

    fn name(&self, symbol: &Symbol) -> &str {
        &self.text[symbol.start as usize..][..symbol.length as usize]
    }
}

/// What a file says of a kernel: as it was linked, and not as it was loaded.
#[derive(Clone, Debug, Default)]
pub struct SymbolFile {
    /// As the user named it.
    pub name: String,
    /// In any order.
    pub symbols: Vec<(VirtAddr, String)>,
    /// What of the address space the file describes; empty if it does not tell.
    pub ranges: Vec<VirtRange>,
    /// Some of its code: the first address, and the bytes there.
    pub code: Vec<(VirtAddr, Vec<u8>)>,
}

/// Why the symbols of a file are of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SymbolsError {
    /// There is no address space to hold them against.
    #[error("{0}: there is no root to hold its symbols against; name one (cr3=…)")]
    NoRoot(String),
    /// The guest has something else at their addresses.
    #[error(
        "{file} is of another kernel: of {tried} {what} of it, {found} are in the guest's memory where the file \
         has them; give the file of the very kernel that runs there"
    )]
    OfAnotherKernel {
        /// As the user named it.
        file: String,
        /// How many places were looked at.
        tried: usize,
        /// What was looked for there.
        what: &'static str,
        /// How many were found.
        found: usize,
    },
}

/// Symbols that are looked for where a file has no code.
const MAX_TRIED: usize = 256;
/// Pages of the kernel that are looked through for the code of a file, pieces that are looked for, and places that
/// are tried.
const MAX_PAGES: u64 = 1 << 16;
const MAX_PIECES: usize = 4;
const MAX_MOVES: usize = 64;
/// What has fewer different bytes may be anywhere.
const LEAST_KINDS: usize = 8;
/// Names by which a kernel that tells its own symbols is compared with a file.
const COMMON: [&str; 4] = ["_stext", "_text", "startup_64", "_end"];

impl Discovery {
    /// `function+0x12`, where the kernel's symbols are known and one is before `va` in its image.
    pub fn symbol_at(&self, va: VirtAddr) -> Option<String> {
        let (name, offset) = self.symbols.name_of(va)?;
        Some(if offset == 0 {
            name.to_owned()
        } else {
            format!("{name}+{offset:#x}")
        })
    }

    /// Takes the names of a file for those of the kernel in `target`, of which this is. Where the kernel was loaded
    /// (KASLR) its own symbols tell, or its code; a note says so.
    ///
    /// # Errors
    /// [`SymbolsError`]; nothing is changed then.
    pub fn use_symbols(&mut self, target: &Target, file: &SymbolFile) -> Result<(), SymbolsError> {
        let live = self.judged().map(|space| space.root).next();
        let root = self.reference.or(live);
        let root = root.ok_or_else(|| SymbolsError::NoRoot(file.name.clone()))?;
        let mut best = (0, 0);
        let mut tried = (1, "symbols");
        for moved in self.moves(target, root, file) {
            let (found, all, what) = self.agreement(target, root, file, moved);
            if found > best.0 {
                best = (found, moved);
            }
            tried = (all, what);
        }
        let (found, moved) = best;
        if 2 * found < tried.0 || found == 0 {
            return Err(SymbolsError::OfAnotherKernel {
                file: file.name.clone(),
                tried: tried.0,
                what: tried.1,
                found,
            });
        }
        let mut mapped: HashMap<u64, bool> = HashMap::new();
        let mut is_mapped = |va: VirtAddr| {
            let page = va.get() / PAGE_SIZE;
            *mapped
                .entry(page)
                .or_insert_with(|| self.snapshot.translate(root, va).translation().is_some())
        };
        let named = file.symbols.iter();
        let named = named.map(|(at, name)| (at.wrapping_add(moved), name.as_str()));
        let mut symbols = Symbols::new(named.filter(|(at, _)| is_mapped(*at)));
        symbols.ranges = file
            .ranges
            .iter()
            .filter_map(|range| {
                let first = range.first.wrapping_add(moved);
                VirtRange::new(first, range.last.get() - range.first.get() + 1)
            })
            .collect();
        let how = match moved {
            0 => "where they were linked".to_owned(),
            moved if moved < 1 << 63 => format!("{moved:#x} above where they were linked"),
            moved => format!("{:#x} below where they were linked", moved.wrapping_neg()),
        };
        let unproven = if file.code.is_empty() && self.symbols.is_empty() {
            "; a list of symbols has no code, so nothing shows that it is of this very kernel"
        } else {
            ""
        };
        self.notes.push(format!(
            "{} symbols of {}, {how}{unproven}",
            symbols.len(),
            file.name
        ));
        self.symbols = symbols;
        Ok(())
    }

    /// How far the kernel may have been moved from where it was linked, that which is likeliest first.
    fn moves(&self, target: &Target, root: RootId, file: &SymbolFile) -> Vec<u64> {
        let mut moves = Vec::new();
        for name in COMMON {
            let mut symbols = file.symbols.iter();
            let linked = symbols.find(|(_, known)| known == name);
            if let (Some((linked, _)), Some(loaded)) = (linked, self.symbols.address_of(name)) {
                moves.push(loaded.get().wrapping_sub(linked.get()));
            }
        }
        moves.push(0);
        if let Some(image) = self.layout.kernel_image {
            let start = image.range.first.get();
            let code = file.code.first().map(|(at, _)| *at);
            let mut symbols = file.symbols.iter();
            let text =
                symbols.find(|(_, name)| matches!(name.as_str(), "_text" | "_stext" | "_start"));
            let linked = code.into_iter().chain(text.map(|(at, _)| *at));
            moves.extend(linked.map(|at| start.wrapping_sub(at.get() & !(PAGE_SIZE - 1))));
        }
        let mut places = self.places_of_code(target, root, file);
        // Where all memory is mapped, the code is too; it runs elsewhere.
        places.sort_by_key(|(at, _)| {
            let image = self.layout.kernel_image;
            !image.is_some_and(|image| image.range.contains(*at))
        });
        moves.extend(places.into_iter().map(|(_, moved)| moved));
        let mut seen = HashSet::new();
        moves.retain(|moved| seen.insert(*moved));
        moves.truncate(MAX_MOVES);
        moves
    }

    /// How far from where they were linked pieces of the file's code are found in executable pages of the kernel.
    fn places_of_code(
        &self,
        target: &Target,
        root: RootId,
        file: &SymbolFile,
    ) -> Vec<(VirtAddr, u64)> {
        let telling = file.code.iter().filter(|(_, bytes)| {
            let kinds: HashSet<u8> = bytes.iter().copied().collect();
            kinds.len() >= LEAST_KINDS
        });
        let telling: Vec<&(VirtAddr, Vec<u8>)> = telling.take(MAX_PIECES).collect();
        // First where most code is, then from the top down.
        let image = self.layout.kernel_image.map(|image| image.range);
        let depth = self.mode().depth;
        let [kernel, _] = self.parts(root);
        let kernel: Vec<u16> = kernel.iter().collect();
        let entries = kernel.iter().rev();
        let places = entries.map(|index| VirtRange::of_top_entry(*index, depth));
        let mut moves = Vec::new();
        let mut pages_left = MAX_PAGES;
        for range in image.into_iter().chain(places) {
            for page in self.snapshot.distinct_leaves(root, range) {
                if !page.rights.execute || page.rights.user {
                    continue;
                }
                for number in 0..page.size.bytes() / PAGE_SIZE {
                    let offset = number * PAGE_SIZE;
                    if pages_left == 0 {
                        return moves;
                    }
                    pages_left -= 1;
                    for (va, bytes) in &telling {
                        let at = offset + va.get() % PAGE_SIZE;
                        let mut read = vec![0; bytes.len()];
                        if target
                            .memory
                            .read_bytes(page.pa.wrapping_add(at), &mut read)
                            .is_ok()
                            && read == *bytes
                        {
                            let there = page.va.wrapping_add(at);
                            moves.push((there, there.get().wrapping_sub(va.get())));
                        }
                    }
                }
            }
        }
        moves
    }

    /// How much of what the file has is in the guest's memory if the kernel was moved so: found, of how many, of
    /// what.
    fn agreement(
        &self,
        target: &Target,
        root: RootId,
        file: &SymbolFile,
        moved: u64,
    ) -> (usize, usize, &'static str) {
        let at = |va: VirtAddr| {
            let walk = self.snapshot.translate(root, va.wrapping_add(moved));
            walk.translation().copied()
        };
        if file.code.is_empty() {
            let step = file.symbols.len().div_ceil(MAX_TRIED).max(1);
            let tried = file.symbols.iter().step_by(step);
            let has = |(va, name): &&(VirtAddr, String)| {
                let is_mapped = at(*va).is_some();
                let va = va.wrapping_add(moved);
                // Some kernels tell their symbols themselves.
                let own = self.symbols.address_of(name);
                is_mapped && (self.symbols.is_empty() || own == Some(va))
            };
            let found = tried.clone().filter(has).count();
            return (found, tried.count(), "symbols");
        }
        let is_there = |(va, bytes): &&(VirtAddr, Vec<u8>)| {
            let mut read = vec![0; bytes.len()];
            at(*va).is_some_and(|found| {
                found.rights.execute
                    && target.memory.read_bytes(found.pa, &mut read).is_ok()
                    && read == *bytes
            })
        };
        let found = file.code.iter().filter(is_there).count();
        (found, file.code.len(), "pieces of code")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_of_a_per_cpu_variable_names_no_address() {
        let at = VirtAddr::new;
        let text = 0xffff_ffff_8100_0000;
        let symbols = [(at(0), "__per_cpu_start"), (at(0x3_4000), "__per_cpu_end")];
        let image = [(at(text), "_stext"), (at(text + 0x1000), "_end")];
        let symbols = Symbols::new(symbols.into_iter().chain(image));
        for va in [0x10, 0x40_0000, 0xffff_fe00_0000_0000] {
            assert_eq!(symbols.name_of(at(va)), None, "{va:#x}");
        }
        assert_eq!(symbols.name_of(at(text + 8)), Some(("_stext", 8)));
        assert_eq!(symbols.address_of("__per_cpu_end"), Some(at(0x3_4000)));
    }

    #[test]
    fn an_address_is_named_by_the_symbol_before_it_and_the_last_symbol_ends_the_image() {
        let at = VirtAddr::new;
        let symbols = Symbols::new([(at(0x30), "_end"), (at(0x10), "start"), (at(0x20), "main")]);
        assert_eq!(symbols.name_of(at(0xf)), None);
        assert_eq!(symbols.name_of(at(0x10)), Some(("start", 0)));
        assert_eq!(symbols.name_of(at(0x2f)), Some(("main", 15)));
        assert_eq!(symbols.name_of(at(0x30)), None);
        assert_eq!(symbols.address_of("main"), Some(at(0x20)));
        assert_eq!(symbols.address_of("mai"), None);
    }
}
