//! What a page shows of an output, held against the output.

/// The lines of `sample` that do not stand in `output`, in that order: neighbours where there is no `…` between them.
/// Numbers, and how many spaces there are, do not matter; a `…` at the end of a line stands for its rest.
pub(crate) fn missing<'a>(sample: &[&'a str], output: &str) -> Vec<&'a str> {
    let output: Vec<String> = output.lines().map(without_numbers).collect();
    let (mut at, mut anywhere) = (0, true);
    let mut missing = Vec::new();
    for &line in sample {
        if line.trim() == "…" {
            anywhere = true;
            continue;
        }
        let wanted = without_numbers(line);
        let matches = |found: &String| match wanted.strip_suffix('…') {
            Some(start) => found.starts_with(start.trim_end()),
            None => *found == wanted,
        };
        let rest = &output[at..];
        let reach = if anywhere {
            rest.len()
        } else {
            rest.len().min(1)
        };
        if let Some(place) = rest[..reach].iter().position(matches) {
            at += 1 + place;
            anywhere = false;
        } else {
            // The next is looked for from here.
            missing.push(line);
            anywhere = true;
        }
    }
    missing
}

/// A line with `#` for each number, decimal or hexadecimal, and one space where there are several.
fn without_numbers(line: &str) -> String {
    let words = line.split_whitespace().map(|word| {
        let parts = word.split_inclusive(|c: char| !c.is_ascii_alphanumeric());
        let parts = parts.map(|part| {
            let end = part
                .trim_end_matches(|c: char| !c.is_ascii_alphanumeric())
                .len();
            let (name, after) = part.split_at(end);
            let digits = name.strip_prefix("0x").unwrap_or(name);
            let is_number = !digits.is_empty()
                && (digits.bytes().all(|digit| digit.is_ascii_digit())
                    || digits.len() < name.len()
                    || digits.len() == 16 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
            format!("{}{after}", if is_number { "#" } else { name })
        });
        parts.collect::<String>()
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_sample_is_found_or_what_is_not_is_told() {
    let output = "begin\n  process 12 at 0xffff800000001000: (3 of 4)\nnext\nand more of it\nend 7";
    for good in [
        &["begin"][..],
        &["…", "process 1 at 0xabc: (9 of 9)", "next"],
        &["begin", "…", "and more …", "end 8"],
        &[],
    ] {
        assert!(missing(good, output).is_empty(), "{good:?}");
    }
    for (bad, line) in [
        (&["begin", "next"][..], "next"),
        (&["next", "…", "begin"], "begin"),
        (
            &["process 1 at 0xabc: (9 of x)", "next"],
            "process 1 at 0xabc: (9 of x)",
        ),
        (&["end"], "end"),
    ] {
        assert_eq!(missing(bad, output), [line], "{bad:?}");
    }
}
