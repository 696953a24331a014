//! The verdict in the forms that CI systems read, each read back by somebody else's parser where there is one.

use heirloom_inspect::{Entry, Level, VirtAddr};
use serde_json::Value;

use crate::image::{Image, TEXT, heirloom};

/// An image in which a process lacks the kernel's text.
fn broken() -> Image {
    let mut image = Image::new();
    let index = VirtAddr::new(TEXT).index(Level::Pml4);
    let process = image.processes[1].pfn();
    image.memory.poke(process, index, Entry::ABSENT);
    image
}

fn report(target: &str) -> Value {
    serde_json::from_str(&heirloom(&["check", target, "--json"]).out).unwrap()
}

fn in_format(target: &str, format: &str, code: i32) -> String {
    let said = heirloom(&["check", target, "--format", format]);
    assert_eq!(said.code, Some(code), "{format}: {}", said.err);
    said.out
}

/// Name, verdict and number of findings of each rule.
fn rules(report: &Value) -> Vec<(String, String, usize)> {
    let rules = report["rules"].as_array().unwrap().iter();
    rules
        .map(|rule| {
            let text = |field: &Value| field.as_str().unwrap().to_owned();
            let findings = rule["findings"].as_array().map_or(0, Vec::len);
            let name = text(&rule["rule"]["name"]);
            (name, text(&rule["verdict"]), findings)
        })
        .collect()
}

#[test]
fn text_is_what_is_printed_where_no_format_is_named() {
    for (image, code) in [(broken(), 1), (Image::new(), 0)] {
        let target = image.target("guest");
        let without = heirloom(&["check", &target]);
        assert_eq!(without.code, Some(code), "{}", without.err);
        assert_eq!(in_format(&target, "text", code), without.out);
        let looks = ["check", &target, "--every", "1h", "--for", "1s"];
        let without = heirloom(&looks);
        let with = heirloom(&[&looks[..], &["--format", "text"]].concat());
        assert_eq!(with.code, Some(code), "{}", with.err);
        // What stands before is when the look was.
        let report = |said: &str| {
            let (_, report) = said.split_once(" s:\n").expect(said);
            report.to_owned()
        };
        assert_eq!(report(&with.out), report(&without.out));
    }
}

#[test]
fn junit_has_a_case_for_each_rule_that_fails_or_is_skipped_as_the_rule_does() {
    for (image, code) in [(broken(), 1), (Image::new(), 0)] {
        let target = image.target("guest & <more>");
        let xml = in_format(&target, "junit", code);
        let document = roxmltree::Document::parse(&xml).unwrap();
        let suite = document
            .descendants()
            .find(|node| node.has_tag_name("testsuite"))
            .unwrap();
        assert_eq!(
            suite.attribute("name").unwrap(),
            format!("heirloom check {target}")
        );
        let cases: Vec<(String, String)> = suite
            .children()
            .filter(|node| node.has_tag_name("testcase"))
            .map(|case| {
                let inside = case.children().find(roxmltree::Node::is_element);
                let outcome = match inside.map(|node| node.tag_name().name()) {
                    None => "holds",
                    Some("failure") => "broken",
                    Some("skipped") => "not-tried",
                    Some(other) => panic!("{other}"),
                };
                (
                    case.attribute("name").unwrap().to_owned(),
                    outcome.to_owned(),
                )
            })
            .collect();
        let report = report(&target);
        let expected: Vec<(String, String)> = rules(&report)
            .into_iter()
            .map(|(name, verdict, _)| (name, verdict))
            .collect();
        assert_eq!(cases, expected);
        let failures = cases.iter().filter(|case| case.1 == "broken").count();
        assert_eq!(suite.attribute("failures").unwrap(), failures.to_string());
        assert_eq!(failures > 0, code == 1);
    }
}

#[test]
fn sarif_has_a_result_for_each_finding_with_its_identity_and_a_rule_for_each_rule() {
    let image = broken();
    let target = image.target("guest");
    let sarif: Value = serde_json::from_str(&in_format(&target, "sarif", 1)).unwrap();
    assert_eq!(sarif["version"], "2.1.0");
    let run = &sarif["runs"][0];
    let report = report(&target);
    let rules = rules(&report);
    let described = run["tool"]["driver"]["rules"].as_array().unwrap();
    assert!(
        described
            .iter()
            .map(|rule| &rule["id"])
            .eq(rules.iter().map(|rule| &rule.0))
    );
    let results = run["results"].as_array().unwrap();
    assert_eq!(
        results.len(),
        rules.iter().map(|rule| rule.2).sum::<usize>()
    );
    assert!(!results.is_empty());
    let identities = report["rules"].as_array().unwrap().iter().flat_map(|rule| {
        let findings = rule["findings"].as_array().into_iter().flatten();
        findings.map(|finding| &finding["identity"])
    });
    assert!(
        results
            .iter()
            .map(|result| &result["fingerprints"]["heirloom/v1"])
            .eq(identities)
    );
    for result in results {
        let place = &result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"];
        assert!(target.contains(place.as_str().unwrap()), "{place}");
    }
}

#[test]
fn workflow_commands_and_markdown_name_the_broken_rule_and_end_or_begin_with_the_verdict() {
    let image = broken();
    let target = image.target("guest");
    let text = heirloom(&["check", &target]).out;
    let verdict = text.lines().last().unwrap();
    assert!(verdict.starts_with("BROKEN"), "{verdict}");
    let commands = in_format(&target, "github", 1);
    let errors: Vec<&str> = commands
        .lines()
        .filter(|line| line.starts_with("::error title=heirloom%3A kernel-mappings-equal::"))
        .collect();
    assert_eq!(errors.len(), 1, "{commands}");
    assert!(errors[0].contains("%0A"), "{commands}");
    assert_eq!(commands.lines().last(), Some(verdict));
    let markdown = in_format(&target, "markdown", 1);
    assert_eq!(
        markdown.lines().next(),
        Some(format!("### {verdict}").as_str())
    );
    assert!(
        markdown.contains("| kernel-mappings-equal | **BROKEN** |"),
        "{markdown}"
    );
    assert_eq!(markdown.matches("```").count() % 2, 0);
    let sound = in_format(&Image::new().target("guest"), "github", 0);
    assert!(!sound.contains("::error"), "{sound}");
}

#[test]
fn a_report_goes_to_a_file_in_any_form_and_the_verdict_alone_is_printed() {
    let image = broken();
    let target = image.target("guest");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report");
    let path = file.to_str().unwrap();
    let text = heirloom(&["check", &target]).out;
    let verdict = text.lines().last().unwrap();
    for form in [
        &["--json"][..],
        &["--format", "markdown"],
        &["--format", "junit"],
        &[],
    ] {
        let printed = heirloom(&[&["check", &target], form].concat());
        let written = heirloom(&[&["check", &target, "--output", path, "--force"], form].concat());
        assert_eq!(written.code, Some(1), "{form:?}: {}", written.err);
        assert_eq!(written.out.trim_end(), verdict, "{form:?}");
        assert_eq!(
            std::fs::read_to_string(&file).unwrap(),
            printed.out,
            "{form:?}"
        );
    }
    let again = heirloom(&["check", &target, "--output", path]);
    assert_eq!(again.code, Some(2), "{}", again.out);
    assert!(again.err.contains("--force"), "{}", again.err);
}

/// The action's script on our own kernel in QEMU.
fn action(ready: &str, output: &std::path::Path) -> std::process::Output {
    let folder = tempfile::tempdir().unwrap();
    let extracted = heirloom(&["extract", folder.path().to_str().unwrap()]);
    assert_eq!(extracted.code, Some(0), "{}", extracted.err);
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../.github/actions/check/check.sh"
    );
    std::process::Command::new(script)
        .env("KERNEL", folder.path().join("heirloom-kernel"))
        .env("INITRD", folder.path().join("programs.cpio"))
        .env("APPEND", "init=family")
        .env("ACCEL", "tcg")
        .env("READY", ready)
        .env(
            "LIMIT",
            if ready.starts_with("heirloom") {
                "300"
            } else {
                "3"
            },
        )
        .env("OUTPUT", output)
        .env("HEIRLOOM", env!("CARGO_BIN_EXE_heirloom"))
        .output()
        .unwrap()
}

#[test]
fn the_action_boots_a_kernel_waits_for_its_text_and_reports_or_says_that_it_never_came() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.md");
    let checked = action("heirloom kernel:", &report);
    let said = String::from_utf8_lossy(&checked.stderr);
    assert_eq!(checked.status.code(), Some(0), "{said}");
    let shown = String::from_utf8_lossy(&checked.stdout);
    assert!(shown.starts_with("HOLDS"), "{shown}{said}");
    let report = std::fs::read_to_string(report).unwrap();
    assert!(report.starts_with("### HOLDS"), "{report}");
    let never = action("what it never says", &folder.path().join("none.md"));
    assert_eq!(never.status.code(), Some(4));
    let said = String::from_utf8_lossy(&never.stderr);
    assert!(
        said.contains("did not say within 3 s: what it never says"),
        "{said}"
    );
}
