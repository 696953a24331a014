//! The QEMU process as /proc shows it: which file, if any, its memory is a mapping of.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::unistd::Pid;

/// One line of /proc/PID/maps (proc_pid_maps(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MappedArea {
    /// First address, and the first one behind.
    start: u64,
    end: u64,
    /// Writes reach the file, so that the file is the memory.
    shared: bool,
    /// Of the first byte, in the file.
    offset: u64,
    device: (u64, u64),
    /// 0: no file.
    inode: u64,
    path: String,
}

/// Where guest memory stands in a file.
#[derive(Debug)]
pub(super) struct InFile {
    pub(super) file: File,
    pub(super) length: u64,
    /// What people call it.
    pub(super) path: String,
    pub(super) offset: u64,
    /// Tells one file from another.
    pub(super) identity: (u64, u64),
}

/// The process that the thread belongs to.
pub(super) fn process_of(thread: Pid) -> Option<Pid> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    line.trim().parse().ok().map(Pid::from_raw)
}

/// The mapped areas of a process, ascending.
///
/// # Errors
/// The system's; EACCES without the right to trace it.
pub(super) fn areas(pid: Pid) -> io::Result<Vec<MappedArea>> {
    let maps = fs::read(format!("/proc/{pid}/maps"))?;
    Ok(String::from_utf8_lossy(&maps)
        .lines()
        .filter_map(area)
        .collect())
}

/// `7f3c…000-7f3d…000 rw-s 00000000 00:01 1234   /memfd:ram (deleted)`
fn area(line: &str) -> Option<MappedArea> {
    let mut words = line.splitn(6, ' ');
    let (start, end) = words.next()?.split_once('-')?;
    let rights = words.next()?;
    let offset = words.next()?;
    let (major, minor) = words.next()?.split_once(':')?;
    let inode = words.next()?;
    let hexadecimal = |text| u64::from_str_radix(text, 16).ok();
    Some(MappedArea {
        start: hexadecimal(start)?,
        end: hexadecimal(end)?,
        shared: rights.ends_with('s'),
        offset: hexadecimal(offset)?,
        device: (hexadecimal(major)?, hexadecimal(minor)?),
        inode: inode.parse().ok()?,
        path: words.next().unwrap_or_default().trim().to_owned(),
    })
}

/// Whether `bytes` bytes from `address` are all mapped.
pub(super) fn maps(areas: &[MappedArea], address: u64, bytes: u64) -> bool {
    run(areas, address, bytes).is_some()
}

/// Whether `bytes` bytes from `address` are all private and of no file.
pub(super) fn is_anonymous(areas: &[MappedArea], address: u64, bytes: u64) -> bool {
    let is_anonymous = |area: &MappedArea| !area.shared && area.inode == 0;
    run(areas, address, bytes).is_some_and(|run| run.iter().all(is_anonymous))
}

/// The areas that hold `bytes` bytes from `address` on, without a gap.
fn run(areas: &[MappedArea], address: u64, bytes: u64) -> Option<&[MappedArea]> {
    let end = address.checked_add(bytes)?;
    let first = areas.partition_point(|area| area.end <= address);
    let behind = areas.partition_point(|area| area.start < end);
    let run = areas.get(first..behind)?;
    let whole = run.first()?.start <= address
        && run.last()?.end >= end
        && run.windows(2).all(|pair| pair[0].end == pair[1].start);
    whole.then_some(run)
}

/// The file that `bytes` bytes from `address` on of the process are a shared mapping of; `None` if
/// there is none, or none that may be opened.
pub(super) fn shared_file(
    pid: Pid,
    areas: &[MappedArea],
    address: u64,
    bytes: u64,
) -> Option<InFile> {
    let run = run(areas, address, bytes)?;
    // One area may come in parts, with different NUMA policies or advice.
    let first = run.first()?;
    let is_one = |area: &MappedArea| {
        area.shared
            && area.inode != 0
            && (area.device, area.inode) == (first.device, first.inode)
            && area.offset.wrapping_sub(first.offset) == area.start - first.start
    };
    if !run.iter().all(is_one) {
        return None;
    }
    let offset = first.offset.checked_add(address - first.start)?;
    InFile::new(open(pid, first)?, first.path.clone(), offset, bytes)
}

impl InFile {
    /// `bytes` bytes of `file` from `offset` on, if it has them.
    pub(super) fn new(file: File, path: String, offset: u64, bytes: u64) -> Option<InFile> {
        let metadata = file.metadata().ok()?;
        let has_all = metadata.is_file() && metadata.len() >= offset.checked_add(bytes)?;
        has_all.then(|| InFile {
            length: metadata.len(),
            file,
            path,
            offset,
            identity: (metadata.dev(), metadata.ino()),
        })
    }
}

/// Opens the file of an area, which may have no name any more: by the kernel's own link to it, which
/// root may follow; by one of the process's open files; by its name.
fn open(pid: Pid, area: &MappedArea) -> Option<File> {
    let link = format!("/proc/{pid}/map_files/{:x}-{:x}", area.start, area.end);
    if let Ok(file) = File::open(link) {
        return Some(file);
    }
    let is_it = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|metadata| {
            let device = metadata.dev();
            metadata.is_file()
                && metadata.ino() == area.inode
                && (
                    nix::libc::major(device).into(),
                    nix::libc::minor(device).into(),
                ) == area.device
        })
    };
    let open_files = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()));
    open_files
        .chain([PathBuf::from(&area.path)])
        .filter(is_it)
        .find_map(|path| File::open(path).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn areas_of(text: &str) -> Vec<MappedArea> {
        text.lines().filter_map(area).collect()
    }

    #[test]
    fn a_line_of_maps_is_read_with_names_that_have_spaces() {
        let areas = areas_of(
            "7f3c00000000-7f3c00001000 rw-s 00002000 00:01 1234                     /memfd:a b (deleted)\n\
             7f3c00001000-7f3c00002000 rw-p 00000000 00:00 0 \n\
             garbage\n",
        );
        assert_eq!(areas.len(), 2);
        assert_eq!(areas[0].path, "/memfd:a b (deleted)");
        assert_eq!(
            (areas[0].offset, areas[0].inode, areas[0].device),
            (0x2000, 1234, (0, 1))
        );
        assert!(areas[0].shared && !areas[1].shared);
        assert_eq!(areas[1].path, "");
    }

    #[test]
    fn a_range_is_mapped_only_if_no_part_of_it_is_missing() {
        let areas = areas_of(
            "1000-3000 rw-p 00000000 00:00 0 \n3000-4000 r--p 00000000 00:00 0 \n\
             5000-6000 rw-p 00000000 00:00 0 \n",
        );
        for (address, bytes, expected) in [
            (0x1000, 0x3000, true),
            (0x2fff, 2, true),
            (0x5000, 0x1000, true),
            (0xfff, 2, false),
            (0x3fff, 2, false),
            (0x3000, 0x2000, false),
            (0x5000, 0x1001, false),
            (0x7000, 1, false),
            (u64::MAX, 2, false),
        ] {
            assert_eq!(maps(&areas, address, bytes), expected, "{address:#x}");
        }
    }

    #[test]
    fn a_shared_mapping_of_ours_leads_to_its_file_and_a_private_one_does_not() {
        use std::os::unix::fs::FileExt;

        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        file.set_len(0x4000).unwrap();
        file.write_all_at(b"heirloom", 0x2008).unwrap();
        let map = memmap2::MmapOptions::new()
            .offset(0x1000)
            .len(0x3000)
            .map_raw(&file)
            .unwrap();
        let anonymous = memmap2::MmapMut::map_anon(0x2000).unwrap();
        let pid = Pid::this();
        let areas = areas(pid).unwrap();

        let found = shared_file(pid, &areas, map.as_ptr() as u64 + 0x1008, 8).unwrap();
        let mut bytes = [0; 8];
        found.file.read_exact_at(&mut bytes, found.offset).unwrap();
        assert_eq!(&bytes, b"heirloom");
        assert!(shared_file(pid, &areas, anonymous.as_ptr() as u64, 8).is_none());
    }

    #[test]
    fn a_threads_process_is_found() {
        assert_eq!(process_of(nix::unistd::gettid()), Some(Pid::this()));
        assert_eq!(process_of(Pid::from_raw(i32::MAX)), None);
    }
}
