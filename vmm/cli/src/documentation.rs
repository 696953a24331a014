//! The documentation is held against the program: every command in it parses, every link in it leads somewhere.

use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;

use crate::{Cli, NAME};

fn pages() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut paths: Vec<PathBuf> = [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
    ]
    .iter()
    .map(|name| root.join(name))
    .collect();
    let docs = fs::read_dir(root.join("docs")).unwrap();
    paths.extend(docs.map(|entry| entry.unwrap().path()));
    paths
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            (path, text)
        })
        .collect()
}

/// The commands that a page shows: lines of its code blocks, and words between backticks in its text.
fn commands(page: &str) -> (Vec<&str>, Vec<&str>) {
    let (mut shown, mut named) = (Vec::new(), Vec::new());
    let mut in_block = false;
    for line in page.lines() {
        if line.starts_with("```") {
            in_block = !in_block;
        } else if in_block {
            let line = line.trim_start_matches("$ ");
            if line.starts_with("heirloom ") && !line.contains('…') && !line.contains(": ") {
                let end = [" #", " ;", " >"].iter().filter_map(|end| line.find(end));
                shown.push(&line[..end.min().unwrap_or(line.len())]);
            }
        } else {
            let code = line.split('`').skip(1).step_by(2);
            named.extend(code.filter(|code| code.starts_with("heirloom ")));
        }
    }
    (shown, named)
}

#[test]
fn every_command_in_a_code_block_is_one() {
    let mut seen = 0;
    for (path, page) in pages() {
        for command in commands(&page).0 {
            // What stands between quotation marks is one word.
            let parts = command.split('\'').enumerate();
            let words = parts.flat_map(|(number, part)| {
                if number % 2 == 1 {
                    vec![part]
                } else {
                    part.split_whitespace().collect()
                }
            });
            if let Err(error) = Cli::command().try_get_matches_from(words) {
                panic!("{}: {command}\n{error}", path.display());
            }
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen}");
}

/// Every source file of ours that says something to people, without what stands in comments.
fn sources() -> Vec<(PathBuf, String)> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut folders: Vec<PathBuf> = ["inspect", "source", "machine", "harness", "cli"]
        .iter()
        .map(|name| crates.join(name).join("src"))
        .collect();
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && !path.ends_with(file!().rsplit('/').next().unwrap())
            {
                let text = fs::read_to_string(&path).unwrap();
                let is_comment = |line: &&str| line.trim_start().starts_with("//");
                let lines = text.lines().filter(|line| !is_comment(line));
                found.push((path, lines.collect::<Vec<_>>().join("\n")));
            }
        }
    }
    found
}

#[test]
fn every_command_in_the_text_has_its_name_and_its_options() {
    let mut seen = 0;
    for (path, page) in pages().into_iter().chain(sources()) {
        for command in commands(&page).1 {
            let place = || format!("{}: `{command}`", path.display());
            let cli = Cli::command();
            let mut words = command
                .split(|c: char| c.is_whitespace() || r"[]|=\".contains(c))
                .skip_while(|word| *word == NAME || word.starts_with('-') || *word == "never");
            let name = words.next().unwrap_or_default();
            let subcommand = cli
                .find_subcommand(name)
                .unwrap_or_else(|| panic!("{}: no command `{name}`", place()));
            for option in words.filter_map(|word| word.strip_prefix("--")) {
                let known = option.is_empty()
                    || option == "help"
                    || subcommand
                        .get_arguments()
                        .any(|argument| argument.get_long() == Some(option));
                assert!(known, "{}: no option --{option}", place());
                seen += 1;
            }
        }
    }
    assert!(seen > 10, "{seen}");
}

#[test]
fn every_link_leads_to_a_file_and_every_anchor_to_a_heading() {
    let mut seen = 0;
    for (path, page) in pages() {
        for link in page.split("](").skip(1) {
            let link = &link[..link.find(')').unwrap()];
            if link.starts_with("https://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                path.clone()
            } else {
                path.parent().unwrap().join(file)
            };
            assert!(target.exists(), "{}: {link}", path.display());
            if !anchor.is_empty() {
                let text = fs::read_to_string(&target).unwrap();
                let there = text
                    .lines()
                    .filter(|line| line.starts_with('#'))
                    .any(|line| heading_anchor(line) == anchor);
                assert!(there, "{}: {link}", path.display());
            }
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen}");
}

/// What a heading is called in links.
fn heading_anchor(line: &str) -> String {
    line.trim_start_matches('#')
        .trim()
        .to_lowercase()
        .replace(' ', "-")
        .replace(|c: char| !c.is_alphanumeric() && c != '-', "")
}

#[test]
fn the_readme_is_read_in_a_few_minutes() {
    let (_, readme) = &pages()[0];
    let words = readme.split_whitespace().count();
    assert!(words <= 1500, "{words} words: move something to docs/");
}

#[test]
fn the_books_contents_name_every_page() {
    let pages = pages();
    let summary = pages
        .iter()
        .find(|(path, _)| path.ends_with("docs/SUMMARY.md"));
    let (_, summary) = summary.unwrap();
    for (path, _) in &pages {
        if path.parent().unwrap().ends_with("docs") && !path.ends_with("SUMMARY.md") {
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(summary.contains(&format!("({name})")), "{name}");
        }
    }
}
