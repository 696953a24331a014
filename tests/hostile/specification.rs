//! Every promise of the specification has a test, and the test is there.

use std::fs;
use std::path::Path;

#[test]
fn every_promise_of_the_specification_names_tests_that_exist() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let promises = fs::read_to_string(top.join("SPECIFICATION.md")).unwrap();
    let is_row = |line: &&str| line.starts_with("| ") && !line.starts_with("| --- ");
    let is_title = |line: &&str| line.ends_with("| held by |");
    let mut tests = 0;
    for row in promises
        .lines()
        .filter(|line| is_row(line) && !is_title(line))
    {
        let held_by = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        for name in held_by.split(", ") {
            let name = name.trim_matches('`');
            let (file, test) = name.split_once(": ").unwrap_or_else(|| panic!("{row}"));
            let source = fs::read_to_string(top.join(file)).unwrap_or_else(|_| panic!("{row}"));
            let is_there = source.contains(&format!("fn {test}()"));
            assert!(is_there, "there is no test {test} in {file}");
            tests += 1;
        }
    }
    assert!(tests > 30, "{tests}");
}
