//! The guest's root file system: a cpio archive in the "newc" format (the kernel's
//! Documentation/driver-api/early-userspace/buffer-format.rst).

use super::artifacts;

/// `c_mode`: a folder, and a file that may be run.
const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// The archive.
pub(crate) fn build() -> Vec<u8> {
    let busybox = artifacts::busybox();
    let workload = artifacts::workload();
    let members: [(&str, u32, &[u8]); 7] = [
        ("bin", FOLDER, &[]),
        ("dev", FOLDER, &[]),
        ("proc", FOLDER, &[]),
        ("sys", FOLDER, &[]),
        ("bin/busybox", PROGRAM, &busybox),
        ("bin/workload", PROGRAM, &workload),
        ("init", PROGRAM, include_bytes!("init.sh")),
    ];
    archive(&members)
}

/// The archive of a guest that has busybox and this as its process 1, and nothing else.
pub(crate) fn small(init: &[u8]) -> Vec<u8> {
    let busybox = artifacts::busybox();
    archive(&[
        ("bin", FOLDER, &[]),
        ("dev", FOLDER, &[]),
        ("proc", FOLDER, &[]),
        ("bin/busybox", PROGRAM, &busybox),
        ("init", PROGRAM, init),
    ])
}

/// An archive with programs and what they need, to go behind another one.
pub(crate) fn with_files(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut folders: Vec<&str> = Vec::new();
    for (path, _) in files {
        let ends = path.match_indices('/').map(|(at, _)| &path[..at]);
        for folder in ends {
            if !folders.contains(&folder) {
                folders.push(folder);
            }
        }
    }
    let folders = folders.into_iter().map(|folder| (folder, FOLDER, &[][..]));
    let files = files
        .iter()
        .map(|(path, contents)| (path.as_str(), PROGRAM, &contents[..]));
    let members: Vec<(&str, u32, &[u8])> = folders.chain(files).collect();
    archive(&members)
}

fn archive(members: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (number, (name, mode, contents)) in (1..).zip(members.iter().copied()) {
        append(&mut archive, number, mode, name, contents);
    }
    append(&mut archive, 0, 0, "TRAILER!!!", &[]);
    archive
}

fn append(archive: &mut Vec<u8>, inode: u32, mode: u32, name: &str, contents: &[u8]) {
    let length = |bytes: usize| u32::try_from(bytes).unwrap();
    archive.extend(b"070701");
    // inode, mode, uid, gid, links, time, size, device and rdevice (4), name size, checksum.
    let (size, name_size) = (length(contents.len()), length(name.len() + 1));
    for field in [inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0] {
        archive.extend(format!("{field:08x}").bytes());
    }
    for bytes in [&[name.as_bytes(), b"\0"].concat(), contents] {
        archive.extend(bytes);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
}
