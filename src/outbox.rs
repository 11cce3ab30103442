//! Settlements that no client waits for: sent at once, retried with backoff until the service
//! answers or their time is over. All times are [`Moment::least_ns`](crate::clock::Moment). What is dropped is counted; its lease then runs out into
//! `unknown`, never into free.

use crate::ids::IdMap;
use bytes::Bytes;
use idempotency_protocol::{LookupKey, Operation, Outcome};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

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
struct OutboxEntry {
    operation: Operation,
    trace: Bytes,
    /// `None` while it is in flight.
    due_ns: Option<u64>,
    retry_ns: u64,
    give_up_ns: u64,
}

/// A bounded queue of settlements.
#[derive(Debug, Default)]
pub struct Outbox {
    entries: IdMap<u32, Box<OutboxEntry>>,
    /// When which entries are due: what was executed, and unlocks. What is in flight or delivered may still be
    /// among them.
    due: [BinaryHeap<Reverse<(u64, u32)>>; 2],
    bytes: usize,
    unlocks: usize,
    next_id: u32,
}

/// The outbox is full: the settlement of this key was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Full(pub LookupKey);

fn is_unlock(operation: &Operation) -> bool {
    matches!(operation, Operation::Fail { .. })
}

fn weight(operation: &Operation) -> usize {
    match operation {
        Operation::Complete(complete) => match &*complete.outcome {
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
    /// Takes a settlement, with the `traceparent` of its request; it is due at once.
    pub fn push(&mut self, operation: Operation, trace: Bytes, now_ns: u64) -> Result<(), Full> {
        let bytes = self.bytes.saturating_add(weight(&operation));
        let unlock = is_unlock(&operation);
        if self.entries.len() >= MAX_ENTRIES
            || bytes > MAX_BYTES
            || unlock && self.unlocks >= MAX_UNLOCKS
        {
            return Err(Full(operation.key().clone()));
        }
        self.bytes = bytes;
        self.unlocks += usize::from(unlock);
        self.next_id = self.next_id.wrapping_add(1);
        let entry = Box::new(OutboxEntry {
            operation,
            trace,
            due_ns: None,
            retry_ns: FIRST_RETRY_NS,
            give_up_ns: now_ns.saturating_add(PATIENCE_NS),
        });
        self.entries.insert(self.next_id, entry);
        self.schedule(self.next_id, now_ns);
        Ok(())
    }

    fn schedule(&mut self, id: u32, due_ns: u64) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        entry.due_ns = Some(due_ns);
        let [executed, unlocks] = &mut self.due;
        let queue = if is_unlock(&entry.operation) {
            unlocks
        } else {
            executed
        };
        queue.push(Reverse((due_ns, id)));
    }

    /// What is to be sent now, as far as `has_room` goes: what was executed first, then unlocks.
    pub fn due(
        &mut self,
        now_ns: u64,
        mut has_room: impl FnMut(&Operation) -> bool,
    ) -> Vec<(u32, Operation, Bytes)> {
        let mut due = Vec::new();
        for queue in &mut self.due {
            while let Some(Reverse((at, id))) = queue.peek().copied() {
                if at > now_ns {
                    break;
                }
                let entry = self.entries.get_mut(&id);
                if let Some(entry) = entry.filter(|entry| entry.due_ns == Some(at)) {
                    if !has_room(&entry.operation) {
                        return due;
                    }
                    entry.due_ns = None;
                    due.push((id, entry.operation.clone(), entry.trace.clone()));
                }
                queue.pop();
            }
        }
        due
    }

    /// The service answered: done, whatever it said. The settlement, and whether an earlier try had no answer.
    pub fn answered(&mut self, id: u32) -> Option<(Operation, bool)> {
        let entry = self.entries.remove(&id)?;
        self.bytes = self.bytes.saturating_sub(weight(&entry.operation));
        if is_unlock(&entry.operation) {
            self.unlocks = self.unlocks.saturating_sub(1);
        }
        Some((entry.operation, entry.retry_ns > FIRST_RETRY_NS))
    }

    /// No answer. Returns the settlement when its time is over and it was dropped.
    pub fn unanswered(&mut self, id: u32, now_ns: u64) -> Option<Operation> {
        let entry = self.entries.get_mut(&id)?;
        if now_ns >= entry.give_up_ns {
            let (operation, _) = self.answered(id)?;
            return Some(operation);
        }
        let due_ns = now_ns.saturating_add(entry.retry_ns);
        entry.retry_ns = entry.retry_ns.saturating_mul(2).min(LAST_RETRY_NS);
        self.schedule(id, due_ns);
        None
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
    use idempotency_protocol::{Origin, Owner};

    fn due(outbox: &mut Outbox, now_ns: u64, mut limit: usize) -> Vec<(u32, Operation, Bytes)> {
        outbox.due(now_ns, |_| {
            let room = limit > 0;
            limit = limit.saturating_sub(1);
            room
        })
    }

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
            cause: Default::default(),
        }
    }

    #[test]
    fn retried_with_growing_pauses_until_answered() {
        let mut outbox = Outbox::default();
        outbox.push(fail(), "its trace".into(), 0).unwrap();
        let mut now = 0;
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let sent_now = due(&mut outbox, now, 10);
            assert_eq!(sent_now.len(), 1);
            assert_eq!(sent_now[0].2, "its trace", "each time");
            assert!(
                due(&mut outbox, now, 10).is_empty(),
                "in flight: not sent twice"
            );
            assert_eq!(outbox.unanswered(sent_now[0].0, now), None);
            let sent = now;
            while outbox.entries.values().all(|e| e.due_ns > Some(now)) {
                now += 50_000_000;
            }
            pauses.push((now - sent) / 1_000_000);
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
        let id = due(&mut outbox, now, 10)[0].0;
        assert_eq!(outbox.answered(id), Some((fail(), true)));
        assert!(outbox.is_empty());
    }

    #[test]
    fn given_up_when_its_time_is_over() {
        let mut outbox = Outbox::default();
        outbox.push(fail(), Bytes::new(), 0).unwrap();
        let id = due(&mut outbox, 0, 1)[0].0;
        assert_eq!(outbox.unanswered(id, PATIENCE_NS), Some(fail()));
        assert!(outbox.is_empty());
    }

    fn abandon() -> Operation {
        match fail() {
            Operation::Fail { key, owner, .. } => Operation::Abandon { key, owner },
            other => other,
        }
    }

    #[test]
    fn bounded() {
        let mut outbox = Outbox::default();
        for _ in 0..MAX_ENTRIES {
            outbox.push(abandon(), Bytes::new(), 0).unwrap();
        }
        assert_eq!(
            outbox.push(abandon(), Bytes::new(), 0),
            Err(Full(abandon().key().clone()))
        );
    }

    #[test]
    fn unlocks_leave_room_and_come_last() {
        let mut outbox = Outbox::default();
        for _ in 0..MAX_UNLOCKS {
            outbox.push(fail(), Bytes::new(), 0).unwrap();
        }
        assert!(outbox.push(fail(), Bytes::new(), 0).is_err());
        outbox.push(abandon(), Bytes::new(), 0).unwrap();
        let sent_now = due(&mut outbox, 0, 2);
        let names: Vec<_> = sent_now
            .iter()
            .map(|(_, operation, _)| operation.name())
            .collect();
        assert_eq!(names, ["abandon", "fail"]);
        outbox.answered(sent_now[1].0);
        assert_eq!(outbox.push(fail(), Bytes::new(), 0), Ok(()), "room again");
    }
}
