//! Clients in a storm: many who want the same keys, each once, and what they saw.

use crate::common::{acquire, complete, one};
use crate::support::until;
use idempotency_protocol::{Acquire, Answer, Grant, Operation, Outcome, Owner};
use idempotency_store::RedisStore;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::task::JoinSet;

/// Clients per storm, half of them per store.
const CLIENTS: usize = 16;

/// One grant that a client was given.
#[derive(Clone, Debug)]
pub struct Given {
    pub sent: Instant,
    pub received: Instant,
    pub fence: u64,
}

#[derive(Default)]
struct Counts {
    stop: AtomicBool,
    /// Grants that were given.
    granted: AtomicUsize,
    /// Replays of what was stored.
    replayed: AtomicUsize,
    faults: AtomicUsize,
    owners: AtomicU64,
    seen: Mutex<Seen>,
}

/// What the clients saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// By key.
    pub grants: HashMap<String, Vec<Given>>,
    /// Keys whose completion was acknowledged, with whose it was.
    pub completed: HashMap<String, Owner>,
}

/// A running storm.
pub struct Storm {
    counts: Arc<Counts>,
    clients: JoinSet<()>,
}

impl Storm {
    /// Starts clients that all execute the same keys, one after the other: whoever is granted
    /// completes, the others look until there is something to replay. A fault is tried again.
    pub fn start(stores: &[Arc<RedisStore>]) -> Storm {
        let counts = Arc::new(Counts::default());
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let store = Arc::clone(&stores[client % stores.len()]);
            let counts = Arc::clone(&counts);
            clients.spawn(async move {
                for n in 0.. {
                    if !execute(&store, &counts, &format!("k{n}")).await {
                        return;
                    }
                }
            });
        }
        Storm { counts, clients }
    }

    pub fn granted(&self) -> usize {
        self.counts.granted.load(SeqCst)
    }

    pub fn faults(&self) -> usize {
        self.counts.faults.load(SeqCst)
    }

    /// Waits for that many grants, and as many replays, from now on.
    pub async fn goes_on(&self, count: usize) {
        let c = &self.counts;
        let (granted, replayed) = (c.granted.load(SeqCst), c.replayed.load(SeqCst));
        until(|| async {
            c.granted.load(SeqCst) >= granted + count && c.replayed.load(SeqCst) >= replayed + count
        })
        .await;
    }

    /// Ends it. Fences have grown from every grant to those that were asked for after it.
    pub async fn end(self) -> Seen {
        self.counts.stop.store(true, SeqCst);
        self.clients.join_all().await;
        let seen = self.counts.seen.lock().unwrap().clone();
        for (name, grants) in &seen.grants {
            for (a, b) in pairs(grants) {
                let grows = a.received >= b.sent || a.fence < b.fence;
                assert!(grows && a.fence != b.fence, "{name}: {a:?} {b:?}");
            }
        }
        seen
    }
}

fn pairs(grants: &[Given]) -> impl Iterator<Item = (&Given, &Given)> {
    let others = |(at, a)| {
        let others = grants
            .iter()
            .enumerate()
            .filter(move |(other, _)| *other != at);
        others.map(move |(_, b)| (a, b))
    };
    grants.iter().enumerate().flat_map(others)
}

/// A client with one key, until it is done; `false` at the end of the storm.
async fn execute(store: &RedisStore, counts: &Counts, name: &str) -> bool {
    while !counts.stop.load(SeqCst) {
        let owner = owner(counts);
        let sent = Instant::now();
        match one(store, acquire_as(name, owner)).await {
            Answer::Granted(grant) => {
                counts.note(name, sent, grant);
                return finish(store, counts, name, owner).await;
            }
            Answer::Stored(_) => {
                counts.replayed.fetch_add(1, SeqCst);
                return true;
            }
            // The execution whose complete was lost in a fail-over: nobody may repeat it.
            Answer::UnknownOutcome { .. } => return true,
            Answer::InFlight { .. } => tokio::task::yield_now().await,
            Answer::Fault(_) => {
                counts.faults.fetch_add(1, SeqCst);
                tokio::task::yield_now().await;
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    false
}

/// Completes, again and again until there is an answer, as a gateway does.
async fn finish(store: &RedisStore, counts: &Counts, name: &str, owner: Owner) -> bool {
    loop {
        match one(store, complete_as(name, owner)).await {
            Answer::Completed { .. } => {
                let mut seen = counts.seen.lock().unwrap();
                seen.completed.insert(name.to_owned(), owner);
                return true;
            }
            // The grant was forgotten.
            Answer::Lost => return true,
            Answer::Fault(_) if counts.stop.load(SeqCst) => return false,
            Answer::Fault(_) => tokio::task::yield_now().await,
            other => panic!("{name}: {other:?}"),
        }
    }
}

impl Counts {
    fn note(&self, name: &str, sent: Instant, grant: Grant) {
        let given = Given {
            sent,
            received: Instant::now(),
            fence: grant.fence,
        };
        let mut seen = self.seen.lock().unwrap();
        seen.grants.entry(name.to_owned()).or_default().push(given);
        self.granted.fetch_add(1, SeqCst);
    }
}

fn owner(counts: &Counts) -> Owner {
    let mut owner = [0xee; 16];
    let number = counts.owners.fetch_add(1, SeqCst);
    owner[..8].copy_from_slice(&number.to_be_bytes());
    Owner(owner)
}

pub fn acquire_as(name: &str, owner: Owner) -> Operation {
    match acquire(name, 0) {
        Operation::Acquire(acquire) => Operation::Acquire(Acquire { owner, ..acquire }),
        other => other,
    }
}

/// The body tells who it was.
fn complete_as(name: &str, by: Owner) -> Operation {
    match complete(name, 0, &by.0) {
        Operation::Complete(mut complete) => {
            complete.owner = by;
            Operation::Complete(complete)
        }
        other => other,
    }
}

impl Seen {
    /// Keys that were granted more than once.
    pub fn granted_twice(&self) -> Vec<&String> {
        let twice = self.grants.iter().filter(|(_, grants)| grants.len() > 1);
        twice.map(|(name, _)| name).collect()
    }

    /// Acknowledged completions that a store does not replay, octet by octet.
    pub async fn lost(&self, store: &RedisStore) -> Vec<String> {
        let mut lost = Vec::new();
        for (name, owner) in &self.completed {
            let replayed = match one(store, acquire_as(name, Owner([0xff; 16]))).await {
                Answer::Stored(stored) => match stored.outcome.into_outcome() {
                    Outcome::Response(response) => response.body == owner.0.as_slice(),
                    Outcome::Tombstone(_) => false,
                },
                _ => false,
            };
            if !replayed {
                lost.push(name.clone());
            }
        }
        lost
    }

    /// Only what was first granted after that moment.
    pub fn since(&self, moment: Instant) -> Seen {
        let mut seen = self.clone();
        seen.grants
            .retain(|_, grants| grants.iter().all(|g| g.sent > moment));
        let Seen { grants, completed } = &mut seen;
        completed.retain(|name, _| grants.contains_key(name));
        seen
    }
}
