//! Which files can be opened: Landlock.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::thread;

use landlock::{
    ABI, Access, AccessFs, BitFlags, LandlockStatus, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError,
};

use super::Sandbox;

/// Of later versions nothing is needed; of earlier ones what they have is used.
const VERSION: ABI = ABI::V5;

/// What is read whatever the command is told: standard input if it is a file, and for the report of a panic the program itself
/// and its map.
const ALWAYS: [&str; 3] = ["/dev/stdin", "/proc/self", "/proc/self/exe"];

/// Which version of Landlock this kernel has; `None` if it has none, or it is switched off. A thread that does
/// nothing else is confined, and tells.
pub(crate) fn landlock_version() -> Option<i32> {
    let probe = || {
        let rules = Ruleset::default().handle_access(AccessFs::Execute)?;
        rules.create()?.restrict_self()
    };
    let thread = thread::Builder::new().spawn(probe).ok()?;
    match thread.join().ok()?.ok()?.landlock {
        LandlockStatus::Available {
            effective_abi,
            kernel_abi,
            ..
        } => Some(kernel_abi.unwrap_or(effective_abi as i32)),
        _ => None,
    }
}

/// From now on this thread, and those that it makes, open nothing else.
pub(super) fn confine(sandbox: &Sandbox) -> Result<(), RulesetError> {
    let reading = AccessFs::ReadFile | AccessFs::ReadDir;
    let writing = AccessFs::WriteFile | AccessFs::Truncate;
    let making = reading | writing | AccessFs::MakeReg | AccessFs::RemoveFile;
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(VERSION))?
        .create()?;
    for path in ALWAYS {
        rules = add(rules, Path::new(path), reading)?;
    }
    for path in &sandbox.read {
        rules = add(rules, path, reading)?;
    }
    for folder in &sandbox.folders {
        rules = add(rules, folder, making | AccessFs::RemoveDir)?;
    }
    for path in &sandbox.written {
        rules = match fs::metadata(path).map(|about| about.file_type()) {
            // A device or a pipe is written to as it is, and its neighbours are none of our business.
            Ok(kind) if !kind.is_file() => add(rules, path, reading | writing)?,
            // `/dev/stdout` may lead to a regular file.
            Ok(_) if is_devices(path) => add(rules, path, reading | writing)?,
            _ => add(rules, folder_of(path), making)?,
        };
    }
    rules.restrict_self()?;
    Ok(())
}

/// What is not there is left out, and so are pipes without a name, which Landlock leaves alone.
fn add(
    rules: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    let Ok(kind) = fs::metadata(path).map(|about| about.file_type()) else {
        return Ok(rules);
    };
    if (kind.is_fifo() || kind.is_socket()) && is_devices(path) {
        return Ok(rules);
    }
    let Ok(opened) = PathFd::new(path) else {
        return Ok(rules);
    };
    let access = if kind.is_dir() {
        access
    } else {
        access & AccessFs::from_file(VERSION)
    };
    rules.add_rule(PathBeneath::new(opened, access))
}

fn is_devices(path: &Path) -> bool {
    path.starts_with("/dev") || path.starts_with("/proc")
}

/// The folder that a file is in.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::ErrorKind;

    use super::*;

    /// Landlock holds for one thread and those that it makes: the other tests do not see it.
    #[test]
    fn what_is_not_named_is_neither_read_nor_written_where_the_kernel_has_landlock() {
        let named = tempfile::tempdir().unwrap();
        let output = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let at = |folder: &tempfile::TempDir| folder.path().join("file");
        fs::write(at(&named), "named").unwrap();
        fs::write(at(&other), "other").unwrap();
        let sandbox = Sandbox::reading([at(&named)]).writing([at(&output), "/dev/null".into()]);
        let (named, output, other) = (at(&named), at(&output), at(&other));
        let has_landlock = landlock_version().is_some();
        let confined = thread::spawn(move || {
            confine(&sandbox).unwrap();
            assert_eq!(fs::read(&named).unwrap(), b"named");
            fs::write(&output, "written").unwrap();
            fs::rename(&output, output.with_extension("renamed")).unwrap();
            fs::write("/dev/null", "written").unwrap();
            [
                File::open(&other).map(drop),
                fs::read_dir(other.parent().unwrap()).map(drop),
                File::options().write(true).open(&other).map(drop),
                fs::write(other.with_extension("new"), ""),
                fs::remove_file(&other),
                fs::write(&named, ""),
                File::options().write(true).open("/dev/zero").map(drop),
            ]
        });
        for tried in confined.join().unwrap() {
            let refused = tried
                .as_ref()
                .is_err_and(|error| error.kind() == ErrorKind::PermissionDenied);
            // The first that was let through may have made others impossible in another way.
            assert_eq!(refused, has_landlock, "{tried:?}");
            if !has_landlock {
                break;
            }
        }
    }
}
