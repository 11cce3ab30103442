//! Random sequences of operations, played on a store and on the model: the same answers.

use idempotency_protocol::{
    About, Acquire, Answer, AttemptKind, Complete, FailCause, Fingerprint, LookupKey, OnUnknown,
    Operation, Origin, Outcome, Owner, Redeem, Retention, Scheme, Settle, Settlement,
    StoredResponse,
};
use idempotency_store::{ListFilter, Memory, Resolution, Resolve, Store};
use proptest::prelude::*;
use std::sync::Arc;

/// What is compared with the model.
#[async_trait::async_trait]
pub trait Subject: Send {
    /// The store.
    fn store(&self) -> Arc<dyn Store>;

    /// Moves its clock, and the model's.
    async fn advance(&self, ms: u64);

    /// Closes the store and opens it again.
    async fn reopen(&mut self);

    /// The number of records that the store tells is exact after a sweep.
    fn counts(&self) -> bool;
}

#[derive(Clone, Debug)]
pub enum Step {
    /// Several operations in one call; a settle's fence is that of its key at that moment.
    Apply(Vec<Draft>),
    Resolve {
        key: u8,
        to: u8,
        force: bool,
        stale: bool,
    },
    Advance {
        ms: u64,
    },
    Sweep,
    List,
    /// Closes the store and opens it again, or whatever comes nearest. The model knows no restart, so this is drawn
    /// only when no lease is live: a lease begins anew.
    Reopen,
}

#[derive(Clone, Debug)]
pub enum Draft {
    Acquire {
        key: u8,
        owner: u8,
        payload: u8,
        scheme: u8,
        lease_ms: u64,
        ttl_ms: u64,
        policy: u8,
        transaction: bool,
    },
    Complete {
        key: u8,
        owner: u8,
        body: usize,
    },
    Fail {
        key: u8,
        owner: u8,
        cause: u8,
    },
    Abandon {
        key: u8,
        owner: u8,
    },
    Extend {
        key: u8,
        owner: u8,
        lease_ms: u64,
    },
    Settle {
        key: u8,
        off: u64,
        body: Option<usize>,
    },
    Redeem {
        key: u8,
        off: u64,
        payload: u8,
    },
}

fn draft() -> impl Strategy<Value = Draft> {
    let (key, owner) = (0..3u8, 0..6u8);
    let body = prop_oneof![Just(0usize), Just(10), Just(3_000)];
    let lease = prop_oneof![Just(20u64), Just(1_000)];
    prop_oneof![
        4 => (key.clone(), owner.clone(), 0..8u8, 0..12u8, lease.clone(), prop_oneof![Just(50u64), Just(5_000)], (0..3u8, 0..4u8))
            .prop_map(|(key, owner, payload, scheme, lease_ms, ttl_ms, (policy, kind))| Draft::Acquire {
                key, owner, payload: payload.saturating_sub(5), scheme: u8::from(scheme == 0), lease_ms, ttl_ms,
                policy, transaction: kind != 0,
            }),
        3 => (key.clone(), owner.clone(), body.clone())
            .prop_map(|(key, owner, body)| Draft::Complete { key, owner, body }),
        3 => (key.clone(), owner.clone(), 0..4u8)
            .prop_map(|(key, owner, cause)| Draft::Fail { key, owner, cause }),
        1 => (key.clone(), owner.clone()).prop_map(|(key, owner)| Draft::Abandon { key, owner }),
        1 => (key.clone(), owner, lease)
            .prop_map(|(key, owner, lease_ms)| Draft::Extend { key, owner, lease_ms }),
        1 => (key.clone(), 0..2u64, prop::option::of(body))
            .prop_map(|(key, off, body)| Draft::Settle { key, off, body }),
        1 => (key, 0..2u64, 0..2u8)
            .prop_map(|(key, off, payload)| Draft::Redeem { key, off, payload }),
    ]
}

pub fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => prop::collection::vec(draft(), 1..6).prop_map(Step::Apply),
        1 => (0..3u8, 0..3u8, any::<bool>(), 0..4u8)
            .prop_map(|(key, to, force, stale)| Step::Resolve { key, to, force, stale: stale == 0 }),
        4 => prop_oneof![0..30u64, 900..1_100u64, Just(6_000), Just(4_000_000)]
            .prop_map(|ms| Step::Advance { ms }),
        2 => Just(Step::Sweep),
        1 => Just(Step::List),
        1 => Just(Step::Reopen),
    ]
}

fn key(n: u8) -> LookupKey {
    LookupKey {
        tenant: "t".into(),
        namespace: String::new(),
        origin: Origin::Client,
        key: format!("k{n}"),
    }
}

fn outcome(size: usize) -> Outcome {
    Outcome::Response(StoredResponse {
        status: 200,
        headers: Vec::new(),
        body: vec![b'x'; size].into(),
    })
}

async fn operation(draft: Draft, model: &Memory) -> Operation {
    let owner = |n| Owner([n; 16]);
    match draft {
        Draft::Acquire {
            key: k,
            owner: o,
            payload,
            scheme,
            lease_ms,
            ttl_ms,
            policy,
            transaction,
        } => Operation::Acquire(Acquire {
            key: key(k),
            owner: owner(o),
            fingerprint: Fingerprint {
                scheme: Scheme(scheme.into()),
                digest: [payload; 32],
            },
            lease_ms,
            retention: Retention {
                ttl_ms,
                unknown_ttl_ms: 2 * ttl_ms,
            },
            on_unknown: match policy {
                0 => OnUnknown::Refuse,
                1 => OnUnknown::Retry,
                _ => OnUnknown::RetryTransactions,
            },
            kind: if transaction {
                AttemptKind::Transaction
            } else {
                AttemptKind::Gateway
            },
            about: transaction.then(|| {
                Arc::new(About {
                    path: format!("/{payload}"),
                    ..About::default()
                })
            }),
        }),
        Draft::Complete {
            key: k,
            owner: o,
            body,
        } => Operation::Complete(Complete {
            key: key(k),
            owner: owner(o),
            outcome: outcome(body).into(),
        }),
        Draft::Fail {
            key: k,
            owner: o,
            cause,
        } => Operation::Fail {
            key: key(k),
            owner: owner(o),
            cause: match cause {
                0 => FailCause::Other,
                1 => FailCause::NotSent,
                2 => FailCause::Refused,
                _ => FailCause::Redirected(Box::new(StoredResponse {
                    status: 307,
                    headers: Vec::new(),
                    body: vec![o; usize::from(o)].into(),
                })),
            },
        },
        Draft::Abandon { key: k, owner: o } => Operation::Abandon {
            key: key(k),
            owner: owner(o),
        },
        Draft::Extend {
            key: k,
            owner: o,
            lease_ms,
        } => Operation::Extend {
            key: key(k),
            owner: owner(o),
            lease_ms,
        },
        Draft::Settle { key: k, off, body } => {
            let fence = model.inspect(&key(k)).await.unwrap().map_or(1, |v| v.fence) + off;
            let settlement = match body {
                Some(body) => Settlement::Completed(outcome(body)),
                None => Settlement::Failed,
            };
            Operation::Settle(Settle {
                key: key(k),
                fence,
                settlement,
            })
        }
        Draft::Redeem {
            key: k,
            off,
            payload,
        } => Operation::Redeem(Redeem {
            fence: model.inspect(&key(k)).await.unwrap().map_or(1, |v| v.fence) + off,
            key: key(k),
            fingerprint: Fingerprint {
                scheme: Scheme(0),
                digest: [payload; 32],
            },
            expires_at_ms: u64::MAX,
        }),
    }
}

/// Plays the steps on both.
pub async fn play(
    steps: Vec<Step>,
    model: &Memory,
    subject: &mut dyn Subject,
) -> Result<(), TestCaseError> {
    let mut store = subject.store();
    for (at, step) in steps.into_iter().enumerate() {
        match step.clone() {
            Step::Apply(drafts) => {
                let mut operations = Vec::new();
                for draft in drafts {
                    operations.push(operation(draft, model).await);
                }
                let expected: Vec<Answer> = model.apply(operations.clone()).await;
                prop_assert_eq!(
                    store.apply(operations).await,
                    expected,
                    "step {}: {:?}",
                    at,
                    step
                );
            }
            Step::Resolve {
                key: k,
                to,
                force,
                stale,
            } => {
                let version = model
                    .inspect(&key(k))
                    .await
                    .unwrap()
                    .map_or(0, |v| v.version);
                let to = match to {
                    0 => Resolution::Completed(outcome(3_000)),
                    1 => Resolution::Failed,
                    _ => Resolution::Deleted,
                };
                let version = version - u64::from(stale && version > 0);
                let request = Resolve {
                    key: key(k),
                    version,
                    to,
                    force,
                };
                let expected = model.resolve(request.clone()).await.unwrap();
                prop_assert_eq!(
                    store.resolve(request).await.unwrap(),
                    expected,
                    "step {}",
                    at
                );
            }
            Step::Advance { ms } => subject.advance(ms).await,
            Step::Sweep => {
                // Which of the due ones comes first is not part of the contract: sweep all.
                let expected = model.sweep(1_000).await.unwrap();
                prop_assert_eq!(store.sweep(1_000).await.unwrap(), expected, "step {}", at);
            }
            Step::List => {}
            Step::Reopen => {
                let filter = ListFilter {
                    limit: 10,
                    ..ListFilter::default()
                };
                let live = model.list(filter).await.unwrap().records;
                if live.iter().all(|r| r.lease_left_ms.is_none()) {
                    drop(store);
                    subject.reopen().await;
                    store = subject.store();
                }
            }
        }
        let filter = ListFilter {
            limit: 10,
            ..ListFilter::default()
        };
        let expected = model.list(filter.clone()).await.unwrap();
        let found = store.list(filter).await.unwrap();
        prop_assert_eq!(
            &found.records,
            &expected.records,
            "after step {}: {:?}",
            at,
            step
        );
        let usage = store.ready().await.unwrap();
        if subject.counts() && matches!(step, Step::Sweep) {
            prop_assert_eq!(usage.records, Some(found.records.len() as u64));
        }
    }
    Ok(())
}
