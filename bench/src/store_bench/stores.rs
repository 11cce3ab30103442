//! Each store through its trait, in this process, at 1, 16 and 64 operations in flight, with small
//! and large bodies; beside it what its server can do by itself, by turns.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use idempotency_bench::cores::pin_process;
use idempotency_bench::spread::Spread;
use idempotency_stack::{Error, Postgres, PostgresOptions, Redis};
use idempotency_store::{Durability, Embedded, EmbeddedOptions, RedisOptions, RedisStore, Store};
use serde::Serialize;
use tokio::runtime::Runtime;

use crate::pgbench::PgBench;
use crate::places::{on, Places};
use crate::redis_bench::{RedisBench, Shape};
use crate::store_load::{firsts, replays, Amount};
use crate::work::{body, Lap};

const IN_FLIGHT: [usize; 3] = [1, 16, 64];
/// Small and large stored bodies, in octets.
const BODIES: [usize; 2] = [200, 64 << 10];
/// A run stores at most so many octets: disks end, and a server's memory.
const MOST_OCTETS: u64 = 128 << 20;
const DATABASE: &str = "bench";

/// Who does the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Durable,
    Relaxed,
    Redis,
    RedisBenchmark,
    Postgres,
    Pgbench,
}

const ALL: [(Who, &str); 6] = [
    (Who::Durable, "embedded, durable"),
    (Who::Relaxed, "embedded, relaxed"),
    (Who::Redis, "Redis"),
    (
        Who::RedisBenchmark,
        "Redis: `redis-benchmark`, the same script",
    ),
    (Who::Postgres, "PostgreSQL"),
    (Who::Pgbench, "PostgreSQL: `pgbench`, the same statements"),
];

impl Who {
    /// Whose limit it is compared with.
    fn limit(self) -> Option<Self> {
        match self {
            Self::Redis => Some(Self::RedisBenchmark),
            Self::Postgres => Some(Self::Pgbench),
            _ => None,
        }
    }
}

/// A row of the result.
#[derive(Debug, Serialize)]
pub struct Line {
    /// The store, or the program that measures its server.
    pub label: &'static str,
    /// Octets of a stored body.
    pub body: usize,
    /// Operations at one time.
    pub in_flight: usize,
    /// First requests: acquires and completes together, per second.
    pub firsts: Option<Spread>,
    /// Median time of one acquire and one complete together, in microseconds.
    pub firsts_p50_us: Option<Spread>,
    /// Replays per second.
    pub replays: Option<Spread>,
    /// Median time of one replay in microseconds.
    pub replays_p50_us: Option<Spread>,
    /// First requests per second, in parts of the server's own limit of the same round.
    pub firsts_ratio: Option<Spread>,
    /// Replays per second, in parts of the server's own limit of the same round.
    pub replays_ratio: Option<Spread>,
}

struct Rig {
    places: Places,
    /// Threads that stay on the cores of a store's client.
    beside: Runtime,
    /// Threads that may use all cores: the embedded store has nobody beside it.
    everywhere: Runtime,
    durable: Arc<dyn Store>,
    relaxed: Arc<dyn Store>,
    redis: Arc<dyn Store>,
    postgres: Arc<dyn Store>,
    redis_bench: RedisBench,
    _redis_server: Redis,
    postgres_server: Postgres,
    _dirs: [tempfile::TempDir; 2],
}

/// Measures it.
///
/// # Errors
///
/// If a part does not start, or an answer is not the expected one.
pub fn measure(rounds: usize, run: Duration, places: &Places) -> Result<Vec<Line>, Error> {
    let mut rig = Rig::start(places)?;
    let bodies = BODIES.map(|octets| (octets, body(octets)));
    let mut cells = Vec::new();
    for (octets, _) in &bodies {
        for in_flight in IN_FLIGHT {
            for (who, label) in ALL {
                cells.push((who, label, *octets, in_flight, Vec::<(Lap, Lap)>::new()));
            }
        }
    }
    for round in 0..rounds {
        for (who, label, octets, in_flight, laps) in &mut cells {
            let data = bodies.iter().find(|(known, _)| known == octets);
            let data = data.map(|(_, data)| data.clone()).unwrap_or_default();
            let name = format!("{round}x{octets}x{in_flight}");
            let both = rig.run(*who, &name, &data, *in_flight, run)?;
            eprintln!(
                "stores, round {}, {octets:5} B, {in_flight:2} in flight, {label:<44} \
                 {:8.0} {:8.0} op/s",
                round + 1,
                both.0.rate(),
                both.1.rate()
            );
            laps.push(both);
        }
        rig.redis_bench.forget()?;
    }
    for store in [&rig.durable, &rig.relaxed] {
        rig.everywhere.block_on(store.close());
    }
    for store in [&rig.redis, &rig.postgres] {
        rig.beside.block_on(store.close());
    }
    let found = |who: Who, octets: usize, in_flight: usize| {
        let cell = cells
            .iter()
            .find(|cell| (cell.0, cell.2, cell.3) == (who, octets, in_flight));
        cell.map(|cell| cell.4.clone()).unwrap_or_default()
    };
    Ok(cells
        .iter()
        .map(|(who, label, octets, in_flight, laps)| {
            let each = |value: fn(&(Lap, Lap)) -> f64| Spread::of(laps.iter().map(value));
            let limit = who.limit().map(|limit| found(limit, *octets, *in_flight));
            let ratio = |value: fn(&(Lap, Lap)) -> f64| {
                let pairs = laps.iter().zip(limit.iter().flatten());
                Spread::of(pairs.map(|(own, limit)| value(own) / value(limit)))
            };
            Line {
                label,
                body: *octets,
                in_flight: *in_flight,
                firsts: each(|both| both.0.rate()),
                firsts_p50_us: each(|both| both.0.p50_us),
                replays: each(|both| both.1.rate()),
                replays_p50_us: each(|both| both.1.p50_us),
                firsts_ratio: ratio(|both| both.0.rate()),
                replays_ratio: ratio(|both| both.1.rate()),
            }
        })
        .collect())
}

impl Rig {
    fn start(places: &Places) -> Result<Self, Error> {
        let mut redis_server = Redis::start(&["--auto-aof-rewrite-percentage", "0"])?;
        let mut postgres_server = Postgres::start(PostgresOptions {
            fsync: true,
            settings: vec!["shared_buffers = 256MB".to_owned()],
            ..PostgresOptions::default()
        })?;
        if !places.load.is_empty() {
            pin_process(redis_server.process().id(), &places.server)?;
            // Its processes are many: it has the load's core too.
            let cores = [places.server.as_slice(), &places.load].concat();
            pin_process(postgres_server.process().id(), &cores)?;
        }
        postgres_server.create_database(DATABASE);
        let beside = on(&places.service, || runtime(2))?;
        let everywhere = runtime(4)?;
        let redis_url = redis_server.url();
        let redis = on(&places.service, || {
            let options = RedisOptions::parse(&redis_url).map_err(Error::new)?;
            let store = beside.block_on(RedisStore::open(options));
            Ok(Arc::new(store.map_err(store_error)?))
        })?;
        let postgres = on(&places.service, || {
            beside.block_on(open_postgres(&postgres_server, DATABASE))
        })?;
        let dirs = [temp_dir()?, temp_dir()?];
        let [durable, relaxed] = &dirs;
        Ok(Self {
            places: places.clone(),
            durable: everywhere.block_on(open_embedded(durable, Durability::Durable))?,
            relaxed: everywhere.block_on(open_embedded(
                relaxed,
                Durability::Relaxed {
                    interval: Duration::from_millis(100),
                },
            ))?,
            beside,
            everywhere,
            redis,
            postgres,
            redis_bench: RedisBench::new(&mut redis_server)?,
            _redis_server: redis_server,
            postgres_server,
            _dirs: dirs,
        })
    }

    /// First requests, then replays of what they have left.
    fn run(
        &mut self,
        who: Who,
        run: &str,
        body: &Bytes,
        in_flight: usize,
        time: Duration,
    ) -> Result<(Lap, Lap), Error> {
        let keys = (MOST_OCTETS / body.len() as u64).min(500_000);
        let amount = Amount {
            in_flight,
            time,
            keys,
        };
        let store = match who {
            Who::Durable => &self.durable,
            Who::Relaxed => &self.relaxed,
            Who::Redis => &self.redis,
            Who::Postgres => &self.postgres,
            Who::RedisBenchmark => return self.redis_benchmark(run, body, in_flight),
            Who::Pgbench => return self.pgbench(run, body, in_flight),
        };
        let runtime = match who {
            Who::Durable | Who::Relaxed => &self.everywhere,
            _ => &self.beside,
        };
        runtime.block_on(async {
            let made = firsts(store, run, 0, body, amount).await?;
            let again = replays(store, run, made.keys, amount).await?;
            Ok((made.both(), again))
        })
    }

    fn redis_benchmark(
        &mut self,
        run: &str,
        body: &Bytes,
        in_flight: usize,
    ) -> Result<(Lap, Lap), Error> {
        // Ten times as many keys are made beforehand.
        let least = if in_flight == 1 { 5_000 } else { 20_000 };
        let requests = (MOST_OCTETS / body.len() as u64).min(least);
        let shape = Shape {
            clients: in_flight,
            pipeline: 1,
            requests,
        };
        let bench = &mut self.redis_bench;
        on(&self.places.service, || {
            let acquires = bench.acquires(&format!("{run}a"), shape)?;
            let completes = bench.completes(&format!("{run}c"), body, shape)?;
            let replays = bench.replays(&format!("{run}r"), body, shape)?;
            Ok((acquires.then(&completes), replays))
        })
    }

    fn pgbench(&self, run: &str, body: &Bytes, in_flight: usize) -> Result<(Lap, Lap), Error> {
        let bench = PgBench::new(&self.postgres_server, DATABASE);
        // About as long as the store has.
        let each = match in_flight {
            1 => 800,
            16 => 200,
            _ => 80,
        };
        let most = MOST_OCTETS / body.len() as u64 / in_flight as u64;
        on(&self.places.service, || {
            let firsts = bench.firsts(run, body, in_flight, most.min(each))?;
            let replays = bench.replays(&format!("{run}r"), body, in_flight, each * 4)?;
            Ok((firsts, replays))
        })
    }
}

/// A runtime with so many threads, which stay where the calling one is.
pub fn runtime(threads: usize) -> Result<Runtime, Error> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(|error| Error::new(error.to_string()))
}

/// A directory that is removed at the end.
pub fn temp_dir() -> Result<tempfile::TempDir, Error> {
    tempfile::tempdir().map_err(|error| Error::new(error.to_string()))
}

/// Opens the embedded store.
pub async fn open_embedded(
    dir: &tempfile::TempDir,
    durability: Durability,
) -> Result<Arc<dyn Store>, Error> {
    let options = EmbeddedOptions {
        durability,
        ..EmbeddedOptions::new(dir.path())
    };
    Ok(Arc::new(Embedded::open(options).map_err(store_error)?))
}

/// Opens the PostgreSQL store, with its schema.
pub async fn open_postgres(server: &Postgres, database: &str) -> Result<Arc<dyn Store>, Error> {
    use idempotency_store::{Postgres, PostgresOptions};
    let options = PostgresOptions::from_url(&server.url(database)).map_err(Error::new)?;
    Postgres::migrate(&options).await.map_err(store_error)?;
    Ok(Arc::new(
        Postgres::open(options).await.map_err(store_error)?,
    ))
}

/// As this bench reports it.
pub fn store_error(error: idempotency_store::StoreError) -> Error {
    Error::new(error.to_string())
}
