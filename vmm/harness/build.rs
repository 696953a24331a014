//! Builds the guest (`guest/`, a workspace of its own for x86_64-unknown-none) and embeds its kernel
//! and programs: `$OUT_DIR/guest.rs` names each artifact's bytes, which are deflated.
//!
//! A published package is away from the repository, so it carries the guest as it was built for it:
//! `prebuilt/kernel` and `prebuilt/programs/*`, which `examples/prebuilt.rs` writes.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use miniz_oxide::deflate::compress_to_vec_zlib;

const TARGET: &str = "x86_64-unknown-none";
const KERNEL: &str = "heirloom-kernel";

/// Of 10; more gains nothing.
const EFFORT: u8 = 9;

/// What the guest is made from, below the repository's root. `guest/target` is not: another build of
/// the guest would trigger this one.
const SOURCES: [&str; 9] = [
    "Cargo.toml",
    "rust-toolchain.toml",
    "guest/Cargo.toml",
    "guest/Cargo.lock",
    "guest/.cargo",
    "guest/abi",
    "guest/kernel",
    "guest/user",
    "vmm/paging",
];

/// `CARGO_…` variables that configure cargo itself; all others describe the build of *this* package.
const KEPT: [&str; 6] = [
    "CARGO_HOME",
    "CARGO_HTTP_",
    "CARGO_MAKEFLAGS",
    "CARGO_NET_",
    "CARGO_REGISTRIES_",
    "CARGO_TERM_",
];

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            for line in problem.lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let package = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(variable("OUT_DIR")?);
    let repository = package.join("../..");
    let Guest { kernel, programs } = if repository.join("guest/kernel/Cargo.toml").is_file() {
        let root = repository
            .canonicalize()
            .map_err(|error| format!("could not find the repository's root: {error}"))?;
        built_guest(&root, &out.join("guest"))?
    } else {
        prebuilt_guest(&package.join("prebuilt"))?
    };
    let packed = out.join("packed");
    fs::create_dir_all(&packed)
        .map_err(|error| format!("could not make {}: {error}", packed.display()))?;
    let mut source = format!(
        "static KERNEL: Packed = {};\nstatic PROGRAMS: [(&str, Packed); {}] = [\n",
        embedded(&packed, KERNEL, &kernel)?,
        programs.len()
    );
    for (name, file) in &programs {
        let _ = writeln!(
            source,
            "    ({name:?}, {}),",
            embedded(&packed, name, file)?
        );
    }
    source.push_str("];\n");
    let path = out.join("guest.rs");
    fs::write(&path, source).map_err(|error| format!("could not write {}: {error}", path.display()))
}

/// Deflates a file into this folder: the expression that embeds it.
fn embedded(folder: &Path, name: &str, file: &str) -> Result<String, String> {
    let bytes = fs::read(file).map_err(|error| format!("could not read {file}: {error}"))?;
    let packed = folder.join(name);
    fs::write(&packed, compress_to_vec_zlib(&bytes, EFFORT))
        .map_err(|error| format!("could not write {}: {error}", packed.display()))?;
    let path = packed.to_string_lossy();
    Ok(format!("Packed::of(include_bytes!({path:?}))"))
}

/// The files of a guest.
struct Guest {
    /// An absolute path.
    kernel: String,
    /// Names and absolute paths, sorted.
    programs: Vec<(String, String)>,
}

fn built_guest(root: &Path, target_folder: &Path) -> Result<Guest, String> {
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    require_target()?;
    let guest = root.join("guest");
    build_guest(&guest, target_folder)?;
    let executables = target_folder.join(TARGET).join("release");
    let executable = |name: &str| {
        let file = executables.join(name);
        match fs::metadata(&file) {
            Ok(_) => Ok(file.to_string_lossy().into_owned()),
            Err(error) => Err(format!(
                "the guest's build made no {}: {error}",
                file.display()
            )),
        }
    };
    let mut programs = Vec::new();
    for name in programs_in(&guest.join("user/src/bin"))? {
        let file = executable(&name)?;
        programs.push((name, file));
    }
    Ok(Guest {
        kernel: executable(KERNEL)?,
        programs,
    })
}

/// The names of the programs in a folder of sources, sorted.
fn programs_in(folder: &Path) -> Result<Vec<String>, String> {
    let unreadable = |error| format!("could not read {}: {error}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let source = entry.map_err(unreadable)?.path();
        let name = source.file_stem().map(|name| name.to_string_lossy());
        if source
            .extension()
            .is_some_and(|extension| extension == "rs")
        {
            names.extend(name.map(String::from));
        }
    }
    names.sort();
    Ok(names)
}

/// The guest that a published package carries.
fn prebuilt_guest(folder: &Path) -> Result<Guest, String> {
    println!("cargo::rerun-if-changed={}", folder.display());
    let missing = |error| {
        format!(
            "{}: {error}\n\
             this package was made without its guest; in the repository, `make package` makes it with one",
            folder.display()
        )
    };
    let kernel = folder.join("kernel");
    fs::metadata(&kernel).map_err(missing)?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut programs = Vec::new();
    for entry in fs::read_dir(folder.join("programs")).map_err(missing)? {
        let entry = entry.map_err(missing)?;
        programs.push((text(Path::new(&entry.file_name())), text(&entry.path())));
    }
    programs.sort();
    Ok(Guest {
        kernel: text(&kernel),
        programs,
    })
}

/// Says how to get the target's standard library where it is missing; cargo's own error would be a
/// page of `can't find crate for core`.
fn require_target() -> Result<(), String> {
    let output = guest_command(&variable("RUSTC")?)
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()
        .map_err(|error| format!("could not run rustc: {error}"))?;
    let folder = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && Path::new(folder.trim()).is_dir() {
        return Ok(());
    }
    Err(format!(
        "the guest kernel needs Rust's target {TARGET}, which is not installed\n\
         install it with: rustup target add {TARGET}"
    ))
}

fn build_guest(guest: &Path, target_folder: &Path) -> Result<(), String> {
    // Backtraces then name the guest's files as the repository does, wherever it was built.
    let remap = format!("--remap-path-prefix={}=guest", guest.display());
    let rust_flags = format!("target.{TARGET}.rustflags=[{remap:?}]");
    let output = guest_command(&variable("CARGO")?)
        .current_dir(guest)
        .args([
            "build",
            "--release",
            "--locked",
            "--bins",
            "--target",
            TARGET,
        ])
        .args(["--config", &rust_flags])
        .arg("--target-dir")
        .arg(target_folder)
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| format!("could not run cargo in {}: {error}", guest.display()))?;
    if !output.status.success() {
        let diagnostics = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "the guest in {} does not build:\n{diagnostics}",
            guest.display()
        ));
    }
    Ok(())
}

/// A command without what belongs to the build of this package: the outer build's flags, wrappers
/// (clippy is one) and profile would break or change the guest.
fn guest_command(program: &str) -> Command {
    let mut command = Command::new(program);
    for (key, _) in env::vars_os() {
        let name = key.to_string_lossy();
        let of_this_build =
            name.starts_with("CARGO_") && !KEPT.iter().any(|kept| name.starts_with(kept));
        if of_this_build || name == "RUSTFLAGS" || name.starts_with("RUSTC") {
            command.env_remove(&key);
        }
    }
    command
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("cargo gives this script no {name}: {error}"))
}
