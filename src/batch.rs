//! Which operations share a callout, and when it leaves. No I/O and no clock of its own.
//!
//! For the host, a callout itself costs far more than what it carries. So while callouts are under way,
//! operations gather. All operations of one turn (one iteration of the host's event loop) leave together
//! at its end. While [`BatchLimits::max_in_flight`] callouts are under way, operations wait for the next
//! answer. While none is under way, an operation leaves at once, unless the last callout carried several
//! operations: then it waits for the end of its turn, too. There is no timer, so an operation never waits
//! for others that do not come.
//!
//! Operations that end or prolong an execution leave before operations that begin one. So however many
//! requests come, no lease runs out and no outcome is lost because of them.
//!
//! A host re-enters the module for every stream that is resumed, one inside the other, and its
//! stack ends at some 300 of them. So one callback sends or fails one batch at most, and a batch is
//! at most [`idempotency_protocol::MAX_OPERATIONS`] long.

use idempotency_core::config::BatchLimits;
use idempotency_protocol::{Operation, Outcome, MAX_SHARED_OUTCOME};
use std::collections::VecDeque;

/// Most bytes of outcomes in one batch.
const MAX_BYTES: usize = 4 * MAX_SHARED_OUTCOME;

/// The room in one callout.
#[derive(Debug)]
pub struct Room {
    operations: usize,
    bytes: usize,
}

impl Room {
    /// An empty callout that takes so many operations.
    pub fn new(operations: usize) -> Room {
        Room {
            operations: operations.max(1),
            bytes: MAX_BYTES,
        }
    }

    /// How many operations it still takes.
    pub fn operations(&self) -> usize {
        self.operations
    }

    /// Takes the place of an operation with an outcome of this length, if there is one.
    pub fn take(&mut self, bytes: usize) -> bool {
        match (self.operations, self.bytes.checked_sub(bytes)) {
            (1.., Some(left)) => {
                self.operations -= 1;
                self.bytes = left;
                true
            }
            _ => false,
        }
    }
}

/// What an operation is about: when it leaves, and how long it may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rank {
    /// Renews a lease, or settles an execution that no client waits for. Leaves first, and waits as
    /// long as it takes: its sender would only send it again.
    Background,
    /// Settles an execution whose client waits for the end. Leaves first; given up in time, so that
    /// the client gets an answer.
    Settlement,
    /// Begins an execution. Leaves behind all others; given up in time.
    Acquire,
}

/// Whether an outcome of this length must travel alone.
pub fn is_alone(bytes: usize) -> bool {
    bytes > MAX_SHARED_OUTCOME
}

/// What is done with an operation that has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival<T> {
    /// Leaves now, beside the batches: [`Batches::returned`] must not be told of it.
    Alone(T),
    /// Leaves now, as a batch of one.
    Leaves(T),
    /// Waits. `call`: the host has to be asked for a callback ([`Batches::turn`]) when it has
    /// worked off what it is at.
    Waits {
        /// Ask now.
        call: bool,
    },
}

/// What is done in a turn.
#[derive(Debug, PartialEq, Eq)]
pub struct Turn<T> {
    /// Leaves now, together.
    pub leaves: Vec<T>,
    /// Failed: it has waited too long. If there is any, nothing leaves in this turn.
    pub expired: Vec<T>,
    /// Ask for another callback.
    pub call: bool,
}

#[derive(Debug)]
struct Waiting<T> {
    item: T,
    rank: Rank,
    bytes: usize,
    since_ns: u64,
}

/// The operations of one VM that are to leave, and how many batches are out.
#[derive(Debug)]
pub struct Batches<T> {
    limits: BatchLimits,
    /// Renewals and settlements.
    ends: VecDeque<Waiting<T>>,
    acquires: VecDeque<Waiting<T>>,
    in_flight: usize,
    /// The host has been asked for a callback, and it has not come yet.
    called: bool,
    /// More than one operation left in the last turn: there are many.
    crowded: bool,
}

impl<T> Default for Batches<T> {
    fn default() -> Batches<T> {
        Batches::new(BatchLimits::ALONE)
    }
}

impl<T> Batches<T> {
    /// Nothing waits, nothing is out.
    pub fn new(limits: BatchLimits) -> Batches<T> {
        Batches {
            limits,
            ends: VecDeque::new(),
            acquires: VecDeque::new(),
            in_flight: 0,
            called: false,
            crowded: false,
        }
    }

    /// Other limits from now on. What waits goes on waiting: it leaves at the next turn.
    pub fn limit(&mut self, limits: BatchLimits) {
        self.limits = limits;
    }

    /// An operation has come; `bytes` is the length of the outcome that it carries. The time is asked for only
    /// if it has to wait.
    pub fn arrive(
        &mut self,
        item: T,
        rank: Rank,
        bytes: usize,
        now_ns: impl FnOnce() -> u64,
    ) -> Arrival<T> {
        if self.limits.max_in_flight == 0 || is_alone(bytes) {
            return Arrival::Alone(item);
        }
        if self.in_flight == 0 && self.is_empty() && !self.crowded {
            self.in_flight = 1;
            return Arrival::Leaves(item);
        }
        let line = match rank {
            Rank::Background | Rank::Settlement => &mut self.ends,
            Rank::Acquire => &mut self.acquires,
        };
        line.push_back(Waiting {
            item,
            rank,
            bytes,
            since_ns: now_ns(),
        });
        Arrival::Waits { call: self.call() }
    }

    /// Whether the host has to be asked for a callback now.
    fn call(&mut self) -> bool {
        let call = !self.called && !self.is_empty() && self.has_room();
        self.called |= call;
        call
    }

    fn has_room(&self) -> bool {
        self.in_flight < self.limits.max_in_flight.max(1)
    }

    /// The callback that was asked for, or the host's tick. What has waited for `patience_ns` is
    /// given up first: the service is too slow, or not there.
    pub fn turn(&mut self, now_ns: u64, patience_ns: u64) -> Turn<T> {
        self.called = false;
        let expired = self.expire(now_ns, patience_ns);
        if !expired.is_empty() {
            self.called = !self.is_empty();
            return Turn {
                leaves: Vec::new(),
                expired,
                call: self.called,
            };
        }
        let mut leaves = Vec::new();
        if self.has_room() {
            leaves = self.take();
            if !leaves.is_empty() {
                self.in_flight += 1;
                self.crowded = leaves.len() > 1;
            }
        }
        Turn {
            leaves,
            expired,
            call: self.call(),
        }
    }

    /// Takes out what has waited too long, at most one batch.
    fn expire(&mut self, now_ns: u64, patience_ns: u64) -> Vec<T> {
        let mut left = self.limits.max_operations.max(1);
        let mut expired = Vec::new();
        for line in [&mut self.ends, &mut self.acquires] {
            // Those of one line came in the order of time, but some of them never expire.
            let mut at = 0;
            while let Some(waiting) = line.get(at) {
                if left == 0 || now_ns.saturating_sub(waiting.since_ns) < patience_ns {
                    break;
                }
                if waiting.rank == Rank::Background {
                    at += 1;
                    continue;
                }
                expired.extend(line.remove(at).map(|waiting| waiting.item));
                left -= 1;
            }
        }
        expired
    }

    /// The next batch: renewals and settlements first, each line in its order.
    fn take(&mut self) -> Vec<T> {
        let mut room = Room::new(self.limits.max_operations);
        let mut taken = Vec::new();
        for line in [&mut self.ends, &mut self.acquires] {
            while line.front().is_some_and(|waiting| room.take(waiting.bytes)) {
                taken.extend(line.pop_front().map(|waiting| waiting.item));
            }
        }
        taken
    }

    /// Takes back the acquire that this is true of, if it still waits: nobody has seen it.
    pub fn withdraw(&mut self, wanted: impl Fn(&T) -> bool) -> Option<T> {
        let mut acquires = self.acquires.iter();
        let at = acquires.position(|waiting| wanted(&waiting.item))?;
        self.acquires.remove(at).map(|waiting| waiting.item)
    }

    /// A batch is back, answered or not, or it could not be sent. Whether to ask for a callback.
    pub fn returned(&mut self) -> bool {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.call()
    }

    /// The host gives no callbacks: nothing is shared from now on, and what waits leaves at once.
    pub fn give_up(&mut self) -> Vec<T> {
        self.limits = BatchLimits::ALONE;
        self.called = false;
        let ends = self.ends.drain(..);
        let all = ends.chain(self.acquires.drain(..));
        all.map(|waiting| waiting.item).collect()
    }

    /// How many operations wait.
    pub fn len(&self) -> usize {
        self.ends.len() + self.acquires.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty() && self.acquires.is_empty()
    }
}

/// The length of the outcome that an operation carries, in bytes.
pub fn bytes(operation: &Operation) -> usize {
    match operation {
        Operation::Complete(complete) => Outcome::encoded_len(&complete.outcome),
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
