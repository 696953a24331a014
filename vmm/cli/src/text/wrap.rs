//! Long lines broken between words. A word, such as an address, is never broken.

/// The lines of `text`, of at most `width` columns; all but the first are indented.
pub(crate) fn wrapped(text: &str, width: usize, indent: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut columns = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        let is_begun = columns > if lines.is_empty() { 0 } else { indent };
        if is_begun && columns + 1 + length > width {
            lines.push(std::mem::take(&mut line));
            line.extend(std::iter::repeat_n(' ', indent));
            columns = indent;
        } else if is_begun {
            line.push(' ');
            columns += 1;
        }
        line.push_str(word);
        columns += length;
    }
    lines.push(line);
    lines
}

/// A report in a terminal of so many columns: lines that are longer are broken between words, and go on below
/// the cell that they were in. Nothing is broken that has no blank in it, such as an address.
pub(crate) fn folded(text: &str, width: usize) -> String {
    let lines: Vec<String> = text
        .split('\n')
        .map(|line| folded_line(line.trim_end(), width))
        .collect();
    lines.join("\n")
}

fn folded_line(line: &str, width: usize) -> String {
    if line.chars().count() <= width {
        return line.to_owned();
    }
    let indent = last_cell(line, width);
    let mut folded = String::new();
    let mut columns = 0;
    let mut is_begun = false;
    // Blanks stay with the word behind them, so that cells stay where they are.
    let mut rest = line;
    while !rest.is_empty() {
        let blanks = rest.len() - rest.trim_start_matches(' ').len();
        let word = &rest[blanks..];
        let end = blanks + word.find(' ').unwrap_or(word.len());
        let length = rest[..end].chars().count();
        if is_begun && columns + length > width {
            folded.push('\n');
            folded.extend(std::iter::repeat_n(' ', indent));
            folded.push_str(&rest[blanks..end]);
            columns = indent + length - blanks;
        } else {
            folded.push_str(&rest[..end]);
            columns += length;
        }
        is_begun = true;
        rest = &rest[end..];
    }
    folded
}

/// Where the last cell begins that leaves room for its text, or else a little behind the line's own indentation.
fn last_cell(line: &str, width: usize) -> usize {
    let own = line.len() - line.trim_start_matches(' ').len();
    let mut cell = own + 2;
    let (mut blanks, mut begun) = (0, false);
    for (column, c) in line.chars().enumerate().take(width * 3 / 5) {
        if c == ' ' {
            blanks += 1;
        } else {
            if begun && blanks >= 2 {
                cell = column;
            }
            (blanks, begun) = (0, true);
        }
    }
    cell
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_goes_on_below_its_last_cell_and_an_address_stays_whole() {
        let row =
            " PGD[403]  vmalloc  shared by the processes at 0xffffc98000000000 and by nobody else";
        let folded = folded(&format!("short\n{row}"), 50);
        let lines: Vec<&str> = folded.lines().collect();
        assert_eq!(lines[0], "short");
        assert!(lines.len() > 2, "{folded}");
        assert!(
            lines.iter().all(|line| line.chars().count() <= 50),
            "{folded}"
        );
        assert!(lines[2].starts_with(&" ".repeat(20)), "{folded}");
        assert!(folded.contains("0xffffc98000000000"), "{folded}");
        let (of_row, of_lines) = (row.split_whitespace(), lines[1..].join(" "));
        assert!(of_row.eq(of_lines.split_whitespace()), "{folded}");
    }

    #[test]
    fn a_word_that_no_line_holds_is_not_broken() {
        assert_eq!(folded("  a 0123456789 b", 8), "  a\n    0123456789\n    b");
        assert_eq!(folded("ends here   ", 80), "ends here");
    }

    #[test]
    fn lines_break_between_words_and_words_do_not_break() {
        let text = "frame 0x1f5, as the guest says, at 0xffffc97fffff8000 of process 4";
        let lines = wrapped(text, 20, 2);
        assert_eq!(lines[0], "frame 0x1f5, as the");
        assert_eq!(lines[2], "  0xffffc97fffff8000");
        let words: Vec<&str> = lines
            .iter()
            .flat_map(|line| line.split_whitespace())
            .collect();
        assert_eq!(words.join(" "), text);
        assert!(
            lines.iter().all(|line| line.chars().count() <= 20),
            "{lines:?}"
        );
    }

    #[test]
    fn a_word_that_is_too_long_has_a_line_of_its_own() {
        assert_eq!(wrapped("a 0123456789 b", 6, 1), ["a", " 0123456789", " b"]);
        assert_eq!(wrapped("", 6, 1), [""]);
    }
}
