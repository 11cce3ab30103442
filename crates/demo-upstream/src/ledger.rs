//! What was executed, in order: the thing that all safety claims are checked against.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use serde::Serialize;

use crate::journal::{now_us, Journal, Line};

/// One execution, as `GET /executions/log` tells it.
#[derive(Debug, Clone, Serialize)]
pub struct Execution {
    /// Position in the order of execution, from 1.
    pub seq: u64,
    /// Method of the request.
    pub method: String,
    /// Path of the request, as received.
    pub path: String,
    /// Query of the request, as received; empty without one.
    pub query: String,
    /// `Idempotency-Key` as received, several joined by `, `; empty without one.
    pub key: String,
    /// `idempotency-fence` as received, `null` without one.
    pub fence: Option<String>,
    /// `idempotency-attempt` as received, `null` without one.
    pub attempt: Option<String>,
    /// SHA-256 of the request body, in hex.
    pub body_sha256: String,
    /// The execution is done. It is so whether or not anybody waits for the answer.
    pub finished: bool,
    /// The answer was not taken whole: its client was gone, or `reset=` cut it.
    pub aborted: bool,
    /// When the request body had been read, in milliseconds since the epoch.
    pub started_at: u64,
    /// When the answer was ready; `null` until then.
    pub finished_at: Option<u64>,
}

/// What a request brings to its entry in the log.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) key: String,
    pub(crate) fence: Option<String>,
    pub(crate) attempt: Option<String>,
    pub(crate) body_sha256: String,
}

#[derive(Debug, Default)]
struct Book {
    total: u64,
    cut: u64,
    by_key: HashMap<String, u64>,
    log: VecDeque<Execution>,
    /// How many entries the bound of the log has pushed out.
    dropped: u64,
    /// Goes up at a reset, so that an execution from before it touches no later entry.
    epoch: u64,
}

/// Counts executions. Cloning shares the counts.
#[derive(Debug, Clone)]
pub struct Ledger {
    book: Arc<Mutex<Book>>,
    log_limit: usize,
    journal: Option<Arc<Journal>>,
}

/// The answer of `GET /executions`.
#[derive(Debug, Serialize)]
pub(crate) struct Counts {
    total: u64,
    by_key: BTreeMap<String, u64>,
    cut: u64,
}

impl Ledger {
    /// A ledger that counts everything and keeps the newest `log_limit` executions in detail.
    pub fn new(log_limit: usize) -> Self {
        Self {
            book: Arc::default(),
            log_limit,
            journal: None,
        }
    }

    /// The same, and every execution is written to this journal.
    pub fn with_journal(mut self, journal: Journal) -> Self {
        self.journal = Some(Arc::new(journal));
        self
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn execute(&self, arrival: Arrival, headers: &HeaderMap) -> Ticket {
        let started_at = now_ms();
        let id = format!("ch_{:016x}{:08x}", fastrand::u64(..), fastrand::u32(..));
        if let Some(journal) = &self.journal {
            journal.write(&Line::Started {
                id: &id,
                at: now_us(),
                path: &arrival.path,
                key: &arrival.key,
                fence: arrival.fence.as_deref(),
                attempt: arrival.attempt.as_deref(),
                body_sha256: &arrival.body_sha256,
                headers: journal.pick(headers),
            });
        }
        let mut book = self.book();
        book.total += 1;
        let (seq, epoch) = (book.total, book.epoch);
        // Almost always a new key in benches, a known one in storms: look before cloning.
        match book.by_key.get_mut(&arrival.key) {
            Some(count) => *count += 1,
            None => {
                book.by_key.insert(arrival.key.clone(), 1);
            }
        }
        book.log.push_back(Execution {
            seq,
            method: arrival.method,
            path: arrival.path,
            query: arrival.query,
            key: arrival.key,
            fence: arrival.fence,
            attempt: arrival.attempt,
            body_sha256: arrival.body_sha256,
            finished: false,
            aborted: false,
            started_at,
            finished_at: None,
        });
        if book.log.len() > self.log_limit {
            book.log.pop_front();
            book.dropped += 1;
        }
        drop(book);
        Ticket {
            ledger: self.clone(),
            id,
            seq,
            epoch,
            delivered: false,
        }
    }

    pub(crate) fn cut(&self) {
        self.book().cut += 1;
    }

    pub(crate) fn reset(&self) {
        let mut book = self.book();
        *book = Book {
            epoch: book.epoch + 1,
            ..Book::default()
        };
    }

    pub(crate) fn counts(&self) -> Counts {
        let book = self.book();
        let by_key = book
            .by_key
            .iter()
            .map(|(key, count)| (key.clone(), *count))
            .collect();
        Counts {
            total: book.total,
            by_key,
            cut: book.cut,
        }
    }

    /// The log and how many entries it has lost.
    pub(crate) fn log(&self) -> (Vec<Execution>, u64) {
        let book = self.book();
        (book.log.iter().cloned().collect(), book.dropped)
    }

    fn update(&self, seq: u64, epoch: u64, change: impl FnOnce(&mut Execution)) {
        let mut book = self.book();
        let Some(index) = (seq - 1).checked_sub(book.dropped) else {
            return;
        };
        if book.epoch != epoch {
            return;
        }
        if let Some(entry) = usize::try_from(index)
            .ok()
            .and_then(|index| book.log.get_mut(index))
        {
            change(entry);
        }
    }
}

/// An execution under way. Dropped before its answer was delivered, it was aborted.
#[derive(Debug)]
pub(crate) struct Ticket {
    ledger: Ledger,
    id: String,
    seq: u64,
    epoch: u64,
    delivered: bool,
}

impl Ticket {
    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }

    /// Names the execution.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn finished(&self) {
        let at = now_ms();
        if let Some(journal) = &self.ledger.journal {
            journal.write(&Line::Finished {
                id: &self.id,
                at: now_us(),
            });
        }
        self.ledger.update(self.seq, self.epoch, |entry| {
            entry.finished = true;
            entry.finished_at = Some(at);
        });
    }

    pub(crate) fn delivered(&mut self) {
        self.delivered = true;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.delivered {
            self.ledger
                .update(self.seq, self.epoch, |entry| entry.aborted = true);
        }
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(key: &str) -> Arrival {
        Arrival {
            method: "POST".into(),
            path: "/charges".into(),
            query: String::new(),
            key: key.into(),
            fence: None,
            attempt: None,
            body_sha256: String::new(),
        }
    }

    #[test]
    fn a_bounded_log_still_counts_everything() {
        let ledger = Ledger::new(2);
        let mut tickets: Vec<_> = ["a", "b", "a"]
            .map(|key| ledger.execute(arrival(key), &HeaderMap::new()))
            .into();
        tickets.iter().for_each(Ticket::finished);
        tickets[2].delivered();
        drop(tickets);
        let counts = ledger.counts();
        assert_eq!(
            (counts.total, counts.by_key["a"], counts.by_key["b"]),
            (3, 2, 1)
        );
        let (log, dropped) = ledger.log();
        assert_eq!(dropped, 1);
        assert_eq!(
            log.iter().map(|entry| entry.seq).collect::<Vec<_>>(),
            [2, 3]
        );
        assert_eq!(
            log.iter().map(|entry| entry.aborted).collect::<Vec<_>>(),
            [true, false]
        );
        assert!(log
            .iter()
            .all(|entry| entry.finished && entry.finished_at.is_some()));
    }

    #[test]
    fn a_ticket_from_before_a_reset_touches_nothing() {
        let ledger = Ledger::new(10);
        let old = ledger.execute(arrival("a"), &HeaderMap::new());
        ledger.reset();
        let mut new = ledger.execute(arrival("b"), &HeaderMap::new());
        drop(old);
        new.delivered();
        drop(new);
        let (log, _) = ledger.log();
        assert!(log.iter().all(|entry| entry.key == "b" && !entry.aborted));
        assert_eq!(log.len(), 1);
    }
}
