//! Kernel files that were sound and are changed: each is loaded or refused, and nothing else happens.

mod common;
#[path = "../../../tests/common/mutator.rs"]
mod mutator;

use common::{BzImage, Elf, HALT, SPIN, module};
use heirloom_machine::KernelImage;
use heirloom_machine::boot;
use heirloom_machine::memory::Ram;
use mutator::Mutator;

/// Of each kind.
const MUTANTS: u64 = 3000;

#[test]
fn kernels_that_were_changed_are_loaded_or_refused() {
    let linux = Elf {
        memory_bytes: 0x3000,
        ..Elf::without_note(SPIN)
    };
    let (mut loaded, mut refused) = (0, 0);
    for sound in [
        Elf::new(HALT).bytes(),
        linux.bytes(),
        BzImage::new(HALT).bytes(),
    ] {
        for seed in 0..MUTANTS {
            let mutant = Mutator::new(seed).mutant(&sound);
            let Ok(kernel) = KernelImage::from_bytes("mutant", mutant) else {
                refused += 1;
                continue;
            };
            let ram = Ram::new("64M".parse().unwrap(), 46).unwrap();
            let modules = [module("initrd", b"initrd".as_slice())];
            match boot::load(&ram, &kernel, "words", &modules) {
                Ok(_) => loaded += 1,
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    refused += 1;
                }
            }
        }
    }
    assert!(loaded > MUTANTS / 10, "{loaded} of {refused} are loaded");
    assert!(refused > MUTANTS / 10, "{refused} of {loaded} are refused");
}
