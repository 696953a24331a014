//! Growth laws: which simple function of the number of processes a count is, exactly.

use std::fmt;

use serde::{Serialize, Serializer};

/// A count as a function of N, the number of processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Law {
    /// O(1): the same for every N.
    Constant(u64),
    /// O(N): `start + slope·N`, with a slope that is not 0.
    Linear {
        /// At N = 0.
        start: i64,
        /// What each process adds.
        slope: i64,
    },
    /// No integer line goes through all points.
    Neither,
    /// Fewer points than a line could miss.
    TooFewSizes,
}

/// Two points are on a line anyway.
const FEWEST_SIZES: usize = 3;

impl Law {
    /// The law of the points `(N, count)`, whose Ns differ. No tolerance: counts are exact.
    pub fn of(points: &[(u64, u64)]) -> Law {
        let (Some(&(x, y)), Some(&(last_x, last_y))) = (points.first(), points.last()) else {
            return Law::TooFewSizes;
        };
        if points.len() < FEWEST_SIZES {
            return Law::TooFewSizes;
        }
        let [x, y, last_x, last_y] = [x, y, last_x, last_y].map(i128::from);
        let (rise, run) = (last_y - y, last_x - x);
        if run == 0 || rise % run != 0 {
            return Law::Neither;
        }
        let slope = rise / run;
        // Checked, because the counts may come from a file.
        let Some(start) = slope.checked_mul(x).and_then(|part| y.checked_sub(part)) else {
            return Law::Neither;
        };
        let on_the_line = |&(x, y): &(u64, u64)| {
            slope
                .checked_mul(x.into())
                .and_then(|part| part.checked_add(start))
                == Some(y.into())
        };
        if !points.iter().all(on_the_line) {
            return Law::Neither;
        }
        match (
            u64::try_from(start),
            i64::try_from(start),
            i64::try_from(slope),
        ) {
            (Ok(start), _, Ok(0)) => Law::Constant(start),
            (_, Ok(start), Ok(slope)) => Law::Linear { start, slope },
            _ => Law::Neither,
        }
    }

    /// Its class.
    pub const fn class(self) -> &'static str {
        match self {
            Law::Constant(_) => "O(1)",
            Law::Linear { .. } => "O(N)",
            Law::Neither => "neither",
            Law::TooFewSizes => "unknown",
        }
    }
}

/// As a formula: `3`, `1 + N`, `N − 1`.
impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match *self {
            Law::Constant(count) => count.to_string(),
            Law::Linear { start, slope } => {
                let times_n = match slope.unsigned_abs() {
                    1 => "N".to_owned(),
                    factor => format!("{factor}N"),
                };
                match (start, slope > 0) {
                    (0, true) => times_n,
                    (0, false) => format!("−{times_n}"),
                    (start, true) if start < 0 => {
                        format!("{times_n} − {}", start.unsigned_abs())
                    }
                    (start, true) => format!("{start} + {times_n}"),
                    (start, false) => format!("{start} − {times_n}"),
                }
            }
            Law::Neither => "neither".to_owned(),
            Law::TooFewSizes => "?".to_owned(),
        };
        f.pad(&text)
    }
}

impl Serialize for Law {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut law = serializer.serialize_struct("Law", 2)?;
        law.serialize_field("class", self.class())?;
        law.serialize_field("formula", &self.to_string())?;
        law.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn law(count: impl Fn(u64) -> u64) -> Law {
        let points: Vec<(u64, u64)> = [1, 2, 4, 8].map(|n| (n, count(n))).into();
        Law::of(&points)
    }

    #[test]
    fn what_never_changes_is_constant() {
        assert_eq!(law(|_| 7), Law::Constant(7));
        assert_eq!(law(|_| 0).to_string(), "0");
        assert_eq!(law(|_| u64::MAX), Law::Constant(u64::MAX));
    }

    #[test]
    fn what_grows_by_the_same_with_each_process_is_linear() {
        for (law, formula) in [
            (law(|n| n), "N"),
            (law(|n| 1 + n), "1 + N"),
            (law(|n| 3 + 4 * n), "3 + 4N"),
            (law(|n| n - 1), "N − 1"),
            (law(|n| 20 - 2 * n), "20 − 2N"),
        ] {
            assert_eq!(law.class(), "O(N)");
            assert_eq!(law.to_string(), formula);
        }
    }

    #[test]
    fn one_count_off_the_line_is_neither() {
        assert_eq!(law(|n| n * n), Law::Neither);
        assert_eq!(law(|n| n / 2), Law::Neither);
        assert_eq!(law(|n| if n == 4 { 6 } else { 5 }), Law::Neither);
        assert_eq!(law(|n| if n == 2 { 4 } else { n + 1 }), Law::Neither);
    }

    #[test]
    fn two_sizes_tell_no_law() {
        assert_eq!(Law::of(&[(1, 1), (2, 2)]), Law::TooFewSizes);
        assert_eq!(Law::of(&[]), Law::TooFewSizes);
    }

    #[test]
    fn absurd_counts_are_no_panic() {
        for absurd in [
            [(0, u64::MAX), (1, 0), (u64::MAX, u64::MAX)],
            [(u64::MAX - 1, 0), (7, 7), (u64::MAX, u64::MAX)],
            [(5, 1), (5, 2), (5, 3)],
        ] {
            assert_eq!(Law::of(&absurd), Law::Neither);
        }
    }
}
