//! Dumps that need no prefix: every form they come in, by writers of our own.

mod support;

use std::path::{Path, PathBuf};

use heirloom_inspect::{Depth, Entry, PhysAddr, RootLabel, Target};
use heirloom_source::TargetError;
use support::dumps::{Kdump, Packing, avml, flattened, lime};
use support::elf::{CoreBuilder, qemu_note};
use support::{ram, read};
use tempfile::TempDir;

const PAGE: u64 = 4096;
const TEXT: &[u8] =
    b"OSRELEASE=6.1.0-test\nSYMBOL(swapper_pg_dir)=ffffffff80003000\nNUMBER(phys_base)=0\n\
    NUMBER(pgtable_l5_enabled)=0\n";

struct Files(TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn opened(bytes: &[u8], options: &str) -> Result<Target, TargetError> {
    let files = Files::new();
    let path = files.write("file", bytes);
    support::open(&format!("{}{options}", path.display()))
}

#[track_caller]
fn complaint(bytes: &[u8], options: &str) -> String {
    match opened(bytes, options) {
        Ok(target) => panic!("it opens: {target:?}"),
        Err(error) => error.to_string(),
    }
}

#[track_caller]
fn assert_says(target: &Target, word: &str) {
    assert!(
        target.notes.iter().any(|note| note.contains(word)),
        "no {word} in {:?}",
        target.notes
    );
}

/// Pages whose words tell where they stand; every third is zero, every fifth cannot be packed.
fn pages(first: u64, count: u64) -> Vec<u8> {
    (first..first + count)
        .flat_map(|page| {
            (0..512_u64).flat_map(move |word| {
                let value = match page {
                    page if page % 3 == 0 => 0,
                    page if page % 5 == 0 => {
                        (page * 512 + word).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (word << 40)
                    }
                    page => (page << 32) | (word / 8),
                };
                value.to_le_bytes()
            })
        })
        .collect()
}

/// RAM with a hole, and pages that were left out.
fn sound(packing: Packing) -> Kdump {
    Kdump {
        packing,
        ..Kdump::default()
    }
    .ram(0, &pages(0, 40))
    .left_out(40..44)
    .ram(44, &pages(44, 20))
    .ram(1 << 20, &pages(1 << 20, 10))
}

/// That all of [`sound`] is there.
#[track_caller]
fn assert_is_sound(target: &Target) {
    assert_eq!(ram(target), [(0, 64 * PAGE), (4 << 30, 10 * PAGE)]);
    for (first, count) in [(0, 40), (44, 20), (1 << 20, 10)] {
        let length = usize::try_from(count * PAGE).unwrap();
        assert_eq!(read(target, first * PAGE, length), pages(first, count));
        let mut column = vec![Entry::new(9); length / 4096];
        let first_pfn = PhysAddr::new(first * PAGE).pfn();
        target.memory.read_column(first_pfn, 300, &mut column);
        for (number, entry) in (first..).zip(column) {
            let at = PhysAddr::new(number * PAGE + 2400);
            assert_eq!(entry.get(), target.memory.read_u64(at).unwrap());
        }
    }
    for at in [40 * PAGE, 44 * PAGE - 8, 64 * PAGE, (4 << 30) - 8] {
        assert!(
            target.memory.read_u64(PhysAddr::new(at)).is_err(),
            "{at:#x}"
        );
    }
    // Pages that were left out are RAM and unknown; nothing else is wrong.
    let account = target.memory.account();
    assert!(account.is_partial);
    assert_eq!((account.problem, account.remarks), (None, vec![]));
}

#[test]
fn pages_in_every_packing_are_unpacked_and_those_left_out_are_neither_zero_nor_no_ram() {
    for packing in [
        Packing::None,
        Packing::Zlib,
        Packing::Lzo,
        Packing::Snappy,
        Packing::Zstd,
    ] {
        let target = opened(&sound(packing).build(), "").unwrap();
        assert_is_sound(&target);
        assert_says(&target, "kdump-compressed dump (header version 6");
        assert_says(&target, "4 of 74 pages of RAM were left out");
    }
}

#[test]
fn every_version_of_the_header_is_read_and_the_old_signature_too() {
    for version in 0..=7 {
        let mut dump = sound(Packing::Zlib);
        dump.version = version;
        dump.vmcoreinfo = TEXT.to_vec();
        let target = opened(&dump.build(), "").unwrap();
        assert_is_sound(&target);
        // VMCOREINFO came with version 3.
        let root = (RootLabel::Kernel, PhysAddr::new(0x3000));
        let roots = if version < 3 { vec![] } else { vec![root] };
        assert_eq!(target.roots, roots, "{version}");
    }
    let mut dump = sound(Packing::Zlib);
    dump.signature = b"DISKDUMP";
    assert_is_sound(&opened(&dump.build(), "").unwrap());
}

#[test]
fn registers_and_the_kernels_own_account_come_from_notes() {
    let notes = CoreBuilder::default()
        .note("CORE", &[0; 336])
        .note("QEMU", &qemu_note(0x1000, 0x6b0, 0x10))
        .note("VMCOREINFO", TEXT)
        .notes;
    let mut dump = sound(Packing::Zlib);
    dump.notes = notes;
    let target = opened(&dump.build(), "").unwrap();
    assert_eq!(target.cpus.len(), 1);
    assert_eq!(target.cpus[0].cr4, 0x6b0);
    assert_eq!(target.depth, Some(Depth::Four));
    assert_eq!(target.roots, [(RootLabel::Kernel, PhysAddr::new(0x3000))]);
    assert_says(&target, "EFER");

    let target = opened(&dump.build(), ",cr3=0x5000").unwrap();
    assert_eq!(target.roots.len(), 2);
    let message = complaint(&dump.build(), ",cr3=0x100000");
    assert!(message.contains("no RAM"), "{message}");
}

#[test]
fn a_flattened_dump_is_the_dump_whatever_the_order_of_its_parts() {
    let dump = sound(Packing::Zlib).build();
    for part in [1000, 4096, 65536] {
        let flat = flattened(&dump, part);
        let target = opened(&flat, "").unwrap();
        assert_is_sound(&target);
        assert_says(&target, "flattened");
    }
    // So is a flattened core.
    let core = CoreBuilder::default()
        .note("QEMU", &qemu_note(0x1000, 0x6b0, 0x10))
        .load(0, &pages(0, 4));
    let target = opened(&flattened(&core.build(), 3000), "").unwrap();
    assert_eq!(read(&target, 0, 4 * 4096), pages(0, 4));
    assert_eq!(target.cpus.len(), 1);
    // The end is missing: what is there is read, and that is said. Parts are written last ones first.
    let flat = flattened(&dump, 65536);
    let target = opened(&flat[..flat.len() - 16], "").unwrap();
    assert_says(&target, "cut off");
    let message = complaint(&flattened(&[7; 5000], 1000), "");
    assert!(message.contains("neither a kdump-compressed"), "{message}");
}

#[test]
fn the_files_of_a_split_dump_are_one_in_any_order_and_what_lacks_is_said() {
    let files = Files::new();
    let part = |name: &str, range: std::ops::Range<u64>| {
        let mut dump = sound(Packing::Lzo);
        dump.split = Some(range);
        files.write(name, &dump.build()).display().to_string()
    };
    let one = part("one", 0..50);
    let two = part("two", 50..1 << 20);
    let three = part("three", 1 << 20..(1 << 20) + 10);
    let target = support::open(&format!("{two},part={three},part={one}")).unwrap();
    assert_is_sound(&target);

    let target = support::open(&one).unwrap();
    assert_says(&target, "part=FILE");
    assert_eq!(read(&target, 4 * PAGE, 4096), pages(4, 1));
    assert!(target.memory.read_u64(PhysAddr::new(50 * PAGE)).is_err());

    let other = files.write("other", &sound(Packing::Lzo).build());
    let other = other.display();
    for (spec, words) in [
        (format!("{one},part={other}"), "not split"),
        (format!("{one},part={one}"), "pages of"),
        (
            format!("{one},part={}", files.write("text", b"x").display()),
            "no kdump",
        ),
        (format!("{one},part={one}0"), "no file"),
    ] {
        let message = support::complaint(&spec);
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn a_dump_that_is_cut_or_damaged_is_read_as_far_as_it_goes() {
    let whole = sound(Packing::Zlib).build();
    // The last pages lack: what is there is right, and nothing is taken to be zero.
    let target = opened(&whole[..whole.len() - 3000], "").unwrap();
    assert_eq!(read(&target, 4 * PAGE, 4096), pages(4, 1));
    let last = PhysAddr::new((4 << 30) + 9 * PAGE);
    assert!(target.memory.read_u64(last).is_err());

    // A page that cannot be unpacked is known to be so.
    let mut bytes = whole.clone();
    let end = bytes.len();
    bytes[end - 20_000..].fill(0xff);
    let target = opened(&bytes, "").unwrap();
    let packed = PhysAddr::new((4 << 30) + 6 * PAGE);
    assert!(target.memory.read_u64(packed).is_err());
    let remarks = target.memory.account().remarks;
    assert!(remarks[0].contains("0x100006000"), "{remarks:?}");

    for (length, word) in [
        (400, "its header"),
        (4190, "second header"),
        (9000, "bitmap"),
    ] {
        let message = complaint(&whole[..length], "");
        assert!(
            message.contains("cut off") && message.contains(word),
            "{message}"
        );
    }
    let mut wrong = sound(Packing::Zlib);
    wrong.machine = "aarch64";
    assert!(complaint(&wrong.build(), "").contains("aarch64"));
}

#[test]
fn ranges_of_lime_and_avml_lie_where_their_headers_say() {
    let (low, high) = (pages(1, 30), pages(1 << 20, 40));
    let ranges: [(u64, &[u8]); 2] = [(PAGE, &low), (4 << 30, &high)];
    for (file, word) in [
        (lime(&ranges), "a LiME image"),
        (avml(&ranges), "AVML image"),
    ] {
        let target = opened(&file, ",cr3=0x5000").unwrap();
        assert_says(&target, word);
        assert_eq!(ram(&target), [(PAGE, 30 * PAGE), (4 << 30, 40 * PAGE)]);
        assert_eq!(read(&target, PAGE, low.len()), low);
        assert_eq!(read(&target, 4 << 30, high.len()), high);
        assert_eq!(target.memory.account().left_out, []);
        let mut column = vec![Entry::ABSENT; 40];
        let first = PhysAddr::new(4 << 30).pfn();
        target.memory.read_column(first, 511, &mut column);
        for (page, entry) in high.chunks(4096).zip(column) {
            assert_eq!(entry.get().to_le_bytes(), page[4088..]);
        }

        // What a cut one lacks is RAM that is not in the file.
        let target = opened(&file[..file.len() - 9000], "").unwrap();
        assert_says(&target, "cut off");
        let left_out = target.memory.account().left_out;
        assert_eq!(left_out.len(), 1);
        assert_eq!(left_out[0].end().get(), (4 << 30) + 40 * PAGE);
    }
    let mut wrong = lime(&ranges);
    wrong[32 + 30 * 4096] = b'X';
    assert!(complaint(&wrong, "").contains("no header of version 1"));
}

#[test]
fn virtualboxs_registers_come_from_its_notes() {
    // struct DBGFCORECPU: 18 registers, six segments, CR0, CR2, CR3, CR4, eight debug registers, GDTR, IDTR,
    // LDTR, TR, three for SYSENTER, EFER.
    let mut state = vec![0; 18 * 8 + 6 * 24];
    state[14 * 8..15 * 8].copy_from_slice(&0xffff_ffff_8100_0000_u64.to_le_bytes());
    state[18 * 8 + 16..18 * 8 + 18].copy_from_slice(&0x10_u16.to_le_bytes());
    for word in [0x8005_0033_u64, 0xdead_b000, 0x2000, 0x6b0] {
        state.extend(word.to_le_bytes());
    }
    state.extend([0; 8 * 8]);
    for base in [0xffff_fe00_0000_1000_u64, 0xffff_fe00_0000_0000] {
        state.extend(base.to_le_bytes());
        state.extend([0; 8]);
    }
    state.extend([0; 2 * 24 + 3 * 8]);
    state.extend(0xd01_u64.to_le_bytes());
    state.extend([0; 400]);
    let core = CoreBuilder::default()
        .note("VBCORE", &[0; 24])
        .note("VBCPU", &state)
        .load(0, &pages(0, 4));
    let target = opened(&core.build(), "").unwrap();
    let cpu = target.cpus[0];
    assert_eq!(
        (cpu.cr0, cpu.cr4, cpu.efer, cpu.cpl),
        (0x8005_0033, 0x6b0, 0xd01, 0)
    );
    assert_eq!(cpu.cr3.root(), PhysAddr::new(0x2000));
    assert_eq!(cpu.rip.get(), 0xffff_ffff_8100_0000);
    assert_eq!(cpu.idt.unwrap().get(), 0xffff_fe00_0000_0000);
    assert_eq!(cpu.gdt.unwrap().get(), 0xffff_fe00_0000_1000);

    let short = CoreBuilder::default()
        .note("VBCPU", &state[..400])
        .load(0, &pages(0, 4));
    let target = opened(&short.build(), "").unwrap();
    assert!(target.cpus.is_empty());
    assert_says(&target, "VirtualBox's notes");
}

#[test]
fn the_core_of_a_process_is_refused_as_what_it_is() {
    // NT_PRSTATUS, NT_PRPSINFO, NT_AUXV, as gcore and the kernel write them.
    let core = CoreBuilder::default()
        .typed_note("CORE", 1, &[0; 336])
        .typed_note("CORE", 3, &[0; 136])
        .typed_note("CORE", 6, &[0; 320])
        .load(0, &pages(0, 4));
    let message = complaint(&core.build(), "");
    for word in ["the core of a process", "dump-guest-memory"] {
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn what_a_dumping_kernel_keeps_to_itself_may_be_ram() {
    let core = CoreBuilder::default()
        .typed_note("CORE", 1, &[0; 336])
        .note("VMCOREINFO", TEXT)
        .load(0x1000, &pages(1, 159))
        .load(1 << 20, &pages(256, 256))
        .load(4 << 20, &pages(1024, 8));
    let target = opened(&core.build(), "").unwrap();
    let left_out = target.memory.account().left_out;
    let left_out: Vec<(u64, u64)> = left_out
        .iter()
        .map(|range| (range.start.get(), range.bytes))
        .collect();
    assert_eq!(left_out, [(0, 0x1000), (2 << 20, 2 << 20)]);
    assert_says(&target, "crashkernel=");

    // A hypervisor knows what RAM there is.
    let core = core.note("QEMU", &qemu_note(0x1000, 0x6b0, 0x10));
    let target = opened(&core.build(), "").unwrap();
    assert_eq!(target.memory.account().left_out, []);
}

#[test]
fn pages_that_makedumpfile_left_out_of_qemus_core_are_ram() {
    let core = CoreBuilder::default()
        .note("QEMU", &qemu_note(0x1000, 0x6b0, 0x10))
        .note("VMCOREINFO", TEXT)
        .load_longer(0, &pages(0, 2), 8 * PAGE);
    let target = opened(&core.build(), "").unwrap();
    assert_eq!(ram(&target), [(0, 8 * PAGE)]);
    assert_says(&target, "24576 bytes of RAM");
}

#[test]
fn each_kind_is_named_and_says_what_makes_one_that_is_read() {
    for (start, words) in [
        (
            &b"QFI\xfb\0\0\0\x03"[..],
            ["a qcow2 image", "dump-guest-memory"],
        ),
        (b"KDMV\x01", ["a VMDK image", "dump-guest-memory"]),
        (b"EVF\x09\x0d\x0a\xff\0", ["EnCase", "ewfexport"]),
        (b"HIBR", ["hibernation", "resume"]),
        (b"\x1f\x8b\x08\0", ["gzip", "gunzip"]),
        (b"BZh9", ["bzip2", "bunzip2"]),
        (b"\xd2\xbe\xd2\xbe", ["VMware", "vmss2core"]),
        (b"LibvirtQemudSave", ["libvirt", "virsh dump --memory-only"]),
    ] {
        let bytes = [start, &[0; 8192]].concat();
        for kind in ["", "raw:"] {
            let files = Files::new();
            let path = files.write("file", &bytes);
            let message = support::complaint(&format!("{kind}{}", path.display()));
            for word in words {
                assert!(message.contains(word), "no {word} in: {message}");
            }
        }
    }
}

#[test]
fn an_image_of_ram_is_what_nothing_else_begins_like() {
    let target = opened(&pages(0, 4), ",cr3=0x1000").unwrap();
    assert_says(&target, "taken for an image of RAM");
    assert_eq!(ram(&target), [(0, 4 * PAGE)]);
    let target = opened(&pages(0, 4), ",map=4K:1M:4K").unwrap();
    assert_eq!(ram(&target), [(1 << 20, PAGE)]);
    // Options that a kind does not take are said to be for another.
    let core = CoreBuilder::default().load(0, &pages(0, 4)).build();
    let message = complaint(&core, ",map=0:0:4K");
    assert!(message.contains("map= or hole="), "{message}");
    let message = complaint(&core, ",part=x");
    assert!(message.contains("part="), "{message}");
}

#[test]
fn raw_on_a_container_is_refused_and_an_image_inside_may_be_mapped() {
    let core = CoreBuilder::default().load(0, &pages(0, 4)).build();
    let files = Files::new();
    for (name, bytes, word) in [
        ("core", core.clone(), "an ELF file"),
        (
            "kdump",
            sound(Packing::Zlib).build(),
            "a kdump-compressed dump",
        ),
        ("lime", lime(&[(0, &pages(0, 1))]), "a LiME image"),
        ("avml", avml(&[(0, &pages(0, 1))]), "AVML"),
    ] {
        let path = files.write(name, &bytes);
        let message = support::complaint(&format!("raw:{}", path.display()));
        for word in [word, "leave out the prefix"] {
            assert!(message.contains(word), "no {word} in: {message}");
        }
    }
    let offset = core.len() - 4 * 4096;
    let path = files.write("core", &core);
    let spec = format!("raw:{},map={offset}:0:16K", path.display());
    let target = support::open(&spec).unwrap();
    assert_eq!(read(&target, 0, 4 * 4096), pages(0, 4));
}

/// Tables in an image of 3.5 GiB of RAM whose hole from `hole` to 4 GiB was taken out.
fn image_without(hole: u64) -> (TempDir, String) {
    let files = Files::new();
    let path = files.0.path().join("ram");
    let file = std::fs::File::create(&path).unwrap();
    let length = 0xe000_0000_u64 + (64 << 20);
    file.set_len(length).unwrap();
    let offset = |at: u64| if at < hole { at } else { at - (4 << 30) + hole };
    let put = |at: u64, index: u64, entry: u64| {
        let place = offset(at) + 8 * index;
        std::os::unix::fs::FileExt::write_all_at(&file, &entry.to_le_bytes(), place).unwrap();
    };
    // A root, and tables below it on both sides of the hole.
    let root = 0x10_0000;
    for number in 0..20_u64 {
        let base = if number % 2 == 0 { 0x20_0000 } else { 4 << 30 };
        let [pdpt, pd, pt] = [0, 1, 2].map(|table| base + (number * 3 + table) * PAGE);
        put(root, 256 + number, pdpt | 3);
        put(pdpt, 7, pd | 3);
        put(pd, 9, pt | 3);
        put(pt, 11, 0x1234_5003);
    }
    (files.0, path.display().to_string())
}

#[test]
fn a_hole_that_was_taken_out_is_found_from_the_tables_or_told() {
    for hole in [2_u64 << 30, 3 << 30, 0xe000_0000] {
        let (_folder, path) = image_without(hole);
        let end = (4 << 30) + 0xe000_0000 + (64 << 20) - hole;
        let wanted = [(0, hole), (4 << 30, end - (4 << 30))];
        let target = support::open(&format!("{path},cr3=0x100000")).unwrap();
        assert_eq!(ram(&target), wanted);
        assert_says(&target, "the page tables tell");
        assert_eq!(read(&target, (4 << 30) + 3 * PAGE, 8).len(), 8);
        let target = support::open(&format!("{path},hole={hole:#x}")).unwrap();
        assert_eq!(ram(&target), wanted);
        // Without a CR3 nothing tells, and that is said.
        let target = support::open(&format!("raw:{path}")).unwrap();
        assert_says(&target, "hole=ADDRESS");
        assert_eq!(ram(&target).len(), 1);
    }
    let small = complaint(&pages(0, 4), ",hole=1M");
    assert!(small.contains("not inside"), "{small}");
}

#[test]
fn a_file_that_is_not_there_is_said_with_every_way_to_write_a_target() {
    let message = support::complaint("/nowhere/guest.core");
    for word in ["no file /nowhere/guest.core", "core:FILE", "qemu:SOCKET"] {
        assert!(message.contains(word), "{message}");
    }
    assert!(Path::new("/dev/null").exists());
    let message = support::complaint("/dev/null");
    assert!(message.contains("neither a regular file"), "{message}");
}
