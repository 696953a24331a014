//! What is written about the strategies elsewhere is what their table says.

use std::fs;
use std::path::Path;

use heirloom_abi::propagation::Strategy;

fn read(below_the_repository: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = root.join(below_the_repository);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_readmes_table_has_exactly_the_strategies_as_their_table_has_them() {
    let expected = Strategy::ALL.map(|strategy| {
        let info = strategy.info();
        let default = if strategy == Strategy::DEFAULT {
            " (default)"
        } else {
            ""
        };
        format!(
            "| `{}`{default} | {} | {} |",
            info.name, info.does, info.source
        )
    });
    let readme = read("README.md");
    let (_, table) = readme
        .split_once("| name | what it does | where it is from |\n| --- | --- | --- |\n")
        .expect("README.md has the table of strategies");
    let rows: Vec<&str> = table
        .lines()
        .take_while(|line| line.starts_with('|'))
        .collect();
    assert_eq!(rows, expected);
}

#[test]
fn each_strategy_is_the_file_of_its_name_and_begins_by_saying_so() {
    for strategy in Strategy::ALL {
        let name = strategy.name();
        let file = name.replace('-', "_");
        let text = read(&format!("guest/kernel/src/mm/propagation/{file}.rs"));
        assert!(text.starts_with(&format!("//! `{name}`: ")), "{file}.rs");
    }
}
