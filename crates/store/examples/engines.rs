//! Measures embedded storage engines on the work of an idempotency store; the numbers behind
//! `docs/adr/0002-embedded-store-engine.md`.
//!
//! ```text
//! cargo run --release -p idempotency-store --example engines -- DIR ENGINE RECORDS BODY [SECONDS]
//! ```
//!
//! `ENGINE` is `redb` or `fjall`, `RECORDS` the number of records loaded beforehand, `BODY` the
//! size of a stored body in bytes. Each line is one measurement; all commits are durable (fsync).
//!
//! The work: an acquire writes a record of about 200 bytes and an entry of the expiry index; a
//! complete overwrites the record with one that holds the body, and moves the index entry. Both
//! read the record first. A batch of *n* does that for *n* keys in one commit.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// One change: key and value, `None` deletes.
type Change = (Vec<u8>, Option<Vec<u8>>);

/// What the benchmark needs from an engine. `records` and `expiry` are separate trees.
trait Engine {
    fn get(&self, key: &[u8]) -> Fallible<Option<Vec<u8>>>;
    fn commit(&self, records: Vec<Change>, expiry: Vec<Change>, durable: bool) -> Fallible<()>;
    fn due(&self, from: u64, limit: usize) -> Fallible<Vec<Vec<u8>>>;
    /// Lets background work finish, as far as the engine has any.
    fn settle(&self) -> Fallible<()>;
}

struct Redb(redb::Database);

const RECORDS: redb::TableDefinition<&[u8], &[u8]> = redb::TableDefinition::new("records");
const EXPIRY: redb::TableDefinition<&[u8], ()> = redb::TableDefinition::new("expiry");

impl Redb {
    fn open(dir: &Path) -> Fallible<Redb> {
        let db = redb::Database::builder()
            .set_cache_size(256 << 20)
            .create(dir.join("data.redb"))?;
        let tx = db.begin_write()?;
        tx.open_table(RECORDS)?;
        tx.open_table(EXPIRY)?;
        tx.commit()?;
        Ok(Redb(db))
    }
}

impl Engine for Redb {
    fn get(&self, key: &[u8]) -> Fallible<Option<Vec<u8>>> {
        use redb::ReadableDatabase;
        let table = self.0.begin_read()?.open_table(RECORDS)?;
        Ok(table.get(key)?.map(|v| v.value().to_vec()))
    }

    fn commit(&self, records: Vec<Change>, expiry: Vec<Change>, durable: bool) -> Fallible<()> {
        let mut tx = self.0.begin_write()?;
        tx.set_durability(if durable {
            redb::Durability::Immediate
        } else {
            redb::Durability::None
        })?;
        {
            let mut table = tx.open_table(RECORDS)?;
            for (key, value) in &records {
                match value {
                    Some(value) => table.insert(key.as_slice(), value.as_slice())?,
                    None => table.remove(key.as_slice())?,
                };
            }
            let mut table = tx.open_table(EXPIRY)?;
            for (key, value) in &expiry {
                match value {
                    Some(_) => table.insert(key.as_slice(), ())?,
                    None => table.remove(key.as_slice())?,
                };
            }
        }
        tx.commit()?;
        Ok(())
    }

    fn due(&self, from: u64, limit: usize) -> Fallible<Vec<Vec<u8>>> {
        use redb::ReadableDatabase;
        let table = self.0.begin_read()?.open_table(EXPIRY)?;
        let start = from.to_be_bytes();
        let mut found = Vec::new();
        for entry in table.range::<&[u8]>(start.as_slice()..)?.take(limit) {
            found.push(entry?.0.value().to_vec());
        }
        Ok(found)
    }

    fn settle(&self) -> Fallible<()> {
        Ok(())
    }
}

struct Fjall {
    db: fjall::Database,
    records: fjall::Keyspace,
    expiry: fjall::Keyspace,
}

impl Fjall {
    fn open(dir: &Path) -> Fallible<Fjall> {
        use fjall::{KeyspaceCreateOptions, KvSeparationOptions};
        let db = fjall::Database::builder(dir)
            .cache_size(256 << 20)
            .worker_threads(2)
            .open()?;
        let records = db.keyspace("records", || {
            KeyspaceCreateOptions::default().with_kv_separation(Some(
                KvSeparationOptions::default().separation_threshold(4096),
            ))
        })?;
        let expiry = db.keyspace("expiry", KeyspaceCreateOptions::default)?;
        Ok(Fjall {
            db,
            records,
            expiry,
        })
    }
}

impl Engine for Fjall {
    fn get(&self, key: &[u8]) -> Fallible<Option<Vec<u8>>> {
        Ok(self.records.get(key)?.map(|v| v.to_vec()))
    }

    fn commit(&self, records: Vec<Change>, expiry: Vec<Change>, durable: bool) -> Fallible<()> {
        let mode = if durable {
            fjall::PersistMode::SyncData
        } else {
            fjall::PersistMode::Buffer
        };
        let mut batch = self.db.batch().durability(Some(mode));
        for (tree, changes) in [(&self.records, records), (&self.expiry, expiry)] {
            for (key, value) in changes {
                match value {
                    Some(value) => batch.insert(tree, key, value),
                    None => batch.remove(tree, key),
                }
            }
        }
        batch.commit()?;
        Ok(())
    }

    fn due(&self, from: u64, limit: usize) -> Fallible<Vec<Vec<u8>>> {
        let mut found = Vec::new();
        for guard in self.expiry.range(from.to_be_bytes()..).take(limit) {
            found.push(guard.key()?.to_vec());
        }
        Ok(found)
    }

    fn settle(&self) -> Fallible<()> {
        while self.db.outstanding_flushes() > 0 || self.db.active_compactions() > 0 {
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

/// SplitMix64: incompressible and repeatable.
fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn key(n: u64) -> Vec<u8> {
    format!("tenant-0042/charges/{:016x}-{:016x}", mix(n), n).into_bytes()
}

fn value(n: u64, len: usize) -> Vec<u8> {
    (0..len.div_ceil(8) as u64)
        .flat_map(|i| mix(n ^ (i << 40)).to_be_bytes())
        .take(len)
        .collect()
}

fn due_key(at: u64, key: &[u8]) -> Vec<u8> {
    [at.to_be_bytes().as_slice(), key].concat()
}

const META: usize = 200;

fn acquire(engine: &dyn Engine, keys: &[u64], at: u64, durable: bool) -> Fallible<()> {
    let (mut records, mut expiry) = (Vec::new(), Vec::new());
    for &n in keys {
        let key = key(n);
        assert!(engine.get(&key)?.is_none());
        expiry.push((due_key(at, &key), Some(Vec::new())));
        records.push((key, Some(value(n, META))));
    }
    engine.commit(records, expiry, durable)
}

fn complete(
    engine: &dyn Engine,
    keys: &[u64],
    at: u64,
    body: usize,
    durable: bool,
) -> Fallible<()> {
    let (mut records, mut expiry) = (Vec::new(), Vec::new());
    for &n in keys {
        let key = key(n);
        assert!(engine.get(&key)?.is_some());
        expiry.push((due_key(at, &key), None));
        expiry.push((due_key(at + 1_000_000, &key), Some(Vec::new())));
        records.push((key, Some(value(n, META + body))));
    }
    engine.commit(records, expiry, durable)
}

fn disk(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .map(|e| match e.metadata() {
            Ok(m) if m.is_dir() => disk(&e.path()),
            Ok(m) => m.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

fn percentile(sorted: &[Duration], p: f64) -> f64 {
    let at = ((sorted.len() as f64) * p) as usize;
    sorted
        .get(at.min(sorted.len().saturating_sub(1)))
        .map_or(0.0, |d| d.as_secs_f64() * 1e6)
}

fn report(name: &str, mut took: Vec<Duration>, ops_each: usize) {
    took.sort_unstable();
    let total: Duration = took.iter().sum();
    println!(
        "{name:<28} {:>9.0} op/s   p50 {:>8.1} us   p99 {:>9.1} us   max {:>9.1} us",
        (took.len() * ops_each) as f64 / total.as_secs_f64(),
        percentile(&took, 0.5),
        percentile(&took, 0.99),
        percentile(&took, 1.0),
    );
}

fn main() -> Fallible<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, dir, engine, records, body, rest @ ..] = args.as_slice() else {
        return Err("usage: engines DIR redb|fjall RECORDS BODY [SECONDS]".into());
    };
    let dir = PathBuf::from(dir);
    std::fs::create_dir_all(&dir)?;
    let (name, records, body): (_, u64, usize) = (engine.as_str(), records.parse()?, body.parse()?);
    let seconds: f64 = rest.first().map_or(Ok(3.0), |s| s.parse())?;
    let engine: Box<dyn Engine> = match name {
        "redb" => Box::new(Redb::open(&dir)?),
        "fjall" => Box::new(Fjall::open(&dir)?),
        other => return Err(format!("unknown engine {other}").into()),
    };
    println!("# {name}, {records} records, bodies of {body} B");

    // Load in key order, which is the best case for a B-tree and of no matter to an LSM tree.
    let started = Instant::now();
    let mut order: Vec<u64> = (0..records).collect();
    order.sort_unstable_by_key(|&n| mix(n));
    let per_commit = (4_000_000 / (body + META)).clamp(1, 5_000);
    for chunk in order.chunks(per_commit) {
        let rows = chunk
            .iter()
            .map(|&n| (key(n), Some(value(n, META + body))))
            .collect();
        let index = chunk
            .iter()
            .map(|&n| (due_key(1 << 50, &key(n)), Some(Vec::new())))
            .collect();
        engine.commit(rows, index, false)?;
    }
    engine.commit(vec![(b"x".to_vec(), Some(vec![1]))], Vec::new(), true)?;
    engine.settle()?;
    println!(
        "loaded in {:.1} s, {:.0} MB on disk",
        started.elapsed().as_secs_f64(),
        disk(&dir) as f64 / 1e6
    );

    let mut reads = Vec::new();
    let started = Instant::now();
    let mut n = 0;
    while started.elapsed().as_secs_f64() < seconds && records > 0 {
        let key = key(mix(n) % records);
        let at = Instant::now();
        assert!(engine.get(&key)?.is_some());
        reads.push(at.elapsed());
        n += 1;
    }
    report("replay read", reads, 1);

    let mut next = records;
    for batch in [1usize, 16, 64] {
        let (mut acquires, mut completes) = (Vec::new(), Vec::new());
        let started = Instant::now();
        while started.elapsed().as_secs_f64() < seconds {
            let keys: Vec<u64> = (next..next + batch as u64).collect();
            let at = Instant::now();
            acquire(engine.as_ref(), &keys, next, true)?;
            acquires.push(at.elapsed());
            let at = Instant::now();
            complete(engine.as_ref(), &keys, next, body, true)?;
            completes.push(at.elapsed());
            next += batch as u64;
        }
        report(&format!("acquire, batch {batch}"), acquires, batch);
        report(&format!("complete, batch {batch}"), completes, batch);
    }

    // Churn: always the same number of live records, written, completed, expired, swept.
    let live = (20_000_000 / (body + META)).clamp(64, 20_000) as u64;
    let mut queue = std::collections::VecDeque::new();
    let (mut clock, mut through) = (1u64 << 51, 0);
    let before = disk(&dir);
    let started = Instant::now();
    let (mut peak, mut sweeps) = (0, Vec::new());
    while started.elapsed().as_secs_f64() < seconds * 2.0 {
        let keys: Vec<u64> = (next..next + 64).collect();
        acquire(engine.as_ref(), &keys, clock, false)?;
        complete(engine.as_ref(), &keys, clock, body, false)?;
        queue.push_back((next, clock + 1_000_000));
        next += 64;
        clock += 1;
        if queue.len() as u64 * 64 > live {
            let at = Instant::now();
            // What a sweep reads, and what it deletes. It starts where the last one ended: in an
            // LSM tree the way from the beginning is paved with tombstones (71 ms per sweep).
            let (first, due) = queue.pop_front().ok_or("empty queue")?;
            assert_eq!(engine.due(due, 64)?.len(), 64);
            let rows = (first..first + 64).map(|n| (key(n), None)).collect();
            let index = (first..first + 64)
                .map(|n| (due_key(due, &key(n)), None))
                .collect();
            engine.commit(rows, index, false)?;
            sweeps.push(at.elapsed());
            through += 64;
            if through % 6400 == 0 {
                peak = peak.max(disk(&dir));
            }
        }
    }
    report("sweep, batch 64", sweeps, 64);
    engine.settle()?;
    println!(
        "churn: {through} records through, {live} live; MB on disk: before {:.0}, peak {:.0}, after {:.0}",
        before as f64 / 1e6,
        peak as f64 / 1e6,
        disk(&dir) as f64 / 1e6
    );
    Ok(())
}
