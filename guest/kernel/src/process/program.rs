//! Programs: from an ELF boot module to areas of memory and a first stack.

use crate::kernel::Kernel;
use crate::mm::vma::{Backing, Vma, Vmas};
use crate::mm::{VirtAddr, depth, page_down, page_up};
use elf::ElfBytes;
use elf::endian::LittleEndian;
use heirloom_abi::layout::user_end;
use heirloom_abi::syscall::{Errno, PROT_EXEC, PROT_READ, PROT_WRITE};

/// The stack's last page ends one page below the canonical hole, so that a `syscall` in the last
/// bytes of the user half cannot return to a non-canonical address.
fn stack_end() -> u64 {
    user_end(depth()) - 4096
}

const STACK_SIZE: u64 = 64 << 10;
/// Bytes that a program's arguments may have, their final zeros included.
pub const MAX_ARGUMENT_BYTES: usize = 2048;
const MAX_ARGUMENTS: usize = 32;

/// A program's areas and where it starts.
pub struct Layout {
    pub vmas: Vmas,
    pub entry: u64,
}

/// Reads the ELF file of boot module `module`: static, x86-64.
///
/// # Errors
/// [`Errno::NotExecutable`] for anything else, whatever the bytes are.
pub fn layout(module: usize, bytes: &[u8]) -> Result<Layout, Errno> {
    let file = ElfBytes::<LittleEndian>::minimal_parse(bytes).map_err(|_| Errno::NotExecutable)?;
    let header = file.ehdr;
    if header.e_type != elf::abi::ET_EXEC || header.e_machine != elf::abi::EM_X86_64 {
        return Err(Errno::NotExecutable);
    }
    let segments = file.segments().ok_or(Errno::NotExecutable)?;
    let mut vmas = Vmas::new();
    for segment in segments
        .iter()
        .filter(|segment| segment.p_type == elf::abi::PT_LOAD)
    {
        if segment.p_memsz == 0 {
            continue;
        }
        let start = page_down(segment.p_vaddr);
        let end = segment
            .p_vaddr
            .checked_add(segment.p_memsz)
            .and_then(page_up)
            .ok_or(Errno::NotExecutable)?;
        // The page's first bytes come from the file too: offset and address agree within a page.
        let lead = segment.p_vaddr - start;
        let offset = segment
            .p_offset
            .checked_sub(lead)
            .ok_or(Errno::NotExecutable)?;
        let length = segment
            .p_filesz
            .checked_add(lead)
            .ok_or(Errno::NotExecutable)?;
        let last = offset.checked_add(length).ok_or(Errno::NotExecutable)?;
        if last > bytes.len() as u64 || segment.p_filesz > segment.p_memsz {
            return Err(Errno::NotExecutable);
        }
        let bit = |flag, protection| {
            if segment.p_flags & flag == 0 {
                0
            } else {
                protection
            }
        };
        let protection = bit(elf::abi::PF_R, PROT_READ)
            | bit(elf::abi::PF_W, PROT_WRITE | PROT_READ)
            | bit(elf::abi::PF_X, PROT_EXEC | PROT_READ);
        let backing = Backing::Module {
            module,
            offset,
            length,
        };
        let area = Vma {
            start: VirtAddr::new(start),
            end: VirtAddr::new(end),
            protection,
            backing,
        };
        vmas.insert(area).map_err(|_| Errno::NotExecutable)?;
    }
    let stack = Vma {
        start: VirtAddr::new(stack_end() - STACK_SIZE),
        end: VirtAddr::new(stack_end()),
        protection: PROT_READ | PROT_WRITE,
        backing: Backing::Zero,
    };
    vmas.insert(stack).map_err(|_| Errno::NotExecutable)?;
    Ok(Layout {
        vmas,
        entry: header.e_entry,
    })
}

/// A program's arguments, gathered in the kernel before its old memory goes.
pub struct Arguments {
    text: [u8; MAX_ARGUMENT_BYTES],
    length: usize,
    ends: [usize; MAX_ARGUMENTS],
    count: usize,
}

impl Arguments {
    pub const fn new() -> Arguments {
        Arguments {
            text: [0; MAX_ARGUMENT_BYTES],
            length: 0,
            ends: [0; MAX_ARGUMENTS],
            count: 0,
        }
    }

    /// Adds an argument, given without its final zero.
    pub fn push(&mut self, argument: &[u8]) -> Result<(), Errno> {
        let end = self.length + argument.len();
        if self.count == MAX_ARGUMENTS || end >= MAX_ARGUMENT_BYTES {
            return Err(Errno::Invalid);
        }
        self.text[self.length..end].copy_from_slice(argument);
        self.text[end] = 0;
        self.ends[self.count] = end + 1;
        self.length = end + 1;
        self.count += 1;
        Ok(())
    }
}

impl Kernel {
    /// Writes the first stack of a program into the address space of the current process:
    /// argument count, argument pointers, no environment, no auxiliary vector, the texts above
    /// (System V ABI for AMD64, 3.4.1). Returns the stack pointer.
    pub fn build_stack(&mut self, arguments: &Arguments) -> Result<u64, Errno> {
        let texts = stack_end() - arguments.length as u64;
        // Argument count, pointers, null, null (environment), two words of AT_NULL.
        let words = arguments.count + 5;
        let stack = (texts - words as u64 * 8) & !0xf;
        self.write_user(texts, &arguments.text[..arguments.length])?;
        let mut block = [0_u64; MAX_ARGUMENTS + 5];
        block[0] = arguments.count as u64;
        let mut start = 0;
        for (word, end) in block[1..]
            .iter_mut()
            .zip(&arguments.ends[..arguments.count])
        {
            *word = texts + start;
            start = *end as u64;
        }
        self.write_user(stack, zerocopy::IntoBytes::as_bytes(&block[..words]))?;
        Ok(stack)
    }
}
