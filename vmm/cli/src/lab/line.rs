//! A line of a chart: which strategies it is, its points, its colour and its name.

use heirloom_abi::options::Strategy;
use heirloom_explorer::theme::{self, Colour};
use heirloom_harness::lab::law::Law;
use heirloom_harness::lab::plan::StrategyName;
use plotters::style::RGBColor;

/// Letters in a line of a label.
const LABEL_LETTERS: usize = 18;

/// A line of a panel: the strategies that have exactly these points.
pub(super) struct Line {
    strategies: Vec<StrategyName>,
    pub(super) points: Vec<(u64, u64)>,
}

impl Line {
    /// The lines of strategies with these points, those with equal points together.
    pub(super) fn together(
        strategies: impl Iterator<Item = (StrategyName, Vec<(u64, u64)>)>,
    ) -> Vec<Line> {
        let mut lines: Vec<Line> = Vec::new();
        for (strategy, points) in strategies {
            match lines.iter_mut().find(|line| line.points == points) {
                Some(line) => line.strategies.push(strategy),
                None => lines.push(Line {
                    strategies: vec![strategy],
                    points,
                }),
            }
        }
        lines
    }

    /// Its points but those of no cost: a logarithm has no 0.
    pub(super) fn drawn(&self) -> impl Iterator<Item = (u64, u64)> {
        self.points.iter().copied().filter(|(_, value)| *value > 0)
    }

    /// That of its first strategy, by its place among those that propagate; the others are faint. All are
    /// dark enough for text on white, and told apart by people who see fewer colours.
    pub(super) fn colour(&self) -> RGBColor {
        const COLOURS: [Colour; 6] = [
            theme::RED,
            theme::BLUE,
            theme::GREEN,
            theme::PLUM,
            theme::OCHRE,
            theme::INK,
        ];
        let first = self.strategies.first().map(|strategy| strategy.0);
        let place = Strategy::ALL
            .into_iter()
            .filter(|strategy| strategy.propagates())
            .position(|strategy| Some(strategy) == first);
        on_light(place.map_or(theme::FAINT_INK, |place| COLOURS[place % COLOURS.len()]))
    }

    /// The strategies and, of counts, the law, in lines of a label's width.
    pub(super) fn label(&self, exact: bool) -> Vec<String> {
        let mut words: Vec<String> = self
            .strategies
            .iter()
            .map(StrategyName::to_string)
            .collect();
        let names = words.len();
        for word in &mut words[..names - 1] {
            word.push(',');
        }
        let mut lines: Vec<String> = Vec::new();
        for word in words {
            match lines.last_mut() {
                Some(line) if line.len() + 1 + word.len() <= LABEL_LETTERS => {
                    line.push(' ');
                    line.push_str(&word);
                }
                _ => lines.push(word),
            }
        }
        let law = Law::of(&self.points);
        if exact && law != Law::TooFewSizes {
            lines.push(format!("= {law}"));
        }
        lines
    }
}

/// The colour as it is drawn.
pub(super) const fn on_light(Colour { light, .. }: Colour) -> RGBColor {
    let [red, green, blue] = light;
    RGBColor(red, green, blue)
}
