//! A small image of RAM, and the command on it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{Depth, Entry, PageSize, Pfn, PhysAddr, PhysicalMemory, VirtAddr};
use tempfile::TempDir;

/// 2 MiB of RAM, and page tables that show it: a kernel, and two processes.
pub(crate) struct Image {
    pub(crate) folder: TempDir,
    pub(crate) memory: FakeMemory,
    pub(crate) kernel: PhysAddr,
    pub(crate) processes: [PhysAddr; 2],
}

pub(crate) const RAM: u64 = 2 << 20;
pub(crate) const DIRECT_MAP: u64 = 0xffff_8880_0000_0000;
pub(crate) const TEXT: u64 = 0xffff_ffff_8100_0000;
pub(crate) const USER: u64 = 0x40_0000;

impl Image {
    pub(crate) fn new() -> Image {
        let mut memory = FakeMemory::new();
        let kernel = memory.root();
        let mut map = |root, va, pa, flags| {
            let (va, pa) = (VirtAddr::new(va), PhysAddr::new(pa));
            memory.map(Depth::Four, root, va, pa, PageSize::Size4KiB, flags);
        };
        let constants = FakeMemory::KERNEL_TEXT | Entry::NO_EXECUTE;
        for at in (0..RAM).step_by(4096) {
            let is_text = at == RAM - 4096;
            let flags = if is_text {
                constants
            } else {
                FakeMemory::KERNEL_DATA
            };
            map(kernel, DIRECT_MAP + at, at, flags);
        }
        map(kernel, TEXT, RAM - 4096, FakeMemory::KERNEL_TEXT);
        let processes = [1, 2].map(|number| {
            let root = memory.child_of(kernel);
            let page = PhysAddr::new(RAM - (4096 << number));
            let va = VirtAddr::new(USER);
            memory.map(
                Depth::Four,
                root,
                va,
                page,
                PageSize::Size4KiB,
                FakeMemory::USER_DATA,
            );
            root
        });
        Image {
            folder: TempDir::new().unwrap(),
            memory,
            kernel,
            processes,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes the RAM into a file: its path.
    pub(crate) fn write(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes(&self.memory)).unwrap();
        path
    }

    /// The image as a target on the first process's root.
    pub(crate) fn target(&self, name: &str) -> String {
        let path = self.write(name);
        format!("raw:{},cr3={}", path.display(), self.processes[0])
    }
}

pub(crate) fn bytes(memory: &FakeMemory) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(RAM).unwrap()];
    for (pfn, page) in (0..).map(Pfn::new).zip(bytes.chunks_mut(4096)) {
        // What was not built is zero.
        let _ = memory.read_bytes(pfn.base(), page);
    }
    bytes
}

pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

pub(crate) fn heirloom<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heirloom"));
    let output = command.args(arguments).output().unwrap();
    let said = Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    };
    assert!(!said.err.contains("panicked"), "{}", said.err);
    said
}

/// Asserts exit code 2 and one line that says these words.
#[track_caller]
pub(crate) fn assert_refused<S: AsRef<std::ffi::OsStr>>(arguments: &[S], words: &[&str]) {
    let said = heirloom(arguments);
    assert_eq!(said.code, Some(2), "{}{}", said.out, said.err);
    assert_eq!(said.out, "");
    for word in words {
        assert!(said.err.contains(word), "no `{word}` in {}", said.err);
    }
}
