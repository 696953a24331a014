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

#[cfg(test)]
mod tests {
    use super::*;

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
