//! A store that does as the real one, but for its bug.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use idempotency_protocol::{
    Acquire, Answer, Complete, Fingerprint, LookupKey, Operation, Outcome, Owner, Wait,
};
use idempotency_store::search::{Found, Search};
use idempotency_store::{
    ListFilter, Page, RecordView, Resolution, Resolve, Resolved, Store, StoreError, Swept, Usage,
    WaitCounts,
};

use crate::bug::Bug;

/// How long it takes the bugs with two steps to take the second.
const GAP: Duration = Duration::from_millis(40);

/// The newest execution of a key, as far as it went through here.
#[derive(Debug, Clone)]
struct Newest {
    acquire: Acquire,
    granted: Instant,
    settled: bool,
}

/// See the module's documentation.
pub struct Faulty {
    store: Arc<dyn Store>,
    bug: Bug,
    newest: Mutex<HashMap<LookupKey, Newest>>,
    count: AtomicU64,
}

impl Faulty {
    /// A store with this bug.
    pub fn new(store: Arc<dyn Store>, bug: Bug) -> Self {
        Self {
            store,
            bug,
            newest: Mutex::default(),
            count: AtomicU64::new(0),
        }
    }

    fn newest(&self) -> MutexGuard<'_, HashMap<LookupKey, Newest>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, key: &LookupKey) -> Option<Newest> {
        self.newest().get(key).cloned()
    }

    /// Every so-many-th time.
    fn one_in(&self, many: u64) -> bool {
        self.count
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(many)
    }

    async fn real(&self, operation: Operation) -> Answer {
        let answers = self.store.apply(vec![operation]).await;
        answers.into_iter().next().unwrap_or(Answer::Lost)
    }

    /// One operation, with the bug.
    async fn one(&self, operation: Operation) -> Answer {
        let operation = self.change(operation);
        match (self.bug, operation) {
            (Bug::ReleaseOnDisconnect, Operation::Abandon { key, owner }) => {
                match self
                    .real(Operation::Fail {
                        key,
                        owner,
                        cause: Default::default(),
                    })
                    .await
                {
                    Answer::Failed => Answer::Abandoned,
                    other => other,
                }
            }
            (Bug::FreedBeforeStored, Operation::Complete(complete)) => {
                self.complete_in_two(complete).await
            }
            (Bug::AcknowledgedNotStored, Operation::Complete(_)) if self.one_in(5) => {
                Answer::Completed { expires_at_ms: 0 }
            }
            (Bug::StoredAndForgotten, Operation::Complete(complete)) if self.one_in(5) => {
                let key = complete.key.clone();
                let answer = self.real(Operation::Complete(complete)).await;
                self.forget(&key).await;
                answer
            }
            (Bug::ExpiresIntoAbsence, operation) => {
                if matches!(operation, Operation::Acquire(_)) {
                    self.expire(operation.key()).await;
                }
                self.noted(operation).await
            }
            (_, operation) => self.noted(operation).await,
        }
    }

    /// What arrives differently.
    fn change(&self, mut operation: Operation) -> Operation {
        match (self.bug, &mut operation) {
            (Bug::FingerprintIgnored, Operation::Acquire(acquire)) => {
                let Fingerprint { scheme, .. } = acquire.fingerprint;
                acquire.fingerprint = Fingerprint {
                    scheme,
                    digest: [0; 32],
                };
            }
            (Bug::NoOwnerCheck, Operation::Complete(complete)) => {
                if let Some(newest) = self.of(&complete.key) {
                    complete.owner = newest.acquire.owner;
                }
            }
            (
                Bug::NoOwnerCheck,
                Operation::Fail { key, owner, .. }
                | Operation::Abandon { key, owner }
                | Operation::Extend { key, owner, .. },
            ) => {
                if let Some(newest) = self.of(key) {
                    *owner = newest.acquire.owner;
                }
            }
            (Bug::TenantIgnored, operation) => {
                let key = match operation {
                    Operation::Acquire(acquire) => &mut acquire.key,
                    Operation::Complete(complete) => &mut complete.key,
                    Operation::Settle(settle) => &mut settle.key,
                    Operation::Redeem(redeem) => &mut redeem.key,
                    Operation::Fail { key, .. }
                    | Operation::Abandon { key, .. }
                    | Operation::Extend { key, .. } => key,
                };
                key.tenant = "acme".to_owned();
            }
            _ => {}
        }
        operation
    }

    /// Does it, remembers who holds the key, and changes the answer where that is the bug.
    async fn noted(&self, operation: Operation) -> Answer {
        let settles = matches!(
            operation,
            Operation::Complete(_) | Operation::Fail { .. } | Operation::Abandon { .. }
        );
        let key = operation.key().clone();
        let acquire = match &operation {
            Operation::Acquire(acquire) => Some(acquire.clone()),
            _ => None,
        };
        let mut answer = self.real(operation).await;
        if let (Answer::Granted(_), Some(acquire)) = (&answer, acquire) {
            let newest = Newest {
                acquire,
                granted: Instant::now(),
                settled: false,
            };
            self.newest().insert(key, newest);
        } else if settles {
            if let Some(newest) = self.newest().get_mut(&key) {
                newest.settled = true;
            }
        }
        match (self.bug, &mut answer) {
            (Bug::ReplayChanged, Answer::Stored(stored)) => {
                if let Outcome::Response(response) = &*stored.outcome {
                    let mut response = response.clone();
                    let mut body = response.body.to_vec();
                    if let Some(last) = body.last_mut() {
                        *last ^= 1;
                    }
                    response.body = body.into();
                    stored.outcome = Outcome::Response(response).into();
                }
            }
            (Bug::FenceStuck, Answer::Granted(grant)) => grant.fence = 7,
            (Bug::UnknownInFlight, Answer::UnknownOutcome { .. }) if self.one_in(2) => {
                return Answer::InFlight {
                    fence: 1,
                    lease_left_ms: 0,
                };
            }
            _ => {}
        }
        answer
    }

    async fn complete_in_two(&self, complete: Complete) -> Answer {
        let Complete { key, owner, .. } = complete.clone();
        self.real(Operation::Fail {
            key: key.clone(),
            owner,
            cause: Default::default(),
        })
        .await;
        tokio::time::sleep(GAP).await;
        if let Some(newest) = self.of(&key) {
            let again = Acquire {
                owner: stranger(owner),
                ..newest.acquire
            };
            let owner = again.owner;
            if let Answer::Granted(_) = self.real(Operation::Acquire(again)).await {
                self.real(Operation::Complete(Complete { owner, ..complete }))
                    .await;
            }
        }
        Answer::Completed { expires_at_ms: 0 }
    }

    /// Forgets an execution whose lease is over and that nobody has settled.
    async fn expire(&self, key: &LookupKey) {
        let over = self.of(key).is_some_and(|newest| {
            let lease = Duration::from_millis(newest.acquire.lease_ms);
            !newest.settled && newest.granted.elapsed() > lease
        });
        if over {
            self.newest().remove(key);
            self.forget(key).await;
        }
    }

    async fn forget(&self, key: &LookupKey) {
        if let Ok(Some(record)) = self.store.inspect(key).await {
            let delete = Resolve {
                key: key.clone(),
                version: record.version,
                to: Resolution::Deleted,
                force: true,
            };
            // Somebody else's change wins.
            let _ = self.store.resolve(delete).await;
        }
    }
}

/// An owner that nobody else has.
fn stranger(Owner(mut octets): Owner) -> Owner {
    octets.reverse();
    Owner(octets)
}

#[async_trait]
impl Store for Faulty {
    async fn apply(&self, operations: Vec<Operation>) -> Vec<Answer> {
        let mut answers = Vec::with_capacity(operations.len());
        for operation in operations {
            answers.push(self.one(operation).await);
        }
        answers
    }

    async fn wait(&self, mut wait: Wait) -> Answer {
        if self.bug == Bug::FingerprintIgnored {
            wait.fingerprint.digest = [0; 32];
        }
        if self.bug == Bug::TenantIgnored {
            wait.key.tenant = "acme".to_owned();
        }
        let key = wait.key.clone();
        let answer = self.store.wait(wait).await;
        if let (Bug::GrantToLeftWaiter, Answer::Changed) = (self.bug, &answer) {
            if let Some(newest) = self.of(&key) {
                let acquire = Acquire {
                    owner: stranger(newest.acquire.owner),
                    ..newest.acquire
                };
                self.real(Operation::Acquire(acquire)).await;
            }
        }
        answer
    }

    fn waits(&self) -> WaitCounts {
        self.store.waits()
    }

    async fn inspect(&self, key: &LookupKey) -> Result<Option<RecordView>, StoreError> {
        self.store.inspect(key).await
    }

    async fn list(&self, filter: ListFilter) -> Result<Page, StoreError> {
        self.store.list(filter).await
    }

    async fn search(&self, search: Search) -> Result<Found, StoreError> {
        self.store.search(search).await
    }

    async fn stored(&self, key: &LookupKey) -> Result<Option<Outcome>, StoreError> {
        self.store.stored(key).await
    }

    async fn resolve(&self, resolve: Resolve) -> Result<Resolved, StoreError> {
        self.store.resolve(resolve).await
    }

    async fn sweep(&self, limit: usize) -> Result<Swept, StoreError> {
        self.store.sweep(limit).await
    }

    async fn ready(&self) -> Result<Usage, StoreError> {
        self.store.ready().await
    }

    async fn close(&self) {
        self.store.close().await;
    }
}
