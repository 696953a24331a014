//! The verdict of `heirloom check` for the machines that read it: JUnit's XML, SARIF, GitHub's workflow commands,
//! and Markdown for a job's summary.

use std::fmt::Write as _;

use heirloom_inspect::report::CheckReport;
use heirloom_inspect::rules::{Finding, Outcome, Verdict};
use serde_json::{Value, json};

use super::Shown;

/// Findings of one rule that are written in full where people read them.
const MAX_SHOWN: usize = 20;

/// JUnit's XML, as most CI systems take it: a test case for each rule; one that was not tried is skipped.
pub(crate) fn junit(report: &CheckReport) -> String {
    let rules = &report.check.rules;
    let failures = rules.iter().filter(|rule| rule.is_broken()).count();
    let skipped = rules
        .iter()
        .filter(|rule| why_not_tried(rule).is_some())
        .count();
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    let _ = writeln!(
        xml,
        "  <testsuite name=\"heirloom check {}\" tests=\"{}\" failures=\"{failures}\" skipped=\"{skipped}\" \
         errors=\"0\">",
        escaped(&report.target.name),
        rules.len()
    );
    for verdict in rules {
        let name = escaped(verdict.rule.name);
        let _ = write!(xml, "    <testcase classname=\"heirloom\" name=\"{name}\"");
        if let Some(why) = why_not_tried(verdict) {
            let _ = writeln!(xml, "><skipped message=\"{}\"/></testcase>", escaped(why));
        } else if verdict.is_broken() {
            let _ = writeln!(
                xml,
                "><failure message=\"{}\">{}</failure></testcase>",
                escaped(verdict.rule.statement),
                escaped(&findings(verdict))
            );
        } else {
            xml.push_str("/>\n");
        }
    }
    xml.push_str("  </testsuite>\n</testsuites>\n");
    xml
}

/// SARIF 2.1.0 (OASIS), as code-scanning services take it. A finding's identity is its fingerprint.
pub(crate) fn sarif(report: &CheckReport) -> Value {
    let rules = &report.check.rules;
    let described: Vec<Value> = rules
        .iter()
        .map(|verdict| {
            json!({
                "id": verdict.rule.name,
                "shortDescription": { "text": verdict.rule.statement },
                "help": { "text": format!("Source: {}", verdict.rule.source) },
            })
        })
        .collect();
    let results: Vec<Value> = rules
        .iter()
        .flat_map(|verdict| verdict.findings.iter().map(move |finding| (verdict, finding)))
        .map(|(verdict, finding)| {
            json!({
                "ruleId": verdict.rule.name,
                "level": "error",
                "message": { "text": format!("{}: {}", verdict.rule.statement, in_a_line(finding)) },
                "fingerprints": { "heirloom/v1": finding.identity },
                "locations": [{
                    "physicalLocation": { "artifactLocation": { "uri": uri(&report.target.name) } },
                    "logicalLocations": [{
                        "name": finding.place,
                        "fullyQualifiedName": finding.range.map_or_else(
                            || finding.place.clone(),
                            |range| format!("{} {range}", finding.place),
                        ),
                        "kind": "element",
                    }],
                }],
            })
        })
        .collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "heirloom",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": described,
            }},
            "results": results,
        }],
    })
}

/// GitHub's workflow commands: an annotation for each finding, then the verdict.
pub(crate) fn github(report: &CheckReport) -> String {
    let mut text = String::new();
    for verdict in &report.check.rules {
        let title = property(&format!("heirloom: {}", verdict.rule.name));
        for finding in verdict.findings.iter().take(MAX_SHOWN) {
            let what = format!("{}\n{}", verdict.rule.statement, in_a_line(finding));
            let _ = writeln!(text, "::error title={title}::{}", data(&what));
        }
        let more = more(verdict);
        if more > 0 {
            let _ = writeln!(text, "::error title={title}::and {more} more places");
        }
        if let Some(why) = why_not_tried(verdict) {
            let _ = writeln!(text, "::notice title={title}::not tried: {}", data(why));
        }
    }
    text.push_str(&verdict_line(report));
    text.push('\n');
    text
}

/// Markdown, for a job's summary or a comment.
pub(crate) fn markdown(report: &CheckReport) -> String {
    let mut text = format!(
        "### {}\n\n`{}`\n\n| rule | verdict | checks | broken |\n| --- | --- | ---: | ---: |\n",
        cell(&verdict_line(report)),
        cell(&report.target.name)
    );
    for verdict in &report.check.rules {
        let outcome = match verdict.outcome {
            Outcome::Holds => "holds".to_owned(),
            Outcome::Broken => "**BROKEN**".to_owned(),
            Outcome::NotTried { why } => format!("not tried: {}", cell(why)),
        };
        let _ = writeln!(
            text,
            "| {} | {outcome} | {} | {} |",
            verdict.rule.name, verdict.checks, verdict.violations
        );
    }
    for verdict in report.check.rules.iter().filter(|rule| rule.is_broken()) {
        let _ = writeln!(
            text,
            "\n<details><summary>{}: {}</summary>\n\n```text\n{}\n```\n\n</details>",
            verdict.rule.name,
            escaped(verdict.rule.statement),
            // Nothing of a guest's ends the block.
            findings(verdict).replace("```", "'''")
        );
    }
    text
}

/// The last line of the report for people.
fn verdict_line(report: &CheckReport) -> String {
    let text = Shown(report).to_string();
    text.lines().last().unwrap_or_default().to_owned()
}

fn why_not_tried(verdict: &Verdict) -> Option<&'static str> {
    match verdict.outcome {
        Outcome::NotTried { why } => Some(why),
        Outcome::Holds | Outcome::Broken => None,
    }
}

/// Findings that are not written in full.
fn more(verdict: &Verdict) -> u64 {
    verdict.findings.len().saturating_sub(MAX_SHOWN) as u64 + verdict.left_out
}

fn findings(verdict: &Verdict) -> String {
    let mut lines: Vec<String> = verdict
        .findings
        .iter()
        .take(MAX_SHOWN)
        .map(in_a_line)
        .collect();
    let more = more(verdict);
    if more > 0 {
        lines.push(format!("and {more} more places"));
    }
    lines.join("\n")
}

fn in_a_line(finding: &Finding) -> String {
    let mut text = finding.place.clone();
    if let Some(range) = &finding.range {
        let _ = write!(text, ", {range}");
    }
    if let Some(symbol) = &finding.symbol {
        let _ = write!(text, " ({symbol})");
    }
    let _ = write!(
        text,
        ", in {} of {} roots: expected {}, found {}",
        finding.spaces.count, finding.spaces.of, finding.expected, finding.found
    );
    text
}

/// Text in XML, in an attribute or not. Control characters are not allowed in XML 1.0 at all.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push('\n'),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {
                escaped.push('\u{fffd}');
            }
            c => escaped.push(c),
        }
    }
    escaped
}

/// The text of a workflow command.
fn data(text: &str) -> String {
    text.replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

/// A property of a workflow command.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

/// Text in a line or a table of Markdown.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r', '`'], " ")
}

/// A target as a URI: its file, without what is in front of it and behind.
fn uri(target: &str) -> String {
    let path = target.split_once(':').map_or(target, |(_, path)| path);
    path.chars()
        .map(|c| match c {
            ' ' => "%20".to_owned(),
            c if c.is_control() => "_".to_owned(),
            c => c.to_string(),
        })
        .collect()
}
