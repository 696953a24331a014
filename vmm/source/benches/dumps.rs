//! What the search for address spaces takes in a dump whose pages are packed, and in the ELF core of the same
//! guest: at most three times as much is the goal for a guest of 4 GiB that has booted. What counts is
//! how many of its pages are not zero. `cargo bench -p heirloom-source --bench dumps`.

#[path = "../tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::time::Duration;

use heirloom_inspect::Discovery;
use nix::time::ClockId;
use support::dumps::{Kdump, Packing};
use support::elf::{CoreBuilder, qemu_note};

/// Of RAM: enough that nothing else counts.
const BYTES: usize = 256 << 20;
/// One page in so many is not zero: of 4 GiB after Debian's cloud kernel has booted, and of a guest in use.
const FILLED: [(&str, usize); 2] = [("has booted", 56), ("is in use", 3)];
const PAGE: usize = 4096;
/// Of which the least counts.
const RUNS: usize = 7;
const ROOT: u64 = 0x1000;

/// RAM as a guest has it: tables, one page in `filled` programs and data, the rest zero.
fn ram(filled: usize) -> Vec<u8> {
    let programs = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let mut ram = vec![0; BYTES];
    let places = ram.chunks_mut(PAGE).skip(256).step_by(filled);
    for (page, bytes) in places.zip(programs.chunks_exact(PAGE).cycle()) {
        page.copy_from_slice(bytes);
    }
    let mut put = |at: u64, entry: u64| {
        let at = usize::try_from(at).unwrap();
        ram[at..at + 8].copy_from_slice(&entry.to_le_bytes());
    };
    // A direct map of 2 MiB pages, and the kernel's image.
    put(ROOT + 8 * 273, 0x2063);
    put(0x2000, 0x3063);
    put(ROOT + 8 * 511, 0x4063);
    put(0x4000 + 8 * 510, 0x5063);
    put(0x5000 + 8 * 8, 0x1e1);
    for page in 0..(BYTES >> 21) as u64 {
        put(0x3000 + 8 * page, page << 21 | 1 << 63 | 0x1e3);
    }
    ram
}

/// The least CPU time, of all threads, that opening and searching `file` took.
fn search(file: &Path) -> Duration {
    let name = file.to_str().unwrap();
    let now = || Duration::from(ClockId::CLOCK_PROCESS_CPUTIME_ID.now().unwrap());
    let runs = (0..RUNS).map(|_| {
        let before = now();
        let found = Discovery::of(&support::open(name).unwrap()).unwrap();
        assert!(!found.spaces.is_empty());
        now().saturating_sub(before)
    });
    runs.min().unwrap()
}

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dump");
    for (name, filled) in FILLED {
        let ram = ram(filled);
        let core = CoreBuilder::default().note("QEMU", &qemu_note(ROOT, 0x6b0, 0x10));
        let notes = core.notes.clone();
        std::fs::write(&file, core.load(0, &ram).build()).unwrap();
        let of_core = search(&file);
        println!(
            "a guest that {name}: ELF core {:.1} ms",
            of_core.as_secs_f64() * 1e3
        );
        for packing in [Packing::Zlib, Packing::Lzo, Packing::Snappy, Packing::Zstd] {
            let dump = Kdump {
                packing,
                notes: notes.clone(),
                ..Kdump::default()
            };
            std::fs::write(&file, dump.ram(0, &ram).build()).unwrap();
            let taken = search(&file);
            println!(
                "{:>10} {:>8.1} ms, {:.1} times",
                format!("{packing:?}").to_lowercase(),
                taken.as_secs_f64() * 1e3,
                taken.as_secs_f64() / of_core.as_secs_f64()
            );
        }
    }
}
