//! Names of functions and variables, by address and by name.

use heirloom_paging::addr::VirtAddr;

/// A kernel's symbols.
#[derive(Clone, Debug, Default)]
pub struct Symbols {
    /// All names, one behind the other.
    text: String,
    /// Ascending by address.
    symbols: Vec<Symbol>,
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
        Symbols { text, symbols }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.symbols.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.symbols.is_empty()
    }

    /// The first symbol with this name.
    pub fn address_of(&self, name: &str) -> Option<VirtAddr> {
        let symbol = self
            .symbols
            .iter()
            .find(|symbol| self.name(symbol) == name)?;
        Some(VirtAddr::new(symbol.address))
    }

    /// The last symbol at or before `va`, and how far `va` is behind it, in bytes; `None` before the first
    /// and from the last one on, which ends the image.
    pub fn name_of(&self, va: VirtAddr) -> Option<(&str, u64)> {
        let after = self
            .symbols
            .partition_point(|symbol| symbol.address <= va.get());
        if after == self.symbols.len() {
            return None;
        }
        // Of several at one address the first is the most telling: the rest are aliases and marks of ends.
        let address = self.symbols[after.checked_sub(1)?].address;
        let first = self.symbols[..after].partition_point(|symbol| symbol.address < address);
        Some((self.name(&self.symbols[first]), va.get() - address))
    }

    fn name(&self, symbol: &Symbol) -> &str {
        &self.text[symbol.start as usize..][..symbol.length as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
