//! What a consumer counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many messages are behind, by topic and partition: those in the partition that are not done. Of the partitions
/// that this consumer has; as of the last statistics of librdkafka (`statistics.interval.ms`).
pub type Lag = BTreeMap<(String, i32), i64>;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Counter {
    Done,
    Duplicates,
    InFlight,
    Failed,
    StoreDown,
    DeadLetters,
    DeadLetterErrors,
    Commits,
    CommitErrors,
    Rebalances,
    Stale,
    Pauses,
}

const ALL: [(Counter, &str); 12] = [
    (Counter::Done, "messages_done"),
    (Counter::Duplicates, "messages_duplicate"),
    (Counter::InFlight, "retries_in_flight"),
    (Counter::Failed, "retries_failed"),
    (Counter::StoreDown, "retries_store"),
    (Counter::DeadLetters, "dead_letters"),
    (Counter::DeadLetterErrors, "dead_letter_errors"),
    (Counter::Commits, "commits"),
    (Counter::CommitErrors, "commit_errors"),
    (Counter::Rebalances, "rebalances"),
    (Counter::Stale, "ends_of_old_generations"),
    (Counter::Pauses, "pauses"),
];

#[derive(Debug, Default)]
pub(crate) struct Counters([AtomicU64; ALL.len()]);

impl Counters {
    pub fn count(&self, counter: Counter) {
        if let Some(cell) = self.0.get(counter as usize) {
            cell.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn read(&self) -> BTreeMap<String, u64> {
        let cells = ALL.iter().zip(&self.0);
        let read =
            cells.map(|((_, name), cell)| ((*name).to_owned(), cell.load(Ordering::Relaxed)));
        read.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_its_name() {
        for (at, (counter, name)) in ALL.iter().enumerate() {
            assert_eq!(*counter as usize, at, "{name}");
            let counters = Counters::default();
            counters.count(*counter);
            assert_eq!(counters.read().get(*name), Some(&1));
        }
    }
}
