//! Load on a store in this process, through its trait.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use idempotency_protocol::Operation;
use idempotency_stack::Error;
use idempotency_store::Store;
use tokio::task::JoinSet;

use crate::work::{acquire, complete, Expected, Lap};

/// How much.
#[derive(Debug, Clone, Copy)]
pub struct Amount {
    /// Operations at one time.
    pub in_flight: usize,
    /// How long.
    pub time: Duration,
    /// At most so many keys: large bodies fill a disk.
    pub keys: u64,
}

/// First requests.
#[derive(Debug, Clone)]
pub struct Firsts {
    /// The acquires.
    pub acquire: Lap,
    /// The completes, which ran at the same time.
    pub complete: Lap,
    /// Number of keys that exist now.
    pub keys: u64,
}

impl Firsts {
    /// Both together.
    pub fn both(&self) -> Lap {
        Lap {
            operations: self.acquire.operations + self.complete.operations,
            seconds: self.acquire.seconds,
            p50_us: self.acquire.p50_us + self.complete.p50_us,
            p99_us: self.acquire.p99_us.max(self.complete.p99_us),
            server_s: 0.0,
        }
    }
}

/// Acquires new keys of a run, the first one `from`, and completes each.
///
/// # Errors
///
/// If an answer is not the expected one.
pub async fn firsts(
    store: &Arc<dyn Store>,
    run: &str,
    from: u64,
    body: &Bytes,
    amount: Amount,
) -> Result<Firsts, Error> {
    let next = Arc::new(AtomicU64::new(from));
    let since = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..amount.in_flight {
        let (store, next) = (Arc::clone(store), Arc::clone(&next));
        let (run, body) = (run.to_owned(), body.clone());
        tasks.spawn(async move {
            let (mut acquires, mut completes) = (Vec::new(), Vec::new());
            while since.elapsed() < amount.time {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= from + amount.keys {
                    break;
                }
                let took = one(&*store, acquire(&run, n, n), Expected::Granted).await?;
                acquires.push(took);
                let took = one(&*store, complete(&run, n, &body), Expected::Completed).await?;
                completes.push(took);
            }
            Ok((acquires, completes))
        });
    }
    let (mut acquires, mut completes) = (Vec::new(), Vec::new());
    while let Some(done) = tasks.join_next().await {
        let (some, others) = flat(done)?;
        acquires.extend(some);
        completes.extend(others);
    }
    Ok(Firsts {
        keys: completes.len() as u64,
        acquire: Lap::of(acquires, 1, since),
        complete: Lap::of(completes, 1, since),
    })
}

/// Acquires keys 0 to `known` of a run, which are completed, in a random order.
///
/// # Errors
///
/// If an answer is not the expected one.
pub async fn replays(
    store: &Arc<dyn Store>,
    run: &str,
    known: u64,
    amount: Amount,
) -> Result<Lap, Error> {
    let since = Instant::now();
    let mut tasks = JoinSet::new();
    for task in 0..amount.in_flight as u64 {
        let (store, run) = (Arc::clone(store), run.to_owned());
        tasks.spawn(async move {
            let mut calls = Vec::new();
            let mut random = seed() ^ task;
            while since.elapsed() < amount.time {
                random = mix(random);
                let again = acquire(&run, random % known.max(1), u64::MAX);
                calls.push(one(&*store, again, Expected::Stored).await?);
            }
            Ok(calls)
        });
    }
    let mut calls = Vec::new();
    while let Some(done) = tasks.join_next().await {
        calls.extend(flat(done)?);
    }
    Ok(Lap::of(calls, 1, since))
}

/// Completes keys 0 to `count` of a run in large batches, several at a time.
///
/// # Errors
///
/// If an answer is not the expected one.
pub async fn fill(
    store: &Arc<dyn Store>,
    run: &str,
    count: u64,
    body: &Bytes,
) -> Result<(), Error> {
    const BATCH: u64 = 500;
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let (store, next) = (Arc::clone(store), Arc::clone(&next));
        let (run, body) = (run.to_owned(), body.clone());
        tasks.spawn(async move {
            loop {
                let first = next.fetch_add(BATCH, Ordering::Relaxed);
                if first >= count {
                    return Ok(());
                }
                let some = first..count.min(first + BATCH);
                let acquires = some.clone().map(|n| acquire(&run, n, n)).collect();
                all(&*store, acquires, Expected::Granted).await?;
                let completes = some.map(|n| complete(&run, n, &body)).collect();
                all(&*store, completes, Expected::Completed).await?;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        flat(done)?;
    }
    Ok(())
}

async fn one(store: &dyn Store, operation: Operation, end: Expected) -> Result<Duration, Error> {
    let since = Instant::now();
    let answers = store.apply(vec![operation]).await;
    let took = since.elapsed();
    end.check(answers.first()).map_err(Error::new)?;
    Ok(took)
}

async fn all(store: &dyn Store, operations: Vec<Operation>, end: Expected) -> Result<(), Error> {
    let count = operations.len();
    let answers = store.apply(operations).await;
    let checked = (0..count).try_for_each(|at| end.check(answers.get(at)));
    checked.map_err(Error::new)
}

fn flat<T>(done: Result<Result<T, Error>, tokio::task::JoinError>) -> Result<T, Error> {
    done.unwrap_or_else(|error| Err(Error::new(error.to_string())))
}

fn seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_nanos() as u64)
}

/// SplitMix64.
fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
