//! Keys, stores, and short words for what the tests do with them.

use crate::common::{response, START, TTL_MS};
use idempotency_protocol::{
    About, Acquire, Answer, AttemptKind, Complete, Fingerprint, LookupKey, OnUnknown, Operation,
    Origin, Owner, Retention, Scheme, Wait,
};
use idempotency_store::clock::{Clock, ManualClock};
use idempotency_store::sealed::{KeyRing, Keys};
use idempotency_store::{ListFilter, Memory, Rewrap, Rewrapped, Sealed, Store};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

/// Lines of keys by name: the same name is always the same key.
pub fn line(name: &str) -> String {
    static LINES: OnceLock<Mutex<BTreeMap<String, String>>> = OnceLock::new();
    let mut lines = LINES.get_or_init(Mutex::default).lock().unwrap();
    let new = || Keys::line(name).unwrap();
    lines.entry(name.to_owned()).or_insert_with(new).clone()
}

/// The index key and these, the first of which seals.
pub fn keys(names: &[&str]) -> Keys {
    let lines: String = names.iter().map(|name| line(name)).collect();
    Keys::parse(&(line("index") + &lines)).unwrap()
}

pub fn ring(names: &[&str]) -> Arc<KeyRing> {
    KeyRing::new(keys(names))
}

/// A store in memory, on a clock that stands.
pub fn memory() -> Arc<Memory> {
    let clock = Arc::new(ManualClock::at(START)) as Arc<dyn Clock>;
    Arc::new(Memory::new(clock))
}

pub async fn sealed(inner: &Arc<Memory>, ring: &Arc<KeyRing>) -> Sealed {
    let inner = Arc::clone(inner) as Arc<dyn Store>;
    Sealed::open(inner, Arc::clone(ring)).await.unwrap()
}

pub fn key(tenant: &str, key: &str) -> LookupKey {
    LookupKey {
        tenant: tenant.into(),
        namespace: "orders".into(),
        origin: Origin::Client,
        key: key.into(),
    }
}

pub fn payload(n: u8) -> Fingerprint {
    Fingerprint {
        scheme: Scheme(1),
        digest: [n; 32],
    }
}

pub fn acquire(key: &LookupKey, owner: u8) -> Operation {
    acquire_with(key, owner, |_| {})
}

pub fn acquire_with(key: &LookupKey, owner: u8, change: impl FnOnce(&mut Acquire)) -> Operation {
    let mut acquire = Acquire {
        key: key.clone(),
        owner: Owner([owner; 16]),
        fingerprint: payload(1),
        lease_ms: 60_000,
        retention: Retention {
            ttl_ms: TTL_MS,
            unknown_ttl_ms: TTL_MS,
        },
        on_unknown: OnUnknown::Refuse,
        kind: AttemptKind::Gateway,
        about: Some(Arc::new(About {
            method: "POST".into(),
            path: "/charges".into(),
            request_id: "request-7".into(),
            ..About::default()
        })),
    };
    change(&mut acquire);
    Operation::Acquire(acquire)
}

pub fn complete(key: &LookupKey, owner: u8, body: &[u8]) -> Operation {
    Operation::Complete(Complete {
        key: key.clone(),
        owner: Owner([owner; 16]),
        outcome: response(body).into(),
    })
}

pub async fn one(store: &dyn Store, operation: Operation) -> Answer {
    store.apply(vec![operation]).await.remove(0)
}

pub async fn granted(store: &dyn Store, key: &LookupKey, owner: u8) -> u64 {
    match one(store, acquire(key, owner)).await {
        Answer::Granted(grant) => grant.fence,
        other => panic!("{other:?}"),
    }
}

/// A completed record.
pub async fn done(store: &dyn Store, key: &LookupKey, owner: u8, body: &[u8]) -> u64 {
    let fence = granted(store, key, owner).await;
    match one(store, complete(key, owner, body)).await {
        Answer::Completed { .. } => fence,
        other => panic!("{other:?}"),
    }
}

/// That the key is answered with this body.
pub async fn replays(store: &dyn Store, key: &LookupKey, body: &[u8]) {
    match one(store, acquire(key, 250)).await {
        // A failure would print both.
        Answer::Stored(stored) => assert!(stored.outcome == response(body), "another answer"),
        other => panic!("{}", other.name()),
    }
}

pub fn wait(key: &LookupKey, fence: u64, wait_ms: u64) -> Wait {
    Wait {
        key: key.clone(),
        fingerprint: payload(1),
        fence,
        wait_ms,
    }
}

/// Every record, on one page.
pub fn everything() -> ListFilter {
    ListFilter {
        limit: 1_000,
        ..ListFilter::default()
    }
}

/// A whole pass, in batches of this size.
pub async fn rewrap(store: &dyn Store, limit: usize) -> Rewrapped {
    let mut total = Rewrapped::default();
    let mut after = None;
    loop {
        let done = store.rewrap(Rewrap { after, limit }).await.unwrap();
        assert!(done.looked_at <= limit);
        total.looked_at += done.looked_at;
        total.rewrapped += done.rewrapped;
        total.in_clear += done.in_clear;
        total.busy += done.busy;
        total.unreadable += done.unreadable;
        after = done.next;
        if after.is_none() {
            return total;
        }
    }
}
