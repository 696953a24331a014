//! Kernels to be graded: built as students build them, and the embedded one with a deliberate bug built in.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex, PoisonError};

use heirloom_abi::bugs::Bug;
use object::{Object, ObjectSection, ObjectSymbol};
use tempfile::TempDir;

use crate::common::guest::extract;

/// The kernel with what students are given.
pub(crate) static STUBS: LazyLock<PathBuf> =
    LazyLock::new(|| built("stubs", &top().join("guest"), Some("assignments")));
/// The kernel with our answers.
pub(crate) static SOLUTIONS: LazyLock<PathBuf> =
    LazyLock::new(|| built("solutions", &top().join("guest"), Some("solutions")));

/// Cargo waits for a build that uses the same folder, and the file is there until the next one.
static BUILD: Mutex<()> = Mutex::new(());

pub(crate) fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Builds the kernel of the workspace in `guest`; a file of this name.
pub(crate) fn built(name: &str, guest: &Path, features: Option<&str>) -> PathBuf {
    let _one = BUILD.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("graded");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(guest)
        .env_remove("RUSTFLAGS")
        .args(["build", "--release", "--locked", "--bin", "heirloom-kernel"])
        .args(features.map(|features| format!("--features={features}")))
        .arg("--target-dir")
        .arg(&folder)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("warning"), "{said}");
    let kernel = folder.join(name);
    fs::copy(
        folder.join("x86_64-unknown-none/release/heirloom-kernel"),
        &kernel,
    )
    .unwrap();
    kernel
}

/// The embedded kernel with this bug chosen from the start, whatever its command line says.
pub(crate) struct Wrong {
    pub(crate) kernel: PathBuf,
    _folder: TempDir,
}

impl Wrong {
    pub(crate) fn new(bug: Bug) -> Wrong {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = fs::read(&extract().kernel).unwrap();
        let at = place_of_choice(&bytes);
        assert_eq!(bytes[at], u8::MAX, "no bug is chosen");
        bytes[at] = bug as u8;
        let kernel = folder.path().join("kernel");
        fs::write(&kernel, bytes).unwrap();
        Wrong {
            kernel,
            _folder: folder,
        }
    }
}

/// Where in the file the number of the chosen bug stands.
fn place_of_choice(kernel: &[u8]) -> usize {
    let file = object::File::parse(kernel).unwrap();
    let symbol = file
        .symbols()
        .find(|symbol| {
            symbol
                .name()
                .is_ok_and(|name| name.contains("fault_injection6CHOSEN"))
        })
        .expect("guest/kernel/src/fault_injection.rs has CHOSEN");
    let section = file
        .section_by_index(symbol.section_index().unwrap())
        .unwrap();
    let (offset, _) = section.file_range().unwrap();
    usize::try_from(offset + symbol.address() - section.address()).unwrap()
}
