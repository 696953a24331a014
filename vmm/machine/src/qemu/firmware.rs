//! What QEMU's CPU runs first: 64 bytes in the place of a BIOS that enter the kernel as a PVH or Multiboot
//! loader would. Kernel, modules and start info are in guest memory by then.
//!
//! ```text
//! 0xffff0000 ┬─ nothing
//! 0xffffff00 ┼─ real mode: loads the GDT, turns protected mode on
//!            ┼─ protected mode: segments, EAX, EBX, jump to the kernel
//! 0xffffff80 ┼─ the GDT, and the pointer to it
//! 0xfffffff0 ┼─ reset vector: a jump to the first
//!            ┴─ 4 GiB
//! ```

use crate::boot::Entry;

/// QEMU wants whole pieces of so many bytes.
const SIZE: usize = 64 << 10;
/// Where it lies, so that it ends at 4 GiB; CS has this base after a reset.
const BASE: u32 = 0u32.wrapping_sub(64 << 10);

const CODE: u16 = 0xff00;
const GDT: u16 = 0xff80;
const GDT_POINTER: u16 = 0xffa0;
const RESET: u16 = 0xfff0;

/// Flat segments of 4 GiB, marked as accessed, so that the CPU does not write to them: 32-bit code at 0x08
/// and data at 0x10 (Intel SDM vol. 3A, 3.4.5).
const DESCRIPTORS: [u64; 3] = [0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// The firmware that enters a kernel so; `None` for an entry in long mode.
pub(super) fn firmware(entry: &Entry) -> Option<Vec<u8>> {
    let Entry::Protected { at, magic, info } = entry else {
        return None;
    };
    let (at, info) = (u32::try_from(at.0).ok()?, u32::try_from(info.0).ok()?);
    let mut image = vec![0; SIZE];
    let mut put = |at: u16, bytes: &[u8]| {
        image[usize::from(at)..][..bytes.len()].copy_from_slice(bytes);
    };

    let mut code = vec![0xfa]; // cli
    code.extend([0x2e, 0x66, 0x0f, 0x01, 0x16]); // lgdt cs:[GDT_POINTER]
    code.extend(GDT_POINTER.to_le_bytes());
    code.extend([0x0f, 0x20, 0xc0]); // mov eax, cr0
    code.extend([0x0c, 0x01]); // or al, 1
    code.extend([0x0f, 0x22, 0xc0]); // mov cr0, eax
    // jmp 0x08:behind this jump, which has 8 bytes
    let protected = BASE + u32::from(CODE) + u32::try_from(code.len()).ok()? + 8;
    code.extend([0x66, 0xea]);
    code.extend(protected.to_le_bytes());
    code.extend([0x08, 0x00]);
    code.extend([0x66, 0xb8, 0x10, 0x00]); // mov ax, 0x10
    for register in [0xd8, 0xc0, 0xd0, 0xe0, 0xe8] {
        code.extend([0x8e, register]); // mov ds, es, ss, fs, gs from ax
    }
    code.push(0xb8); // mov eax, magic
    code.extend(magic.to_le_bytes());
    code.push(0xbb); // mov ebx, info
    code.extend(info.to_le_bytes());
    code.push(0xb9); // mov ecx, at
    code.extend(at.to_le_bytes());
    code.extend([0xff, 0xe1]); // jmp ecx
    put(CODE, &code);

    for (at, descriptor) in (GDT..).step_by(8).zip(DESCRIPTORS) {
        put(at, &descriptor.to_le_bytes());
    }
    let limit = u16::try_from(size_of_val(&DESCRIPTORS) - 1).ok()?;
    put(GDT_POINTER, &limit.to_le_bytes());
    put(GDT_POINTER + 2, &(BASE + u32::from(GDT)).to_le_bytes());

    // A jump is counted from behind itself.
    let distance = CODE.wrapping_sub(RESET + 3);
    put(RESET, &[0xe9]);
    put(RESET + 1, &distance.to_le_bytes());
    Some(image)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::GuestAddress;

    #[test]
    fn the_reset_vector_leads_to_code_that_ends_before_the_descriptors() {
        let entry = Entry::Protected {
            at: GuestAddress(0x10_0000),
            magic: 0x2bad_b002,
            info: GuestAddress(0x6000),
        };
        let image = firmware(&entry).unwrap();
        assert_eq!(image.len(), SIZE);
        let reset = usize::from(RESET);
        let distance = u16::from_le_bytes([image[reset + 1], image[reset + 2]]);
        assert_eq!(RESET.wrapping_add(3).wrapping_add(distance), CODE);
        let code = &image[usize::from(CODE)..usize::from(GDT)];
        let end = code.iter().rposition(|byte| *byte != 0).unwrap();
        assert_eq!(code[end - 1..=end], [0xff, 0xe1]);
        for word in [0x10_0000_u32, 0x2bad_b002, 0x6000] {
            let bytes = word.to_le_bytes();
            assert!(code.windows(4).any(|found| found == bytes), "{word:#x}");
        }
    }

    #[test]
    fn a_kernel_that_wants_long_mode_is_not_entered() {
        let entry = Entry::Long {
            at: GuestAddress(0x100_0000),
            boot_params: GuestAddress(0x7000),
        };
        assert!(firmware(&entry).is_none());
    }
}
