//! Calls that come while others are under way share a batch.
//!
//! A statement costs the server about the same for one key as for ten, and a commit costs the same
//! for a hundred. So there are only a few *lanes*, each with one batch at a time. A call that finds a
//! free lane leaves at once; calls that find none wait, and leave together in the next lane that gets
//! free, as one batch. Each call is answered on its own, and operations on one key keep the order in
//! which they came.
//!
//! Acquires of transactions have lanes of their own: they do not wait for the disk ([`super::step`]), so they should not
//! share a batch with operations that do. They come back soon, and two lanes are enough for batches to form under load.

use super::locked::{BatchCaller, Patient};
use super::PostgresShared;
use crate::machine::Event;
use crate::store::StoreError;
use idempotency_protocol::{Answer, AttemptKind, LookupKey};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// Most operations that travel together.
const MAX_TOGETHER: usize = 128;

/// A call with more bytes of outcomes than this travels alone, beside the lanes: it must not hold
/// up small ones.
const MAX_BYTES: u64 = 65_536;

/// Lanes for acquires of transactions.
pub(super) const TRANSACTIONS: usize = 2;

/// Operations with their keys, in order.
pub(super) type Prepared = Vec<(LookupKey, Event)>;

/// Calls that wait for a lane.
pub(super) struct Lanes {
    most: usize,
    state: Mutex<LaneState>,
}

#[derive(Default)]
struct LaneState {
    busy: usize,
    calls: VecDeque<WaitingBatch>,
}

struct WaitingBatch {
    prepared: Prepared,
    reply: oneshot::Sender<Vec<Answer>>,
}

impl Lanes {
    pub fn new(most: usize) -> Lanes {
        Lanes {
            most: most.max(1),
            state: Mutex::default(),
        }
    }

    /// No code that can panic runs under this lock.
    fn lock(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What travels next. Nothing: the lane is given up, in the same moment, so that a call which
    /// comes now finds it free.
    fn next(&self) -> Vec<WaitingBatch> {
        let mut state = self.lock();
        let mut batch = Vec::new();
        let mut size = 0;
        while let Some(call) = state.calls.pop_front() {
            size += call.prepared.len();
            if size > MAX_TOGETHER && !batch.is_empty() {
                state.calls.push_front(call);
                break;
            }
            batch.push(call);
        }
        if batch.is_empty() {
            state.busy = state.busy.saturating_sub(1);
        }
        batch
    }
}

type Of = fn(&PostgresShared) -> &Lanes;

/// A lane that is taken.
struct Lane {
    inner: Arc<PostgresShared>,
    /// Which of the store's lanes.
    of: Of,
    given_up: bool,
}

impl Lane {
    fn open(inner: &Arc<PostgresShared>, of: Of) {
        let lane = Lane {
            inner: Arc::clone(inner),
            of,
            given_up: false,
        };
        tokio::spawn(lane.run());
    }

    async fn run(mut self) {
        loop {
            let calls = (self.of)(&self.inner).next();
            if calls.is_empty() {
                self.given_up = true;
                return;
            }
            if let Some(patient) = carry(&self.inner, calls).await {
                // The lane does not wait for a locked row.
                tokio::spawn(patient.insist(Arc::clone(&self.inner)));
            }
        }
    }
}

/// Applies these calls in one batch and answers them, but for those that meet a locked row.
async fn carry(inner: &PostgresShared, calls: Vec<WaitingBatch>) -> Option<Patient> {
    let mut all = Vec::new();
    let mut callers = Vec::with_capacity(calls.len());
    for call in calls {
        let first = all.len();
        all.extend(call.prepared);
        callers.push(BatchCaller {
            places: first..all.len(),
            reply: call.reply,
        });
    }
    Patient::of(inner.apply(all).await, callers)
}

impl Drop for Lane {
    /// Cut off in the middle: the lane is free again.
    fn drop(&mut self) {
        if !self.given_up {
            let mut state = (self.of)(&self.inner).lock();
            state.busy = state.busy.saturating_sub(1);
        }
    }
}

/// Applies them in a lane, or beside the lanes if they are large.
pub(super) async fn travel(inner: &Arc<PostgresShared>, prepared: Prepared) -> Vec<Answer> {
    let count = prepared.len();
    let (reply, answer) = oneshot::channel();
    if bytes(&prepared) > MAX_BYTES {
        let call = WaitingBatch { prepared, reply };
        if let Some(patient) = carry(inner, vec![call]).await {
            patient.insist(Arc::clone(inner)).await;
        }
    } else {
        let does_not_wait = prepared.iter().all(|(_, event)| is_of_transaction(event));
        let of: Of = match does_not_wait && !inner.quotas().any() {
            true => |inner| &inner.transactions,
            false => |inner| &inner.lanes,
        };
        let lanes = of(inner);
        let mut state = lanes.lock();
        state.calls.push_back(WaitingBatch { prepared, reply });
        if state.busy < lanes.most {
            state.busy += 1;
            Lane::open(inner, of);
        }
    }
    answer.await.unwrap_or_else(|_| {
        let gone = StoreError::Transient("store is closed".into());
        vec![Answer::Fault(gone.into()); count]
    })
}

fn is_of_transaction(event: &Event) -> bool {
    matches!(event, Event::Acquire(acquire) if acquire.kind == AttemptKind::Transaction)
}

fn bytes(prepared: &Prepared) -> u64 {
    let size = |event: &Event| match event {
        Event::Complete { outcome, .. }
        | Event::Settle {
            outcome: Some(outcome),
            ..
        } => outcome.size,
        _ => 0,
    };
    prepared.iter().map(|(_, event)| size(event)).sum()
}
