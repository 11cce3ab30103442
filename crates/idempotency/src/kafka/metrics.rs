//! What a consumer counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many messages are behind, by topic and partition: those in the partition that are not done. Of the partitions
/// that this consumer has; as of the last statistics of librdkafka (`statistics.interval.ms`).
pub type Lag = BTreeMap<(String, i32), i64>;

#[derive(Clone, Copy, Debug)]
pub(crate) enum ConsumerCounter {
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

const ALL: [(ConsumerCounter, &str); 12] = [
    (ConsumerCounter::Done, "messages_done"),
    (ConsumerCounter::Duplicates, "messages_duplicate"),
    (ConsumerCounter::InFlight, "retries_in_flight"),
    (ConsumerCounter::Failed, "retries_failed"),
    (ConsumerCounter::StoreDown, "retries_store"),
    (ConsumerCounter::DeadLetters, "dead_letters"),
    (ConsumerCounter::DeadLetterErrors, "dead_letter_errors"),
    (ConsumerCounter::Commits, "commits"),
    (ConsumerCounter::CommitErrors, "commit_errors"),
    (ConsumerCounter::Rebalances, "rebalances"),
    (ConsumerCounter::Stale, "ends_of_old_generations"),
    (ConsumerCounter::Pauses, "pauses"),
];

#[derive(Debug, Default)]
pub(crate) struct ConsumerCounters([AtomicU64; ALL.len()]);

impl ConsumerCounters {
    pub fn count(&self, counter: ConsumerCounter) {
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
            let counters = ConsumerCounters::default();
            counters.count(*counter);
            assert_eq!(counters.read().get(*name), Some(&1));
        }
    }
}
