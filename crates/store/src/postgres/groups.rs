//! The operations on one key, and what the state machine makes of them.

use super::ids::Id;
use super::lanes::Prepared;
use super::row::FoundRow;
use super::step::SeenRow;
use crate::machine::{self, AcquireEvent, Context, Event, Reply, Room};
use crate::record::{Slot, StoredOutcome};
use crate::replay;
use idempotency_protocol::{Answer, LookupKey, Owner};
use std::collections::BTreeMap;

/// The operations on one key, in order.
pub(super) struct KeyGroup {
    pub key: LookupKey,
    pub id: Id,
    /// With the place of its answer.
    pub events: Vec<(usize, Event)>,
}

/// The operations of a batch by their keys, in the order of the ids.
pub(super) fn by_key(operations: Prepared) -> Vec<KeyGroup> {
    let mut groups: BTreeMap<Vec<u8>, KeyGroup> = BTreeMap::new();
    for (place, (key, event)) in operations.into_iter().enumerate() {
        let id = Id::of(&key);
        let group = groups.entry(id.id.clone()).or_insert_with(|| KeyGroup {
            key,
            id,
            events: Vec::new(),
        });
        group.events.push((place, event));
    }
    groups.into_values().collect()
}

impl KeyGroup {
    /// An acquire alone.
    pub fn acquire(&self) -> Option<&AcquireEvent> {
        match self.events.as_slice() {
            [(_, Event::Acquire(acquire))] => Some(acquire),
            _ => None,
        }
    }

    /// A complete alone.
    pub fn complete(&self) -> Option<(&Owner, &StoredOutcome)> {
        match self.events.as_slice() {
            [(_, Event::Complete { owner, outcome })] => Some((owner, outcome)),
            _ => None,
        }
    }

    /// It may make a new record, and whether its tenant has room for one is not known.
    pub fn may_make(&self, seen: &SeenRow) -> bool {
        let acquires = |(_, event): &(usize, Event)| matches!(event, Event::Acquire(_));
        let is_there = || {
            let now = context(seen.now, Room::Plenty).current(seen.found.slot());
            now.execution.is_some() || matches!(seen.found, FoundRow::Illegible(_))
        };
        seen.used_up.is_none() && self.events.iter().any(acquires) && !is_there()
    }

    /// The outcome is needed, to be replayed.
    pub fn wants_outcome(&self) -> bool {
        let acquires = |(_, event): &(usize, Event)| matches!(event, Event::Acquire(_));
        self.events.iter().any(acquires)
    }

    /// What the machine answers, and the slot if it changes.
    pub fn decide(&self, seen: &SeenRow, room: Room) -> (Vec<Answer>, Option<Slot>) {
        if matches!(seen.found, FoundRow::Illegible(_)) {
            let events = self.events.iter().map(|(_, event)| event);
            return (events.map(replay::illegible).collect(), None);
        }
        let context = Context {
            used_up: seen.used_up,
            ..context(seen.now, room)
        };
        let mut slot = seen.start();
        let mut changed = false;
        let mut answers = Vec::with_capacity(self.events.len());
        for (_, event) in &self.events {
            let applied = machine::apply(Some(&slot), &context, event);
            if let Some(change) = applied.change {
                slot = change;
                changed = true;
            }
            answers.push(match applied.reply {
                Reply::Answer(answer) => answer,
                Reply::Replay(found) => replay::answer(found),
            });
        }
        (answers, changed.then_some(slot))
    }
}

/// What an acquire is told while another session has the row locked: the key is in use, whoever holds the lock.
/// `seen` is what was last committed.
pub(super) fn in_use(seen: &SeenRow) -> Answer {
    let slot = seen.found.slot();
    let execution = slot.and_then(|slot| slot.execution.as_ref());
    let lease = execution.and_then(|execution| execution.state.lease());
    Answer::InFlight {
        fence: slot.map_or(0, |slot| slot.fence),
        lease_left_ms: lease.map_or(0, |lease| lease.until.saturating_sub(seen.now) / 1_000),
    }
}

/// Leases run on the server's clock, which goes on when a process restarts: so there is only one "boot".
pub(super) fn context(now: crate::clock::Micros, room: Room) -> Context {
    Context {
        now,
        boot: 0,
        boot_started: 0,
        room,
        used_up: None,
    }
}
