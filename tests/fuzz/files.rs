//! Files and answers: kernels, dumps of every format, recordings, what a monitor says.

use std::path::Path;

use heirloom_inspect::history::GroundTruth;
use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{Capturer, Depth, Discovery, Entry, Mode, PhysAddr, RootLabel};
use heirloom_machine::memory::Ram;
use heirloom_machine::{KernelImage, boot};
use heirloom_source::Spec;
use heirloom_source::recording::{Capture, End, Header, Recorder, Recording};

use crate::dumps::{Kdump, Packing, avml, flattened, lime};
use crate::elf::{CoreBuilder, qemu_note};
use crate::engine::Target;
use crate::fake::Fake;
use crate::machine::{BzImage, Elf, HALT, SPIN, module};
use crate::snapshots::{Cpu, cloud_hypervisor, firecracker, vmware, windows};

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

/// A few pages, one of them a root.
fn ram() -> Vec<u8> {
    let mut ram: Vec<u8> = (0..12_u32)
        .flat_map(|page| (0..4096_u32).map(move |at| (page * (at / 9)).to_le_bytes()[0]))
        .collect();
    ram[0x1000..0x2000].fill(0);
    for (at, entry) in [(0x1000, 0x2067_u64), (0x1ff8, 0x2063), (0x1880, 0x3063)] {
        ram[at..at + 8].copy_from_slice(&entry.to_le_bytes());
    }
    ram
}

pub(crate) fn dumps() -> Target {
    let ram = ram();
    let notes = CoreBuilder::default()
        .note("QEMU", &qemu_note(0x1000, 0x6b0, 0x10))
        .note("VMCOREINFO", b"NUMBER(phys_base)=0\n")
        .notes;
    let kdump = |packing| {
        Kdump {
            packing,
            notes: notes.clone(),
            ..Kdump::default()
        }
        .ram(0, &ram)
        .left_out(12..16)
        .build()
    };
    let ranges: [(u64, &[u8]); 2] = [(0, &ram), (1 << 32, &ram)];
    let core = CoreBuilder {
        notes: notes.clone(),
        ..CoreBuilder::default()
    };
    let core = core.load(0, &ram).load(1 << 32, &ram).build();
    let cpus = [Cpu::new(0x1000), Cpu::new(0x5000)];
    let gzip = {
        // Stored, as a packer with level 0 writes (RFC 1952, RFC 1951 3.2.4).
        let mut gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x01".to_vec();
        let length = u16::try_from(core.len().min(0xffff)).unwrap();
        gzip.extend(length.to_le_bytes());
        gzip.extend((!length).to_le_bytes());
        gzip.extend(&core[..usize::from(length)]);
        gzip
    };
    let seeds = vec![
        core,
        kdump(Packing::Zlib),
        kdump(Packing::Lzo),
        kdump(Packing::Snappy),
        kdump(Packing::Zstd),
        kdump(Packing::None),
        flattened(&kdump(Packing::Zlib), 4096),
        lime(&ranges),
        avml(&ranges),
        vmware(
            &cpus,
            &[(0, 0, 8), (1 << 20, 8, 4)],
            Some((&ram, false)),
            true,
        ),
        windows(0x3000, &[(1, 7), (0x10_0000, 5)], &ram),
        firecracker(&cpus),
        cloud_hypervisor(&cpus, &[(0, 8 << 12)], 0),
        ram.clone(),
        gzip,
    ];
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

/// A recording of a few moments.
fn recording() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.rec");
    let mut memory = FakeMemory::new();
    let root = PhysAddr::new(0x1000);
    let truth = GroundTruth {
        ram: Vec::new(),
        image: Vec::new(),
    };
    let mut recorder = Recorder::create(&path, &Header::new(truth)).unwrap();
    let mut capturer = Capturer::new();
    for index in 256..264 {
        let entry = Entry::new(0x2003 + 0x1000 * u64::from(index));
        memory.poke(root.pfn(), index, entry);
        let roots = [(RootLabel::Kernel, root)];
        let snapshot = capturer.capture(&memory, Mode::typical(Depth::Four), &roots);
        let capture = Capture {
            snapshot: &snapshot,
            cpus: &[heirloom_inspect::CpuState::default()],
            reporting_cpu: 0,
            pieces: &[],
        };
        recorder.record(None, Some(capture)).unwrap();
    }
    recorder.finish(&End::Done { status: 0 }).unwrap();
    std::fs::read(path).unwrap()
}

pub(crate) fn recordings() -> Target {
    Target::new("recordings", vec![recording()], |input| {
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
    const REGISTERS: &str = include_str!("../../vmm/qmp/src/tests/registers.txt");
    const VIEW: &str = include_str!("../../vmm/source/src/qemu/tests/flat_view.txt");
    const ASKED: [&str; 6] = [
        "query-status",
        "query-cpus-fast",
        "info registers -a",
        "info mtree -f",
        "gpa2hva",
        "cont",
    ];
    let printed = |text: &str| serde_json::json!({ "return": text }).to_string();
    let cpus = serde_json::json!({ "return": [{ "thread-id": 1, "qom-path": "/cpu" }] });
    let answers = [
        r#"{"return": {"running": true}}"#.to_owned(),
        cpus.to_string(),
        printed(REGISTERS),
        printed(VIEW),
        printed("Host virtual address for 0x0 (pc.ram) is 0x1000"),
        r#"{"return": {}}"#.to_owned(),
    ];
    // The first byte says whose answer it is.
    let seeds = (0..).zip(answers).map(|(asked, answer)| {
        let mut seed = vec![asked];
        seed.extend(answer.into_bytes());
        seed
    });
    Target::new("monitor", seeds.collect(), |input| {
        let Some((asked, line)) = input.split_first() else {
            return;
        };
        let line = String::from_utf8_lossy(line).replace(['\n', '\r'], " ");
        let command = ASKED[usize::from(*asked) % ASKED.len()];
        let fake = Fake::default().instead(command, line.clone()).serve();
        let spec: Spec = fake.spec.parse().unwrap();
        if let Err(error) = spec.open() {
            assert!(!error.to_string().is_empty());
        }
        let asked = fake.asked();
        let stopped = asked.iter().any(|question| question == "stop");
        let runs = asked.last().is_some_and(|last| last == "cont");
        assert!(!stopped || runs, "{command}: {line}: {asked:?}");
    })
}
