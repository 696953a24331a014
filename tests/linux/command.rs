//! The command under test, asked for JSON.

use std::path::Path;

use heirloom_inspect::PhysAddr;
use serde_json::Value;

pub(crate) use crate::common::corrupted::number;
use crate::common::heirloom;

/// `heirloom ARGUMENTS --json`: the exit code and the report.
///
/// # Panics
/// If it prints no JSON.
pub(crate) fn run(arguments: &[&str]) -> (i32, Value) {
    let run = heirloom(&[arguments, &["--json"]].concat());
    let report = serde_json::from_str(&run.stdout)
        .unwrap_or_else(|error| panic!("{arguments:?}: {error}, in: {}{}", run.stdout, run.stderr));
    (run.code.unwrap(), report)
}

/// The same for what must succeed.
pub(crate) fn ask(arguments: &[&str]) -> Value {
    let (code, report) = run(arguments);
    assert_eq!(code, 0, "{arguments:?}: {report}");
    report
}

/// The target that a core is.
pub(crate) fn core(path: &Path) -> String {
    format!("core:{}", path.display())
}

/// The target that a live QEMU is.
pub(crate) fn qemu(socket: &Path) -> String {
    format!("qemu:{}", socket.display())
}

pub(crate) fn address(value: &Value) -> PhysAddr {
    PhysAddr::new(number(value))
}

/// An array of a report.
pub(crate) fn list<'v>(report: &'v Value, name: &str) -> &'v Vec<Value> {
    report[name]
        .as_array()
        .unwrap_or_else(|| panic!("no list `{name}` in: {report}"))
}
