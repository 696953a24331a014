//! ELF cores: every form they come in, and every way in which one can be broken.

mod support;

use heirloom_inspect::paging::mode::PhysBits;
use heirloom_inspect::{Cr3, Depth, Entry, Mode, PhysAddr, RootLabel, VirtAddr};
use heirloom_source::{CoreError, FileError, Target, TargetError};
use proptest::prelude::*;
use support::elf::{CoreBuilder, qemu_note};
use support::{ram, read};

const PAGE: u64 = 4096;

fn open(file: &[u8], options: &str) -> Result<Target, TargetError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("core");
    std::fs::write(&path, file).unwrap();
    support::open(&format!("core:{}{options}", path.display()))
}

#[track_caller]
fn complaint(file: &[u8], options: &str) -> String {
    match open(file, options) {
        Ok(target) => panic!("it opens: {target:?}"),
        Err(error) => error.to_string(),
    }
}

#[track_caller]
fn assert_note(target: &Target, word: &str) {
    assert!(
        target.notes.iter().any(|note| note.contains(word)),
        "no {word} in {:?}",
        target.notes
    );
}

fn pages(fill: u8, count: usize) -> Vec<u8> {
    vec![fill; count * 4096]
}

/// RAM below and above the PCI hole, two CPUs, one of them in ring 3 with five levels.
fn sound() -> CoreBuilder {
    CoreBuilder::default()
        .note("CORE", &[0; 336])
        .note("QEMU", &qemu_note(0x1000, 0x6b0, 0x10))
        .note("QEMU", &qemu_note(0x8000_0000_0000_2801, 0x16b0, 0x33))
        .load(0, &pages(1, 4))
        .load(4 << 30, &pages(2, 2))
}

#[test]
fn headers_of_32_bits_are_read_where_the_machine_has_64() {
    let core = CoreBuilder {
        class: 1,
        ..CoreBuilder::default()
    };
    let core = core
        .typed_note("CORE", 1, &[0; 336])
        .note("VMCOREINFO", b"OSRELEASE=6.1.0\n")
        .load(0x1000, &pages(1, 4))
        .load_longer(0xfffe_0000, &pages(2, 2), 3 * PAGE);
    let target = open(&core.build(), "").unwrap();
    let all = [(0x1000, 4 * PAGE), (0xfffe_0000, 3 * PAGE)];
    assert_eq!(ram(&target), all);
    assert_eq!(read(&target, 0xfffe_0000 + 2 * PAGE - 1, 2), [2, 0]);
    assert_note(&target, "6.1.0");
    for cut in [3, 51, 60, 52 + 3 * 32 - 1] {
        let said = complaint(&core.build()[..cut], "");
        assert!(
            said.contains("cut off") || said.contains("not an ELF"),
            "{said}"
        );
    }
    // Of a 32-bit kernel the machine tells.
    let core = CoreBuilder { machine: 3, ..core };
    let said = complaint(&core.build(), "");
    assert!(said.contains("32-bit kernel"), "{said}");
}

#[test]
fn ram_lies_at_physical_addresses_with_its_holes() {
    let target = open(&sound().build(), "").unwrap();
    assert_eq!(ram(&target), [(0, 4 * PAGE), (4 << 30, 2 * PAGE)]);
    assert_eq!(read(&target, 4 * PAGE - 1, 1), [1]);
    assert_eq!(read(&target, 4 << 30, 1), [2]);
    assert!(target.memory.read_u64(PhysAddr::new(4 * PAGE)).is_err());
}

#[test]
fn every_cpus_registers_come_from_qemus_notes() {
    let target = open(&sound().build(), "").unwrap();
    let [first, second] = target.cpus[..] else {
        panic!("{target:?}")
    };
    assert_eq!(first.cr0, 0x8005_0033);
    assert_eq!(first.cr2, VirtAddr::new(0xdead_b000));
    assert_eq!(first.cr3, Cr3::new(0x1000));
    assert_eq!(first.cr4, 0x6b0);
    assert_eq!((first.cpl, second.cpl), (0, 3));
    assert_eq!(first.rsp, VirtAddr::new(0x1006));
    assert_eq!(first.rbp, VirtAddr::new(0x1007));
    assert_eq!(first.rip, VirtAddr::new(0x1010));
    assert_eq!(first.rflags, 0x1011);
    assert_eq!(second.cr3.root(), PhysAddr::new(0x2000));
    let depth = |cpu| Mode::of_cpu(cpu, PhysBits::MAX, true).unwrap().depth;
    assert_eq!((depth(&first), depth(&second)), (Depth::Four, Depth::Five));
    assert_note(&target, "EFER");
}

#[test]
fn a_cpu_that_does_not_page_is_not_in_long_mode() {
    let mut desc = qemu_note(0, 0, 0x10);
    desc[392..400].copy_from_slice(&0x11_u64.to_le_bytes());
    let target = open(&sound().note("QEMU", &desc).build(), "").unwrap();
    assert_eq!((target.cpus[2].cr0, target.cpus[2].efer), (0x11, 0));
}

#[test]
fn registers_in_a_form_that_is_not_known_are_left_out_and_not_misread() {
    let good = qemu_note(0x1000, 0x6b0, 0x10);
    let mut version = good.clone();
    version[0] = 2;
    let mut size = good.clone();
    size[4] = 0;
    for desc in [&version[..], &size, &good[..430], &good[..3], &[]] {
        let core = CoreBuilder::default()
            .note("QEMU", &good)
            .note("QEMU", desc)
            .load(0, &pages(1, 4));
        let target = open(&core.build(), "").unwrap();
        assert!(target.cpus.is_empty(), "{target:?}");
        assert_note(&target, "not known");
    }
}

#[test]
fn segments_that_overlap_give_each_address_once() {
    // What QEMU with paging and kdump write: the same frames, mapped several times.
    let core = CoreBuilder::default()
        .load(0x2000, &pages(2, 2))
        .load(0, &pages(1, 8))
        .load(0x3000, &pages(3, 1))
        .load(0x7000, &pages(4, 2));
    let target = open(&core.build(), "").unwrap();
    assert_eq!(ram(&target), [(0, 9 * PAGE)]);
    let bytes: Vec<u8> = (0..9)
        .map(|page| read(&target, page * PAGE, 1)[0])
        .collect();
    assert_eq!(bytes, [1, 1, 2, 2, 1, 1, 1, 1, 4]);
}

#[test]
fn memory_that_was_left_out_of_the_file_is_ram_and_reads_as_zero_and_the_target_says_so() {
    // makedumpfile -E without the pages of processes, a second segment having one of them.
    let core = CoreBuilder::default()
        .load_longer(0, &pages(1, 1), 4 * PAGE)
        .load(0x2000, &pages(2, 1));
    let target = open(&core.build(), "").unwrap();
    assert_eq!(ram(&target), [(0, 4 * PAGE)]);
    let bytes: Vec<u8> = (0..4)
        .map(|page| read(&target, page * PAGE, 1)[0])
        .collect();
    assert_eq!(bytes, [1, 0, 2, 0]);
    assert_note(&target, "8192 bytes of RAM");
}

#[test]
fn what_qemu_gives_no_bytes_is_no_ram() {
    let core = sound().load_longer(0xfee0_0000, &[], PAGE);
    let target = open(&core.build(), "").unwrap();
    assert_eq!(ram(&target), [(0, 4 * PAGE), (4 << 30, 2 * PAGE)]);
}

#[test]
fn a_core_with_more_segments_than_sixteen_bits_can_count_opens() {
    let mut core = CoreBuilder {
        extended: true,
        ..CoreBuilder::default()
    };
    for frame in 0..70_000_u64 {
        core = core.load(2 * frame * PAGE, &frame.to_le_bytes());
    }
    let file = core.build();
    assert_eq!(file[56..58], [0xff, 0xff]);
    let target = open(&file, "").unwrap();
    assert_eq!(target.ram.len(), 70_000);
    assert_eq!(
        read(&target, 2 * 69_999 * PAGE, 8),
        69_999_u64.to_le_bytes()
    );
}

#[test]
fn hundreds_of_segments_open_and_touching_ones_are_one_range_of_ram() {
    let mut core = CoreBuilder::default();
    for frame in (0..600_u64).rev() {
        core = core.load(frame * PAGE, &pages(u8::try_from(frame % 251).unwrap(), 1));
    }
    let target = open(&core.build(), "").unwrap();
    assert_eq!(ram(&target), [(0, 600 * PAGE)]);
    assert_eq!(read(&target, 400 * PAGE - 1, 2), [148, 149]);
}

#[test]
fn a_kdump_core_has_no_cpus_but_the_kernels_own_account() {
    let text = "OSRELEASE=6.12.1\nSYMBOL(swapper_pg_dir)=ffffffff80003000\nNUMBER(phys_base)=0\n\
                NUMBER(pgtable_l5_enabled)=1\n";
    let core = CoreBuilder::default()
        .note("CORE", &[0; 336])
        .note("VMCOREINFO", text.as_bytes())
        .load(0, &pages(1, 4));
    let target = open(&core.build(), "").unwrap();
    assert!(target.cpus.is_empty());
    assert_eq!(target.depth, Some(Depth::Five));
    assert_eq!(target.roots, [(RootLabel::Kernel, PhysAddr::new(0x3000))]);
    assert_note(&target, "6.12.1");
    assert_note(&target, "cr3=");

    let target = open(&core.build(), ",cr3=0x2000").unwrap();
    assert_eq!(target.roots.len(), 2);
}

#[test]
fn a_kernel_that_encrypts_its_memory_says_by_which_bit() {
    for (mask, encryption, words) in [
        (1_u64 << 47, 1 << 47, "bit 47"),
        (1 << 51, 1 << 51, "bit 51"),
        (0, 0, "6.12.1"),
        (3 << 46, 0, "no single bit"),
    ] {
        let text = format!("OSRELEASE=6.12.1\nNUMBER(sme_mask)={mask}\n");
        let core = CoreBuilder::default()
            .note("VMCOREINFO", text.as_bytes())
            .load(0, &pages(1, 4));
        let target = open(&core.build(), "").unwrap();
        assert_eq!(target.encryption, Entry::new(encryption));
        assert_note(&target, words);
    }
    // The user knows better.
    let core = CoreBuilder::default().load(0, &pages(1, 4));
    let target = open(&core.build(), ",cr3=0x800000002000,encrypt-bit=47").unwrap();
    assert_eq!(target.encryption, Entry::new(1 << 47));
    assert_eq!(target.roots[0].1, PhysAddr::new(0x2000));
}

#[test]
fn a_kernel_root_outside_of_the_core_is_said_and_left_out() {
    let text = "SYMBOL(swapper_pg_dir)=ffffffff80009000\nNUMBER(phys_base)=0\n";
    let core = CoreBuilder::default()
        .note("VMCOREINFO", text.as_bytes())
        .load(0, &pages(1, 4));
    let target = open(&core.build(), "").unwrap();
    assert!(target.roots.is_empty());
    assert_note(&target, "0x9000");
}

#[test]
fn roots_that_the_user_knows_are_added_to_what_the_core_says() {
    let target = open(&sound().build(), ",cr3=0x3000").unwrap();
    assert_eq!(target.cpus.len(), 2);
    assert_eq!(
        target.roots,
        [(
            RootLabel::Found(PhysAddr::new(0x3000)),
            PhysAddr::new(0x3000)
        )]
    );
    let target = open(&sound().build(), ",cr3=0x3000,cr4=0x20").unwrap();
    assert_eq!(target.cpus.len(), 3);
    let message = complaint(&sound().build(), ",cr3=0x100000");
    assert!(
        message.contains("0x100000") && message.contains("no RAM"),
        "{message}"
    );
}

#[test]
fn of_a_core_that_is_cut_the_rest_is_read_and_what_is_missing_is_said() {
    let whole = sound().build();
    let target = open(&whole[..whole.len() - 4096 - 100], "").unwrap();
    assert_eq!(target.cpus.len(), 2);
    assert_eq!(ram(&target), [(0, 4 * PAGE), (4 << 30, PAGE - 100)]);
    assert_note(&target, "4196 bytes of the RAM");
    assert!(
        target
            .memory
            .read_u64(PhysAddr::new((4 << 30) + PAGE - 104))
            .is_err()
    );

    // Neither memory nor notes, no program headers, no header.
    for (length, word) in [
        (64 + 3 * 56 + 8, "first segment"),
        (100, "program headers"),
        (63, "ELF header"),
        (4, "ELF header"),
    ] {
        let message = complaint(&whole[..length], "");
        assert!(
            message.contains("cut off") && message.contains(word),
            "{length}: {message}"
        );
    }
    let extended = CoreBuilder {
        extended: true,
        ..sound()
    }
    .build();
    let message = complaint(&extended[..100], "");
    assert!(message.contains("counts its segments"), "{message}");
}

#[test]
fn segments_without_a_physical_address_are_left_out_and_said() {
    let core = sound()
        .load(u64::MAX, &pages(9, 1))
        .load(1 << 52, &pages(9, 1));
    let target = open(&core.build(), "").unwrap();
    assert_eq!(target.ram.len(), 2);
    assert_note(&target, "2 segments");
}

#[test]
fn a_core_that_claims_more_ram_than_can_be_is_damaged() {
    let core = CoreBuilder::default().load_longer(0, &pages(1, 1), 1 << 51);
    assert!(complaint(&core.build(), "").contains("damaged"));
}

#[test]
fn what_is_no_core_is_told_apart_with_the_remedy() {
    let builder = CoreBuilder::default().load(0, &pages(1, 1));
    let with = |change: fn(&mut CoreBuilder)| {
        let mut builder = builder.clone();
        change(&mut builder);
        builder.build()
    };
    let flattened = [&b"makedumpfile\0\0\0\0"[..], &[0; 4096]].concat();
    for (file, words) in [
        (with(|core| core.kind = 2), ["no core", "kernel or program"]),
        (
            with(|core| core.machine = 183),
            ["no x86-64", "only x86-64"],
        ),
        (
            with(|core| core.machine = 3),
            ["long mode", "after the kernel"],
        ),
        (
            with(|core| (core.machine, core.class) = (3, 1)),
            ["long mode", "dump it"],
        ),
        (with(|core| core.class = 3), ["no x86-64", "only"]),
        (
            b"KDUMP   rest".to_vec(),
            ["kdump-compressed", "makedumpfile -E"],
        ),
        (flattened, ["flattened", "makedumpfile -R"]),
        (b"LibvirtQemudSave".to_vec(), ["libvirt", "--memory-only"]),
        (b"\x28\xb5\x2f\xfd....".to_vec(), ["zstd", "unpack"]),
        (b"hello".to_vec(), ["not an ELF", "dump-guest-memory"]),
        (b"\x7fE".to_vec(), ["not an ELF", "raw:FILE"]),
        (CoreBuilder::default().build(), ["no memory", "PT_LOAD"]),
    ] {
        let message = complaint(&file, "");
        for word in words {
            assert!(message.contains(word), "no {word} in: {message}");
        }
    }
}

/// Opens and looks at all of it: no panic and no endless loop, and what does not open is said to be broken in
/// one of the ways in which a file can be, by its name and with a remedy.
fn survive(file: &[u8]) -> Result<Target, String> {
    match open(file, "") {
        Ok(target) => {
            for range in &target.ram {
                let mut entries = [heirloom_inspect::Entry::ABSENT; 64];
                target
                    .memory
                    .read_column(range.start.pfn(), 511, &mut entries);
                let mut bytes = [0; 64];
                let _ = target.memory.read_bytes(range.start, &mut bytes);
            }
            Ok(target)
        }
        Err(error) => {
            let is_of_the_file = matches!(
                &error,
                TargetError::Core(
                    CoreError::Foreign { .. }
                        | CoreError::NotElf { .. }
                        | CoreError::NotLongMode { .. }
                        | CoreError::WrongMachine { .. }
                        | CoreError::NotACore { .. }
                        | CoreError::Truncated { .. }
                        | CoreError::Damaged { .. }
                        | CoreError::NoMemory { .. }
                )
            );
            let is_empty = matches!(
                &error,
                TargetError::Core(CoreError::File(FileError::Empty { .. }))
            );
            assert!(is_of_the_file || is_empty && file.is_empty(), "{error}");
            let message = error.to_string();
            let (name, rest) = message
                .split_once(" is ")
                .or(message.split_once(" holds "))
                .unwrap();
            assert!(name.ends_with("/core"), "{message}");
            assert!(rest.contains([':', ';']), "no remedy in: {message}");
            Err(message)
        }
    }
}

/// A small core with all there is in one.
fn small() -> Vec<u8> {
    CoreBuilder {
        extended: true,
        ..sound()
    }
    .note(
        "VMCOREINFO",
        b"SYMBOL(swapper_pg_dir)=ffffffff80003000\nNUMBER(phys_base)=0\n",
    )
    .load_longer(0x10_0000, &[7; 100], 0x10_0000)
    .build()
}

#[test]
fn a_core_cut_at_any_byte_of_its_headers_opens_or_says_what_is_wrong() {
    let whole = small();
    let ram_of_whole = ram(&open(&whole, "").unwrap());
    let mut opened = 0;
    for length in 0..4000 {
        let target = match survive(&whole[..length]) {
            Ok(target) => target,
            Err(message) => {
                let said = match length {
                    0 => "is empty",
                    1..4 => "is not an ELF file",
                    _ => "is cut off",
                };
                assert!(message.contains(said), "{length}: {message}");
                continue;
            }
        };
        opened += 1;
        // What is there is what was there, and what is missing is said.
        for (start, bytes) in ram(&target) {
            let is_inside = |(first, all): &(u64, u64)| {
                (*first..*first + *all).contains(&start) && start + bytes <= first + all
            };
            assert!(ram_of_whole.iter().any(is_inside), "{length}: {target:?}");
        }
        assert_note(&target, "bytes of the RAM");
    }
    assert!(opened > 100, "{opened}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn a_core_with_any_bytes_changed_and_cut_anywhere_opens_or_says_what_is_wrong(
        changes in prop::collection::vec((0_usize..2600, any::<u8>()), 0..6),
        words in prop::collection::vec((0_usize..320, any::<u64>()), 0..3),
        length in prop::option::of(0_usize..30_000),
    ) {
        let mut file = small();
        for (at, byte) in changes {
            file[at] ^= byte;
        }
        for (at, word) in words {
            file[8 * at..8 * at + 8].copy_from_slice(&word.to_le_bytes());
        }
        file.truncate(length.unwrap_or(file.len()));
        let _ = survive(&file);
    }
}
