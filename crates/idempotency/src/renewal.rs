//! Leases of running executions are renewed from half of their time on, by one task for all executions of a
//! guard. At most one call is out at a time, with at most [`MAX_OPERATIONS`] renewals. The task ends when
//! nothing is left to be renewed.

use crate::counters::{Counter, Counters};
use crate::operations;
use crate::shared::Shared;
use idempotency_protocol::{Answer, LookupKey, Operation, Owner, MAX_OPERATIONS};
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{sleep_until, timeout, Instant};

/// Longest wait for the answer to one call.
const LONGEST_CALL: Duration = Duration::from_secs(5);

/// What is renewed.
pub(crate) struct Lease {
    pub key: Arc<LookupKey>,
    pub owner: Owner,
    pub length: Duration,
    /// When the call that got it was sent: the store's clock started no earlier.
    pub since: Instant,
    /// It is not renewed from here on.
    pub until: Instant,
    /// Set when the store says that the key is not held any more.
    pub lost: Arc<AtomicBool>,
}

#[derive(Default)]
pub(crate) struct Renewals {
    inner: Mutex<LeaseTable>,
    /// The earliest renewal is earlier than it was.
    earlier: Arc<Notify>,
}

#[derive(Default)]
struct LeaseTable {
    leases: HashMap<Owner, Tracked>,
    due: BTreeSet<(Instant, Owner)>,
    is_running: bool,
}

struct Tracked {
    lease: Lease,
    due: Instant,
}

impl LeaseTable {
    fn remove(&mut self, owner: Owner) -> Option<Lease> {
        let tracked = self.leases.remove(&owner)?;
        self.due.remove(&(tracked.due, owner));
        Some(tracked.lease)
    }

    fn schedule(&mut self, owner: Owner, at: Instant) {
        if let Some(tracked) = self.leases.get_mut(&owner) {
            self.due.remove(&(tracked.due, owner));
            tracked.due = at;
            self.due.insert((at, owner));
        }
    }

    /// The renewals that are due, the earliest first. Each stays out of the way until it is answered, or
    /// for so long that the call must be over.
    fn take_due(&mut self, now: Instant) -> Vec<(Owner, Arc<LookupKey>, Duration)> {
        let mut batch = Vec::new();
        while batch.len() < MAX_OPERATIONS {
            let Some(&(at, owner)) = self.due.first() else {
                break;
            };
            if at > now {
                break;
            }
            let Some(tracked) = self.leases.get(&owner) else {
                self.due.remove(&(at, owner));
                continue;
            };
            if now >= tracked.lease.until {
                tracing::warn!("an execution runs longer than its lease is renewed");
                self.remove(owner);
                continue;
            }
            batch.push((owner, Arc::clone(&tracked.lease.key), tracked.lease.length));
            self.schedule(owner, now + 2 * LONGEST_CALL);
        }
        batch
    }
}

impl Renewals {
    /// Nothing panics under this lock.
    fn lock(&self) -> MutexGuard<'_, LeaseTable> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts to renew a lease.
    pub fn track(shared: &Arc<Shared>, lease: Lease, handle: &Handle) {
        let renewals = &shared.renewals;
        let (owner, due) = (lease.owner, lease.since + lease.length / 2);
        let mut inner = renewals.lock();
        let is_earliest = inner.due.first().is_none_or(|(first, _)| due < *first);
        inner.leases.insert(owner, Tracked { lease, due });
        inner.due.insert((due, owner));
        let starts = !std::mem::replace(&mut inner.is_running, true);
        // A runtime that is shut down drops the task at once, and dropping it takes the lock.
        drop(inner);
        if starts {
            handle.spawn(run(RenewalTask {
                shared: Arc::downgrade(shared),
                has_ended: false,
            }));
        } else if is_earliest {
            renewals.earlier.notify_one();
        }
    }

    /// The execution has ended.
    pub fn untrack(&self, owner: Owner) {
        self.lock().remove(owner);
    }

    /// Stops to renew, and returns what was held.
    pub fn take_all(&self) -> Vec<(Arc<LookupKey>, Owner)> {
        let mut inner = self.lock();
        inner.due.clear();
        let leases = inner.leases.drain();
        leases.map(|(owner, t)| (t.lease.key, owner)).collect()
    }

    fn answered(&self, owner: Owner, sent: Instant, answer: Option<&Answer>, counters: &Counters) {
        let now = Instant::now();
        let mut inner = self.lock();
        let Some(tracked) = inner.leases.get_mut(&owner) else {
            return;
        };
        match answer {
            Some(Answer::Extended { lease_ms }) => {
                counters.count(Counter::LeaseRenewed);
                tracked.lease.length = Duration::from_millis(*lease_ms);
                tracked.lease.since = sent;
                let at = sent + tracked.lease.length / 2;
                inner.schedule(owner, at.max(now + Duration::from_millis(1)));
            }
            Some(Answer::Lost | Answer::Refused) => {
                counters.count(Counter::LeaseLost);
                tracked.lease.lost.store(true, Ordering::Release);
                tracing::warn!("an execution has lost its key");
                inner.remove(owner);
            }
            _ => {
                let soon = tracked.lease.length / 10;
                let soon = soon.clamp(Duration::from_millis(20), LONGEST_CALL);
                inner.schedule(owner, now + soon);
            }
        }
    }
}

/// The task's hold on the guard, which does not keep the guard alive.
struct RenewalTask {
    shared: Weak<Shared>,
    has_ended: bool,
}

/// When a runtime that is shut down drops the task, the next lease starts another one.
impl Drop for RenewalTask {
    fn drop(&mut self) {
        if let (false, Some(shared)) = (self.has_ended, self.shared.upgrade()) {
            shared.renewals.lock().is_running = false;
        }
    }
}

impl RenewalTask {
    /// When the next renewal is due; `None`: the task is to end.
    fn next(&mut self) -> Option<(Instant, Arc<Notify>)> {
        let shared = self.shared.upgrade()?;
        let mut inner = shared.renewals.lock();
        let Some(&(at, _)) = inner.due.first() else {
            // Set under the lock, so that the next caller starts another task.
            inner.is_running = false;
            self.has_ended = true;
            return None;
        };
        Some((at, Arc::clone(&shared.renewals.earlier)))
    }
}

async fn run(mut running: RenewalTask) {
    while let Some((next, earlier)) = running.next() {
        tokio::select! {
            () = sleep_until(next) => {}
            () = earlier.notified() => continue,
        }
        if let Some(shared) = running.shared.upgrade() {
            renew(&shared).await;
        }
    }
}

async fn renew(shared: &Arc<Shared>) {
    let sent = Instant::now();
    let batch = shared.renewals.lock().take_due(sent);
    if batch.is_empty() {
        return;
    }
    let shortest = batch.iter().map(|(_, _, length)| *length).min();
    let longest =
        (shortest.unwrap_or(LONGEST_CALL) / 4).clamp(Duration::from_millis(100), LONGEST_CALL);
    let renewals = batch
        .iter()
        .map(|(owner, key, length)| operations::extend(LookupKey::clone(key), *owner, *length));
    let renewals: Vec<Operation> = renewals.collect();
    let answers = timeout(longest, shared.store.apply(renewals)).await;
    let answers = answers.unwrap_or_default();
    for (index, (owner, ..)) in batch.iter().enumerate() {
        let answer = answers.get(index);
        let (renewals, counters) = (&shared.renewals, &shared.counters);
        renewals.answered(*owner, sent, answer, counters);
    }
}
