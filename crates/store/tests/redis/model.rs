//! The script against the machine: the same random operations at the same times, the same answers.

use crate::common::{abandon, acquire, fail, granted, key, one, response};
use crate::support::{name, open, options, server};
use idempotency_protocol::{
    About, Acquire, Answer, AttemptKind, Complete, FailCause, Fingerprint, LookupKey, OnUnknown,
    Operation, Owner, Redeem, Retention, Scheme, Settle, Settlement, StoredResponse,
};
use idempotency_stack::Redis;
use idempotency_store::clock::{Clock, ManualClock};
use idempotency_store::history::History;
use idempotency_store::machine::{self, Context, Event, Room, SweepStep};
use idempotency_store::record::Slot;
use idempotency_store::{ListFilter, Memory, RedisStore, Resolution, Resolve, Store};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Ahead of the server's clock, which removes what is over: 2096, in microseconds.
const START: u64 = 4_000_000_000_000_000;
const CLOCK: &str = "clock";

/// One step: what, on which key, by whom, and two more choices.
type Step = (u8, u8, u8, u8, u8);

/// `slot`: what is there, so that a settle finds its fence, and owners are often those who hold the key.
fn operation(step: Step, slot: Option<&Slot>) -> Operation {
    let (what, k, owner, a, b) = step;
    let fence = slot.map_or(1, |slot| slot.fence);
    let holder = slot.and_then(|slot| slot.execution.as_ref()?.owner);
    let owner = match holder {
        Some(holder) if owner % 2 == 0 && what % 13 > 4 => holder,
        _ => Owner([owner % 7; 16]),
    };
    let key = key(&format!("k{}", k % 3));
    let lease_ms = if a % 3 == 0 { 1_000 } else { 20 };
    let outcome = || response(&vec![b'x'; [0, 10, 70_000][usize::from(b) % 3]]);
    match what % 13 {
        0..=4 => Operation::Acquire(Acquire {
            key,
            owner,
            fingerprint: Fingerprint {
                scheme: Scheme(u64::from(b == 7)),
                digest: [if b % 2 == 0 { b % 16 } else { 0 }; 32],
            },
            lease_ms,
            retention: Retention {
                ttl_ms: if b % 2 == 0 { 50 } else { 5_000 },
                unknown_ttl_ms: if b % 5 == 0 { 1 } else { 9_000 },
            },
            on_unknown: match a % 5 {
                0 | 1 => OnUnknown::Retry,
                2 => OnUnknown::RetryTransactions,
                _ => OnUnknown::Refuse,
            },
            kind: match a % 7 {
                0..=2 => AttemptKind::Transaction,
                3 => AttemptKind::Guard,
                _ => AttemptKind::Gateway,
            },
            about: (b % 2 == 0).then(|| {
                Arc::new(About {
                    method: "POST".into(),
                    client: "x".repeat(a.into()),
                    ..About::default()
                })
            }),
        }),
        5 | 6 => Operation::Complete(Complete {
            key,
            owner,
            outcome: outcome().into(),
        }),
        7 | 8 => Operation::Fail {
            key,
            owner,
            cause: match a % 6 {
                0 => FailCause::Other,
                1 => FailCause::NotSent,
                2 => FailCause::Refused,
                _ => FailCause::Redirected(Box::new(StoredResponse {
                    status: 308,
                    headers: Vec::new(),
                    // The longest ones are not remembered.
                    body: vec![b; 17 * usize::from(b)].into(),
                })),
            },
        },
        9 => Operation::Abandon { key, owner },
        10 => Operation::Extend {
            key,
            owner,
            lease_ms,
        },
        11 => Operation::Redeem(Redeem {
            key,
            fence: fence + u64::from(a % 4 == 0),
            fingerprint: slot.and_then(|slot| slot.execution.as_ref()).map_or(
                Fingerprint {
                    scheme: Scheme(0),
                    digest: [b; 32],
                },
                |execution| execution.fingerprint,
            ),
            // In milliseconds, where the model's clock counts in microseconds.
            expires_at_ms: START / 1_000 + [0, 100, 1_000_000_000][usize::from(b) % 3],
        }),
        _ => Operation::Settle(Settle {
            key,
            fence: fence + u64::from(a % 4 == 0),
            settlement: if b % 3 == 0 {
                Settlement::Failed
            } else {
                Settlement::Completed(outcome())
            },
        }),
    }
}

struct Pair {
    redis: RedisStore,
    memory: Memory,
    /// The same once more, to look at what is remembered of the attempts.
    slots: HashMap<LookupKey, Slot>,
    clock: Arc<ManualClock>,
    /// Moves the server's clock.
    admin: redis::aio::MultiplexedConnection,
}

impl Pair {
    async fn new(server: &Redis) -> Pair {
        let client = redis::Client::open(server.url()).unwrap();
        let mut admin = client.get_multiplexed_async_connection().await.unwrap();
        let () = redis::cmd("FLUSHALL")
            .query_async(&mut admin)
            .await
            .unwrap();
        let clock = Arc::new(ManualClock::at(START));
        let redis = RedisStore::open_on_clock(
            options(&format!("{}?accept_loss=true", server.url())),
            CLOCK,
        );
        let mut pair = Pair {
            redis: redis.await.unwrap(),
            memory: Memory::new(Arc::clone(&clock) as Arc<dyn Clock>),
            slots: HashMap::new(),
            clock,
            admin,
        };
        pair.advance(0).await;
        pair
    }

    async fn advance(&mut self, ms: u64) {
        // Never not at all: what is forgotten and used again in the same microsecond has the same
        // version in one store and not in the other.
        self.clock.advance(Duration::from_millis(ms + 1));
        let mut set = redis::cmd("SET");
        set.arg(CLOCK).arg(self.clock.now().to_string());
        let () = set.query_async(&mut self.admin).await.unwrap();
    }

    async fn play(&mut self, step: Step) -> Result<(), TestCaseError> {
        let (what, k, _, a, b) = step;
        match what {
            0..=119 => {
                // Sometimes several at once.
                let mut operations = Vec::new();
                for more in 0..=(b % 3) {
                    let step = (what.wrapping_add(more * 5), k, step.2 + more, a, b);
                    let slot = self.slots.get(&key(&format!("k{}", k % 3)));
                    operations.push(operation(step, slot));
                }
                let expected: Vec<Answer> = self.memory.apply(operations.clone()).await;
                prop_assert_eq!(self.redis.apply(operations.clone()).await, expected);
                for (key, event) in operations.into_iter().map(Event::prepare) {
                    let slot = self.slots.get(&key);
                    let change = machine::apply(slot, &self.context(), &event).change;
                    change.map(|slot| self.slots.insert(key, slot));
                }
            }
            120..=139 => {
                let key = key(&format!("k{}", k % 3));
                let version = self.slots.get(&key).map_or(0, |slot| slot.version);
                let to = match a % 3 {
                    0 => Resolution::Completed(response(b"by hand")),
                    1 => Resolution::Failed,
                    _ => Resolution::Deleted,
                };
                let request = Resolve {
                    key,
                    version: version.saturating_sub(u64::from(b % 4 == 0)),
                    to,
                    force: b % 2 == 0,
                };
                let expected = self.memory.resolve(request.clone()).await;
                prop_assert_eq!(self.redis.resolve(request.clone()).await, expected);
                let slot = self.slots.get(&request.key);
                let (change, _) = machine::resolve(slot, &self.context(), &request);
                change.map(|slot| self.slots.insert(request.key, slot));
            }
            140..=159 => {
                let expected = self.memory.sweep(1_000).await.unwrap();
                let (mut lapsed, mut more) = (0, true);
                while more {
                    let swept = self.redis.sweep(1_000).await.unwrap();
                    lapsed += swept.lapsed;
                    more = swept.more;
                }
                prop_assert_eq!(lapsed, expected.lapsed);
                let context = self.context();
                for slot in self.slots.values_mut() {
                    if let SweepStep::Lapse(lapsed) = machine::sweep(slot, &context) {
                        *slot = lapsed;
                    }
                }
            }
            160..=229 => self.advance(u64::from(b % 40)).await,
            230..=244 => self.advance(1_000 + u64::from(b)).await,
            245..=251 => self.advance(6_000).await,
            _ => self.advance(4_000_000).await,
        }
        self.advance(0).await;
        let filter = ListFilter {
            limit: 10,
            ..ListFilter::default()
        };
        let expected = self.memory.list(filter.clone()).await.unwrap();
        let found = self.redis.list(filter).await.unwrap();
        prop_assert_eq!(&found.records, &expected.records);
        for record in found.records {
            let remembered = self.remembered(&record.key).await;
            let slot = self.slots.get(&record.key);
            let expected = slot.and_then(|slot| slot.execution.as_ref());
            prop_assert_eq!(remembered.as_ref(), expected.map(|e| &e.history));
        }
        Ok(())
    }

    fn context(&self) -> Context {
        Context {
            now: self.clock.now(),
            boot: 0,
            boot_started: 0,
            room: Room::Plenty,
            used_up: None,
        }
    }

    /// What the server remembers of the attempts.
    async fn remembered(&mut self, key: &LookupKey) -> Option<History> {
        let mut get = redis::cmd("HGET");
        get.arg(name(key)).arg("x");
        let x: Vec<u8> = get.query_async(&mut self.admin).await.unwrap();
        History::decode(bytes::Bytes::from(x).slice(16..))
    }
}

#[test]
fn the_script_does_what_the_machine_does() {
    let server = server(&["--appendonly", "no"]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = Config {
        cases: 96,
        max_shrink_iters: 200,
        failure_persistence: None,
        ..Config::default()
    };
    let steps = prop::collection::vec(
        (any::<u8>(), 0..3u8, 0..200u8, any::<u8>(), any::<u8>()),
        1..80,
    );
    TestRunner::new(config)
        .run(&steps, |steps| {
            runtime.block_on(async {
                let mut pair = Pair::new(&server).await;
                for (at, step) in steps.into_iter().enumerate() {
                    pair.play(step)
                        .await
                        .map_err(|e| TestCaseError::fail(format!("step {at}, {step:?}: {e}")))?;
                }
                Ok(())
            })
        })
        .unwrap();
}

/// Which random steps hardly ever come to: the same answer once more, and nothing is written.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_unknown_and_in_doubt_stays_as_it_is() {
    let server = server(&[]);
    let store = open(&server.url()).await;
    granted(&*store, "k", 1).await;
    assert_eq!(one(&*store, abandon("k", 1)).await, Answer::Abandoned);
    let Operation::Acquire(retry) = acquire("k", 2) else {
        unreachable!()
    };
    let retry = Operation::Acquire(Acquire {
        on_unknown: OnUnknown::Retry,
        ..retry
    });
    let fence = match one(&*store, retry).await {
        Answer::Granted(grant) => grant.fence,
        other => panic!("{other:?}"),
    };
    assert_eq!(one(&*store, fail("k", 2)).await, Answer::Abandoned);
    let before = store.inspect(&key("k")).await.unwrap().unwrap();
    let settle = Operation::Settle(Settle {
        key: key("k"),
        fence,
        settlement: Settlement::Failed,
    });
    for again in [fail("k", 2), settle, abandon("k", 2)] {
        assert_eq!(one(&*store, again).await, Answer::Abandoned);
        let after = store.inspect(&key("k")).await.unwrap().unwrap();
        assert_eq!(after, before);
    }
}
