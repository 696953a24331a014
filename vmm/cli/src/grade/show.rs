//! A grade as text and as Markdown.

use std::fmt;

use heirloom_harness::grade::{Grade, Item, ItemKind};

use crate::text::wrap::wrapped;

/// Columns of a line.
const WIDTH: usize = 80;
/// Where the text stands behind the points.
const INDENT: usize = 12;

/// What an item is called.
fn name(item: &Item) -> String {
    match item.kind {
        ItemKind::Scenario => "the scenario".into(),
        ItemKind::Rule => item.name.clone(),
        ItemKind::Claim => format!("claim {}", item.name),
    }
}

fn title(grade: &Grade) -> String {
    match grade.title.as_str() {
        "" => grade.kernel.clone(),
        title => format!("{title}: {}", grade.kernel),
    }
}

fn verdict(grade: &Grade) -> String {
    let Grade {
        points, of, lies, ..
    } = grade;
    if lies.is_empty() {
        format!("{points} of {of} points.")
    } else {
        format!("{points} of {of} points: the kernel tells what its own tables refute.")
    }
}

/// A grade for people, 80 columns wide.
pub(super) struct Text<'a>(pub(super) &'a Grade);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Text(grade) = self;
        for line in wrapped(&title(grade), WIDTH, 0) {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "\npoints   of")?;
        for item in &grade.items {
            let Item {
                points,
                of,
                statement,
                reasons,
                ..
            } = item;
            let what = format!("{}: {statement}", name(item));
            let mut lines = wrapped(&what, WIDTH - INDENT, 2).into_iter();
            let first = lines.next().unwrap_or_default();
            writeln!(f, "{points:>6} {of:>4} {first}")?;
            for line in lines {
                writeln!(f, "{:INDENT$}{line}", "")?;
            }
            for reason in reasons {
                for line in wrapped(&format!("- {reason}"), WIDTH - INDENT, 2) {
                    writeln!(f, "{:INDENT$}{line}", "")?;
                }
            }
        }
        if !grade.lies.is_empty() {
            writeln!(f, "\nwhat it tells is not so")?;
            for lie in &grade.lies {
                for line in wrapped(&format!("- {lie}"), WIDTH, 2) {
                    writeln!(f, "{line}")?;
                }
            }
        }
        write!(f, "\n{}", verdict(grade))
    }
}

/// A grade for a comment.
pub(super) struct Markdown<'a>(pub(super) &'a Grade);

impl fmt::Display for Markdown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Markdown(grade) = self;
        writeln!(f, "## {}\n\n**{}**\n", plain(&title(grade)), verdict(grade))?;
        for lie in &grade.lies {
            writeln!(f, "- {}", plain(lie))?;
        }
        if !grade.lies.is_empty() {
            writeln!(f)?;
        }
        writeln!(f, "| points | of | for | why points were lost |")?;
        writeln!(f, "| ---: | ---: | --- | --- |")?;
        for item in &grade.items {
            let reasons: Vec<String> = item.reasons.iter().map(|why| plain(why)).collect();
            writeln!(
                f,
                "| {} | {} | **{}**: {} | {} |",
                item.points,
                item.of,
                name(item),
                plain(&item.statement),
                reasons.join("<br>")
            )?;
        }
        Ok(())
    }
}

/// Text that Markdown shows as it is, in one cell of a table.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' => plain.push(' '),
            '<' => plain.push_str("&lt;"),
            '&' => plain.push_str("&amp;"),
            '|' | '\\' | '`' | '*' | '_' | '[' | ']' | '#' | '@' => {
                plain.push('\\');
                plain.push(c);
            }
            _ => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grade() -> Grade {
        let item = |kind, name: &str, points, reasons: &[&str]| Item {
            kind,
            name: name.into(),
            statement: "every address space shows the very same tables".into(),
            points,
            of: 10,
            reasons: reasons.iter().map(ToString::to_string).collect(),
        };
        let long = "expected frame 0xffffc97fffff8000, found 0xffffc97fffff9000 | and more of it";
        Grade {
            version: 1,
            title: "Share".into(),
            kernel: "kernel.elf".into(),
            points: 13,
            of: 30,
            lies: Vec::new(),
            items: vec![
                item(ItemKind::Scenario, "scenario", 10, &[]),
                item(ItemKind::Rule, "propagated", 3, &[long]),
                item(ItemKind::Claim, "5", 0, &[]),
            ],
            runs: Vec::new(),
        }
    }

    #[test]
    fn the_text_has_80_columns_and_ends_with_the_points() {
        let text = Text(&grade()).to_string();
        assert!(
            text.lines().all(|line| line.chars().count() <= WIDTH),
            "{text}"
        );
        assert!(text.contains("     3   10 propagated: "), "{text}");
        assert!(text.contains("0xffffc97fffff9000"), "{text}");
        assert!(text.ends_with("\n13 of 30 points."), "{text}");
    }

    #[test]
    fn the_markdown_table_has_a_row_for_each_item_and_no_cell_breaks_it() {
        let text = Markdown(&grade()).to_string();
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(rows.len(), 5, "{text}");
        for row in rows {
            assert_eq!(row.replace("\\|", "").matches('|').count(), 5, "{row}");
        }
        assert!(text.contains("**13 of 30 points.**"), "{text}");
    }

    #[test]
    fn a_kernel_that_lies_is_told_so_before_all_else() {
        let mut grade = grade();
        grade.points = 0;
        grade.lies = vec!["event 8: it should be <1>; it is 2".into()];
        let text = Markdown(&grade).to_string();
        let (lie, table) = (text.find("&lt;1>").unwrap(), text.find("| points").unwrap());
        assert!(lie < table, "{text}");
        assert!(
            Text(&grade)
                .to_string()
                .ends_with("the kernel tells what its own tables refute.")
        );
    }
}
