//! The walk against the CPU: ring 0 and ring 3 read, write and run what tables of any shape map, and every fault,
//! its error code, and every word that was read is the one that the walk predicts.

mod cpu;
mod image;

#[path = "../../vmm/machine/tests/common/mod.rs"]
mod machine;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use heirloom_inspect::{CpuState, Cr3, Depth, VirtAddr};
use heirloom_machine::{Config, GuestAddress, Stop};
use vm_memory::Bytes;

use cpu::{
    Access, Capabilities, Exception, FETCH, PAGE_FAULT, PROTECTION, RESERVED, Ring, predict, walk,
};
use image::{CpuBits, Image, Probe, RESULTS};

/// Words that the prober writes before the first batch, for each batch, and for each access.
const WORDS: usize = 4;
/// The vector of no exception.
const SUCCESS: u8 = 0xff;
/// What the CPU sets on its own in an entry.
const ACCESSED_AND_DIRTY: u64 = 0b11 << 5;

/// How many results an image makes.
fn result_words(image: &Image) -> usize {
    let accesses: usize = image.batches.iter().map(|batch| batch.probes.len()).sum();
    WORDS * (1 + image.batches.len() + accesses)
}

fn words(bytes: &[u8]) -> Vec<u64> {
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    bytes.chunks_exact(8).map(word).collect()
}

/// Runs the image on KVM.
fn on_kvm(image: &Image) -> Vec<u64> {
    let mut machine = machine::machine(Config {
        kernel: image.elf().image(),
        ..machine::config(machine::HALT)
    });
    assert_eq!(machine::run(&mut machine), Stop::Doorbell { value: 1 });
    let mut bytes = vec![0; 8 * result_words(image)];
    let at = GuestAddress(RESULTS);
    machine.memory().read_slice(&mut bytes, at).unwrap();
    words(&bytes)
}

/// Runs the image on QEMU's emulated CPU.
fn on_qemu(image: &Image) -> Vec<u64> {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("prober"), image.elf().bytes()).unwrap();
    let file = |option: &str, path: &Path| format!("{option}{}", path.display());
    let output = assert_cmd::Command::from_std(Command::new("qemu-system-x86_64"))
        .args(["-nodefaults", "-display", "none", "-no-reboot"])
        .args(["-accel", "tcg", "-cpu", "max", "-m", "64M"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"])
        .args(["-serial", &file("file:", &path("results"))])
        .args(["-kernel", &file("", &path("prober"))])
        .timeout(machine::AMPLE)
        .output()
        .expect("this test needs qemu-system-x86_64, Debian's package qemu-system-x86");
    // 2 × 0 + 1: the prober came to its end.
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    words(&std::fs::read(path("results")).unwrap())
}

/// A CPU, and where it is known not to do what the manual says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cpu {
    /// VT-x or SVM: a CPU as it is.
    Hardware,
    /// kvm_pvm: ring 3 runs with NXE set, whatever the guest has, and does not reach all of
    /// the upper half.
    KvmPvm,
    /// QEMU's emulated CPU tells of a reserved bit without P, which the manual has with it.
    Tcg,
}

impl Cpu {
    fn of_kvm() -> Cpu {
        if Path::new("/sys/module/kvm_pvm").exists() {
            Cpu::KvmPvm
        } else {
            Cpu::Hardware
        }
    }

    /// Whether ring 3 may get a page fault there that tells nothing of the tables.
    fn may_refuse(self, va: VirtAddr, access: Access) -> bool {
        self == Cpu::KvmPvm && access.ring() == Ring::Three && va.get() >> 63 == 1
    }

    /// The bits of this exception's error code that it may have otherwise.
    fn unsaid(self, access: Access, exception: Exception) -> u64 {
        match self {
            Cpu::KvmPvm if access.ring() == Ring::Three => FETCH,
            Cpu::Tcg if exception.error_code & RESERVED != 0 => PROTECTION,
            _ => 0,
        }
    }
}

/// What the accesses of all images came to, so that none of the kinds was left out.
type Seen = BTreeMap<(Access, Option<Exception>), u64>;

/// Holds what the CPU did against what the walk says.
fn compare(image: &Image, results: &[u64], kind: Cpu, seen: &mut Seen) {
    assert_eq!(results.len(), result_words(image));
    let (first, results) = results.split_at(WORDS);
    let cpu = Capabilities::of(first);
    let mut results = results.chunks_exact(WORDS);
    for batch in &image.batches {
        let registers = results.next().unwrap();
        let mode = cpu.mode(&CpuState {
            cr0: registers[0],
            cr3: Cr3::new(registers[1]),
            cr4: registers[2],
            efer: registers[3],
            ..CpuState::default()
        });
        assert_eq!(registers[1], batch.cr3);
        for Probe { va, access, .. } in &batch.probes {
            let result = results.next().unwrap();
            let expected = predict(image, &mode, batch.cr3, *va, *access);
            let (vector, error_code) = (result[2].to_le_bytes()[0], result[2] >> 8);
            let told = format!(
                "{access:?} in {mode:?}: {}",
                walk(image, &mode, batch.cr3, *va)
            );
            if kind.may_refuse(*va, *access) && vector == PAGE_FAULT {
                assert_eq!(result[1], va.get(), "CR2 of {told}");
                continue;
            }
            match expected {
                Ok(pa) => {
                    assert_eq!(vector, SUCCESS, "{told}: {result:#x?} instead of {pa}");
                    if matches!(access, Access::Read(_)) {
                        let set_by_the_cpu = if Image::is_entry(pa) {
                            ACCESSED_AND_DIRTY
                        } else {
                            0
                        };
                        let word = image.word(pa).unwrap();
                        let differing = (result[0] ^ word) & !set_by_the_cpu;
                        assert_eq!(differing, 0, "{told}: {result:#x?}, not {word:#x} at {pa}");
                    }
                }
                Err(exception) => {
                    let found = Exception { vector, error_code };
                    let untold = kind.unsaid(*access, exception);
                    let differing = found.error_code ^ exception.error_code;
                    let same = found.vector == exception.vector && differing & !untold == 0;
                    assert!(same, "{told}: {found:x?}, not {exception:x?}: {result:#x?}");
                    if vector == PAGE_FAULT {
                        assert_eq!(result[1], va.get(), "CR2 of {told}");
                    }
                }
            }
            *seen.entry((*access, expected.err())).or_default() += 1;
        }
    }
    assert!(results.next().is_none());
}

/// Probes the images of some seeds, or of as many as HEIRLOOM_PROBES says; each kind of access must have gone well and failed in each way.
fn probe(depth: Depth, seeds: u64, kind: Cpu, run: impl Fn(&Image) -> Vec<u64>) {
    let cpu = Capabilities::of(&run(&Image::idle(depth)));
    let mut seen = Seen::new();
    let asked = std::env::var("HEIRLOOM_PROBES").ok();
    let seeds = asked.map_or(seeds, |number| number.parse().expect("a number of images"));
    for seed in 0..seeds {
        let image = Image::random(depth, seed, &cpu);
        compare(&image, &run(&image), kind, &mut seen);
    }
    for access in Access::ALL {
        let of_it = || seen.iter().filter(|((of, _), _)| *of == access);
        let count = |wanted: &dyn Fn(&Exception) -> bool| -> u64 {
            let failed =
                of_it().filter(|((_, exception), _)| exception.as_ref().is_some_and(wanted));
            failed.map(|(_, count)| *count).sum()
        };
        let went_well = seen.get(&(access, None)).copied().unwrap_or(0);
        let page_fault = |bits: u64| {
            move |exception: &Exception| {
                exception.vector == PAGE_FAULT && exception.error_code & 0b1001 == bits
            }
        };
        let mut outcomes = vec![
            went_well,
            count(&page_fault(0)),
            count(&page_fault(9)),
            count(&|exception| exception.vector != PAGE_FAULT),
        ];
        // Without SMAP nothing keeps ring 0 from reading what is mapped.
        if access != Access::Read(Ring::Zero) || cpu.cr4_bits & CpuBits::SMAP != 0 {
            outcomes.push(count(&page_fault(1)));
        }
        assert!(
            outcomes.iter().all(|count| *count > 0),
            "{access:?}: {outcomes:?}"
        );
    }
}

#[test]
fn on_kvm_the_cpu_does_what_the_walk_says() {
    probe(Depth::Four, 2, Cpu::of_kvm(), on_kvm);
}

#[test]
fn an_emulated_cpu_with_4_levels_does_what_the_walk_says() {
    probe(Depth::Four, 4, Cpu::Tcg, on_qemu);
}

#[test]
fn an_emulated_cpu_with_5_levels_does_what_the_walk_says() {
    probe(Depth::Five, 4, Cpu::Tcg, on_qemu);
}
