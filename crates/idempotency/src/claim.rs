//! The right of one execution, from the moment when the key is asked for to its settlement. Dropped in
//! between it settles itself, so that no path through a program leaves a key locked.

use crate::counters::Counter;
use crate::outbox;
use crate::renewal::{Lease, Renewals};
use crate::settle::{self, Settled};
use crate::shared::{RunningPlace, Shared};
use crate::wakes;
use idempotency_core::ending::End;
use idempotency_protocol::{AttemptKind, FailCause, LookupKey, Operation, Owner};
use idempotency_store::transaction::Primary;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// When an acquire was sent, on two clocks. The monotonic one stands still while the machine sleeps, the
/// other one may be set.
#[derive(Clone, Copy)]
pub(crate) struct Sent {
    pub instant: Instant,
    started: std::time::Instant,
    wall: SystemTime,
}

impl Sent {
    pub fn now() -> Sent {
        Sent {
            instant: Instant::now(),
            started: std::time::Instant::now(),
            wall: SystemTime::now(),
        }
    }

    /// The wall clock's nanoseconds, as far as they differ between two moments.
    pub fn nanos(&self) -> u64 {
        let since = self.wall.duration_since(SystemTime::UNIX_EPOCH);
        let since = since.unwrap_or_else(|before| before.duration());
        since.as_secs() << 30 ^ u64::from(since.subsec_nanos())
    }

    /// The longer of what the two clocks say.
    pub fn elapsed(&self) -> Duration {
        let wall = self.wall.elapsed().unwrap_or(Duration::ZERO);
        self.started.elapsed().max(wall)
    }
}

enum ClaimState {
    /// The acquire is out: nothing was executed.
    Asked,
    /// Granted: whatever the caller does may have an effect.
    Held,
    /// Executed, and may be executed again.
    Failed,
    /// There is nothing to be settled any more.
    Over,
}

pub(crate) struct Claim {
    shared: Arc<Shared>,
    key: Arc<LookupKey>,
    owner: Owner,
    kind: AttemptKind,
    begun_on: Primary,
    state: ClaimState,
    lost: Arc<AtomicBool>,
    handle: Handle,
    _running: (TaskTrackerToken, Option<RunningPlace>),
}

impl Claim {
    /// Before the acquire is sent. Call it inside of a runtime.
    pub fn asked(
        shared: &Arc<Shared>,
        key: Arc<LookupKey>,
        owner: Owner,
        kind: AttemptKind,
    ) -> Claim {
        let database = shared.store.transactions();
        Claim {
            begun_on: database.map_or(Primary::UNKNOWN, |d| d.primary()),
            shared: Arc::clone(shared),
            key,
            owner,
            kind,
            state: ClaimState::Asked,
            lost: Arc::default(),
            handle: Handle::current(),
            _running: (shared.executions.token(), None),
        }
    }

    pub fn key(&self) -> &LookupKey {
        &self.key
    }

    pub fn shared_key(&self) -> Arc<LookupKey> {
        Arc::clone(&self.key)
    }

    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// It holds the key, and dropped from here on it says that nothing was done.
    pub fn nothing_done(&mut self) {
        self.state = ClaimState::Asked;
    }

    /// It holds the key, and dropped from here on it says that the execution has failed.
    pub fn has_failed(&mut self) {
        self.state = ClaimState::Failed;
    }

    /// After [`Claim::nothing_done`]: from here on it may have an effect.
    pub fn has_begun(&mut self) {
        self.state = ClaimState::Held;
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Which server took the writes when the key was asked for.
    pub fn begun_on(&self) -> Primary {
        self.begun_on
    }

    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// The store has answered that there is nothing to hold.
    pub fn forget(mut self) {
        self.state = ClaimState::Over;
    }

    /// Its transaction is on its way to be committed: dropped from here on, nobody knows how it ended.
    pub fn doubt(&mut self) {
        self.kind = AttemptKind::Guard;
    }

    /// Its transaction has completed the record.
    pub fn committed(mut self) {
        self.shared.counters.count(Counter::Completed);
        self.shared.renewals.untrack(self.owner);
        self.state = ClaimState::Over;
        wakes::put(&self.shared, LookupKey::clone(&self.key), &self.handle);
    }

    /// Its transaction found that another execution has the key.
    pub fn lost(mut self) {
        self.shared.counters.count(Counter::CompleteRefused);
        self.shared.renewals.untrack(self.owner);
        self.state = ClaimState::Over;
    }

    /// It was granted, at last, or may have been: from here on it may have an effect, and its lease is
    /// renewed, `renew_for` at most.
    pub fn hold(&mut self, place: RunningPlace, length: Duration, sent: Sent, renew_for: Duration) {
        self.state = ClaimState::Held;
        self._running.1 = Some(place);
        let lease = Lease {
            key: Arc::clone(&self.key),
            owner: self.owner,
            length,
            since: sent.instant,
            until: sent.instant + renew_for,
            lost: Arc::clone(&self.lost),
        };
        Renewals::track(&self.shared, lease, &self.handle);
    }

    /// As [`Claim::hold`], where nobody knows if it was granted.
    pub fn hold_in_doubt(&mut self, place: RunningPlace) {
        self.state = ClaimState::Held;
        self._running.1 = Some(place);
    }

    /// Says how it ended. Goes on when the caller stops to wait.
    pub async fn end(mut self, end: End) -> Settled {
        let operation = self.over(end);
        let (tasks, handle) = (self.shared.tasks.clone(), self.handle.clone());
        let work = async move { settle::settle(&self.shared, operation).await };
        let stopped = |error| Settled::Unanswered(format!("the runtime ends: {error}"));
        tasks.spawn_on(work, &handle).await.unwrap_or_else(stopped)
    }

    /// The same, to be told more than once.
    pub async fn tell(&mut self, end: End) -> Settled {
        let operation = self.over(end);
        let shared = Arc::clone(&self.shared);
        let work = async move { settle::settle(&shared, operation).await };
        let stopped = |error| Settled::Unanswered(format!("the runtime ends: {error}"));
        let told = self.shared.tasks.spawn_on(work, &self.handle).await;
        told.unwrap_or_else(stopped)
    }

    /// The same, for a task that nobody stops.
    pub async fn end_here(mut self, end: End) -> Settled {
        let operation = self.over(end);
        settle::settle(&self.shared, operation).await
    }

    fn over(&mut self, end: End) -> Operation {
        self.state = ClaimState::Over;
        self.shared.renewals.untrack(self.owner);
        end.operation(LookupKey::clone(&self.key), self.owner)
    }
}

/// In a panic, too.
impl Drop for Claim {
    fn drop(&mut self) {
        let end = match self.state {
            ClaimState::Asked => End::NotDone(FailCause::NotSent),
            ClaimState::Failed => End::NotDone(FailCause::Other),
            // Without its end in the transaction it is not committed, and never will be: this takes the key from it.
            ClaimState::Held if self.kind == AttemptKind::Transaction => {
                End::NotDone(FailCause::Other)
            }
            ClaimState::Held => End::Unknown,
            ClaimState::Over => return,
        };
        let operation = self.over(end);
        outbox::put(&self.shared, operation, &self.handle);
    }
}
