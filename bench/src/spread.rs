//! From single measurements to a median with its extremes.

/// Median and extremes.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of some values; `None` of none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let upper = *values.get(values.len() / 2)?;
        let lower = *values.get((values.len() - 1) / 2)?;
        let median = (lower + upper) / 2.0;
        Some(Self { median, min, max })
    }
}

/// The median alone, for a table; a dash where nothing was measured.
pub fn median(spread: Option<Spread>, digits: usize) -> String {
    spread.map_or_else(
        || "–".to_owned(),
        |spread| format!("{:.digits$}", spread.median),
    )
}

/// Median and extremes, for a table; a dash where nothing was measured.
pub fn with_extremes(spread: Option<Spread>, digits: usize) -> String {
    spread.map_or_else(
        || "–".to_owned(),
        |s| {
            format!(
                "{:.digits$} [{:.digits$}–{:.digits$}]",
                s.median, s.min, s.max
            )
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        let spread = |values: &[f64]| Spread::of(values.iter().copied());
        assert_eq!(spread(&[]), None);
        let odd = spread(&[3.0, 1.0, 2.0]).unwrap();
        assert_eq!((odd.median, odd.min, odd.max), (2.0, 1.0, 3.0));
        assert_eq!(spread(&[4.0, 1.0]).unwrap().median, 2.5);
    }

    #[test]
    fn in_a_table() {
        assert_eq!(with_extremes(Spread::of([1.0, 3.0]), 1), "2.0 [1.0–3.0]");
        assert_eq!(
            (median(Spread::of([1.0]), 0), median(None, 0)),
            ("1".into(), "–".into())
        );
    }
}
