//! The JSON of the inspecting commands: all that they print is documented.

mod common;

use std::collections::BTreeSet;

use serde_json::Value;
use tempfile::TempDir;

use common::heirloom;

const DOCUMENT: &str = include_str!("../vmm/cli/JSON.md");

/// The names of all fields, however deep. Names that are data (a kind, a fault, an owner) count, too.
fn fields(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                into.insert(name.clone());
                fields(value, into);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| fields(value, into)),
        _ => {}
    }
}

/// What stands in backquotes or as a JSON name in the document.
fn is_documented(name: &str) -> bool {
    DOCUMENT.contains(&format!("`{name}`")) || DOCUMENT.contains(&format!("\"{name}\":"))
}

#[test]
fn on_kvm_every_field_that_an_inspecting_command_prints_is_documented_and_its_version_is_1() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("run.rec");
    let file = file.to_str().unwrap();
    // Broken, so that there are findings, faults and differences to print.
    heirloom(&["run", "--propagation", "none", "--record", file]);
    let broken = format!("rec:{file}@66");
    let earlier = format!("rec:{file}@50");
    let commands: [&[&str]; 9] = [
        &["roots", &broken],
        &["check", "--strict-user", &broken],
        &["maps", &broken],
        &["layout", &broken],
        &["translate", &broken, "0xffffc97fffffa000"],
        &["translate", &broken, "0x12345000"],
        &["translate", &broken, "0x8000000000000000"],
        &["reverse", &broken, "0x100000"],
        &["diff", &earlier, &broken],
    ];
    let mut names = BTreeSet::new();
    for command in commands {
        let run = heirloom(&[command, &["--json"]].concat());
        let printed: Value = serde_json::from_str(&run.stdout)
            .unwrap_or_else(|error| panic!("{command:?}: {error}\n{}\n{}", run.stdout, run.stderr));
        assert_eq!(printed["version"], 1, "{command:?}");
        fields(&printed, &mut names);
    }
    let watched = ["check", &broken, "--every", "1ms", "--for", "2ms", "--json"];
    for line in heirloom(&watched[..]).stdout.lines().rev().take(2) {
        let printed: Value = serde_json::from_str(line).unwrap();
        assert_eq!(printed["version"], 1, "{line}");
        fields(&printed, &mut names);
    }
    assert!(
        names.contains("findings") && names.contains("fault"),
        "{names:?}"
    );
    let secret: Vec<_> = names.iter().filter(|name| !is_documented(name)).collect();
    assert!(secret.is_empty(), "not in vmm/cli/JSON.md: {secret:?}");
}
