//! Snapshots whose makers Debian does not have, and Windows' dumps: written here from their documentation.

mod support;

use std::path::{Path, PathBuf};

use heirloom_inspect::{CpuState, PhysAddr, RootLabel, Target};
use support::snapshots::{
    Cpu, cloud_hypervisor, firecracker, firecracker_packed, vmware, windows, windows_with_bitmap,
};
use support::{complaint, open, ram, read};
use tempfile::TempDir;

const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;

struct Files(TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

/// Pages whose words tell where they stand.
fn pages(count: u64) -> Vec<u8> {
    let words = (0..count * 512).map(|word| ((word / 512) << 32) | (word % 512) | (1 << 60));
    words.flat_map(u64::to_le_bytes).collect()
}

fn page(number: u64) -> Vec<u8> {
    pages(number + 1).split_off(usize::try_from(number * PAGE).unwrap())
}

#[track_caller]
fn opened(path: &Path, options: &str) -> Target {
    open(&format!("{}{options}", path.display())).unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn refused(path: &Path) -> String {
    complaint(path.to_str().unwrap())
}

fn cpus() -> [Cpu; 2] {
    [Cpu::new(0x1000), Cpu::new(0x5000)]
}

#[track_caller]
fn assert_cpus(target: &Target, has_tables: bool) {
    assert_eq!(target.cpus.len(), 2, "{:?}", target.notes);
    for (found, cpu) in target.cpus.iter().zip(cpus()) {
        let wanted = cpu.state();
        let wanted = if has_tables {
            wanted
        } else {
            CpuState {
                tss: None,
                gdt: None,
                idt: found.idt,
                ..wanted
            }
        };
        assert_eq!(*found, wanted);
    }
}

#[test]
fn vmwares_state_and_memory_find_each_other() {
    let files = Files::new();
    let memory = pages(12);
    for (extension, in_blocks) in [("vmss", true), ("vmsn", false), ("VMSS", true)] {
        let state = vmware(&cpus(), &[(0, 0, 8), (1 << 20, 8, 4)], None, in_blocks);
        let state = files.write(&format!("{extension}/guest.{extension}"), &state);
        assert!(refused(&state).contains("vmss2core"), "{}", refused(&state));
        let vmem = files.write(&format!("{extension}/guest.vmem"), &memory);
        for path in [&state, &vmem] {
            let target = opened(path, "");
            assert_eq!(ram(&target), [(0, 8 * PAGE), (4 << 30, 4 * PAGE)]);
            assert_eq!(read(&target, 0, 8 * 4096), memory[..8 * 4096]);
            assert_eq!(read(&target, 4 << 30, 4 * 4096), memory[8 * 4096..]);
            assert_cpus(&target, false);
            assert_eq!(target.cpus[0].idt, cpus()[0].state().idt);
        }
        // Elsewhere it has to be named.
        let elsewhere = files.write("elsewhere/memory", &memory);
        let with = format!(",with={}", elsewhere.display());
        assert_eq!(ram(&opened(&state, &with)).len(), 2);
        let with = format!(",with={}", state.display());
        assert_eq!(ram(&opened(&elsewhere, &with)).len(), 2);
        // Cut off: what is there is right, and the rest is unknown.
        std::fs::write(&vmem, &memory[..10 * 4096]).unwrap();
        let target = opened(&state, "");
        assert_eq!(ram(&target), [(0, 8 * PAGE), (4 << 30, 2 * PAGE)]);
        let left_out = &target.memory.account().left_out;
        assert_eq!(left_out[0].start.get(), (4 << 30) + 2 * PAGE);
    }
}

#[test]
fn vmwares_memory_may_be_in_the_state_and_is_refused_where_it_is_compressed() {
    let files = Files::new();
    let memory = pages(12);
    let state = vmware(
        &cpus(),
        &[(0, 0, 8), (1 << 20, 8, 4)],
        Some((&memory, false)),
        true,
    );
    let target = opened(&files.write("a/guest.vmsn", &state), "");
    assert_eq!(read(&target, 4 << 30, 4 * 4096), memory[8 * 4096..]);
    assert_cpus(&target, false);
    let state = vmware(&cpus(), &[], Some((&memory, false)), true);
    let target = opened(&files.write("b/guest.vmss", &state), "");
    assert_eq!(ram(&target), [(0, 12 * PAGE)]);
    assert_eq!(read(&target, 0, 12 * 4096), memory);
    let state = vmware(&cpus(), &[], Some((&memory, true)), true);
    let message = refused(&files.write("c/guest.vmss", &state));
    assert!(message.contains("memory is compressed"), "{message}");
}

#[test]
fn firecrackers_state_and_memory_find_each_other_whatever_the_version() {
    for (number, state) in [firecracker(&cpus()), firecracker_packed(&cpus())]
        .iter()
        .enumerate()
    {
        let files = Files::new();
        let memory = [pages(256), vec![0; 1 << 20]].concat();
        let state = files.write("snapshot_file", state);
        assert!(refused(&state).contains("with=FILE"), "{}", refused(&state));
        let memory_file = files.write("mem_file", &memory);
        // A disk has whole MiB, too.
        files.write("rootfs.ext4", &vec![1; 1 << 20]);
        for path in [&state, &memory_file] {
            let target = opened(path, "");
            assert_eq!(ram(&target), [(0, 2 * MIB)], "{number}");
            assert_eq!(read(&target, 0, 1 << 20), memory[..1 << 20]);
            assert_cpus(&target, true);
        }
        // More RAM than has room below 4 GiB goes on there.
        let file = std::fs::File::options()
            .write(true)
            .open(&memory_file)
            .unwrap();
        file.set_len(0xd000_0000 + 16 * MIB).unwrap();
        let target = opened(&memory_file, &format!(",with={}", state.display()));
        assert_eq!(ram(&target), [(0, 0xd000_0000), (4 << 30, 16 * MIB)]);
    }
}

#[test]
fn cloud_hypervisors_snapshot_is_a_folder() {
    let memory = pages(12);
    let ranges = [(0, 8 * PAGE), (4 << 30, 4 * PAGE)];
    for form in 0..3 {
        let files = Files::new();
        let state = files.write("state.json", &cloud_hypervisor(&cpus(), &ranges, form));
        let file = files.write("memory-ranges", &memory);
        files.write("config.json", b"{}");
        for path in [files.0.path(), &state, &file] {
            let target = opened(path, "");
            assert_eq!(ram(&target), ranges, "{form}");
            assert_eq!(read(&target, 4 << 30, 4 * 4096), memory[8 * 4096..]);
            assert_cpus(&target, true);
        }
        std::fs::write(&file, &memory[..9 * 4096]).unwrap();
        let target = opened(files.0.path(), "");
        assert_eq!(ram(&target), [(0, 8 * PAGE), (4 << 30, PAGE)]);
        assert_eq!(target.memory.account().left_out.len(), 1);
    }
    let files = Files::new();
    files.write("state.json", b"{}");
    files.write("memory-ranges", &memory);
    assert!(refused(files.0.path()).contains("names no ranges of RAM"));
}

#[test]
fn a_complete_dump_of_windows_has_its_runs_and_a_root() {
    let files = Files::new();
    let memory = pages(12);
    let runs = [(1, 7), (0x10_0000, 5)];
    let dump = files.write("MEMORY.DMP", &windows(0x3000, &runs, &memory));
    let target = opened(&dump, "");
    assert_eq!(ram(&target), [(PAGE, 7 * PAGE), (4 << 30, 5 * PAGE)]);
    assert_eq!(read(&target, PAGE, 7 * 4096), memory[..7 * 4096]);
    assert_eq!(read(&target, 4 << 30, 5 * 4096), memory[7 * 4096..]);
    assert_eq!(target.roots, [(RootLabel::Cpu(0), PhysAddr::new(0x3000))]);
    let bytes = std::fs::read(&dump).unwrap();
    std::fs::write(&dump, &bytes[..bytes.len() - 2 * 4096]).unwrap();
    let target = opened(&dump, "");
    assert_eq!(ram(&target), [(PAGE, 7 * PAGE), (4 << 30, 3 * PAGE)]);
    assert_eq!(target.memory.account().left_out[0].bytes, 2 * PAGE);
}

#[test]
fn of_a_dump_of_windows_with_a_bitmap_pages_that_are_not_in_it_are_unknown() {
    let files = Files::new();
    for (mark, runs) in [(b"SDMP", &[(0_u64, 24_u64)][..]), (b"FDMP", &[])] {
        let there = [1, 3, 4, 9, 17];
        let dump = windows_with_bitmap(0x3000, runs, *mark, &there);
        let target = opened(&files.write("MEMORY.DMP", &dump), "");
        if !runs.is_empty() {
            assert_eq!(ram(&target), [(0, 24 * PAGE)]);
        }
        for number in 0..20 {
            let mut bytes = vec![0; 4096];
            let at = PhysAddr::new(number * PAGE);
            let found = target.memory.read_bytes(at, &mut bytes).is_ok();
            assert_eq!(found, there.contains(&number), "{number}");
            assert!(!found || bytes == page(number), "{number}");
        }
        assert!(target.memory.account().is_partial);
        assert_eq!(target.roots.len(), 1);
    }
    let mut small = windows(0x3000, &[(0, 1)], &pages(1));
    small[0xf98] = 4;
    let message = refused(&files.write("small", &small));
    assert!(
        message.contains("no page tables") && message.contains("complete"),
        "{message}"
    );
    let mut arm = windows(0x3000, &[(0, 1)], &pages(1));
    arm[0x30..0x34].copy_from_slice(&0xaa64_u32.to_le_bytes());
    assert!(refused(&files.write("arm", &arm)).contains("only x86-64"));
}

#[test]
fn options_that_a_kind_does_not_take_are_said_to_be_for_another() {
    let files = Files::new();
    let dump = files.write("dump", &windows(0x3000, &[(0, 4)], &pages(4)));
    for (option, kinds) in [
        ("map=0:0:4K", "images of RAM"),
        ("part=x", "were split"),
        ("with=x", "which are two files"),
    ] {
        let message = complaint(&format!("{},{option}", dump.display()));
        assert!(message.contains(kinds), "{message}");
    }
    let other = files.write("other", b"nothing");
    let image = files.write("image", &pages(4));
    let message = complaint(&format!("{},with={}", image.display(), other.display()));
    assert!(message.contains("no state of VMware's"), "{message}");
}
