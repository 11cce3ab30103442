//! What a store's size costs: the same store with few and with many records, one operation at a
//! time, by turns. Both are loaded in bulk, closed, opened and left to settle before.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use idempotency_bench::cores::pin_process;
use idempotency_bench::spread::Spread;
use idempotency_bench::usage::cpu_time;
use idempotency_stack::{until, Error, Postgres, PostgresOptions};
use idempotency_store::{Durability, Store};
use serde::Serialize;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::places::{on, Places};
use crate::store_load::{fill, firsts, replays, Amount};
use crate::stores::{open_embedded, open_postgres, runtime, temp_dir};
use crate::work::{body, key};

/// Octets of every stored body.
const BODY: usize = 200;
/// Names the keys of the records that are there beforehand.
const LOADED: &str = "loaded";
/// What a record takes on disk at most while it is loaded and measured, in octets.
const OCTETS: u64 = 1200;
/// A process is idle when it uses less than this share of a core.
const IDLE: f64 = 0.03;

/// A row of the result.
#[derive(Debug, Serialize)]
pub struct Line {
    /// The store.
    pub store: &'static str,
    /// Number of records beforehand.
    pub records: u64,
    /// How long they took to load, in seconds.
    pub loading_s: f64,
    /// Size of the store after that, in bytes.
    pub bytes: u64,
    /// Median time of an acquire of a new key, in microseconds.
    pub acquire_us: Option<Spread>,
    /// Median time of its complete.
    pub complete_us: Option<Spread>,
    /// Median time of a replay of any of the records.
    pub replay_us: Option<Spread>,
    /// Median time of a replay of one of the newest thousand.
    pub recent_us: Option<Spread>,
    /// The same in parts of the first row of the store: acquire, complete, replay, recent.
    pub ratios: [Option<Spread>; 4],
}

/// Medians of one round, in microseconds: acquire, complete, replay, recent.
type Medians = [f64; 4];

struct Loaded {
    store: Arc<dyn Store>,
    name: &'static str,
    records: u64,
    loading: Duration,
    bytes: u64,
    medians: Vec<Medians>,
}

/// Measures it.
///
/// # Errors
///
/// If a part does not start, or an answer is not the expected one.
pub fn measure(
    rounds: usize,
    run: Duration,
    records: &[u64],
    places: &Places,
) -> Result<Vec<Line>, Error> {
    let most = records.iter().sum::<u64>() * OCTETS;
    let free = free_bytes(&std::env::temp_dir());
    if free < most {
        return Err(Error::new(format!(
            "{:.0} GB are free in {}, and this many records need {:.0}: make room, set TMPDIR, or \
             ask for less with --records",
            free as f64 / 1e9,
            std::env::temp_dir().display(),
            most as f64 / 1e9
        )));
    }
    let body = body(BODY);
    let mut lines = embedded(rounds, run, records, &body)?;
    lines.extend(postgres(rounds, run, records, places, &body)?);
    Ok(lines)
}

fn embedded(
    rounds: usize,
    run: Duration,
    records: &[u64],
    body: &Bytes,
) -> Result<Vec<Line>, Error> {
    const RELAXED: Durability = Durability::Relaxed {
        interval: Duration::from_millis(100),
    };
    let runtime = runtime(2)?;
    let mut dirs: Vec<(u64, TempDir, Duration)> = Vec::new();
    for count in records {
        eprintln!("records, embedded: loading {count}");
        let dir = temp_dir()?;
        let since = Instant::now();
        runtime.block_on(async {
            let store = open_embedded(&dir, RELAXED).await?;
            fill(&store, LOADED, *count, body).await?;
            store.close().await;
            Ok::<_, Error>(())
        })?;
        dirs.push((*count, dir, since.elapsed()));
    }
    let mut all = Vec::new();
    for (name, durability) in [
        ("embedded, relaxed", RELAXED),
        ("embedded, durable", Durability::Durable),
    ] {
        let mut open = Vec::new();
        for (count, dir, loading) in &dirs {
            open.push(Loaded {
                store: runtime.block_on(open_embedded(dir, durability))?,
                name,
                records: *count,
                loading: *loading,
                bytes: size(dir.path()),
                medians: Vec::new(),
            });
        }
        settle(std::process::id());
        rounds_of(&runtime, rounds, run, &mut open, body)?;
        for loaded in &open {
            runtime.block_on(loaded.store.close());
        }
        all.extend(lines(open));
    }
    Ok(all)
}

fn postgres(
    rounds: usize,
    run: Duration,
    records: &[u64],
    places: &Places,
    body: &Bytes,
) -> Result<Vec<Line>, Error> {
    let mut server = Postgres::start(PostgresOptions {
        fsync: true,
        settings: [
            "shared_buffers = 512MB",
            "maintenance_work_mem = 512MB",
            "max_wal_size = 4GB",
            // What is loaded in the transaction that empties the table needs no log.
            "wal_level = minimal",
            "max_wal_senders = 0",
        ]
        .map(Into::into)
        .into(),
        ..PostgresOptions::default()
    })?;
    let server_id = server.process().id();
    let runtime = on(&places.service, || runtime(2))?;
    let open = |database: &str| {
        on(&places.service, || {
            runtime.block_on(open_postgres(&server, database))
        })
    };
    let mut databases = Vec::new();
    for count in records {
        eprintln!("records, PostgreSQL: loading {count}");
        let database = format!("records{count}");
        server.create_database(&database);
        let since = Instant::now();
        let store = open(&database)?;
        // The pattern of all others.
        runtime.block_on(async {
            fill(&store, LOADED, 1, body).await?;
            store.close().await;
            Ok::<_, Error>(())
        })?;
        server.sql(&database, &multiply(*count));
        let loading = since.elapsed();
        server.sql(&database, "VACUUM (FREEZE, ANALYZE) idempotency_records");
        server.sql(&database, "CHECKPOINT");
        databases.push((*count, database, loading));
    }
    if !places.load.is_empty() {
        let cores = [places.server.as_slice(), &places.load].concat();
        pin_process(server_id, &cores)?;
    }
    let mut all = Vec::new();
    for (name, commit) in [
        ("PostgreSQL, commits not synced", "off"),
        ("PostgreSQL", "on"),
    ] {
        let mut stores = Vec::new();
        for (count, database, loading) in &databases {
            let set = format!("ALTER DATABASE {database} SET synchronous_commit = {commit}");
            server.sql(database, &set);
            let size = "SELECT pg_total_relation_size('idempotency_records')";
            stores.push(Loaded {
                store: open(database)?,
                name,
                records: *count,
                loading: *loading,
                bytes: server.sql(database, size).parse().unwrap_or(0),
                medians: Vec::new(),
            });
        }
        on(&places.service, || {
            rounds_of(&runtime, rounds, run, &mut stores, body)
        })?;
        for loaded in &stores {
            runtime.block_on(loaded.store.close());
        }
        all.extend(lines(stores));
    }
    Ok(all)
}

fn rounds_of(
    runtime: &Runtime,
    rounds: usize,
    run: Duration,
    all: &mut [Loaded],
    body: &Bytes,
) -> Result<(), Error> {
    for round in 0..=rounds {
        for loaded in &mut *all {
            let medians = runtime.block_on(round_of(loaded, round, run, body))?;
            let [acquire, complete, replay, recent] = medians;
            eprintln!(
                "records, round {round}, {:<30} {:8}: acquire {acquire:5.0} µs, complete \
                 {complete:5.0} µs, replay {replay:5.0} µs, recent {recent:5.0} µs",
                loaded.name, loaded.records
            );
            // Round 0 warms up.
            if round > 0 {
                loaded.medians.push(medians);
            }
        }
    }
    Ok(())
}

async fn round_of(
    loaded: &Loaded,
    round: usize,
    run: Duration,
    body: &Bytes,
) -> Result<Medians, Error> {
    let amount = Amount {
        in_flight: 1,
        time: run,
        keys: u64::MAX >> 1,
    };
    let name = format!("{}{round}", loaded.name);
    let made = firsts(&loaded.store, &name, 0, body, amount).await?;
    let replay = replays(&loaded.store, LOADED, loaded.records, amount).await?;
    let recent = replays(&loaded.store, &name, made.keys.min(1000), amount).await?;
    Ok([
        made.acquire.p50_us,
        made.complete.p50_us,
        replay.p50_us,
        recent.p50_us,
    ])
}

fn lines(all: Vec<Loaded>) -> Vec<Line> {
    let reference: Vec<Medians> = all.first().map(|l| l.medians.clone()).unwrap_or_default();
    all.into_iter()
        .map(|loaded| {
            let column = |at: usize| {
                let values = loaded.medians.iter().filter_map(|m| m.get(at).copied());
                Spread::of(values)
            };
            let ratio = |at: usize| {
                let pairs = loaded.medians.iter().zip(&reference);
                Spread::of(pairs.filter_map(|(own, first)| Some(own.get(at)? / first.get(at)?)))
            };
            Line {
                store: loaded.name,
                records: loaded.records,
                loading_s: loaded.loading.as_secs_f64(),
                bytes: loaded.bytes,
                acquire_us: column(0),
                complete_us: column(1),
                replay_us: column(2),
                recent_us: column(3),
                ratios: [ratio(0), ratio(1), ratio(2), ratio(3)],
            }
        })
        .collect()
}

/// SQL that makes the one record of a table into so many, with the keys of [`key`].
fn multiply(count: u64) -> String {
    // All before the key itself is the same.
    let pattern = key(LOADED, 0);
    let id = pattern.to_bytes();
    let prefix = id.get(..id.len() - pattern.key.len()).unwrap_or_default();
    let prefix: String = prefix.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        r"DO $do$
        DECLARE columns text; selected text;
        BEGIN
            SELECT string_agg(column_name, ', ' ORDER BY ordinal_position),
                string_agg(CASE column_name WHEN 'due' THEN 'due + n * interval ''1 us'''
                    ELSE column_name END, ', ' ORDER BY ordinal_position)
                INTO columns, selected
                FROM information_schema.columns
                WHERE table_name = 'idempotency_records' AND column_name <> 'id';
            CREATE TEMP TABLE pattern ON COMMIT DROP AS SELECT * FROM idempotency_records;
            TRUNCATE idempotency_records;
            ALTER TABLE idempotency_records DROP CONSTRAINT idempotency_records_pkey;
            DROP INDEX idempotency_records_due;
            EXECUTE 'INSERT INTO idempotency_records (id, ' || columns || ') SELECT '
                || '''\x{prefix}''::bytea || convert_to(encode(substr(sha256(convert_to('
                || 'n::text, ''UTF8'')), 1, 8), ''hex'') || ''-'' || lpad(to_hex(n), 8, ''0''), '
                || '''UTF8''), ' || selected || ' FROM pattern, generate_series(0, {last}) AS n';
            ALTER TABLE idempotency_records ADD PRIMARY KEY (id);
            CREATE INDEX idempotency_records_due ON idempotency_records (due);
        END $do$",
        last = count.saturating_sub(1)
    )
}

/// Waits until a process has finished what it does in the background.
fn settle(id: u32) {
    const LOOK: Duration = Duration::from_millis(500);
    until(Duration::from_secs(300), || {
        let before = cpu_time(id);
        std::thread::sleep(LOOK);
        (cpu_time(id) - before).as_secs_f64() < IDLE * LOOK.as_secs_f64()
    });
}

/// Octets of the files in a directory and below.
fn size(dir: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Octets that are free on a directory's disk.
fn free_bytes(dir: &std::path::Path) -> u64 {
    rustix::fs::statvfs(dir).map_or(0, |disk| disk.f_bavail * disk.f_frsize)
}
