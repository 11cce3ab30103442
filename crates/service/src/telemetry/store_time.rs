//! How long the store takes, by what it is asked.

use super::labels::{OpIndex, OPERATIONS};
use super::metrics::Register;
use prometheus::{Histogram, HistogramVec};
use std::future::Future;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Upper bounds of the buckets, in seconds. Fewer than for whole calls: there is a row for each kind of question.
const SECONDS: [f64; 12] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0,
];

/// A question to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreQuestion {
    /// Operations that are all of one kind.
    Operation(OpIndex),
    /// Operations of several kinds in one call.
    Mixed,
    /// One record, for an operator.
    Inspect,
    /// A page of records.
    List,
    /// Records that an operator looks for, or all of them, to be counted.
    Search,
    /// A stored answer, for an operator.
    Stored,
    /// An operator's change.
    Resolve,
    /// Forget what is over.
    Sweep,
    /// Is it ready?
    Ready,
}

const OTHERS: [&str; 8] = [
    "mixed", "inspect", "list", "resolve", "sweep", "ready", "search", "stored",
];
const ROWS: usize = OPERATIONS.len() + OTHERS.len();

impl StoreQuestion {
    /// What a call with these operations asks.
    pub(crate) fn operations(indexes: &[OpIndex]) -> StoreQuestion {
        match indexes.split_first() {
            Some((first, rest)) if rest.iter().all(|other| other == first) => {
                StoreQuestion::Operation(*first)
            }
            _ => StoreQuestion::Mixed,
        }
    }

    fn row(self) -> usize {
        let other = match self {
            StoreQuestion::Operation(index) => return index.place(),
            StoreQuestion::Mixed => 0,
            StoreQuestion::Inspect => 1,
            StoreQuestion::List => 2,
            StoreQuestion::Resolve => 3,
            StoreQuestion::Sweep => 4,
            StoreQuestion::Ready => 5,
            StoreQuestion::Search => 6,
            StoreQuestion::Stored => 7,
        };
        OPERATIONS.len() + other
    }

    fn name(self) -> &'static str {
        let row = self.row();
        let names = || OPERATIONS.iter().chain(&OTHERS);
        names().nth(row).copied().unwrap_or("mixed")
    }
}

/// A histogram for each question; the series are there from the first time on that it was asked.
pub(crate) struct StoreTimes {
    of: HistogramVec,
    rows: [OnceLock<Histogram>; ROWS],
}

impl StoreTimes {
    pub(super) fn new(make: &Register<'_>) -> StoreTimes {
        let help = "Time that the store took, by what it was asked; `mixed` are calls with operations of several kinds.";
        StoreTimes {
            of: make.histograms("store_duration_seconds", help, &SECONDS, &["operation"]),
            rows: std::array::from_fn(|_| OnceLock::new()),
        }
    }

    /// Measures one answer of the store. What is dropped before it is answered is not counted.
    pub(crate) async fn measure<F: Future>(&self, asked: StoreQuestion, answer: F) -> F::Output {
        let started = Instant::now();
        let answer = answer.await;
        self.took(asked, started.elapsed());
        answer
    }

    fn took(&self, asked: StoreQuestion, time: Duration) {
        if let Some(row) = self.rows.get(asked.row()) {
            row.get_or_init(|| self.of.with_label_values(&[asked.name()]))
                .observe(time.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_question_has_its_own_name() {
        let all = [
            StoreQuestion::Mixed,
            StoreQuestion::Inspect,
            StoreQuestion::List,
            StoreQuestion::Resolve,
            StoreQuestion::Sweep,
            StoreQuestion::Ready,
            StoreQuestion::Search,
            StoreQuestion::Stored,
        ];
        assert_eq!(all.map(StoreQuestion::name), OTHERS);
        for (place, name) in OPERATIONS.iter().enumerate() {
            assert_eq!(StoreQuestion::Operation(OpIndex::at(place)).name(), *name);
        }
        let two = [OpIndex::at(0), OpIndex::at(1)];
        assert_eq!(StoreQuestion::operations(&two), StoreQuestion::Mixed);
        assert_eq!(StoreQuestion::operations(&two[..1]).name(), "acquire");
        assert_eq!(StoreQuestion::operations(&[]), StoreQuestion::Mixed);
    }
}
