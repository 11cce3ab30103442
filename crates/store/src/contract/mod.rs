//! The contract suite: what every backend must do, run against the backend itself.
//!
//! ```text
//! #[tokio::test(flavor = "multi_thread")]
//! async fn contract() {
//!     idempotency_store::contract::run(&MyHarness::start().await).await.unwrap();
//! }
//! ```
//!
//! Each case works under a tenant of its own, so a backend may be shared and need not be empty.
//!
//! For a backend in another crate: this crate with the feature `contract` among its
//! `dev-dependencies`. A store whose clock can be moved is run by [`ManualHarness`], any other by a
//! [`Harness`] of its own, which waits for real. `examples/backend` is a whole one.

mod attempts;
mod batches;
mod data;
mod harness;
mod instances;
mod operators;
mod owners;
mod quotas;
mod races;
mod search;
mod table;
mod time;
mod waits;
mod whole;

pub use harness::{Harness, ManualHarness};

use crate::store::{RecordState, RecordView, Resolution, Resolve, Resolved, Store};
use bytes::Bytes;
use idempotency_protocol::{
    Acquire, Answer, AttemptKind, Complete, FailCause, Fingerprint, Grant, LookupKey, OnUnknown,
    Operation, Origin, Outcome, Owner, Redeem, Retention, Scheme, Settle, Settlement,
    StoredResponse,
};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a case says when the backend does something else.
pub type Verdict = Result<(), String>;

type Running<'a> = Pin<Box<dyn Future<Output = Verdict> + Send + 'a>>;

/// One case of the suite.
pub(crate) struct Case {
    name: String,
    run: Box<dyn for<'a> Fn(&'a Lab) -> Running<'a> + Send + Sync>,
}

impl Case {
    fn new(
        name: impl Into<String>,
        run: impl for<'a> Fn(&'a Lab) -> Running<'a> + Send + Sync + 'static,
    ) -> Case {
        Case {
            name: name.into(),
            run: Box::new(run),
        }
    }
}

/// Lists cases: each function's name is the case's name.
macro_rules! cases {
    ($area:literal: $($case:ident),* $(,)?) => {
        pub(super) fn cases() -> Vec<crate::contract::Case> {
            vec![$(crate::contract::Case::new(
                format!("{}: {}", $area, stringify!($case).replace('_', " ")),
                |lab| Box::pin($case(lab)),
            )),*]
        }
    };
}

/// Ends the case with a message unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}

/// Ends the case unless the value matches the pattern; evaluates to what follows `=>`.
macro_rules! matched {
    ($value:expr, $pattern:pat => $result:expr) => {
        match $value {
            $pattern => $result,
            other => {
                return Err(format!(
                    "line {}: expected {}, got {other:?}",
                    line!(),
                    stringify!($pattern)
                ))
            }
        }
    };
    ($value:expr, $pattern:pat) => {
        matched!($value, $pattern => ())
    };
}

pub(crate) use {cases, ensure, matched};

fn all_cases() -> impl Iterator<Item = Case> {
    let areas = [
        table::cases(),
        owners::cases(),
        attempts::cases(),
        time::cases(),
        races::cases(),
        batches::cases(),
        waits::cases(),
        instances::cases(),
        operators::cases(),
        search::cases(),
        data::cases(),
        quotas::cases(),
        whole::cases(),
    ];
    areas.into_iter().flatten()
}

/// The names of all cases, `area: what holds`, in order.
pub fn names() -> Vec<String> {
    all_cases().map(|case| case.name).collect()
}

/// Runs every case and prints its name; what each one said, in order.
pub async fn run_all(harness: &dyn Harness) -> Vec<(String, Verdict)> {
    let mut verdicts = Vec::new();
    for (place, case) in all_cases().enumerate() {
        let lab = Lab::new(harness, place).await;
        let verdict = (case.run)(&lab).await;
        println!(
            "{} {}",
            if verdict.is_ok() { "ok    " } else { "FAILED" },
            case.name
        );
        verdicts.push((case.name, verdict));
    }
    verdicts
}

/// Runs every case and prints its name. Returns how many there were.
///
/// # Errors
///
/// The cases that failed, one per line.
pub async fn run(harness: &dyn Harness) -> Result<usize, String> {
    let verdicts = run_all(harness).await;
    let count = verdicts.len();
    let failed: Vec<String> = verdicts
        .into_iter()
        .filter_map(|(name, verdict)| Some(format!("{name}: {}", verdict.err()?)))
        .collect();
    if failed.is_empty() {
        Ok(count)
    } else {
        Err(failed.join("\n"))
    }
}

/// A lease that does not end during a case.
pub(crate) const LONG_MS: u64 = 600_000;

/// A lease or TTL that a case lets pass; a backend that cannot move its clock waits for it.
pub(crate) const SHORT_MS: u64 = 40;

/// Retention that outlives a case.
pub(crate) const KEEP: Retention = Retention {
    ttl_ms: LONG_MS,
    unknown_ttl_ms: 2 * LONG_MS,
};

/// A store under test, and short words for what the cases do with it.
pub(crate) struct Lab<'h> {
    pub store: Arc<dyn Store>,
    /// Another instance on the same records, as in another process.
    pub other: Arc<dyn Store>,
    pub harness: &'h dyn Harness,
    pub tenant: String,
    next: AtomicU64,
}

impl<'h> Lab<'h> {
    async fn new(harness: &'h dyn Harness, number: usize) -> Lab<'h> {
        let (store, other) = (harness.store().await, harness.other().await);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos();
        let tenant = format!("contract-{now:x}-{number}");
        Lab {
            store,
            other,
            harness,
            tenant,
            next: AtomicU64::new(1),
        }
    }

    pub fn key(&self, key: &str) -> LookupKey {
        LookupKey {
            tenant: self.tenant.clone(),
            namespace: String::new(),
            origin: Origin::Client,
            key: key.to_owned(),
        }
    }

    pub fn owner(&self) -> Owner {
        let mut owner = [0xa5; 16];
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        for (slot, byte) in owner.iter_mut().zip(n.to_be_bytes()) {
            *slot = byte;
        }
        Owner(owner)
    }

    /// Applies one operation.
    pub async fn one(&self, operation: Operation) -> Answer {
        let mut answers = self.store.apply(vec![operation]).await;
        match (answers.pop(), answers.is_empty()) {
            (Some(answer), true) => answer,
            (answer, _) => Answer::Fault(idempotency_protocol::Fault {
                code: idempotency_protocol::FaultCode::Internal,
                detail: format!("not one answer to one operation, the last is {answer:?}"),
            }),
        }
    }

    /// A grant of `key` with a lease that lasts.
    pub async fn granted(&self, key: &LookupKey, owner: Owner) -> Result<Grant, String> {
        Ok(matched!(self.one(acquire(key, owner)).await, Answer::Granted(grant) => grant))
    }

    /// A grant of `key` whose lease is over.
    pub async fn lapsed(
        &self,
        key: &LookupKey,
        owner: Owner,
        retention: Retention,
    ) -> Result<Grant, String> {
        let short = acquire_with(key, owner, |a| {
            a.lease_ms = SHORT_MS;
            a.retention = retention;
        });
        let grant = matched!(self.one(short).await, Answer::Granted(grant) => grant);
        self.pass(SHORT_MS).await;
        Ok(grant)
    }

    /// A completed record of `key`.
    pub async fn completed(&self, key: &LookupKey, owner: Owner) -> Result<Grant, String> {
        let grant = self.granted(key, owner).await?;
        matched!(
            self.one(complete(key, owner, b"done")).await,
            Answer::Completed { .. }
        );
        Ok(grant)
    }

    /// Lets a little more than `ms` of store time pass.
    pub async fn pass(&self, ms: u64) {
        self.harness.advance(Duration::from_millis(ms + 2)).await;
    }

    pub async fn view(&self, key: &LookupKey) -> Result<Option<RecordView>, String> {
        self.store.inspect(key).await.map_err(|e| e.to_string())
    }

    pub async fn state(&self, key: &LookupKey) -> Result<Option<RecordState>, String> {
        Ok(self.view(key).await?.map(|v| v.state))
    }

    pub async fn version(&self, key: &LookupKey) -> Result<u64, String> {
        self.view(key)
            .await?
            .map(|v| v.version)
            .ok_or_else(|| "no record".to_owned())
    }

    /// Resolves `key` at its current version.
    pub async fn resolve(
        &self,
        key: &LookupKey,
        to: Resolution,
        force: bool,
    ) -> Result<Resolved, String> {
        let version = self.view(key).await?.map_or(0, |v| v.version);
        self.resolve_at(key, version, to, force).await
    }

    pub async fn resolve_at(
        &self,
        key: &LookupKey,
        version: u64,
        to: Resolution,
        force: bool,
    ) -> Result<Resolved, String> {
        let request = Resolve {
            key: key.clone(),
            version,
            to,
            force,
        };
        self.store.resolve(request).await.map_err(|e| e.to_string())
    }

    /// Sweeps until nothing is due.
    pub async fn sweep(&self) -> Result<(), String> {
        loop {
            if !self.store.sweep(100).await.map_err(|e| e.to_string())?.more {
                return Ok(());
            }
        }
    }
}

pub(crate) fn fingerprint(n: u8) -> Fingerprint {
    Fingerprint {
        scheme: Scheme(1),
        digest: [n; 32],
    }
}

pub(crate) fn response(body: &[u8]) -> Outcome {
    Outcome::Response(StoredResponse {
        status: 201,
        headers: vec![(
            Bytes::from_static(b"content-type"),
            Bytes::from_static(b"text/plain"),
        )],
        body: Bytes::copy_from_slice(body),
    })
}

pub(crate) fn acquire(key: &LookupKey, owner: Owner) -> Operation {
    acquire_with(key, owner, |_| {})
}

pub(crate) fn acquire_with(
    key: &LookupKey,
    owner: Owner,
    change: impl FnOnce(&mut Acquire),
) -> Operation {
    let mut acquire = Acquire {
        key: key.clone(),
        owner,
        fingerprint: fingerprint(1),
        lease_ms: LONG_MS,
        retention: KEEP,
        on_unknown: OnUnknown::Refuse,
        kind: AttemptKind::Gateway,
        about: None,
    };
    change(&mut acquire);
    Operation::Acquire(acquire)
}

pub(crate) fn retry(key: &LookupKey, owner: Owner) -> Operation {
    acquire_with(key, owner, |a| a.on_unknown = OnUnknown::Retry)
}

pub(crate) fn complete(key: &LookupKey, owner: Owner, body: &[u8]) -> Operation {
    Operation::Complete(Complete {
        key: key.clone(),
        owner,
        outcome: response(body).into(),
    })
}

pub(crate) fn fail(key: &LookupKey, owner: Owner) -> Operation {
    fail_because(key, owner, FailCause::Other)
}

pub(crate) fn fail_because(key: &LookupKey, owner: Owner, cause: FailCause) -> Operation {
    Operation::Fail {
        key: key.clone(),
        owner,
        cause,
    }
}

pub(crate) fn abandon(key: &LookupKey, owner: Owner) -> Operation {
    Operation::Abandon {
        key: key.clone(),
        owner,
    }
}

pub(crate) fn extend(key: &LookupKey, owner: Owner) -> Operation {
    Operation::Extend {
        key: key.clone(),
        owner,
        lease_ms: LONG_MS,
    }
}

pub(crate) fn settle(key: &LookupKey, fence: u64, settlement: Settlement) -> Operation {
    Operation::Settle(Settle {
        key: key.clone(),
        fence,
        settlement,
    })
}

pub(crate) fn redeem(key: &LookupKey, fence: u64) -> Operation {
    redeem_with(key, fence, fingerprint(1))
}

pub(crate) fn redeem_with(key: &LookupKey, fence: u64, fingerprint: Fingerprint) -> Operation {
    Operation::Redeem(Redeem {
        key: key.clone(),
        fence,
        fingerprint,
        expires_at_ms: u64::MAX,
    })
}
