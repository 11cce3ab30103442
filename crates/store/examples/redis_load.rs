//! Measures the Redis store: acquire + complete, replays, and small operations beside large ones.
//!
//! ```text
//! cargo run --release -p idempotency-store --features redis --example redis_load -- \
//!     URL [SECONDS [NODE...]]
//! ```
//!
//! For the same script under `redis-benchmark`, unpipelined, in the same run (`SHA` is what
//! `SCRIPT LOAD` says to what `redis_load --script` prints; an owner of 16 and a fingerprint of 40
//! characters. `BEFORE` and `BEHIND` stand for the history, which has zero bytes that no command line
//! can carry: 4 and 5 characters of any kind cost the same, but only an acquire can work on them):
//!
//! ```text
//! redis-benchmark -p PORT -c 64 -r 100000000 -n 200000 EVALSHA SHA 1 bench:__rand_int__ \
//!     acquire OWNER FINGERPRINT 30000000 600000000 600000000 0 0 65536 BEFORE BEHIND
//! ```

use bytes::Bytes;
use idempotency_protocol::{
    Acquire, Answer, AttemptKind, Complete, Fingerprint, LookupKey, OnUnknown, Operation, Origin,
    Outcome, Owner, Retention, Scheme, StoredResponse,
};
use idempotency_store::{RedisOptions, RedisStore, RedlockOptions, Store};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

static NEXT: AtomicU64 = AtomicU64::new(0);

fn key(n: u64) -> LookupKey {
    LookupKey {
        tenant: "tenant-0042".into(),
        namespace: std::process::id().to_string(),
        origin: Origin::Client,
        key: format!("{:016x}-{n:x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
    }
}

fn owner(n: u64) -> Owner {
    let mut token = [0; 16];
    token[..8].copy_from_slice(&n.to_be_bytes());
    Owner(token)
}

fn acquire(n: u64, by: u64) -> Operation {
    Operation::Acquire(Acquire {
        key: key(n),
        owner: owner(by),
        fingerprint: Fingerprint {
            scheme: Scheme(1),
            digest: [1; 32],
        },
        lease_ms: 30_000,
        retention: Retention {
            ttl_ms: 600_000,
            unknown_ttl_ms: 600_000,
        },
        on_unknown: OnUnknown::Refuse,
        kind: AttemptKind::Gateway,
        about: None,
    })
}

fn complete(n: u64, body: &Bytes) -> Operation {
    Operation::Complete(Complete {
        key: key(n),
        owner: owner(n),
        outcome: Outcome::Response(StoredResponse {
            status: 201,
            headers: Vec::new(),
            body: body.clone(),
        })
        .into(),
    })
}

async fn one(store: &RedisStore, operation: Operation) -> Fallible<Answer> {
    match store.apply(vec![operation]).await.pop() {
        Some(Answer::Fault(fault)) => Err(fault.into()),
        Some(answer) => Ok(answer),
        None => Err("no answer".into()),
    }
}

fn report(name: &str, mut took: Vec<Duration>, per: usize, elapsed: Duration) {
    took.sort_unstable();
    let at = |p: f64| {
        let index = (took.len() as f64 * p) as usize;
        took.get(index).map_or(0.0, |d| d.as_secs_f64() * 1e6)
    };
    println!(
        "{name:<34} {:>9.0} op/s   p50 {:>8.1} us   p99 {:>9.1} us",
        (took.len() * per) as f64 / elapsed.as_secs_f64(),
        at(0.5),
        at(0.99),
    );
}

async fn clients(
    store: &Arc<RedisStore>,
    count: usize,
    seconds: Duration,
    work: impl Fn(Arc<RedisStore>) -> futures_util::future::BoxFuture<'static, Fallible<()>>
        + Clone
        + Send
        + 'static,
) -> Fallible<(Vec<Duration>, Duration)> {
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        let (store, work) = (Arc::clone(store), work.clone());
        tasks.spawn(async move {
            let mut took = Vec::new();
            while started.elapsed() < seconds {
                let begun = Instant::now();
                work(Arc::clone(&store)).await?;
                took.push(begun.elapsed());
            }
            Fallible::Ok(took)
        });
    }
    let mut all = Vec::new();
    while let Some(done) = tasks.join_next().await {
        all.extend(done??);
    }
    Ok((all, started.elapsed()))
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Fallible<()> {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|arg| arg == "--script") {
        print!("{}", idempotency_store::redis::SCRIPT);
        return Ok(());
    }
    let [_, url, rest @ ..] = args.as_slice() else {
        return Err("usage: redis_load URL [SECONDS [NODE...]], nodes of a Redlock guard".into());
    };
    let seconds = Duration::from_secs_f64(rest.first().map_or(Ok(5.0), |s| s.parse())?);
    let mut options = RedisOptions::parse(url)?;
    if let [_, nodes @ ..] = rest {
        if !nodes.is_empty() {
            let guard = RedlockOptions::parse(nodes, &options);
            options.guard = Some(guard.map_err(|bad| format!("{bad:?}"))?);
        }
    }
    let store = Arc::new(RedisStore::open(options).await?);
    let small = Bytes::from(vec![b'x'; 200]);

    for count in [1, 16, 64] {
        let body = small.clone();
        let (took, elapsed) = clients(&store, count, seconds, move |store| {
            let body = body.clone();
            Box::pin(async move {
                let n = NEXT.fetch_add(1, Ordering::Relaxed);
                one(&store, acquire(n, n)).await?;
                one(&store, complete(n, &body)).await?;
                Ok(())
            })
        })
        .await?;
        report(&format!("acquire+complete, {count}"), took, 2, elapsed);
    }
    let body = small.clone();
    let (took, elapsed) = clients(&store, 16, seconds, move |store| {
        let body = body.clone();
        Box::pin(async move {
            let first = NEXT.fetch_add(16, Ordering::Relaxed);
            let batch = |make: &dyn Fn(u64) -> Operation| (first..first + 16).map(make).collect();
            store.apply(batch(&|n| acquire(n, n))).await;
            store.apply(batch(&|n| complete(n, &body))).await;
            Ok(())
        })
    })
    .await?;
    report("acquire+complete, 16 × batches of 16", took, 32, elapsed);
    let most = NEXT.load(Ordering::Relaxed);
    for count in [1, 64] {
        let (took, elapsed) = clients(&store, count, seconds, move |store| {
            Box::pin(async move {
                let by = NEXT.fetch_add(1, Ordering::Relaxed);
                one(&store, acquire(by % most, by)).await?;
                Ok(())
            })
        })
        .await?;
        report(&format!("replay, {count}"), took, 1, elapsed);
    }

    // Small ones beside large ones.
    let large = Bytes::from(vec![b'x'; 4 << 20]);
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let beside = {
        let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
        tokio::spawn(async move {
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                let n = NEXT.fetch_add(1, Ordering::Relaxed);
                one(&store, acquire(n, n)).await?;
                one(&store, complete(n, &large)).await?;
                one(&store, acquire(n, n + 1)).await?;
                // Keep the server from filling up.
                let view = store.inspect(&key(n)).await?.ok_or("no record")?;
                store
                    .resolve(idempotency_store::Resolve {
                        key: key(n),
                        version: view.version,
                        to: idempotency_store::Resolution::Deleted,
                        force: true,
                    })
                    .await?;
                count += 1;
            }
            Fallible::Ok(count)
        })
    };
    let (took, elapsed) = clients(&store, 16, seconds, move |store| {
        let body = small.clone();
        Box::pin(async move {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            one(&store, acquire(n, n)).await?;
            one(&store, complete(n, &body)).await?;
            Ok(())
        })
    })
    .await?;
    stop.store(true, Ordering::Relaxed);
    let count: u64 = beside.await??;
    report("the same, 16, beside 4 MiB bodies", took, 2, elapsed);
    println!("(bodies of 4 MiB written and read meanwhile: {count})");
    store.close().await;
    Ok(())
}
