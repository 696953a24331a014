//! A live QEMU: every way to its memory gives what QEMU itself shows, and the guest runs on after.

mod support;

use std::path::Path;
use std::time::Duration;

use heirloom_inspect::{Depth, Entry, Mode, Pfn, PhysAddr};
use heirloom_source::Target;
use serde_json::{Value, json};
use support::qemu::Qemu;
use support::{complaint, guest, open, ram, read};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TCG: &str = "-accel tcg -cpu max,la57=on";
/// Half of the RAM above 4 GiB, without having that much.
const SPLIT: &str = "-m 256M -machine pc,max-ram-below-4g=128M";

/// Everything that must hold of the target, however its memory is read.
#[track_caller]
fn assert_is_the_guest(qemu: &mut Qemu, target: &Target, depth: Depth, way: &str) {
    assert!(
        target.notes.iter().any(|note| note.contains(way)),
        "no {way} in {:?}",
        target.notes
    );
    // It stands still.
    assert!(!qemu.is_running());
    let counter = u64::from_le_bytes(read(target, guest::COUNTER, 8).try_into().unwrap());
    assert_eq!(counter, qemu.word(guest::COUNTER));

    let cpu = target.cpus[0];
    assert_eq!(cpu.cr0, guest::CR0);
    assert_eq!(cpu.cr3.get(), guest::root(depth));
    assert_eq!(cpu.cr4, guest::cr4(depth));
    assert_eq!(cpu.efer, 0xd01);
    assert_eq!(cpu.rsp.get(), guest::STACK);
    assert_eq!(cpu.cpl, 0);
    let mode = Mode::of_cpu(
        &cpu,
        target.phys_bits.unwrap(),
        target.gigabyte_pages.unwrap(),
    );
    assert_eq!(mode.unwrap().depth, depth);

    // Each range of RAM, at both ends, is what QEMU saves of it.
    for (start, bytes) in ram(target) {
        for at in [start, start + bytes - 0x2000] {
            assert_eq!(read(target, at, 0x2000), qemu.saved(at, 0x2000), "{at:#x}");
        }
        assert!(
            target
                .memory
                .read_u64(PhysAddr::new(start + bytes))
                .is_err()
                || start < MIB
        );
    }
    let image = read(target, guest::BASE, 0x5000);
    assert_eq!(image, qemu.saved(guest::BASE, 0x5000));
    // A column of all of RAM has the entry of the one table that has it there.
    let mut entries = vec![Entry::ABSENT; 0x400];
    target.memory.read_column(Pfn::new(0), 273, &mut entries);
    let pgd = entries[usize::try_from(guest::BASE / 4096 + 1).unwrap()];
    assert_eq!(pgd.get() & !0x20, (guest::BASE + 0x2000) | 3);
}

#[test]
fn private_memory_is_read_from_the_process() {
    check_pc("-m 256M", "", "memory of process", 256 * MIB);
}

#[test]
fn a_shared_memfd_is_mapped() {
    check_pc(
        // A graphics card's memory is no RAM.
        "-m 256M -object memory-backend-memfd,id=ram,size=256M,share=on -machine \
         memory-backend=ram -vga std",
        "",
        "shared file /memfd:",
        256 * MIB,
    );
}

#[test]
fn a_shared_file_is_mapped() {
    check_pc(
        "-m 256M -object memory-backend-file,id=ram,size=256M,mem-path=DIR/ram,share=on \
         -machine memory-backend=ram",
        "",
        "/ram",
        256 * MIB,
    );
}

#[test]
fn a_private_mapping_of_a_file_is_not_taken_for_the_memory() {
    check(
        "-m 256M -object memory-backend-file,id=ram,size=256M,mem-path=DIR/ram,share=off \
         -machine memory-backend=ram",
        "",
        "memory of process",
        256 * MIB,
    );
}

#[test]
fn memory_that_qemu_saves_is_the_same_and_leaves_no_file() {
    check_pc("-m 64M", ",memory=pmemsave", "pmemsave", 64 * MIB);
}

#[test]
fn memory_above_four_gibibytes_is_found_where_it_is_and_not_allocated_by_looking() {
    check_pc(
        "-m 5G -object memory-backend-memfd,id=ram,size=5G,share=on -machine memory-backend=ram",
        "",
        "shared file /memfd:",
        5 * GIB,
    );
    check_pc("-m 5G", ",memory=process", "memory of process", 5 * GIB);
}

#[test]
fn two_numa_nodes_with_backends_of_their_own_make_one_memory() {
    check_pc(
        "-m 5G -smp 2 -object memory-backend-memfd,id=a,size=1G,share=on \
         -object memory-backend-ram,id=b,size=4G -numa node,memdev=a,cpus=0 -numa \
         node,memdev=b,cpus=1",
        "",
        "shared file /memfd:",
        5 * GIB,
    );
}

/// Opens a guest with `bytes` of RAM, checks all of it, and lets go. Looking must not make QEMU grow.
#[track_caller]
fn check_pc(arguments: &str, option: &str, way: &str, bytes: u64) {
    let grown = check(arguments, option, way, bytes);
    assert!(grown < 64 * MIB, "QEMU has grown by {grown} bytes");
}

/// [`check_pc`]; returns by how much looking at it has made QEMU grow.
#[track_caller]
fn check(arguments: &str, option: &str, way: &str, bytes: u64) -> u64 {
    let mut qemu = Qemu::start_counting(Depth::Four, &format!("{TCG} -machine pc {arguments}"));
    let before = resident(qemu.id());
    let target = open(&qemu.spec(option)).unwrap_or_else(|error| panic!("{error}"));
    assert_is_the_guest(&mut qemu, &target, Depth::Four, way);
    let ranges = ram(&target);
    // `-machine pc` has 3 GiB of RAM low if there are more than 3.5.
    let low_end = if bytes > 7 * GIB / 2 { 3 * GIB } else { bytes };
    let is_low = |range: &&(u64, u64)| range.0 < 4 * GIB;
    let last_low = ranges.iter().rfind(is_low).unwrap();
    assert_eq!(ranges[0].0, 0);
    assert_eq!(last_low.0 + last_low.1, low_end, "{ranges:x?}");
    let high: Vec<_> = ranges.iter().filter(|range| !is_low(range)).collect();
    if bytes > low_end {
        assert_eq!(high, [&(4 * GIB, bytes - low_end)]);
    } else {
        assert!(high.is_empty());
    }
    for range in &target.ram {
        let mut entries = vec![Entry::ABSENT; usize::try_from(range.frames()).unwrap()];
        target
            .memory
            .read_column(range.start.pfn(), 511, &mut entries);
    }
    let grown = resident(qemu.id()).saturating_sub(before);
    drop(target);
    assert_counts_on(&mut qemu);
    grown
}

#[track_caller]
fn assert_counts_on(qemu: &mut Qemu) {
    assert!(qemu.is_running());
    let counter = qemu.word(guest::COUNTER);
    let deadline = std::time::Instant::now() + Duration::from_secs(300);
    while qemu.word(guest::COUNTER) == counter {
        assert!(std::time::Instant::now() < deadline, "it does not count");
    }
}

/// Memory of process `pid` that is really there, in bytes.
fn resident(pid: u32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[test]
fn five_levels_are_told_by_cr4_and_each_cpu_has_its_own_registers() {
    let mut qemu = Qemu::start_counting(Depth::Five, &format!("{TCG} -m 64M -smp 2"));
    let target = open(&qemu.spec("")).unwrap();
    assert_is_the_guest(&mut qemu, &target, Depth::Five, "memory of process");
    // The second CPU waits in real mode.
    let [_, second] = target.cpus[..] else {
        panic!("{target:?}")
    };
    assert_eq!((second.cr0 >> 31, second.efer), (0, 0));
}

#[test]
fn on_kvm_a_guest_is_read_in_the_same_way() {
    assert!(Path::new("/dev/kvm").exists(), "QEMU needs /dev/kvm here");
    let mut qemu = Qemu::start_counting(Depth::Four, "-accel kvm -cpu qemu64 -m 256M");
    let target = open(&qemu.spec("")).unwrap_or_else(|error| panic!("{error}"));
    assert_is_the_guest(&mut qemu, &target, Depth::Four, "memory of process");
    drop(target);
    assert_counts_on(&mut qemu);
}

#[test]
fn a_core_of_the_same_moment_has_the_same_bytes_and_registers() {
    for depth in [Depth::Four, Depth::Five] {
        let mut qemu = Qemu::start_counting(depth, &format!("{TCG} {SPLIT} -smp 2"));
        let live = open(&qemu.spec("")).unwrap();
        for paging in [false, true] {
            let path = qemu.path("core");
            let protocol = format!("file:{}", path.display());
            qemu.ask(
                "dump-guest-memory",
                json!({ "paging": paging, "protocol": protocol }),
            );
            let core = open(&format!("core:{}", path.display())).unwrap();
            assert_eq!(core.cpus, live.cpus, "paging {paging}");
            if paging {
                // What the guest's tables map, and that is not all.
                assert_eq!(ram(&core), [(0, 2 * MIB)]);
            } else {
                // ROM, too: a core does not tell it apart. The firmware's ends at 4 GiB.
                let covers = |range: &(u64, u64)| {
                    ram(&core).iter().any(|(start, bytes)| {
                        *start <= range.0 && range.0 + range.1 <= start + bytes
                    })
                };
                assert!(ram(&live).iter().all(covers), "{:x?}", ram(&core));
                assert_eq!(ram(&live).last(), Some(&(4 * GIB, 128 * MIB)));
            }
            for (start, bytes) in ram(&core) {
                for at in (start..start + bytes).step_by(1 << 24) {
                    let length = usize::try_from((start + bytes - at).min(1 << 16)).unwrap();
                    assert_eq!(read(&core, at, length), read(&live, at, length), "{at:#x}");
                }
            }
            let image = |target| read(target, guest::BASE, 0x5000);
            assert_eq!(image(&core), image(&live));
            std::fs::remove_file(path).unwrap();
        }
    }
}

#[test]
fn a_dump_that_is_no_elf_is_refused_with_the_remedy() {
    let mut qemu = Qemu::start_counting(Depth::Four, &format!("{TCG} -m 64M"));
    let path = qemu.path("core");
    let protocol = format!("file:{}", path.display());
    qemu.ask(
        "dump-guest-memory",
        json!({ "paging": false, "protocol": protocol, "format": "kdump-zlib" }),
    );
    let message = complaint(&format!("core:{}", path.display()));
    assert!(message.contains("without -z, -l and -s"), "{message}");
}

#[test]
fn a_guest_that_was_paused_stays_paused() {
    let mut qemu = Qemu::start_counting(Depth::Four, &format!("{TCG} -m 64M"));
    qemu.ask("stop", Value::Null);
    drop(open(&qemu.spec("")).unwrap());
    assert!(!qemu.is_running());
}

#[test]
fn a_guest_runs_on_after_an_error_and_after_a_panic() {
    let mut qemu = Qemu::start_counting(Depth::Four, &format!("{TCG} -m 64M"));
    let message = complaint(&qemu.spec(",memory=file"));
    assert!(
        message.contains("memory-backend-memfd") && !message.contains("pmemsave"),
        "{message}"
    );
    assert_counts_on(&mut qemu);

    let spec = qemu.spec("");
    let panicked = std::thread::spawn(move || {
        let _target = open(&spec).unwrap();
        panic!("as a test");
    })
    .join();
    assert!(panicked.is_err());
    assert_counts_on(&mut qemu);
}

#[test]
fn a_guest_that_ends_while_it_is_looked_at_makes_errors_and_no_panic() {
    let qemu = Qemu::start_counting(Depth::Four, &format!("{TCG} -m 64M"));
    let target = open(&qemu.spec("")).unwrap();
    drop(qemu);
    assert!(target.memory.read_u64(PhysAddr::new(0)).is_err());
    let mut entries = [Entry::new(1); 64];
    target.memory.read_column(Pfn::new(0), 0, &mut entries);
    assert_eq!(entries, [Entry::ABSENT; 64]);
}

#[test]
fn a_socket_that_serves_somebody_else_or_is_no_qmp_is_told_apart() {
    let mut qemu = Qemu::start_counting(Depth::Four, &format!("{TCG} -m 64M"));
    let message = complaint(&format!("qemu:{}", qemu.path("other").display()));
    assert!(message.contains("another program"), "{message}");
    let message = complaint(&format!("qemu:{}", qemu.path("monitor").display()));
    assert!(message.contains("monitor for people"), "{message}");
    // Killed, it leaves its sockets.
    qemu.kill();
    let message = complaint(&qemu.spec(""));
    assert!(message.contains("refuses"), "{message}");
}
