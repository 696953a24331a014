//! The results as a chart: four log-log panels over the number of processes, or of CPUs, in one SVG.

use std::collections::BTreeSet;
use std::ops::Range;

use heirloom_abi::options::Strategy;
use heirloom_explorer::theme;
use heirloom_harness::lab::cell::Cell;
use heirloom_harness::lab::figure::Figure;
use heirloom_harness::lab::plan::StrategyName;
use heirloom_harness::lab::results::Results;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::labels::{self, Area, Label};
use super::line::{Line, on_light};
use crate::exit::{Exit, Failure};
use heirloom_source::OutputFile;

/// Pixels; an SVG scales.
const SIZE: (u32, u32) = (1200, 900);
const TITLE_HEIGHT: u32 = 50;
const FOOT_HEIGHT: u32 = 40;
const PANEL_TITLE_HEIGHT: u32 = 26;
/// Around each panel's axes.
const MARGIN: u32 = 12;
/// Left of the vertical axis: its name, and below each other its numbers, of which a character takes so much.
const AXIS_NAME_WIDTH: u32 = 34;
const DIGIT_WIDTH: u32 = 8;
/// Numbers below the horizontal axis, at most.
const MOST_SIZES: usize = 12;
/// Beside each panel, for the names of its lines.
const LABEL_WIDTH: u32 = 140;
const INK: RGBColor = on_light(theme::INK);
const GRID: RGBColor = on_light(theme::LINE);

/// Why there is no chart.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChartError {
    #[error("there are no cells to draw; measure some first")]
    Empty,
    #[error("the drawing failed: {0}; please report it with the JSON of these results")]
    Drawing(String),
}

impl<E: std::error::Error + Send + Sync> From<DrawingAreaErrorKind<E>> for ChartError {
    fn from(error: DrawingAreaErrorKind<E>) -> ChartError {
        ChartError::Drawing(error.to_string())
    }
}

/// What a panel shows.
pub(super) struct Axes {
    pub(super) title: &'static str,
    /// What goes up …
    pub(super) unit: &'static str,
    /// … and what goes to the right.
    pub(super) across: &'static str,
    /// Whether the values are counts, of which a law can be stated.
    pub(super) exact: bool,
}

/// A panel over the number of processes.
struct Panel {
    title: &'static str,
    unit: &'static str,
    value: fn(&Cell, u64) -> Option<u64>,
    exact: bool,
}

const PANELS: [Panel; 4] = [
    Panel {
        title: "A mapping below a PGD entry that every process has",
        unit: "table entries written",
        value: |cell, allocations| sum(cell, allocations, [Figure::EntryWrites, Figure::PgdWrites]),
        exact: true,
    },
    Panel {
        title: "A mapping with a new PGD entry, read by every process",
        unit: "table entries written",
        value: |cell, allocations| {
            let figures = [Figure::NewEntryWrites, Figure::NewPgdWrites];
            sum(cell, allocations, figures)
        },
        exact: true,
    },
    Panel {
        title: "Memory for the kernel's tables",
        unit: "page-table frames below kernel halves",
        value: |cell, allocations| Figure::KernelTables.of(cell, allocations),
        exact: true,
    },
    Panel {
        title: "Time of a mapping below a PGD entry that every process has",
        unit: "microseconds, the fastest mapping",
        value: |cell, _| Some(cell.fastest_mapping_nanoseconds / 1000),
        exact: false,
    },
];

fn sum(cell: &Cell, allocations: u64, figures: [Figure; 2]) -> Option<u64> {
    let [first, second] = figures.map(|figure| figure.of(cell, allocations));
    first?.checked_add(second?)
}

/// The whole decades that the values are in, with room above the highest point.
fn decades(lines: &[Line]) -> Range<f64> {
    let values = || lines.iter().flat_map(Line::drawn).map(|(_, value)| value);
    let decade = |value: Option<u64>| value.and_then(u64::checked_ilog10).unwrap_or(0);
    power_of_ten(decade(values().min()))..power_of_ten(decade(values().max()) + 1)
}

/// The numbers below the horizontal axis: those that were measured, or of many the powers of two.
fn named(sizes: &BTreeSet<u64>) -> Vec<f64> {
    let is_named = |n: &&u64| sizes.len() <= MOST_SIZES || n.is_power_of_two();
    sizes.iter().filter(is_named).map(|n| float(*n)).collect()
}

/// Draws the results.
///
/// # Errors
/// [`ChartError`].
pub(crate) fn svg(results: &Results) -> Result<String, ChartError> {
    if results.cells.is_empty() {
        return Err(ChartError::Empty);
    }
    let lost = results
        .plan
        .strategies
        .contains(&StrategyName(Strategy::None));
    let foot = [
        "Counts are the guest kernel's own, each checked by the host against the page tables. \
         Where a KVM emulates kernel code, times are long.",
        if lost {
            "none is cheap because the others never learn of a new PGD entry: they cannot read the \
             mapping below it."
        } else {
            ""
        },
    ];
    let panels = PANELS.map(|panel| {
        let lines = panel.lines(results);
        (panel.axes(), lines)
    });
    draw(
        "What a kernel mapping costs with N processes, by propagation strategy",
        foot,
        &panels,
    )
}

/// Why a chart could not be drawn to `file`.
pub(super) fn failure(file: &OutputFile, error: &ChartError) -> Failure {
    let path = file.path().display();
    let what = format!("could not draw the chart {path}: {error}");
    Failure::new(Exit::Usage, what)
}

/// Draws four panels, with two lines of text below them.
///
/// # Errors
/// [`ChartError`].
pub(super) fn draw(
    title: &str,
    foot_lines: [&str; 2],
    panels: &[(Axes, Vec<Line>); 4],
) -> Result<String, ChartError> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        root.fill(&on_light(theme::SURFACE))?;
        let (head, rest) = root.split_vertically(TITLE_HEIGHT);
        let (body, foot) = rest.split_vertically(SIZE.1 - TITLE_HEIGHT - FOOT_HEIGHT);
        let centre = i32::try_from(SIZE.0 / 2).unwrap_or(0);
        let middle = Pos::new(HPos::Center, VPos::Center);
        head.draw_text(
            title,
            &(theme::FONT, 24)
                .into_text_style(&head)
                .color(&INK)
                .pos(middle),
            (centre, 28),
        )?;
        let style = (theme::FONT, 13)
            .into_text_style(&foot)
            .color(&INK)
            .pos(middle);
        for (line, y) in foot_lines.into_iter().zip([8, 26]) {
            foot.draw_text(line, &style, (centre, y))?;
        }
        let longest = panels
            .iter()
            .map(|(_, lines)| thousands(decades(lines).end).len());
        let digits = u32::try_from(longest.max().unwrap_or(0)).unwrap_or(0);
        let left = AXIS_NAME_WIDTH + DIGIT_WIDTH * digits;
        for ((axes, lines), area) in panels.iter().zip(body.split_evenly((2, 2))) {
            axes.draw(&area, left, lines)?;
        }
        root.present()?;
    }
    // The drawing is made in light colours, and knows the dark ones.
    Ok(text.replacen('>', &format!(">{}", theme::dark_style()), 1))
}

impl Panel {
    fn axes(&self) -> Axes {
        Axes {
            title: self.title,
            unit: self.unit,
            across: "N, processes",
            exact: self.exact,
        }
    }

    /// The lines, strategies with equal points together.
    fn lines(&self, results: &Results) -> Vec<Line> {
        Line::together(results.plan.strategies.iter().map(|strategy| {
            let own = results.cells.iter();
            let own = own.filter(|cell| cell.name.strategy == *strategy);
            let points = own.filter_map(|cell| {
                let value = (self.value)(cell, results.plan.allocations)?;
                Some((cell.name.processes, value))
            });
            (*strategy, points.collect())
        }))
    }
}

impl Axes {
    /// Draws the panel, its vertical axis `left` pixels from its margin.
    fn draw(&self, area: &Area<'_>, left: u32, lines: &[Line]) -> Result<(), ChartError> {
        let points = lines.iter().flat_map(|line| &line.points);
        let sizes: BTreeSet<u64> = points.map(|(n, _)| *n).collect();
        let widest = sizes.last().map_or(2, |n| (*n).max(2));
        let least = sizes.first().map_or(1, |n| *n);
        let decades = decades(lines);
        let bottom = decades.start;
        let (head, area) = area.split_vertically(PANEL_TITLE_HEIGHT);
        let style = (theme::FONT, 16).into_text_style(&head).color(&INK);
        let axis = i32::try_from(MARGIN + left).unwrap_or(0);
        head.draw_text(self.title, &style, (axis, 4))?;
        let area = &area;
        let mut chart = ChartBuilder::on(area)
            .margin(MARGIN)
            .margin_right(LABEL_WIDTH)
            .x_label_area_size(44)
            .y_label_area_size(left)
            .build_cartesian_2d(
                (float(least)..float(widest))
                    .log_scale()
                    .base(2.0)
                    .with_key_points(named(&sizes)),
                decades.log_scale(),
            )?;
        chart
            .configure_mesh()
            .max_light_lines(0)
            .bold_line_style(GRID)
            .light_line_style(GRID)
            .axis_style(INK)
            .x_labels(MOST_SIZES)
            .y_labels(8)
            .label_style((theme::FONT, 13).into_font().color(&INK))
            .axis_desc_style((theme::FONT, 14).into_font().color(&INK))
            .x_desc(self.across)
            .y_desc(self.unit)
            .x_label_formatter(&|n| format!("{n:.0}"))
            .y_label_formatter(&|value| thousands(*value))
            .draw()?;
        // The backend counts pixels from the whole drawing's corner, the area from its own.
        let (_, above) = area.get_base_pixel();
        let mut labels = Vec::new();
        for line in lines {
            let colour = line.colour();
            let floats: Vec<(f64, f64)> = line
                .drawn()
                .map(|(n, value)| (float(n), float(value)))
                .collect();
            chart.draw_series(std::iter::once(PathElement::new(
                floats.clone(),
                colour.stroke_width(2),
            )))?;
            chart.draw_series(
                floats
                    .iter()
                    .map(|point| Circle::new(*point, 4, colour.filled())),
            )?;
            let end = floats.last().map_or(bottom, |(_, value)| *value);
            labels.push(Label {
                lines: line.label(self.exact),
                colour,
                centre: chart.backend_coord(&(float(widest), end)).1 - above,
            });
        }
        let floor = chart.backend_coord(&(float(widest), bottom)).1 - above;
        labels::spread(&mut labels, floor + labels::LINE / 2);
        for label in &labels {
            label.draw(area, LABEL_WIDTH)?;
        }
        Ok(())
    }
}

/// Of any decade of 64-bit counts.
fn power_of_ten(decade: u32) -> f64 {
    10_f64.powi(i32::try_from(decade).unwrap_or(0))
}

/// A count on an axis; the eye sees three digits.
#[allow(clippy::cast_precision_loss)]
fn float(count: u64) -> f64 {
    count as f64
}

/// `1`, `1,000`, `1,000,000`.
fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use heirloom_harness::lab::plan::Shard;
    use heirloom_harness::lab::testing::sweep;

    #[test]
    fn lines_with_the_same_points_are_one_that_names_all_its_strategies() {
        let lines = PANELS[0].lines(&sweep(Shard::WHOLE));
        let labels: Vec<String> = lines
            .iter()
            .map(|line| line.label(true).join(" "))
            .collect();
        assert_eq!(
            labels,
            [
                "copy-all = 1 + N",
                "prealloc, sync, fault, isolated, none = 1"
            ]
        );
    }

    #[test]
    fn the_chart_is_well_formed_and_names_every_strategy_and_panel() {
        let text = svg(&sweep(Shard::WHOLE)).unwrap();
        let document = roxmltree::Document::parse(&text).unwrap();
        assert_eq!(document.root_element().tag_name().name(), "svg");
        let words: String = document
            .descendants()
            .filter_map(|node| node.text())
            .collect();
        for name in Strategy::ALL.map(Strategy::name) {
            assert!(words.contains(name), "no {name}");
        }
        for panel in &PANELS {
            assert!(words.contains(panel.title), "no {}", panel.title);
        }
        // Every colour has its counterpart for dark grounds.
        for attribute in document
            .descendants()
            .flat_map(|node| node.attributes())
            .filter(|attribute| ["fill", "stroke"].contains(&attribute.name()))
        {
            let colour = attribute.value();
            assert!(
                colour == "none" || text.contains(&format!("[fill=\"{colour}\"]")),
                "{colour}"
            );
        }
    }

    #[test]
    fn the_axis_names_each_size_that_was_measured_and_of_many_the_powers_of_two() {
        assert_eq!(named(&[1, 3, 6].into()), [1.0, 3.0, 6.0]);
        assert_eq!(named(&(1..=20).collect()), [1.0, 2.0, 4.0, 8.0, 16.0]);
    }

    #[test]
    fn absurd_counts_and_single_sizes_are_drawn_without_panic() {
        let mut absurd = sweep(Shard::WHOLE);
        absurd.cells.truncate(1);
        absurd.cells[0].map.guest.written.entries = u64::MAX;
        absurd.cells[0].fastest_mapping_nanoseconds = 0;
        assert!(svg(&absurd).unwrap().contains("</svg>"));
        absurd.plan.allocations = 0;
        assert!(svg(&absurd).unwrap().contains("</svg>"));
        absurd.cells.clear();
        assert!(matches!(svg(&absurd), Err(ChartError::Empty)));
    }
}
