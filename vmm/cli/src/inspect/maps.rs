//! `heirloom maps`: what an address space maps, written range by range as it is found.

use std::io::{BufWriter, Write};

use heirloom_inspect::report::{INSPECTION_VERSION, NamedRange, Subject};
use heirloom_inspect::{Discovery, Half, RootId, VirtRange};
use serde::Serialize;

use super::root;
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::text::{Shown, maps};

/// Options of `heirloom maps`.
#[derive(clap::Args)]
#[command(after_help = super::TARGETS)]
pub(crate) struct Options {
    #[command(flatten)]
    common: super::Options,
    #[command(flatten)]
    root: root::Options,
    /// The kernel half only.
    #[arg(long, conflicts_with = "user")]
    kernel: bool,
    /// The user half only.
    #[arg(long)]
    user: bool,
}

/// Writes the ranges.
pub(crate) fn run(options: &Options) -> Result<Exit, Failure> {
    let (name, discovery, root) = options.common.discover_root(&options.root)?;
    let within = match (options.kernel, options.user) {
        (true, _) => VirtRange::half(Half::Kernel),
        (_, true) => VirtRange::half(Half::User),
        _ => VirtRange::ALL,
    };
    let mut output = BufWriter::new(Output::new()?);
    let written = if options.common.json {
        write_json(&mut output, &name, &discovery, root, within)
    } else {
        write_lines(&mut output, &name, &discovery, root, within)
    };
    written.and_then(|()| output.flush()).map_err(|error| {
        Failure::new(
            Exit::Usage,
            format!("could not write to standard output: {error}"),
        )
    })?;
    Ok(Exit::Good)
}

fn write_lines(
    output: &mut impl Write,
    name: &str,
    discovery: &Discovery,
    root: RootId,
    within: VirtRange,
) -> std::io::Result<()> {
    writeln!(output, "{}", Shown(&Subject::new(name, discovery)))?;
    let space = discovery.space(root);
    writeln!(
        output,
        "{} ({}), root {}",
        space.label, space.kind, space.address
    )?;
    writeln!(output, "{}", maps::HEADER)?;
    let mut ranges = discovery.snapshot.ranges(root, within);
    for range in ranges.by_ref() {
        let range = NamedRange::new(range, discovery);
        writeln!(output, "{}", Shown(&range))?;
    }
    if let Some(at) = ranges.stopped_at() {
        writeln!(output, "cut at {at}: the tables claim too many pages")?;
    }
    Ok(())
}

/// The head of the JSON document; the ranges follow one by one.
#[derive(Serialize)]
struct Head<'a> {
    version: u32,
    target: Subject,
    root: &'a heirloom_inspect::discover::Space,
}

/// One document, `{…, "ranges": […]}`, that is never whole in memory.
fn write_json(
    output: &mut impl Write,
    name: &str,
    discovery: &Discovery,
    root: RootId,
    within: VirtRange,
) -> std::io::Result<()> {
    let head = serde_json::to_string(&Head {
        version: INSPECTION_VERSION,
        target: Subject::new(name, discovery),
        root: discovery.space(root),
    })?;
    // The object goes on where the head's last brace was.
    write!(
        output,
        "{},\n\"ranges\":[",
        head.strip_suffix('}').unwrap_or(&head)
    )?;
    let mut ranges = discovery.snapshot.ranges(root, within);
    let mut separator = "\n";
    for range in ranges.by_ref() {
        output.write_all(separator.as_bytes())?;
        serde_json::to_writer(&mut *output, &NamedRange::new(range, discovery))?;
        separator = ",\n";
    }
    write!(output, "\n],\n\"stopped_at\":")?;
    serde_json::to_writer(&mut *output, &ranges.stopped_at())?;
    writeln!(output, "}}")
}
