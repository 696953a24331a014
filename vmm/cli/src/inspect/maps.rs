//! `heirloom maps`: what an address space maps, written range by range as it is found.

use std::io::{BufWriter, Write};
use std::ops::RangeInclusive;

use heirloom_inspect::names::RootName;
use heirloom_inspect::report::{INSPECTION_VERSION, NamedRange, Row, Subject};
use heirloom_inspect::{Discovery, Half, PageSize, RootId, RootLabel, VirtAddr, VirtRange};
use serde::Serialize;

use super::number;
use super::root;
use super::rows::{self, Format};

pub(crate) use super::rows::Filter;
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::text::{Shown, maps};
use crate::ui;

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
    /// Only these addresses: FIRST-LAST, both included.
    #[arg(long, value_name = "FIRST-LAST", value_parser = number::range, conflicts_with_all = ["kernel", "user"])]
    range: Option<VirtRange>,
    /// A row for each page or range, for programs to read; also of all address spaces: --root all.
    #[arg(long, value_enum, conflicts_with = "json")]
    format: Option<Format>,
    /// Rows are single pages with their bits and where their entry stands, not merged ranges.
    #[arg(long, requires = "format")]
    leaves: bool,
    /// Only what holds this address.
    #[arg(long, value_name = "ADDRESS", value_parser = number::parse)]
    has: Option<u64>,
    /// Only what leads to these guest-physical addresses: FIRST-LAST, both included, or one.
    #[arg(long, value_name = "ADDRESSES", value_parser = number::physical)]
    phys: Option<RangeInclusive<u64>>,
    /// Only pages of this size: 4K, 2M or 1G.
    #[arg(long, value_name = "SIZE", value_parser = rows::size, requires = "leaves")]
    size: Option<PageSize>,
    /// Only what is so: words out of w, ro, x, nx, u, s (for ring 0 alone) and, of single pages, g, a, d; each
    /// may have ! in front. `w x` is what is writable and executable.
    #[arg(long, value_name = "WORDS")]
    filter: Option<Filter>,
}

/// Writes the ranges.
pub(crate) fn run(options: &Options) -> Result<Exit, Failure> {
    let mut filter = options.filter.clone().unwrap_or_default();
    if filter.needs_pages() && !options.leaves {
        return Err(Failure::new(
            Exit::Usage,
            "g, a and d are true of single pages: --filter with them needs --leaves",
        ));
    }
    filter.has = options.has.map(VirtAddr::new);
    filter.physical.clone_from(&options.phys);
    let within = match (options.kernel, options.user, options.range) {
        (true, _, _) => VirtRange::half(Half::Kernel),
        (_, true, _) => VirtRange::half(Half::User),
        (_, _, Some(range)) => range,
        _ => VirtRange::ALL,
    };
    if options.format == Some(Format::Arrow) && ui::output_is_terminal() {
        return Err(Failure::new(
            Exit::Usage,
            "an Arrow stream is not for terminals: send it to a program, or to a file with `> rows.arrows`",
        ));
    }
    let mut output = BufWriter::new(Output::new()?);
    let written = if let Some(format) = options.format {
        options.write_rows(&mut output, format, within, &filter)?
    } else {
        let (name, discovery, root) = options.common.discover_root(&options.root)?;
        if options.common.json {
            write_json(&mut output, &name, &discovery, root, within, &filter)
        } else {
            write_lines(&mut output, &name, &discovery, root, within, &filter)
        }
    };
    written.and_then(|()| output.flush()).map_err(|error| {
        Failure::new(
            Exit::Usage,
            format!("could not write to standard output: {error}"),
        )
    })?;
    Ok(Exit::Good)
}

impl Options {
    fn write_rows(
        &self,
        output: &mut impl Write,
        format: Format,
        within: VirtRange,
        filter: &Filter,
    ) -> Result<std::io::Result<()>, Failure> {
        let (discovery, roots) = if self.root.name() == Some(RootName::All) {
            let (_, discovery) = self.common.discover_named()?;
            let roots = discovery.spaces.iter().map(|space| space.root).collect();
            (discovery, roots)
        } else {
            let (_, discovery, root) = self.common.discover_root(&self.root)?;
            (discovery, vec![root])
        };
        let write = || {
            let mut rows = format.begin(output, &discovery)?;
            for root in roots {
                let space = discovery.space(root);
                let stopped_at = if self.leaves {
                    let mut pages = discovery.snapshot.leaves(root, within);
                    for page in pages.by_ref().filter(|page| filter.takes_page(page)) {
                        if self.size.is_none_or(|size| size == page.size) {
                            rows.row(&Row::page(space, &page, &discovery))?;
                        }
                    }
                    pages.stopped_at()
                } else {
                    let mut ranges = discovery.snapshot.ranges(root, within);
                    for range in ranges.by_ref().filter(|range| filter.takes(range)) {
                        rows.row(&Row::range(space, &range, &discovery))?;
                    }
                    ranges.stopped_at()
                };
                // Rows have no place for it.
                if let Some(at) = stopped_at {
                    let root = space.address;
                    log::warn!("root {root} is cut at {at}: the tables claim too many pages");
                }
            }
            rows.finish()
        };
        Ok(write())
    }
}

/// A line for each range of an address space.
pub(crate) fn write_lines(
    output: &mut impl Write,
    name: &str,
    discovery: &Discovery,
    root: RootId,
    within: VirtRange,
    filter: &Filter,
) -> std::io::Result<()> {
    writeln!(output, "{}", Shown(&Subject::new(name, discovery)))?;
    let space = discovery.space(root);
    let label = match space.label {
        // Only its root says which it is, and that follows.
        RootLabel::Found(_) => "address space".to_owned(),
        label => label.to_string(),
    };
    writeln!(output, "{label} ({}), root {}", space.kind, space.address)?;
    writeln!(output, "{}", maps::HEADER)?;
    let mut ranges = discovery.snapshot.ranges(root, within);
    for range in ranges.by_ref().filter(|range| filter.takes(range)) {
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
    filter: &Filter,
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
    for range in ranges.by_ref().filter(|range| filter.takes(range)) {
        output.write_all(separator.as_bytes())?;
        serde_json::to_writer(&mut *output, &NamedRange::new(range, discovery))?;
        separator = ",\n";
    }
    write!(output, "\n],\n\"stopped_at\":")?;
    serde_json::to_writer(&mut *output, &ranges.stopped_at())?;
    writeln!(output, "}}")
}
