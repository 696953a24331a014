//! The names of a chart's lines, written at their ends and kept apart.

use heirloom_explorer::theme::FONT;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::chart::ChartError;

/// Pixels from one line of text to the next.
pub(super) const LINE: i32 = 15;

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The name of a line, at its end.
pub(super) struct Label {
    pub(super) lines: Vec<String>,
    pub(super) colour: RGBColor,
    /// Where its middle would be best, in pixels from the panel's top.
    pub(super) centre: i32,
}

impl Label {
    fn height(&self) -> i32 {
        LINE * i32::try_from(self.lines.len()).unwrap_or(1)
    }

    fn top(&self) -> i32 {
        self.centre - self.height() / 2
    }

    /// Draws it where its panel's last `width_for_labels` pixels begin.
    pub(super) fn draw(&self, area: &Area<'_>, width_for_labels: u32) -> Result<(), ChartError> {
        let (width, _) = area.dim_in_pixel();
        let left = i32::try_from(width.saturating_sub(width_for_labels)).unwrap_or(0) + 10;
        let style = (FONT, 13)
            .into_text_style(area)
            .color(&self.colour)
            .pos(Pos::new(HPos::Left, VPos::Top));
        let mut top = self.top();
        for line in &self.lines {
            area.draw_text(line, &style, (left, top))?;
            top += LINE;
        }
        Ok(())
    }
}

/// Moves labels that would overlap apart, in their order from top to bottom, as far as `height` allows.
pub(super) fn spread(labels: &mut [Label], height: i32) {
    labels.sort_by_key(|label| label.centre);
    let mut free_from = 0;
    for label in labels.iter_mut() {
        let moved = (free_from - label.top()).max(0);
        label.centre += moved;
        free_from = label.top() + label.height();
    }
    let mut free_to = height;
    for label in labels.iter_mut().rev() {
        let moved = (label.top() + label.height() - free_to).max(0);
        label.centre -= moved;
        free_to = label.top();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_would_overlap_stand_apart_inside_the_panel() {
        let mut labels: Vec<Label> = [395, 390, 10, 2, 391]
            .map(|centre| Label {
                lines: vec!["a".into(), "b".into()],
                colour: BLACK,
                centre,
            })
            .into();
        spread(&mut labels, 400);
        let mut free_from = 0;
        for label in &labels {
            assert!(label.top() >= free_from);
            free_from = label.top() + label.height();
        }
        assert!(free_from <= 400);
    }
}
