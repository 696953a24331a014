//! Files and answers: kernels, dumps of every format, recordings, what a monitor says.

use std::path::Path;

use heirloom_inspect::{Discovery, Entry};
use heirloom_machine::memory::Ram;
use heirloom_machine::{KernelImage, boot};
use heirloom_source::Spec;
use heirloom_source::recording::Recording;

use crate::engine::Target;
use crate::machine::{BzImage, Elf, HALT, SPIN, module};
use crate::snapshots::{Cpu, cloud_hypervisor, firecracker};
use crate::sound;

/// Of a guest with more RAM no roots are looked for.
const SMALL: u64 = 8 << 20;

pub(crate) fn kernels() -> Target {
    let linux = Elf {
        memory_bytes: 0x3000,
        ..Elf::without_note(SPIN)
    };
    let mut multiboot = vec![0; 64];
    // Flags, and the sum of the three that is 0 (Multiboot 0.6.96, 3.1.2).
    for (at, word) in [
        0x1bad_b002_u32,
        0x0001_0003,
        0_u32.wrapping_sub(0x1bad_b002 + 0x0001_0003),
    ]
    .into_iter()
    .enumerate()
    {
        multiboot[4 * at..4 * at + 4].copy_from_slice(&word.to_le_bytes());
    }
    multiboot.extend(HALT);
    let seeds = vec![
        Elf::new(HALT).bytes(),
        linux.bytes(),
        BzImage::new(HALT).bytes(),
        multiboot.clone(),
        [Elf::new(HALT).bytes(), multiboot].concat(),
    ];
    Target::new("kernels", seeds, |input| {
        let Ok(kernel) = KernelImage::from_bytes("input", input.to_vec()) else {
            return;
        };
        let ram = Ram::new("64M".parse().unwrap(), 46).unwrap();
        let modules = [module("initrd", b"initrd".as_slice())];
        if let Err(error) = boot::load(&ram, &kernel, "words", &modules) {
            assert!(!error.to_string().is_empty());
        }
    })
}

pub(crate) fn dumps() -> Target {
    let cpus = [Cpu::new(0x1000), Cpu::new(0x5000)];
    let mut seeds: Vec<Vec<u8>> = sound::dumps().into_iter().map(|(_, dump)| dump).collect();
    seeds.extend([
        firecracker(&cpus),
        cloud_hypervisor(&cpus, &[(0, 8 << 12)], 0),
    ]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("input");
    Target::new("dumps", seeds, move |input| {
        // The folder goes with the target.
        let _ = &folder;
        std::fs::write(&path, input).unwrap();
        let spec: Spec = path.to_str().unwrap().parse().unwrap();
        let target = match spec.open() {
            Ok(target) => target,
            Err(error) => return assert!(!error.to_string().is_empty()),
        };
        for range in target.ram.iter().take(16) {
            let mut entries = [Entry::ABSENT; 64];
            target
                .memory
                .read_column(range.start.pfn(), 511, &mut entries);
        }
        let all: u64 = target.ram.iter().map(|range| range.bytes).sum();
        if all <= SMALL
            && let Err(error) = Discovery::of(&target)
        {
            assert!(!error.to_string().is_empty());
        }
        let _ = target.memory.account();
    })
}

pub(crate) fn recordings() -> Target {
    Target::new("recordings", vec![sound::recording()], |input| {
        let Ok(recording) = Recording::from_bytes(Path::new("input"), input.to_vec()) else {
            return;
        };
        for index in 0..recording.len() {
            if let Err(error) = recording.moment(index) {
                assert!(!error.to_string().is_empty());
            }
        }
    })
}

pub(crate) fn monitor() -> Target {
    // The first byte says whose answer it is.
    let answers = sound::answers();
    let asked = answers.each_ref().map(|(command, _)| *command);
    let seeds = (0..).zip(answers).map(|(number, (_, answer))| {
        let mut seed = vec![number];
        seed.extend(answer.into_bytes());
        seed
    });
    Target::new("monitor", seeds.collect(), move |input| {
        if let Some((number, line)) = input.split_first() {
            sound::answered_with(asked[usize::from(*number) % asked.len()], line);
        }
    })
}
