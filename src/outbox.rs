//! Settlements that no client waits for: sent at once, retried with backoff until the service
//! answers or their time is over. What is dropped is counted; its lease then runs out into
//! `unknown`, never into free.

use idempotency_protocol::{Operation, Outcome};

/// How long delivery is tried: the service may be down for longer than a lease, and a late
/// complete still counts if nobody took the key.
const PATIENCE_NS: u64 = 15 * 60 * 1_000_000_000;
const FIRST_RETRY_NS: u64 = 100_000_000;
const LAST_RETRY_NS: u64 = 5_000_000_000;
const MAX_ENTRIES: usize = 4096;
/// Of them, unlocks. In an outage every refused request leaves one, thousands per second; they
/// must not take the place of what was executed.
const MAX_UNLOCKS: usize = MAX_ENTRIES / 2;
const MAX_BYTES: usize = 32 * 1024 * 1024;

#[derive(Debug)]
struct Entry {
    id: u64,
    operation: Operation,
    due_ns: u64,
    retry_ns: u64,
    give_up_ns: u64,
    in_flight: bool,
}

/// A bounded queue of settlements.
#[derive(Debug, Default)]
pub struct Outbox {
    entries: Vec<Entry>,
    bytes: usize,
    unlocks: usize,
    next_id: u64,
}

/// The outbox is full: the settlement was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

fn is_unlock(operation: &Operation) -> bool {
    matches!(operation, Operation::Fail { .. })
}

fn weight(operation: &Operation) -> usize {
    match operation {
        Operation::Complete(complete) => match &complete.outcome {
            Outcome::Response(response) => {
                let headers: usize = response
                    .headers
                    .iter()
                    .map(|(n, v)| n.len() + v.len())
                    .sum();
                response.body.len() + headers
            }
            Outcome::Tombstone(_) => 0,
        },
        _ => 0,
    }
}

impl Outbox {
    /// Takes a settlement; it is due at once.
    pub fn push(&mut self, operation: Operation, now_ns: u64) -> Result<(), Full> {
        let bytes = self.bytes.saturating_add(weight(&operation));
        let unlock = is_unlock(&operation);
        if self.entries.len() >= MAX_ENTRIES
            || bytes > MAX_BYTES
            || unlock && self.unlocks >= MAX_UNLOCKS
        {
            return Err(Full);
        }
        self.bytes = bytes;
        self.unlocks += usize::from(unlock);
        self.next_id += 1;
        self.entries.push(Entry {
            id: self.next_id,
            operation,
            due_ns: now_ns,
            retry_ns: FIRST_RETRY_NS,
            give_up_ns: now_ns.saturating_add(PATIENCE_NS),
            in_flight: false,
        });
        Ok(())
    }

    /// What is to be sent now, at most `limit` operations: what was executed first, then unlocks.
    pub fn due(&mut self, now_ns: u64, limit: usize) -> Vec<(u64, Operation)> {
        let mut due = Vec::new();
        for unlocks in [false, true] {
            for entry in &mut self.entries {
                if due.len() >= limit {
                    return due;
                }
                let turn = is_unlock(&entry.operation) == unlocks;
                if turn && !entry.in_flight && entry.due_ns <= now_ns {
                    entry.in_flight = true;
                    due.push((entry.id, entry.operation.clone()));
                }
            }
        }
        due
    }

    /// The settlement with this id.
    pub fn operation(&self, id: u64) -> Option<&Operation> {
        self.entries
            .iter()
            .find(|e| e.id == id)
            .map(|e| &e.operation)
    }

    /// The service answered: done, whatever it said.
    pub fn answered(&mut self, id: u64) {
        if let Some(at) = self.entries.iter().position(|e| e.id == id) {
            let entry = self.entries.swap_remove(at);
            self.bytes = self.bytes.saturating_sub(weight(&entry.operation));
            if is_unlock(&entry.operation) {
                self.unlocks = self.unlocks.saturating_sub(1);
            }
        }
    }

    /// No answer. Returns false when its time is over and it was dropped.
    pub fn unanswered(&mut self, id: u64, now_ns: u64) -> bool {
        let Some(entry) = self.entries.iter_mut().find(|e| e.id == id) else {
            return true;
        };
        if now_ns >= entry.give_up_ns {
            self.answered(id);
            return false;
        }
        entry.in_flight = false;
        entry.due_ns = now_ns.saturating_add(entry.retry_ns);
        entry.retry_ns = entry.retry_ns.saturating_mul(2).min(LAST_RETRY_NS);
        true
    }

    /// How many settlements are on their way.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether everything is delivered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use idempotency_protocol::{LookupKey, Origin, Owner};

    fn fail() -> Operation {
        let key = LookupKey {
            tenant: String::new(),
            namespace: String::new(),
            origin: Origin::Client,
            key: "k".into(),
        };
        Operation::Fail {
            key,
            owner: Owner([7; 16]),
        }
    }

    #[test]
    fn retried_with_growing_pauses_until_answered() {
        let mut outbox = Outbox::default();
        outbox.push(fail(), 0).unwrap();
        let mut now = 0;
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let due = outbox.due(now, 10);
            assert_eq!(due.len(), 1);
            assert!(outbox.due(now, 10).is_empty(), "in flight: not sent twice");
            assert!(outbox.unanswered(due[0].0, now));
            let sent = now;
            while outbox.due(now, 0).is_empty() && outbox.entries[0].due_ns > now {
                now += 50_000_000;
            }
            pauses.push((now - sent) / 1_000_000);
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
        let id = outbox.due(now, 10)[0].0;
        outbox.answered(id);
        assert!(outbox.is_empty());
    }

    #[test]
    fn given_up_when_its_time_is_over() {
        let mut outbox = Outbox::default();
        outbox.push(fail(), 0).unwrap();
        let id = outbox.due(0, 1)[0].0;
        assert!(!outbox.unanswered(id, PATIENCE_NS));
        assert!(outbox.is_empty());
    }

    fn abandon() -> Operation {
        match fail() {
            Operation::Fail { key, owner } => Operation::Abandon { key, owner },
            other => other,
        }
    }

    #[test]
    fn bounded() {
        let mut outbox = Outbox::default();
        for _ in 0..MAX_ENTRIES {
            outbox.push(abandon(), 0).unwrap();
        }
        assert_eq!(outbox.push(abandon(), 0), Err(Full));
    }

    #[test]
    fn unlocks_leave_room_and_come_last() {
        let mut outbox = Outbox::default();
        for _ in 0..MAX_UNLOCKS {
            outbox.push(fail(), 0).unwrap();
        }
        assert_eq!(outbox.push(fail(), 0), Err(Full));
        outbox.push(abandon(), 0).unwrap();
        let due = outbox.due(0, 2);
        let names: Vec<_> = due.iter().map(|(_, operation)| operation.name()).collect();
        assert_eq!(names, ["abandon", "fail"]);
        outbox.answered(due[1].0);
        assert_eq!(outbox.push(fail(), 0), Ok(()), "room again");
    }
}
