//! QEMU's migration stream, made by a real QEMU, as it is and as libvirt saves it; what QEMU saves into a disk
//! is not read, and what is said of it works.

mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use heirloom_inspect::{CpuState, Depth, PhysAddr, Target};
use serde_json::{Value, json};
use support::qemu::Qemu;
use support::{complaint, guest, open, ram, read};

const PATIENCE: Duration = Duration::from_secs(300);
/// Enough that the guest's BIOS fits in, and little to write.
const RAM: u64 = 64 << 20;

fn wait(qemu: &mut Qemu, command: &str, status: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = qemu.ask(command, Value::Null);
        let found = &answer["status"];
        assert_ne!(found, "failed", "{answer}");
        if found == status {
            return;
        }
        assert!(Instant::now() < deadline, "{command}: {answer}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A guest that stands still, its stream, and a core of the same moment.
struct Migrated {
    qemu: Qemu,
    stream: PathBuf,
    core: PathBuf,
    live: Vec<CpuState>,
}

fn migrated(depth: Depth, arguments: &str) -> Migrated {
    let mut qemu = Qemu::start_counting(depth, arguments);
    qemu.ask("stop", Value::Null);
    let core = dump(&mut qemu, "core");
    let live = open(&qemu.spec("")).unwrap().cpus;
    let stream = stream(&mut qemu);
    Migrated {
        qemu,
        stream,
        core,
        live,
    }
}

fn stream(qemu: &mut Qemu) -> PathBuf {
    let stream = qemu.path("stream");
    let uri = format!("exec:cat > {}", stream.display());
    qemu.ask("migrate", json!({ "uri": uri }));
    wait(qemu, "query-migrate", "completed");
    stream
}

fn dump(qemu: &mut Qemu, name: &str) -> PathBuf {
    let path = qemu.path(name);
    let protocol = format!("file:{}", path.display());
    qemu.ask(
        "dump-guest-memory",
        json!({ "paging": false, "protocol": protocol }),
    );
    path
}

fn opened(path: &Path) -> Target {
    open(path.to_str().unwrap()).unwrap_or_else(|error| panic!("{error}"))
}

/// That both have the same RAM, as far as a stream has it: not what a BIOS has put over it.
#[track_caller]
fn assert_same_ram(one: &Target, other: &Target) {
    for start in (0..RAM).step_by(1 << 16) {
        if !(0xa_0000..0x10_0000).contains(&start) {
            assert!(
                read(one, start, 1 << 16) == read(other, start, 1 << 16),
                "{start:#x}"
            );
        }
    }
}

#[test]
fn a_stream_has_the_memory_and_the_registers_of_every_cpu() {
    for (depth, arguments) in [
        (Depth::Four, "-m 64 -smp 2"),
        (Depth::Five, "-m 64 -machine q35 -cpu qemu64,+la57"),
    ] {
        let Migrated {
            mut qemu,
            stream,
            core,
            live,
        } = migrated(depth, arguments);
        let target = opened(&stream);
        assert_eq!(ram(&target), [(0, 640 << 10), (1 << 20, RAM - (1 << 20))]);
        assert_same_ram(&target, &opened(&core));
        assert_eq!(target.cpus.len(), live.len());
        assert_eq!(target.cpus[0], live[0], "{arguments}");
        assert_eq!(target.cpus[0].cr3.get(), guest::root(depth));
        assert!(
            target
                .notes
                .iter()
                .any(|note| note.contains("migration stream"))
        );
        assert!(
            target
                .notes
                .iter()
                .all(|note| !note.contains("not all CPU registers"))
        );

        // Loaded into another QEMU it is the same guest, which can be dumped.
        qemu.kill();
        let incoming = format!("{arguments} -incoming exec:cat<{}", stream.display());
        let mut other = Qemu::start(depth, &incoming);
        wait(&mut other, "query-status", "paused");
        let dumped = dump(&mut other, "core");
        let dumped = opened(&dumped);
        assert_same_ram(&target, &dumped);
        assert_eq!(dumped.cpus[0].cr3, target.cpus[0].cr3);
    }
}

#[test]
fn of_every_machine_with_ram_on_both_sides_of_the_devices_all_say_where_it_is() {
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    for (machine, below) in [("pc", 3 * GIB), ("q35", 2 * GIB), ("microvm", 3 * GIB)] {
        let mut qemu = Qemu::start_counting(Depth::Four, &format!("-m 4608 -machine {machine}"));
        qemu.ask("stop", Value::Null);
        let legacy = (0, 640 << 10);
        let above = 4608 * MIB - below;
        let expected = [legacy, (MIB, below - MIB), (4 * GIB, above)];
        let live = open(&qemu.spec("")).unwrap();
        assert_eq!(ram(&live), expected, "{machine}, live");
        let stream = stream(&mut qemu);
        assert_eq!(ram(&opened(&stream)), expected, "{machine}, stream");
        // What is on both sides of 4 GiB, the firmware's ROM among it.
        let path = qemu.path("part");
        let part = json!({
            "paging": false, "protocol": format!("file:{}", path.display()),
            "begin": 4 * GIB - MIB, "length": 2 * MIB,
        });
        qemu.ask("dump-guest-memory", part);
        assert_eq!(ram(&opened(&path)), [(4 * GIB, MIB)], "{machine}, core");
    }
}

#[test]
fn the_memory_of_nodes_with_names_of_the_users_is_put_together_as_the_tables_tell() {
    let nodes = "-m 64 -machine q35 -cpu qemu64,+la57 -object memory-backend-ram,id=m0,size=24M \
        -object memory-backend-ram,id=m1,size=40M -numa node,memdev=m0 -numa node,memdev=m1";
    let Migrated {
        qemu: _qemu,
        stream,
        core,
        ..
    } = migrated(Depth::Five, nodes);
    let target = opened(&stream);
    assert_eq!(ram(&target), [(0, 640 << 10), (1 << 20, RAM - (1 << 20))]);
    assert_same_ram(&target, &opened(&core));
    assert!(!target.notes.iter().any(|note| note.contains("plugged in")));
}

#[test]
fn of_a_stream_that_is_cut_off_the_pages_that_it_has_are_read_and_no_others() {
    let Migrated {
        qemu: _qemu,
        stream,
        core,
        ..
    } = migrated(Depth::Four, "-m 64");
    let core = opened(&core);
    let bytes = std::fs::read(&stream).unwrap();
    let mut in_the_middle = 0;
    for sixteenths in 1..16 {
        std::fs::write(&stream, &bytes[..bytes.len() / 16 * sixteenths]).unwrap();
        let target = opened(&stream);
        let notes = target.notes.join("\n");
        assert!(
            notes.contains("cut off") && notes.contains("registers"),
            "{notes}"
        );
        assert!(target.cpus.is_empty() && target.memory.account().is_partial);
        let (mut there, mut missing) = (0, 0);
        for start in (0x10_0000..RAM).step_by(4096) {
            let mut page = [0; 4096];
            let at = PhysAddr::new(start);
            match target.memory.read_bytes(at, &mut page) {
                Ok(()) => {
                    assert!(page[..] == read(&core, start, 4096), "{start:#x}");
                    there += 1;
                }
                Err(_) => missing += 1,
            }
        }
        in_the_middle += u32::from(there > 0 && missing > 0);
    }
    assert!(in_the_middle > 0);
}

#[test]
fn what_libvirt_saves_is_that_stream_behind_a_header_packed_or_not() {
    let Migrated {
        qemu,
        stream,
        live,
        core,
    } = migrated(Depth::Four, "-m 64");
    let core = opened(&core);
    let bytes = std::fs::read(&stream).unwrap();
    let xml = b"<domain type='kvm'><name>guest</name></domain>\0";
    let saved = qemu.path("saved");
    for (packing, command) in [
        (0_u32, "cat"),
        (1, "gzip -c"),
        (3, "xz -0 -c"),
        (5, "zstd -q -c"),
    ] {
        let packed = std::process::Command::new("sh")
            .args(["-c", &format!("{command} < '{}'", stream.display())])
            .output()
            .unwrap();
        assert!(
            packed.status.success(),
            "`make dump-tools` installs {command}"
        );
        let stream = packed.stdout;
        // Version, length of the description, whether it ran, how it is packed, where the cookie is.
        let mut file = b"LibvirtQemudSave".to_vec();
        let length = u32::try_from(xml.len()).unwrap();
        for word in [2, length, 1, packing, 0].into_iter().chain([0; 14]) {
            file.extend(word.to_le_bytes());
        }
        file.extend(xml);
        file.extend(stream);
        std::fs::write(&saved, &file).unwrap();
        let target = opened(&saved);
        assert_same_ram(&target, &core);
        assert_eq!(target.cpus, live, "{command}");
    }
    let mut file = b"LibvirtQemudSave".to_vec();
    file.extend([0; 76]);
    file.extend(b"\x89LZO\0\r\n\x1a\n");
    std::fs::write(&saved, &file).unwrap();
    assert!(complaint(saved.to_str().unwrap()).contains("packed by lzop"));
    // What QEMU writes in blocks is longer than the stream.
    let padded = [&bytes[..], &[0; 4096]].concat();
    std::fs::write(&saved, &padded).unwrap();
    assert_eq!(opened(&saved).cpus, live);
}

#[test]
fn pages_that_a_stream_has_in_another_form_are_refused_with_the_reason() {
    let mut qemu = Qemu::start_counting(Depth::Four, "-m 64");
    let has = qemu.ask("query-migrate-capabilities", Value::Null);
    let has = has.as_array().unwrap();
    // Newer ones do not compress any more.
    if has
        .iter()
        .any(|capability| capability["capability"] == "compress")
    {
        let compress = json!({ "capabilities": [{ "capability": "compress", "state": true }] });
        qemu.ask("migrate-set-capabilities", compress);
        let stream = qemu.path("stream");
        qemu.ask(
            "migrate",
            json!({ "uri": format!("exec:cat > {}", stream.display()) }),
        );
        wait(&mut qemu, "query-migrate", "completed");
        let message = complaint(stream.to_str().unwrap());
        for word in ["compressed", "-incoming", "dump-guest-memory"] {
            assert!(message.contains(word), "{message}");
        }
    }
    for (flag, reason) in [(0x40_u64, "xbzrle"), (0x80, "RDMA"), (0x100, "compress")] {
        let mut stream = head("pc-i440fx-7.2", &[]);
        stream.extend((4096 | flag).to_be_bytes());
        let path = qemu.path("written");
        std::fs::write(&path, &stream).unwrap();
        let message = complaint(path.to_str().unwrap());
        assert!(message.contains(reason), "{message}");
    }
}

/// The beginning of a stream up to the first word of its RAM.
fn head(machine: &str, capabilities: &[&str]) -> Vec<u8> {
    let mut stream = b"QEVM\0\0\0\x03\x07".to_vec();
    stream.extend(u32::try_from(machine.len()).unwrap().to_be_bytes());
    stream.extend(machine.as_bytes());
    let text = |stream: &mut Vec<u8>, text: &str| {
        stream.push(u8::try_from(text.len()).unwrap());
        stream.extend(text.as_bytes());
    };
    if !capabilities.is_empty() {
        stream.push(5);
        text(&mut stream, "configuration/capabilities");
        stream.extend(1_u32.to_be_bytes());
        stream.extend(u32::try_from(capabilities.len()).unwrap().to_be_bytes());
        for capability in capabilities {
            text(&mut stream, capability);
        }
    }
    stream.push(1);
    stream.extend(2_u32.to_be_bytes());
    text(&mut stream, "ram");
    stream.extend([0_u32, 4].map(u32::to_be_bytes).concat());
    stream
}

#[test]
fn a_stream_whose_pages_lie_where_they_are_in_ram_is_read_too() {
    // The capability mapped-ram of newer QEMUs.
    let mut stream = head("pc-q35-9.0", &["mapped-ram"]);
    let pages = 5_u64;
    stream.extend(((pages * 4096) | 4).to_be_bytes());
    stream.push(6);
    stream.extend(b"pc.ram");
    stream.extend((pages * 4096).to_be_bytes());
    let bitmap = stream.len() as u64 + 28;
    stream.extend(1_u32.to_be_bytes());
    stream.extend([4096, bitmap, 1 << 20].map(u64::to_be_bytes).concat());
    // Pages 0, 1 and 4; what lies in the place of another is old.
    stream.extend(0b1_0011_u64.to_le_bytes());
    stream.resize(1 << 20, 0);
    for page in 0..pages {
        stream.extend(vec![u8::try_from(page + 1).unwrap(); 4096]);
    }
    // The RAM's end; its section's; the stream's.
    stream.extend(0x10_u64.to_be_bytes());
    stream.extend(b"\x7e\0\0\0\x02\0");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mapped");
    std::fs::write(&path, &stream).unwrap();
    // Its block has no whole MiB, and is no RAM of a machine.
    assert!(complaint(path.to_str().unwrap()).contains("no memory"));
    let mut whole = stream.clone();
    let sizes = head("pc-q35-9.0", &["mapped-ram"]).len();
    let length: u64 = 1 << 20;
    whole[sizes..sizes + 8].copy_from_slice(&(length | 4).to_be_bytes());
    whole[sizes + 15..sizes + 23].copy_from_slice(&length.to_be_bytes());
    whole.truncate((1 << 20) + 5 * 4096);
    whole.resize(2 << 20, 0);
    whole.extend(0x10_u64.to_be_bytes());
    whole.extend(b"\x7e\0\0\0\x02\0");
    std::fs::write(&path, &whole).unwrap();
    let target = opened(&path);
    // Of a PC's first MiB.
    assert_eq!(ram(&target), [(0, 640 << 10)]);
    for (page, value) in [(0, 1), (1, 2), (2, 0), (3, 0), (4, 5), (5, 0)] {
        assert_eq!(
            read(&target, page * 4096, 4096),
            vec![value; 4096],
            "{page}"
        );
    }
}

#[test]
fn a_guest_that_was_saved_into_a_disk_is_named_and_comes_out_as_is_said() {
    let mut qemu = Qemu::start_counting(Depth::Four, "-m 64");
    qemu.ask("stop", Value::Null);
    let core = dump(&mut qemu, "core");
    let disk = qemu.path("disk");
    std::fs::write(&disk, []).unwrap();
    let job = |qemu: &mut Qemu, command: &str, arguments: Value| {
        qemu.ask(command, arguments);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let jobs = qemu.ask("query-jobs", Value::Null);
            let job = &jobs[0];
            assert!(job["error"].is_null(), "{job}");
            if job["status"] == "concluded" {
                qemu.ask("job-dismiss", json!({ "id": "job" }));
                return;
            }
            assert!(Instant::now() < deadline, "{command}: {job}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let file = json!({ "driver": "file", "node-name": "file", "filename": disk });
    qemu.ask("blockdev-add", file);
    let options = json!({ "driver": "qcow2", "file": "file", "size": 1 << 20 });
    job(
        &mut qemu,
        "blockdev-create",
        json!({ "job-id": "job", "options": options }),
    );
    assert!(complaint(disk.to_str().unwrap()).contains("holds a disk and no memory"));
    let node = json!({ "driver": "qcow2", "node-name": "disk", "file": "file" });
    qemu.ask("blockdev-add", node);
    let save = json!({ "job-id": "job", "tag": "before", "vmstate": "disk", "devices": ["disk"] });
    job(&mut qemu, "snapshot-save", save);
    qemu.kill();

    let message = complaint(disk.to_str().unwrap());
    for word in [
        "qcow2",
        "`before`",
        "-S -loadvm NAME",
        "dump-guest-memory FILE",
    ] {
        assert!(message.contains(word), "no {word} in: {message}");
    }
    let drive = format!("-drive if=none,format=qcow2,file={}", disk.display());
    let mut other = Qemu::start(Depth::Four, &format!("-m 64 -S -loadvm before {drive}"));
    let again = dump(&mut other, "core");
    assert_eq!(opened(&again).cpus, opened(&core).cpus);
    assert_same_ram(&opened(&again), &opened(&core));
}
