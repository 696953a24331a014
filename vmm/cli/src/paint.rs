//! Colours for terminals. They are laid on words that say the same: no colour says anything alone, and
//! what decides is the report's text.

use std::borrow::Cow;

/// SGR parameters (ECMA-48, 8.3.117): bold red, green, yellow, dim.
const BAD: &str = "1;31";
const GOOD: &str = "32";
const OPEN: &str = "33";
const ASIDE: &str = "2";

/// Words that are a verdict wherever they stand, longer ones before those that they begin with.
const VERDICTS: [(&str, &str); 7] = [
    ("NOT ALL COMPARED", OPEN),
    ("NOTHING TO JUDGE", OPEN),
    ("BROKEN OFF", BAD),
    ("BROKEN", BAD),
    ("MISSED", BAD),
    ("FALSE ALARM", BAD),
    ("HOLDS", GOOD),
];
/// Words that are one when they are all of a table's cell.
const CELLS: [(&str, &str); 2] = [("holds", GOOD), ("caught", GOOD)];
/// What begins a line that may be passed over.
const ASIDES: [&str; 1] = ["note: "];
/// Between two cells of a row there are at least as many blanks.
const GAP: &str = "  ";

/// A report with its verdicts in colour.
pub(crate) fn report(text: &str) -> String {
    let lines: Vec<Cow<'_, str>> = text.split('\n').map(line).collect();
    lines.join("\n")
}

/// What a command says of itself when it fails: in front of its message.
pub(crate) fn failure(prefix: &str) -> String {
    painted(prefix, BAD)
}

fn line(text: &str) -> Cow<'_, str> {
    let start = text.trim_start();
    if ASIDES.iter().any(|aside| start.starts_with(aside)) {
        return painted(text, ASIDE).into();
    }
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, word, colour)) = next_verdict(text, rest) {
        out.push_str(before);
        out.push_str(&painted(word, colour));
        rest = &rest[before.len() + word.len()..];
    }
    if out.is_empty() {
        return text.into();
    }
    out.push_str(rest);
    out.into()
}

/// The first verdict in `rest`, the end of the line `text`: what stands before it, the word, its colour.
fn next_verdict<'a>(text: &'a str, rest: &'a str) -> Option<(&'a str, &'a str, &'static str)> {
    let done = text.len() - rest.len();
    rest.char_indices().find_map(|(at, _)| {
        let (before, behind) = (&text[..done + at], &rest[at..]);
        let words = VERDICTS.iter().filter(|(word, _)| {
            behind.strip_prefix(word).is_some_and(|behind| {
                !before.ends_with(char::is_alphanumeric)
                    && !behind.starts_with(char::is_alphanumeric)
            })
        });
        let cells = CELLS.iter().filter(|(word, _)| {
            behind.strip_prefix(word).is_some_and(|behind| {
                before.ends_with(GAP) && (behind.starts_with(GAP) || behind.trim_end().is_empty())
            })
        });
        let (word, colour) = words.chain(cells).next()?;
        Some((&rest[..at], &behind[..word.len()], *colour))
    })
}

fn painted(text: &str, colour: &str) -> String {
    format!("\x1b[{colour}m{text}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A report without its colours, and with marks in their place.
    fn marked(text: &str) -> String {
        report(text)
            .replace("\x1b[1;31m", "<bad>")
            .replace("\x1b[32m", "<good>")
            .replace("\x1b[33m", "<open>")
            .replace("\x1b[2m", "<aside>")
            .replace("\x1b[0m", "</>")
    }

    #[test]
    fn verdicts_have_a_colour_and_all_else_stays_as_it_is() {
        for (text, expected) in [
            (
                "HOLDS: all 17 rules hold.",
                "<good>HOLDS</>: all 17 rules hold.",
            ),
            ("BROKEN OFF: at", "<bad>BROKEN OFF</>: at"),
            ("NOTHING TO JUDGE: no", "<open>NOTHING TO JUDGE</>: no"),
            (
                " propagated   BROKEN   12   3\n revoked      holds    40",
                " propagated   <bad>BROKEN</>   12   3\n revoked      <good>holds</>    40",
            ),
            (
                "claim 3 is BROKEN: 1 of 2",
                "claim 3 is <bad>BROKEN</>: 1 of 2",
            ),
            (
                "text-hole  prealloc  ·  X  caught",
                "text-hole  prealloc  ·  X  <good>caught</>",
            ),
            (
                "(none)  sync  x  FALSE ALARM",
                "(none)  sync  x  <bad>FALSE ALARM</>",
            ),
            ("  note: CR3 is", "<aside>  note: CR3 is</>"),
        ] {
            assert_eq!(marked(text), expected);
        }
        for text in [
            "",
            "\n\n",
            "what RAM it holds is zero",
            "UNBROKEN BROKENNESS HOLDSTER",
            "  caught by  the rule",
            "a footnote: none",
            "größer als 4 KiB → 0xffff",
        ] {
            assert_eq!(report(text), text);
        }
    }

    #[test]
    fn a_line_may_have_several_verdicts() {
        assert_eq!(
            marked("BROKEN and HOLDS  holds"),
            "<bad>BROKEN</> and <good>HOLDS</>  <good>holds</>"
        );
    }
}
