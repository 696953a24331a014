//! The layout of a kernel's structures, from its BTF: the BPF Type Format, which a kernel with
//! `CONFIG_DEBUG_INFO_BTF` has in its image (Linux, Documentation/bpf/btf.rst).

use memchr::memmem;

/// Magic, version 1, no flags, and the header's length.
const HEADER: [u8; 8] = [0x9f, 0xeb, 1, 0, 24, 0, 0, 0];
const HEADER_BYTES: usize = 24;
const TYPE_BYTES: usize = 12;
const MEMBER_BYTES: usize = 12;
/// More types than any kernel has.
const MAX_TYPES: usize = 1 << 22;
/// How deep unnamed structures lie in each other.
const MAX_DEPTH: u32 = 8;

/// A kernel's types.
#[derive(Clone, Debug)]
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type is in `types`; the first has number 1.
    places: Vec<usize>,
}

/// A type's kind, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A structure or a union, with so many members.
    Members(usize),
    /// Another name, or `const`, `volatile` …: of the type with this number.
    Alias(usize),
    Other,
}

impl<'a> Btf<'a> {
    /// The first BTF in a kernel's image that is whole and has `task_struct`.
    pub fn find(image: &'a [u8]) -> Option<Btf<'a>> {
        memmem::find_iter(image, &HEADER)
            .filter_map(|at| Btf::parse(&image[at..]))
            .find(|btf| btf.structure("task_struct").is_some())
    }

    /// The BTF that `bytes` begin with; `None` if it is not whole.
    pub fn parse(bytes: &'a [u8]) -> Option<Btf<'a>> {
        if !bytes.starts_with(&HEADER) {
            return None;
        }
        let word = |number: usize| read_u32(bytes, 8 + 4 * number);
        let section = |offset: usize, length: usize| {
            let start = HEADER_BYTES.checked_add(word(offset)? as usize)?;
            bytes.get(start..start.checked_add(word(length)? as usize)?)
        };
        let (types, strings) = (section(0, 1)?, section(2, 3)?);
        let mut places = Vec::new();
        let mut at = 0;
        while at < types.len() {
            if places.len() == MAX_TYPES {
                return None;
            }
            places.push(at);
            let info = read_u32(types, at + 4)?;
            let members = (info & 0xffff) as usize;
            at += TYPE_BYTES
                + match info >> 24 & 0x1f {
                    // Integer, variable, declaration tag.
                    1 | 14 | 17 => 4,
                    // Array.
                    3 => 12,
                    // Structure, union, data section, enumeration of 64 bits.
                    4 | 5 | 15 | 19 => 12 * members,
                    // Enumeration, function prototype.
                    6 | 13 => 8 * members,
                    // Pointer, forward declaration, names, qualifiers, function, float, type tag.
                    2 | 7..=12 | 16 | 18 => 0,
                    _ => return None,
                };
        }
        Some(Btf {
            types,
            strings,
            places,
        })
    }

    /// Where `member` is in the structure called `structure`, in bytes, members of unnamed structures inside
    /// it included; `None` if there is none, or it is no whole byte.
    pub fn offset_of(&self, structure: &str, member: &str) -> Option<u64> {
        let bits = self.member(self.structure(structure)?, member, MAX_DEPTH)?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }

    /// The structure with this name, where it has members.
    fn structure(&self, name: &str) -> Option<usize> {
        self.places.iter().copied().find(|&place| {
            matches!(self.kind(place), Some(Kind::Members(1..)))
                && self.name(place) == Some(name.as_bytes())
        })
    }

    /// Where `member` is in the structure at `place`, in bits.
    fn member(&self, place: usize, member: &str, depth: u32) -> Option<u64> {
        let Some(Kind::Members(count)) = self.kind(place) else {
            return None;
        };
        // With the kind flag the upper 8 bits are a bit field's width.
        let is_flagged = read_u32(self.types, place + 4)? >> 31 == 1;
        (0..count).find_map(|number| {
            let at = place + TYPE_BYTES + MEMBER_BYTES * number;
            let offset = read_u32(self.types, at + 8)?;
            let offset = u64::from(if is_flagged {
                offset & 0xff_ffff
            } else {
                offset
            });
            let name = self.name(at)?;
            if name == member.as_bytes() {
                return Some(offset);
            }
            if !name.is_empty() || depth == 0 {
                return None;
            }
            let inner = self.resolved(read_u32(self.types, at + 4)? as usize)?;
            Some(offset + self.member(inner, member, depth - 1)?)
        })
    }

    /// The type with this number, behind its other names and qualifiers.
    fn resolved(&self, number: usize) -> Option<usize> {
        let mut number = number;
        for _ in 0..MAX_DEPTH {
            let place = *self.places.get(number.checked_sub(1)?)?;
            match self.kind(place)? {
                Kind::Alias(behind) => number = behind,
                Kind::Members(_) | Kind::Other => return Some(place),
            }
        }
        None
    }

    fn kind(&self, place: usize) -> Option<Kind> {
        let info = read_u32(self.types, place + 4)?;
        Some(match info >> 24 & 0x1f {
            4 | 5 => Kind::Members((info & 0xffff) as usize),
            8..=11 | 18 => Kind::Alias(read_u32(self.types, place + 8)? as usize),
            _ => Kind::Other,
        })
    }

    /// The name of the type or member at `place`; empty if it has none.
    fn name(&self, place: usize) -> Option<&'a [u8]> {
        let rest = self.strings.get(read_u32(self.types, place)? as usize..)?;
        Some(&rest[..rest.iter().position(|byte| *byte == 0)?])
    }
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes BTF: strings are given by their text, types in their order.
    #[derive(Default)]
    struct Writer {
        types: Vec<u8>,
        strings: Vec<u8>,
    }

    impl Writer {
        fn new() -> Writer {
            Writer {
                types: Vec::new(),
                strings: vec![0],
            }
        }

        fn string(&mut self, text: &str) -> u32 {
            if text.is_empty() {
                return 0;
            }
            let at = u32::try_from(self.strings.len()).unwrap();
            self.strings.extend(text.bytes().chain([0]));
            at
        }

        fn words(&mut self, words: &[u32]) {
            for word in words {
                self.types.extend(word.to_le_bytes());
            }
        }

        /// A structure with these members: name, type, place in bits.
        fn structure(&mut self, name: &str, flag: u32, members: &[(&str, u32, u32)]) {
            let name = self.string(name);
            let info = flag << 31 | 4 << 24 | u32::try_from(members.len()).unwrap();
            self.words(&[name, info, 0]);
            for (name, number, place) in members {
                let name = self.string(name);
                self.words(&[name, *number, *place]);
            }
        }

        fn bytes(&self) -> Vec<u8> {
            let types = u32::try_from(self.types.len()).unwrap();
            let strings = u32::try_from(self.strings.len()).unwrap();
            let mut bytes = HEADER.to_vec();
            for word in [0, types, types, strings] {
                bytes.extend(word.to_le_bytes());
            }
            [bytes, self.types.clone(), self.strings.clone()].concat()
        }
    }

    /// An integer (1), an unnamed structure (2), `const` of it (3), and `task_struct` (4) with it inside.
    fn example() -> Vec<u8> {
        let mut btf = Writer::new();
        let name = btf.string("int");
        btf.words(&[name, 1 << 24, 4, 32]);
        btf.structure("", 0, &[("first", 1, 0), ("mm", 1, 64)]);
        btf.words(&[0, 10 << 24, 2]);
        // With the kind flag the upper 8 bits of a place are a width.
        btf.structure(
            "task_struct",
            1,
            &[("pid", 1, 32), ("flag", 1, 1 << 24 | 0x41), ("", 3, 128)],
        );
        btf.bytes()
    }

    #[test]
    fn members_are_found_and_those_of_unnamed_structures_behind_qualifiers_too() {
        let image = [vec![0xcc; 100], HEADER.to_vec(), example(), vec![0xcc; 9]].concat();
        let btf = Btf::find(&image).unwrap();
        assert_eq!(btf.offset_of("task_struct", "pid"), Some(4));
        assert_eq!(btf.offset_of("task_struct", "mm"), Some(24));
        assert_eq!(btf.offset_of("task_struct", "flag"), None, "no whole byte");
        assert_eq!(btf.offset_of("task_struct", "comm"), None);
        assert_eq!(btf.offset_of("mm_struct", "pgd"), None);
    }

    #[test]
    fn a_structure_inside_itself_and_every_wrong_byte_come_to_an_end() {
        let mut btf = Writer::new();
        btf.structure("task_struct", 0, &[("", 1, 0), ("", 2, 0)]);
        btf.words(&[0, 8 << 24, 2]);
        let bytes = btf.bytes();
        assert_eq!(
            Btf::parse(&bytes).unwrap().offset_of("task_struct", "pid"),
            None
        );
        let example = example();
        for at in 0..example.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = example.clone();
                bytes[at] = value;
                if let Some(btf) = Btf::parse(&bytes) {
                    btf.offset_of("task_struct", "mm");
                }
            }
            assert!(Btf::parse(&example[..at]).is_none(), "{at}");
        }
    }
}
