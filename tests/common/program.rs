//! Ring-3 programs written byte by byte: an ELF file around a few instructions, with Linux's system
//! calls.

/// Where a program is loaded.
const BASE: u64 = 0x40_0000;
const HEADER_BYTES: u64 = 64;
const PROGRAM_HEADER_BYTES: u64 = 56;
const CODE: u64 = HEADER_BYTES + PROGRAM_HEADER_BYTES;

/// `e_type` of a program that runs where it is linked, and of one that runs anywhere.
pub(crate) const EXEC: u16 = 2;
pub(crate) const DYN: u16 = 3;
/// `e_machine` of x86-64.
pub(crate) const X86_64: u16 = 62;

/// A static program of one segment, readable and executable, that starts at its first byte of `code`.
pub(crate) fn elf(code: &[u8]) -> Vec<u8> {
    elf_of(EXEC, X86_64, code)
}

/// The same with `e_type` and `e_machine` as told (System V ABI, chapter 4).
pub(crate) fn elf_of(kind: u16, machine: u16, code: &[u8]) -> Vec<u8> {
    let bytes = CODE + code.len() as u64;
    let mut file = Vec::new();
    // 64-bit, little-endian, version 1.
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend(kind.to_le_bytes());
    file.extend(machine.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    // Entry, program headers, section headers.
    for word in [BASE + CODE, HEADER_BYTES, 0] {
        file.extend(word.to_le_bytes());
    }
    // Flags; then the sizes: header, program header and their number, section header, number, names.
    file.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    // PT_LOAD, R + X.
    for word in [1_u32, 5] {
        file.extend(word.to_le_bytes());
    }
    // Offset, virtual and physical address, bytes in the file and in memory, alignment.
    for word in [0, BASE, BASE, bytes, bytes, 4096] {
        file.extend(word.to_le_bytes());
    }
    file.extend(code);
    file
}

/// `write(1, rsi, length)`.
fn write(length: u32) -> Vec<u8> {
    let mut code = vec![0xb8, 1, 0, 0, 0]; // mov eax, 1
    code.extend([0xbf, 1, 0, 0, 0]); // mov edi, 1
    code.push(0xba); // mov edx, length
    code.extend(length.to_le_bytes());
    code.extend([0x0f, 0x05]); // syscall
    code
}

/// `exit(status)`.
pub(crate) fn exit(status: u32) -> Vec<u8> {
    let mut code = vec![0xb8, 60, 0, 0, 0]; // mov eax, 60
    code.push(0xbf); // mov edi, status
    code.extend(status.to_le_bytes());
    code.extend([0x0f, 0x05]); // syscall
    code
}

/// Writes `text` and exits with `status`.
pub(crate) fn print(text: &str, status: u32) -> Vec<u8> {
    let behind = [write(u32::try_from(text.len()).unwrap()), exit(status)].concat();
    let mut code = vec![0x48, 0x8d, 0x35]; // lea rsi, [rip + the bytes behind]
    code.extend(u32::try_from(behind.len()).unwrap().to_le_bytes());
    code.extend(behind);
    code.extend(text.as_bytes());
    code
}

/// Writes `length` bytes of its first argument and exits with the number of its arguments.
pub(crate) fn print_argument(length: u32) -> Vec<u8> {
    [
        vec![0x48, 0x8b, 0x74, 0x24, 0x10], // mov rsi, [rsp + 16]: argv[1]
        write(length),
        vec![0x8b, 0x3c, 0x24],  // mov edi, [rsp]: argc
        vec![0xb8, 60, 0, 0, 0], // mov eax, 60
        vec![0x0f, 0x05],        // syscall
    ]
    .concat()
}

/// `jmp .`
pub(crate) const SPIN: &[u8] = &[0xeb, 0xfe];
/// `ud2`
pub(crate) const UNDEFINED: &[u8] = &[0x0f, 0x0b];
