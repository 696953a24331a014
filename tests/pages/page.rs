//! The commands of a page, with what the page shows of their output.

/// A command of a block of code.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shown<'a> {
    pub(crate) command: &'a str,
    /// The lines below it; none where the page shows none.
    pub(crate) sample: Vec<&'a str>,
}

/// All of them, in order: in blocks marked `console` what stands behind `$ `, with the lines below; in those marked `sh`
/// each line. What follows ` #` is for the reader.
pub(crate) fn shown(page: &str) -> Vec<Shown<'_>> {
    let mut all: Vec<Shown<'_>> = Vec::new();
    let mut block = None;
    for line in page.lines() {
        if let Some(language) = line.strip_prefix("```") {
            block = block.is_none().then_some(language);
            continue;
        }
        let command = match block {
            Some("console") => line.strip_prefix("$ "),
            Some("sh") => Some(line),
            _ => continue,
        };
        match (command, all.last_mut()) {
            (Some(command), _) => all.push(Shown {
                command: command.split(" #").next().unwrap_or(command).trim_end(),
                sample: Vec::new(),
            }),
            (None, Some(shown)) => shown.sample.push(line),
            (None, None) => panic!("output before any command: {line}"),
        }
    }
    all
}

#[test]
fn a_page_is_taken_apart() {
    let page =
        "text\n```console\n$ a -b   # why\none\n…\n$ c\n```\n```text\n$ d\n```\n```sh\ne\n```\n";
    let of = |command, sample: &[&'static str]| Shown {
        command,
        sample: sample.to_vec(),
    };
    assert_eq!(
        shown(page),
        [of("a -b", &["one", "…"]), of("c", &[]), of("e", &[])]
    );
}
