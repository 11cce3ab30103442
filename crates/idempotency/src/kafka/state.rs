//! What the consumer's thread, its callbacks and the workers share.

use super::ledger::{Generation, Ledger, Partition};
use super::metrics::{ConsumerCounter, ConsumerCounters, Lag};
use rdkafka::message::OwnedMessage;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

/// Who handles the messages of one partition in one generation.
pub(crate) struct Worker {
    pub generation: Generation,
    /// Bounded by the pauses of its partition.
    pub messages: UnboundedSender<OwnedMessage>,
    /// It begins nothing new.
    pub leave: CancellationToken,
}

pub(crate) struct ConsumerContents {
    pub ledger: Ledger,
    pub workers: BTreeMap<Partition, Worker>,
    /// Where a handler runs at this moment.
    running: BTreeSet<(Partition, Generation)>,
    /// The end of each partition, and how far behind its consumer is, by librdkafka's statistics.
    ends: BTreeMap<Partition, (i64, i64)>,
}

pub(crate) struct ConsumerState {
    inner: Mutex<ConsumerContents>,
    /// A handler has ended.
    ended: Condvar,
    pub counters: ConsumerCounters,
}

impl ConsumerState {
    pub fn new(high_water: usize) -> Arc<ConsumerState> {
        Arc::new(ConsumerState {
            inner: Mutex::new(ConsumerContents {
                ledger: Ledger::new(high_water),
                workers: BTreeMap::new(),
                running: BTreeSet::new(),
                ends: BTreeMap::new(),
            }),
            ended: Condvar::new(),
            counters: ConsumerCounters::default(),
        })
    }

    /// Nothing panics under this lock, and nothing waits.
    pub fn lock(&self) -> MutexGuard<'_, ConsumerContents> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A handler begins, unless its generation is over.
    pub fn begins(&self, place: &Partition, generation: Generation) -> bool {
        let mut inner = self.lock();
        if inner.ledger.generation(place) != Some(generation) {
            return false;
        }
        inner.running.insert((place.clone(), generation));
        true
    }

    /// It has ended, and with `offset` its message is done.
    pub fn ends(&self, place: &Partition, generation: Generation, offset: Option<i64>) {
        let mut inner = self.lock();
        inner.running.remove(&(place.clone(), generation));
        let is_stale = match offset {
            Some(offset) => !inner.ledger.done(place, generation, offset),
            None => inner.ledger.generation(place) != Some(generation),
        };
        drop(inner);
        if is_stale {
            self.counters.count(ConsumerCounter::Stale);
        }
        self.ended.notify_all();
    }

    /// The workers of these partitions, or all, begin nothing new from now on.
    pub fn leave(&self, places: Option<&[Partition]>) {
        let mut inner = self.lock();
        inner.workers.retain(|place, worker| {
            let leaves = places.is_none_or(|places| places.contains(place));
            if leaves {
                worker.leave.cancel();
            }
            !leaves
        });
    }

    /// Waits until no handler of these partitions runs, at most so long.
    pub fn wait_for(&self, places: &[Partition], longest: Duration) {
        let until = Instant::now() + longest;
        let mut inner = self.lock();
        while inner
            .running
            .iter()
            .any(|(place, _)| places.contains(place))
        {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.ended.wait_timeout(inner, left);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub fn is_running(&self) -> bool {
        !self.lock().running.is_empty()
    }

    /// What librdkafka's statistics say of a partition.
    pub fn note_end(&self, place: Partition, end: i64, behind: i64) {
        self.lock().ends.insert(place, (end, behind));
    }

    pub fn lag(&self) -> Lag {
        let inner = self.lock();
        let lag = inner.ledger.places().filter_map(|place| {
            let (end, behind) = *inner.ends.get(place)?;
            let lag = match inner.ledger.position(place) {
                Some(position) => end - position,
                None => behind,
            };
            Some(((place.topic.to_string(), place.partition), lag.max(0)))
        });
        lag.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Partition {
        Partition {
            topic: "t".into(),
            partition: 0,
        }
    }

    #[test]
    fn an_old_generation_begins_nothing() {
        let state = ConsumerState::new(10);
        let old = state.lock().ledger.assigned(place());
        assert!(state.begins(&place(), old));
        state.ends(&place(), old, None);
        let new = state.lock().ledger.assigned(place());
        assert!(!state.begins(&place(), old));
        assert!(state.begins(&place(), new));
        assert_eq!(state.counters.read()["ends_of_old_generations"], 0);
        state.ends(&place(), old, Some(1));
        assert_eq!(state.counters.read()["ends_of_old_generations"], 1);
        assert!(state.is_running(), "the new one runs on");
    }

    #[test]
    fn the_wait_ends_with_the_handler_or_with_the_time() {
        let state = ConsumerState::new(10);
        let generation = state.lock().ledger.assigned(place());
        assert!(state.begins(&place(), generation));
        let started = Instant::now();
        state.wait_for(&[place()], Duration::from_millis(20));
        assert!(started.elapsed() >= Duration::from_millis(20));
        let other = Arc::clone(&state);
        let thread = std::thread::spawn(move || other.ends(&place(), generation, None));
        state.wait_for(&[place()], Duration::from_secs(60));
        assert!(!state.is_running());
        thread.join().unwrap();
    }

    #[test]
    fn lag_is_what_is_not_done() {
        let state = ConsumerState::new(10);
        let generation = state.lock().ledger.assigned(place());
        state.note_end(place(), 10, 4);
        let key = ("t".to_owned(), 0);
        assert_eq!(
            state.lag()[&key],
            4,
            "as Kafka says, before the first message"
        );
        state.lock().ledger.delivered(&place(), 6);
        assert_eq!(state.lag()[&key], 4);
        state.ends(&place(), generation, Some(6));
        assert_eq!(state.lag()[&key], 3);
        state.lock().ledger.revoked(&place());
        assert!(state.lag().is_empty());
    }
}
