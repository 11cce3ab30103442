//! Measures a whole store: acquire + complete, then replays, from many tasks.
//!
//! ```text
//! cargo run --release -p idempotency-store --example load -- DIR durable|relaxed CLIENTS BODY [SECONDS] [RECORDS]
//! cargo run --release -p idempotency-store --features postgres --example load -- URL postgres CLIENTS BODY …
//! cargo run --release -p idempotency-store --features redis --example load -- URL redis CLIENTS BODY …
//! ```
//!
//! With `QUOTAS=1` in the environment the tenant is held to quotas that it never uses up.
//!
//! `RECORDS` completed records are written beforehand, in large calls; the replays read them, too.

use bytes::Bytes;
use idempotency_protocol::{
    Acquire, Answer, Complete, Fingerprint, LookupKey, OnUnknown, Operation, Origin, Outcome,
    Owner, Retention, Scheme, StoredResponse,
};
use idempotency_store::{Durability, Embedded, EmbeddedOptions, Quotas, Store};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn key(n: u64) -> LookupKey {
    LookupKey {
        tenant: "tenant-0042".into(),
        namespace: String::new(),
        origin: Origin::Client,
        key: format!("{:016x}-{n:x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
    }
}

fn acquire(n: u64, owner: u64) -> Operation {
    let mut token = [0; 16];
    token[..8].copy_from_slice(&owner.to_be_bytes());
    Operation::Acquire(Acquire {
        key: key(n),
        owner: Owner(token),
        fingerprint: Fingerprint {
            scheme: Scheme(1),
            digest: [1; 32],
        },
        lease_ms: 30_000,
        retention: Retention {
            ttl_ms: 86_400_000,
            unknown_ttl_ms: 86_400_000,
        },
        on_unknown: OnUnknown::Refuse,
        kind: idempotency_protocol::AttemptKind::Gateway,
        about: None,
    })
}

fn complete(n: u64, body: &Bytes) -> Operation {
    let mut token = [0; 16];
    token[..8].copy_from_slice(&n.to_be_bytes());
    let outcome = Outcome::Response(StoredResponse {
        status: 201,
        headers: vec![(
            Bytes::from_static(b"content-type"),
            Bytes::from_static(b"application/json"),
        )],
        body: body.clone(),
    });
    Operation::Complete(Complete {
        key: key(n),
        owner: Owner(token),
        outcome: outcome.into(),
    })
}

async fn one(store: &dyn Store, operation: Operation) -> Fallible<Answer> {
    store
        .apply(vec![operation])
        .await
        .pop()
        .ok_or_else(|| "no answer".into())
}

fn report(name: &str, mut took: Vec<Duration>, elapsed: Duration) {
    took.sort_unstable();
    let at = |p: f64| {
        let index = (took.len() as f64 * p) as usize;
        took.get(index).map_or(0.0, |d| d.as_secs_f64() * 1e6)
    };
    println!(
        "{name:<10} {:>9.0} op/s   p50 {:>8.1} us   p99 {:>9.1} us   p99.9 {:>9.1} us",
        took.len() as f64 / elapsed.as_secs_f64(),
        at(0.5),
        at(0.99),
        at(0.999),
    );
}

async fn open(place: &str, mode: &str) -> Fallible<Arc<dyn Store>> {
    let durability = match mode {
        "durable" => Durability::Durable,
        "relaxed" => Durability::Relaxed {
            interval: Duration::from_millis(50),
        },
        #[cfg(feature = "postgres")]
        "postgres" => {
            use idempotency_store::{Postgres, PostgresOptions};
            let options = PostgresOptions::from_url(place)?;
            Postgres::migrate(&options).await?;
            return Ok(Arc::new(Postgres::open(options).await?));
        }
        #[cfg(feature = "redis")]
        "redis" => {
            use idempotency_store::{RedisOptions, RedisStore};
            return Ok(Arc::new(
                RedisStore::open(RedisOptions::parse(place)?).await?,
            ));
        }
        other => return Err(format!("unknown mode {other}").into()),
    };
    let options = EmbeddedOptions {
        durability,
        ..EmbeddedOptions::new(place)
    };
    Ok(Arc::new(Embedded::open(options)?))
}

#[tokio::main]
async fn main() -> Fallible<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, dir, mode, clients, body, rest @ ..] = args.as_slice() else {
        return Err("usage: load DIR durable|relaxed CLIENTS BODY [SECONDS] [RECORDS]".into());
    };
    let clients: u64 = clients.parse()?;
    let body = Bytes::from(vec![b'x'; body.parse()?]);
    let seconds = Duration::from_secs_f64(rest.first().map_or(Ok(3.0), |s| s.parse())?);
    let store = open(dir, mode).await?;
    println!("# {mode}, {clients} clients, bodies of {} B", body.len());

    let records: u64 = rest.get(1).map_or(Ok(0), |s| s.parse())?;
    let started = Instant::now();
    for first in (0..records).step_by(1_000) {
        let keys = first..records.min(first + 1_000);
        let pairs = keys.flat_map(|n| [acquire(n, n), complete(n, &body)]);
        let answers = store.apply(pairs.collect()).await;
        if let Some(fault) = answers.iter().find(|a| matches!(a, Answer::Fault(_))) {
            return Err(format!("{fault:?}").into());
        }
    }
    println!(
        "{records} records written in {:.1} s",
        started.elapsed().as_secs_f64()
    );

    if std::env::var_os("QUOTAS").is_some() {
        let most = Some(1 << 50);
        let quotas = Quotas {
            executions: most,
            records: most,
            bytes: most,
        };
        store.set_quotas(quotas).await?;
        println!("with quotas");
    }

    let next = Arc::new(AtomicU64::new(records));
    let started = Instant::now();
    let first: Vec<_> = (0..clients)
        .map(|_| {
            let (store, next, body) = (Arc::clone(&store), Arc::clone(&next), body.clone());
            tokio::spawn(async move {
                let (mut acquires, mut completes) = (Vec::new(), Vec::new());
                while started.elapsed() < seconds {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let at = Instant::now();
                    let answer = one(store.as_ref(), acquire(n, n)).await?;
                    acquires.push(at.elapsed());
                    if !matches!(answer, Answer::Granted(_)) {
                        return Err(format!("{answer:?}").into());
                    }
                    let at = Instant::now();
                    let answer = one(store.as_ref(), complete(n, &body)).await?;
                    completes.push(at.elapsed());
                    if !matches!(answer, Answer::Completed { .. }) {
                        return Err(format!("{answer:?}").into());
                    }
                }
                Fallible::Ok((acquires, completes))
            })
        })
        .collect();
    let (mut acquires, mut completes) = (Vec::new(), Vec::new());
    for task in first {
        let (a, c) = task.await??;
        acquires.extend(a);
        completes.extend(c);
    }
    report("acquire", acquires, started.elapsed());
    report("complete", completes, started.elapsed());

    let known = next.load(Ordering::Relaxed);
    let started = Instant::now();
    let replays: Vec<_> = (0..clients)
        .map(|client| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut took = Vec::new();
                let mut n = client;
                while started.elapsed() < seconds {
                    n = n
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(client | 1);
                    let at = Instant::now();
                    let answer = one(store.as_ref(), acquire((n >> 20) % known, u64::MAX)).await?;
                    took.push(at.elapsed());
                    if !matches!(answer, Answer::Stored(_)) {
                        return Err(format!("{answer:?}").into());
                    }
                }
                Fallible::Ok(took)
            })
        })
        .collect();
    let mut took = Vec::new();
    for task in replays {
        took.extend(task.await??);
    }
    report("replay", took, started.elapsed());
    println!("{:?}", store.ready().await?);
    store.close().await;
    Ok(())
}
