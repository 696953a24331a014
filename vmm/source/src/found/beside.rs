//! The other file of a snapshot that is two, found beside the one that a user names.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::content::Kind;

/// What Cloud Hypervisor calls its files.
pub(super) const STATE: &str = "state.json";
pub(super) const RANGES: &str = "memory-ranges";
/// Of a folder with more files not all are looked at.
const FILES: usize = 1024;
/// A state of Firecracker's is not longer.
const LONGEST_STATE: u64 = 10 << 20;

/// The folder of a snapshot of Cloud Hypervisor's, if `path` is one or a file of it.
pub(super) fn snapshot(path: &Path) -> Option<PathBuf> {
    let is_part = path
        .file_name()
        .is_some_and(|name| name == STATE || name == RANGES);
    let folder = match path.is_dir() {
        true => path,
        false if is_part => path.parent()?,
        false => return None,
    };
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    let is_one = [STATE, RANGES]
        .iter()
        .all(|name| folder.join(name).is_file());
    is_one.then(|| folder.to_owned())
}

/// The memory that belongs to a state of VMware's.
pub(super) fn vmem(state: &Path) -> Option<PathBuf> {
    with_extension(state, &["vmem"])
}

/// The state that belongs to an image of RAM.
pub(super) fn state(memory: &Path) -> Option<PathBuf> {
    if has_extension(memory, "vmem") {
        let state = with_extension(memory, &["vmss", "vmsn"])?;
        return matches!(kind(&state), Some(Kind::Vmware)).then_some(state);
    }
    // Firecracker leaves the names to its users.
    if !is_called_memory(memory) {
        return None;
    }
    let is_state = |path: &PathBuf| {
        let is_short = path
            .metadata()
            .is_ok_and(|about| about.len() <= LONGEST_STATE);
        is_short && matches!(kind(path), Some(Kind::Firecracker))
    };
    the_only(neighbours(memory).into_iter().filter(is_state))
}

/// The memory that belongs to a state of Firecracker's.
pub(super) fn firecracker_memory(state: &Path) -> Option<PathBuf> {
    const MIB: u64 = 1 << 20;
    let is_memory = |path: &PathBuf| {
        let is_whole = path
            .metadata()
            .is_ok_and(|about| about.len() > 0 && about.len().is_multiple_of(MIB));
        is_whole && matches!(kind(path), Some(Kind::Unknown | Kind::Packed(_)))
    };
    let all: Vec<PathBuf> = neighbours(state).into_iter().filter(is_memory).collect();
    // Disks lie beside it, too.
    let called: Vec<PathBuf> = all
        .iter()
        .filter(|path| is_called_memory(path))
        .cloned()
        .collect();
    the_only(called.into_iter()).or_else(|| the_only(all.into_iter()))
}

fn is_called_memory(path: &Path) -> bool {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().to_ascii_lowercase());
    name.is_some_and(|name| name.contains("mem"))
}

fn the_only(mut paths: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    let first = paths.next()?;
    paths.next().is_none().then_some(first)
}

/// The other files in the folder of `path`.
fn neighbours(path: &Path) -> Vec<PathBuf> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let Ok(entries) = folder.read_dir() else {
        return Vec::new();
    };
    entries
        .take(FILES)
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|other| other.is_file() && other.file_name() != path.file_name())
        .collect()
}

fn kind(path: &Path) -> Option<Kind> {
    let file = File::open(path).ok()?;
    let mut start = [0; 4096];
    let have = file.read_at(&mut start, 0).ok()?;
    Some(Kind::of_bytes(&start[..have]))
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension()
        .is_some_and(|own| own.eq_ignore_ascii_case(extension))
}

/// `path` with one of these extensions, whichever is there.
fn with_extension(path: &Path, extensions: &[&str]) -> Option<PathBuf> {
    let written = |extension: &&str| [(*extension).to_string(), extension.to_ascii_uppercase()];
    let mut names = extensions.iter().flat_map(written);
    names
        .find(|name| path.with_extension(name).is_file())
        .map(|name| path.with_extension(name))
}
