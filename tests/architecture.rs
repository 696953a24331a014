//! The house as `cargo metadata` sees it: which crate may use which, what a library must not bring along,
//! and that each is fit to be published.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Every crate of the host's workspace, and the crates of this tree that it may use; a crate that is not
/// on this list has no place in the house yet.
const ARROWS: [(&str, &[&str]); 9] = [
    ("heirloom-paging", &[]),
    ("heirloom-qmp", &[]),
    ("heirloom-inspect", &["heirloom-paging"]),
    ("heirloom-machine", &["heirloom-paging", "heirloom-qmp"]),
    (
        "heirloom-source",
        &[
            "heirloom-machine",
            "heirloom-inspect",
            "heirloom-qmp",
            "heirloom-paging",
        ],
    ),
    (
        "heirloom-explorer",
        &[
            "heirloom-source",
            "heirloom-machine",
            "heirloom-inspect",
            "heirloom-paging",
        ],
    ),
    (
        "heirloom-harness",
        &[
            "heirloom-source",
            "heirloom-machine",
            "heirloom-inspect",
            "heirloom-paging",
            "heirloom-abi",
        ],
    ),
    (
        "heirloom",
        &[
            "heirloom-harness",
            "heirloom-explorer",
            "heirloom-source",
            "heirloom-machine",
            "heirloom-inspect",
            "heirloom-paging",
            "heirloom-abi",
        ],
    ),
    // The contract with the guest; its layout is made of page-table terms.
    ("heirloom-abi", &["heirloom-paging"]),
];

/// The command: all others are libraries.
const COMMAND: &str = "heirloom";

/// Crates that write to a terminal or read a command line.
const TERMINAL: [&str; 10] = [
    "anstream",
    "anstyle",
    "clap",
    "clap_builder",
    "comfy-table",
    "console",
    "crossterm",
    "ctrlc",
    "env_logger",
    "indicatif",
];
/// Crates of KVM and of virtual machines.
const HYPERVISOR: [&str; 5] = [
    "kvm-bindings",
    "kvm-ioctls",
    "linux-loader",
    "vm-superio",
    "vmm-sys-util",
];
/// Crates that read or write a file format.
const FORMATS: [&str; 8] = [
    "addr2line",
    "base64",
    "crc32fast",
    "gimli",
    "lz4_flex",
    "memmap2",
    "miniz_oxide",
    "object",
];

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

fn cargo(folder: &Path) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // What is set for this package's own build is nothing to the other workspace.
    command.current_dir(folder).env_remove("RUSTFLAGS");
    command
}

fn output(command: &mut Command) -> (String, String) {
    let output = command.output().unwrap();
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(output.status.success(), "{command:?}: {stderr}");
    (stdout, stderr)
}

/// A workspace's packages and what each depends on.
struct Workspace {
    /// Of the tree, by name.
    members: BTreeMap<String, Value>,
    /// The names of what a package of this name is built with, itself apart; tests do not count.
    built_with: BTreeMap<String, BTreeSet<String>>,
}

impl Workspace {
    fn of(folder: &str, platform: &str) -> Workspace {
        let (metadata, _) = output(cargo(&top().join(folder)).args([
            "metadata",
            "--format-version=1",
            "--locked",
            "--filter-platform",
            platform,
        ]));
        let metadata: Value = serde_json::from_str(&metadata).unwrap();
        let list = |value: &Value| value.as_array().unwrap().clone();
        let name_of: BTreeMap<String, String> = list(&metadata["packages"])
            .iter()
            .map(|package| (text(&package["id"]), text(&package["name"])))
            .collect();
        let built_with = list(&metadata["resolve"]["nodes"])
            .iter()
            .map(|node| {
                let needed = list(&node["deps"]);
                let needed = needed.iter().filter(|needed| {
                    let mut kinds = needed["dep_kinds"].as_array().unwrap().iter();
                    kinds.any(|kind| kind["kind"] != "dev")
                });
                let needed = needed.map(|needed| name_of[&text(&needed["pkg"])].clone());
                (name_of[&text(&node["id"])].clone(), needed.collect())
            })
            .collect();
        let members = list(&metadata["packages"])
            .into_iter()
            .filter(|package| package["source"].is_null())
            .map(|package| (text(&package["name"]), package))
            .collect();
        Workspace {
            members,
            built_with,
        }
    }

    fn host() -> Workspace {
        Workspace::of(".", "x86_64-unknown-linux-gnu")
    }

    /// Everything that is compiled with a package, however far down.
    fn everything_below(&self, package: &str) -> BTreeSet<&str> {
        let mut below = BTreeSet::new();
        let mut open = vec![package];
        while let Some(next) = open.pop() {
            for name in &self.built_with[next] {
                if below.insert(name.as_str()) {
                    open.push(name);
                }
            }
        }
        below
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[test]
fn every_crate_uses_only_crates_below_it_in_its_tests_too() {
    let host = Workspace::host();
    let listed: BTreeSet<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    let there: BTreeSet<&str> = host.members.keys().map(String::as_str).collect();
    assert_eq!(there, listed, "the crates of the house");
    let mut wrong = Vec::new();
    for (name, allowed) in ARROWS {
        for dependency in host.members[name]["dependencies"].as_array().unwrap() {
            let on = dependency["name"].as_str().unwrap();
            if !dependency["path"].is_null() && on != name && !allowed.contains(&on) {
                let kind = dependency["kind"].as_str().unwrap_or("normal");
                wrong.push(format!("{name} → {on} ({kind})"));
            }
        }
    }
    assert!(wrong.is_empty(), "forbidden arrows: {wrong:#?}");
}

#[test]
fn paging_depends_on_nothing_but_the_optional_serde() {
    let host = Workspace::host();
    let paging = &host.members["heirloom-paging"];
    let needed: Vec<(&str, bool)> = paging["dependencies"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|dependency| dependency["kind"] != "dev")
        .map(|dependency| {
            let optional = dependency["optional"] == true;
            (dependency["name"].as_str().unwrap(), optional)
        })
        .collect();
    assert_eq!(needed, [("serde", true)]);
    // Nobody gets it unasked.
    assert!(paging["features"].get("default").is_none());
}

#[test]
fn the_guest_is_built_with_the_contract_and_paging_and_what_the_contract_is_laid_out_by() {
    let guest = Workspace::of("guest", "x86_64-unknown-none");
    let ours: BTreeSet<&str> = guest.members.keys().map(String::as_str).collect();
    assert_eq!(
        ours,
        BTreeSet::from([
            "heirloom-abi",
            "heirloom-kernel",
            "heirloom-paging",
            "heirloom-user"
        ])
    );
    assert_eq!(guest.everything_below("heirloom-paging"), BTreeSet::new());
    for (program, at_most) in [
        (
            "heirloom-kernel",
            &[
                // Of the contract.
                "heirloom-abi",
                "heirloom-paging",
                "zerocopy",
                "zerocopy-derive",
                "proc-macro2",
                "quote",
                "syn",
                "unicode-ident",
                // Programs.
                "elf",
                // The CPU's registers and instructions.
                "x86_64",
                "const_fn",
                "bit_field",
                "bitflags",
                "volatile",
                "rustversion",
            ][..],
        ),
        (
            "heirloom-user",
            &[
                "heirloom-abi",
                "heirloom-paging",
                "zerocopy",
                "zerocopy-derive",
                "proc-macro2",
                "quote",
                "syn",
                "unicode-ident",
            ],
        ),
    ] {
        let below = guest.everything_below(program);
        let more: Vec<_> = below
            .iter()
            .filter(|name| !at_most.contains(name))
            .collect();
        assert!(more.is_empty(), "{program} is also built with {more:?}");
    }
}

#[test]
fn the_inspector_brings_no_guest_of_ours_no_hypervisor_no_file_format_and_no_terminal() {
    let host = Workspace::host();
    let below = host.everything_below("heirloom-inspect");
    let forbidden = [&["heirloom-abi"][..], &HYPERVISOR, &FORMATS, &TERMINAL].concat();
    let brought: Vec<_> = forbidden
        .iter()
        .filter(|name| below.contains(**name))
        .collect();
    assert!(brought.is_empty(), "heirloom-inspect brings {brought:?}");
}

#[test]
fn only_the_harness_and_the_command_know_our_guest() {
    let host = Workspace::host();
    let knowing: BTreeSet<&str> = ARROWS
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| host.members.contains_key(*name))
        .filter(|name| host.everything_below(name).contains("heirloom-abi"))
        .collect();
    assert_eq!(knowing, BTreeSet::from(["heirloom-harness", COMMAND]));
}

#[test]
fn only_the_command_reads_a_command_line_and_draws_on_a_terminal() {
    let host = Workspace::host();
    let mut wrong = BTreeMap::new();
    for name in host.members.keys().filter(|name| *name != COMMAND) {
        let below = host.everything_below(name);
        let brought: Vec<&str> = TERMINAL
            .into_iter()
            .filter(|it| below.contains(it))
            .collect();
        if !brought.is_empty() {
            wrong.insert(name, brought);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_python_package_is_the_inspector_and_its_sources_for_python() {
    let python = Workspace::of("vmm/python", "x86_64-unknown-linux-gnu");
    let package = &python.members["heirloom-python"];
    let uses: BTreeSet<&str> = package["dependencies"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|dependency| !dependency["path"].is_null())
        .map(|dependency| dependency["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        uses,
        BTreeSet::from(["heirloom-inspect", "heirloom-source"])
    );
    let below = python.everything_below("heirloom-python");
    let brought: Vec<&str> = [&HYPERVISOR[..], &TERMINAL[..]]
        .concat()
        .into_iter()
        .filter(|name| below.contains(name))
        .collect();
    assert!(brought.is_empty(), "heirloom-python brings {brought:?}");
}

#[test]
fn every_dependency_that_the_workspace_names_is_used_by_a_member() {
    let manifest = fs::read_to_string(top().join("Cargo.toml")).unwrap();
    let (_, named) = manifest.split_once("[workspace.dependencies]\n").unwrap();
    let named: BTreeSet<&str> = named
        .lines()
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, _)| name)
        .collect();
    assert!(named.contains("serde"), "{named:?}");
    let host = Workspace::host();
    let used: BTreeSet<&str> = host
        .members
        .values()
        .flat_map(|member| member["dependencies"].as_array().unwrap())
        .map(|dependency| dependency["name"].as_str().unwrap())
        .collect();
    let unused: Vec<_> = named.difference(&used).collect();
    assert!(unused.is_empty(), "{unused:?}");
}

/// Every Rust source file below a folder; build output is none.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn no_source_file_is_longer_than_480_lines_and_no_test_than_550() {
    let mut files = Vec::new();
    for folder in ["guest", "tests", "vmm"] {
        sources(&top().join(folder), &mut files);
    }
    assert!(
        files
            .iter()
            .any(|file| file.ends_with("tests/architecture.rs"))
    );
    assert!(
        files
            .iter()
            .any(|file| file.ends_with("guest/kernel/src/main.rs"))
    );
    let long: Vec<(usize, &PathBuf)> = files
        .iter()
        .map(|file| (fs::read_to_string(file).unwrap().lines().count(), file))
        .filter(|(lines, file)| {
            let is_test = file.components().any(|part| part.as_os_str() == "tests");
            *lines > if is_test { 550 } else { 480 }
        })
        .collect();
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn every_crate_says_what_it_is_and_has_a_readme() {
    for (folder, platform) in [
        (".", "x86_64-unknown-linux-gnu"),
        ("guest", "x86_64-unknown-none"),
        ("vmm/python", "x86_64-unknown-linux-gnu"),
    ] {
        for (name, package) in &Workspace::of(folder, platform).members {
            for field in ["version", "description", "repository", "license", "readme"] {
                let said = package[field].as_str().unwrap_or_default();
                assert!(!said.is_empty(), "{name} says no {field}");
            }
            assert_ne!(package["version"], "0.0.0", "{name}");
            let manifest = PathBuf::from(text(&package["manifest_path"]));
            let readme = manifest.with_file_name(text(&package["readme"]));
            let readme = fs::read_to_string(&readme).unwrap();
            assert!(
                readme.starts_with(&format!("# {name}\n")),
                "{name}: {readme}"
            );
        }
    }
}

/// Without building what was packaged, which `make package` does.
#[test]
fn every_library_can_be_packaged() {
    let host = Workspace::host();
    let target = tempfile::tempdir().unwrap();
    output(
        cargo(&top())
            .args(["package", "--workspace", "--exclude", COMMAND, "--locked"])
            .args(["--no-verify", "--allow-dirty", "--target-dir"])
            .arg(target.path()),
    );
    let packaged: BTreeSet<String> = fs::read_dir(target.path().join("package"))
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".crate").map(str::to_owned))
        .collect();
    let libraries: BTreeSet<String> = host
        .members
        .iter()
        .filter(|(name, _)| *name != COMMAND)
        .map(|(name, package)| format!("{name}-{}", package["version"].as_str().unwrap()))
        .collect();
    assert_eq!(packaged, libraries);
}
