//! Sound files and answers, for tests that change them.

use std::io::Write;
use std::process::{Command, Stdio};

use heirloom_inspect::history::GroundTruth;
use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{Capturer, Depth, Entry, Mode, PhysAddr, RootLabel};
use heirloom_source::Spec;
use heirloom_source::recording::{Capture, End, Header, Recorder};

use super::dumps::{Kdump, Packing, avml, flattened, lime};
use super::elf::{CoreBuilder, qemu_note};
use super::fake::Fake;
use super::snapshots::{Cpu, vmware, windows, windows_with_bitmap};

/// A few pages, one of them a root.
fn ram() -> Vec<u8> {
    let mut ram: Vec<u8> = (0..24_u32)
        .flat_map(|page| (0..4096_u32).map(move |at| (page * (at / 9)).to_le_bytes()[0]))
        .collect();
    ram[0x1000..0x2000].fill(0);
    for (at, entry) in [(0x1000, 0x2067_u64), (0x1ff8, 0x2063), (0x1880, 0x3063)] {
        ram[at..at + 8].copy_from_slice(&entry.to_le_bytes());
    }
    ram
}

/// A migration stream with 1 MiB of RAM, most of it zero.
fn stream(is_mapped: bool, ram: &[u8]) -> Vec<u8> {
    let mut stream = b"QEVM\0\0\0\x03\x07\0\0\0\x02pc\x05\x1aconfiguration/capabilities".to_vec();
    stream.extend(b"\0\0\0\x01\0\0\0\x01\x0amapped-ram");
    if !is_mapped {
        let last = stream.len() - 1;
        stream[last] = b'X';
    }
    stream.extend(b"\x01\0\0\0\x02\x03ram\0\0\0\0\0\0\0\x04");
    stream.extend((1_u64 << 20 | 4).to_be_bytes());
    stream.extend(b"\x06pc.ram");
    stream.extend((1_u64 << 20).to_be_bytes());
    if is_mapped {
        stream.extend(1_u32.to_be_bytes());
        let bitmap = stream.len() as u64 + 24;
        stream.extend([4096, bitmap, 1024].map(u64::to_be_bytes).concat());
        stream.extend([0xff; 32]);
        stream.resize(1024, 0);
        stream.extend(ram);
        stream.resize(1024 + (1 << 20), 7);
    } else {
        for (number, page) in (0_u64..).zip(ram.chunks(4096)) {
            stream.extend((number << 12 | 8).to_be_bytes());
            stream.extend(b"\x06pc.ram");
            stream.extend(page);
        }
        for number in 100_u64..200 {
            stream.extend((number << 12 | 2 | 0x20).to_be_bytes());
            stream.push(0);
        }
    }
    stream.extend(0x10_u64.to_be_bytes());
    stream.extend(b"\x7e\0\0\0\x02\x04\0\0\0\x03\x03cpu\0\0\0\0\0\0\0\x0c");
    stream.extend([0x55; 300]);
    stream.push(0);
    let json = br#"{"devices":[{"name":"cpu","instance_id":0,"fields":[{"name":"env.regs","size":8,"array_len":16},
        {"name":"env.eip","size":8},{"name":"env.eflags","size":8},{"name":"env.segs","size":20,"array_len":6},
        {"name":"env.cr[0]","size":8},{"name":"env.cr[3]","size":8}]}]}"#;
    stream.push(6);
    stream.extend(u32::try_from(json.len()).unwrap().to_be_bytes());
    stream.extend(json);
    stream
}

/// Dumps of every format that is one file, by name.
pub(crate) fn dumps() -> Vec<(&'static str, Vec<u8>)> {
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
        .left_out(24..30)
        .build()
    };
    let ranges: [(u64, &[u8]); 2] = [(0, &ram), (1 << 32, &ram)];
    let core = CoreBuilder {
        notes: notes.clone(),
        ..CoreBuilder::default()
    }
    .load(0, &ram)
    .load(1 << 32, &ram);
    let cpus = [Cpu::new(0x1000), Cpu::new(0x5000)];
    let packed = |tool: &str| {
        let mut command = Command::new(tool);
        let command = command
            .arg("-c")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("`make dump-tools` installs it");
        let mut stdin = child.stdin.take().unwrap();
        let bytes = core.build();
        let writer = std::thread::spawn(move || stdin.write_all(&bytes).unwrap());
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output.stdout
    };
    vec![
        (
            "VMware",
            vmware(
                &cpus,
                &[(0, 0, 8), (1 << 20, 8, 4)],
                Some((&ram, false)),
                true,
            ),
        ),
        ("Windows", windows(0x3000, &[(1, 7), (0x10_0000, 5)], &ram)),
        (
            "Windows, bitmap",
            windows_with_bitmap(0x3000, &[(0, 24)], *b"SDMP", &[1, 3, 17]),
        ),
        ("migration", stream(false, &ram)),
        ("mapped RAM", stream(true, &ram)),
        ("gzip", packed("gzip")),
        ("xz", packed("xz")),
        ("zstd", packed("zstd")),
        ("lz4", packed("lz4")),
        ("bzip2", packed("bzip2")),
        ("zlib", kdump(Packing::Zlib)),
        ("lzo", kdump(Packing::Lzo)),
        ("snappy", kdump(Packing::Snappy)),
        ("zstd pages", kdump(Packing::Zstd)),
        ("flattened", flattened(&kdump(Packing::Zlib), 4096)),
        ("LiME", lime(&ranges)),
        ("AVML", avml(&ranges)),
        ("core", core.build()),
    ]
}

/// A recording of a few moments.
pub(crate) fn recording() -> Vec<u8> {
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

/// What is asked of a QEMU, and what it may answer.
pub(crate) fn answers() -> [(&'static str, String); 6] {
    const REGISTERS: &str = include_str!("../../../qmp/src/tests/registers.txt");
    const VIEW: &str = include_str!("../../src/qemu/tests/flat_view.txt");
    let printed = |text: &str| serde_json::json!({ "return": text }).to_string();
    let cpu = serde_json::json!({ "thread-id": std::process::id(), "qom-path": "/cpu" });
    [
        (
            "query-status",
            r#"{"return": {"running": true}}"#.to_owned(),
        ),
        (
            "query-cpus-fast",
            serde_json::json!({ "return": [cpu] }).to_string(),
        ),
        ("info registers -a", printed(REGISTERS)),
        ("info mtree -f", printed(VIEW)),
        (
            "gpa2hva",
            printed("Host virtual address for 0x0 (pc.ram) is 0x1000"),
        ),
        ("cont", r#"{"return": {}}"#.to_owned()),
    ]
}

/// Has a QEMU answer `command` with `line`.
///
/// # Panics
/// If the guest does not run on after that.
pub(crate) fn answered_with(command: &'static str, line: &[u8]) {
    let line = String::from_utf8_lossy(line).replace(['\n', '\r'], " ");
    let fake = Fake::default().instead(command, line.clone()).serve();
    let spec: Spec = fake.spec.parse().unwrap();
    if let Err(error) = spec.open() {
        assert!(!error.to_string().is_empty());
    }
    let asked = fake.asked();
    let stopped = asked.iter().any(|question| question == "stop");
    let runs = asked.last().is_some_and(|last| last == "cont");
    assert!(!stopped || runs, "{command}: {line}: {asked:?}");
}
