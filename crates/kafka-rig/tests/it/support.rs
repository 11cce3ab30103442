//! A broker, a Redis, consumers in this process and in others.

use idempotency::kafka::rdkafka::message::OwnedMessage;
use idempotency::kafka::rdkafka::{ClientConfig, Message};
use idempotency::kafka::{KafkaGuard, Running};
use idempotency::message::{Attempt, Deduplicator, Failure, MessageId, OnUnknown};
use idempotency::store::{RedisOptions, RedisStore, Store};
use idempotency::Guard;
use idempotency_kafka_rig::Broker;
use idempotency_stack::{Process, Redis};
use serde_json::json;
use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::Semaphore;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(40);

pub struct Rig {
    pub broker: Broker,
    pub redis: Redis,
    pub dir: TempDir,
}

impl Rig {
    /// `None`: the test is skipped.
    pub async fn start(test: &str, partitions: i32) -> Option<Rig> {
        let broker = Broker::for_test(test)?;
        broker
            .make_topics(&["orders", "orders.dead"], partitions)
            .await;
        Some(Rig {
            broker,
            redis: Redis::start(&[]).unwrap(),
            dir: TempDir::new().unwrap(),
        })
    }

    pub async fn store(&self) -> Arc<dyn Store> {
        let options = RedisOptions::parse(&self.redis.url()).unwrap();
        Arc::new(RedisStore::open(options).await.unwrap())
    }

    pub async fn dedup(&self, group: &str) -> Deduplicator {
        let guard = Guard::new(self.store().await).lease(Duration::from_secs(10));
        let pause = Duration::from_millis(20);
        Deduplicator::builder(guard, group)
            .id(MessageId::header("event-id").or_offset())
            .backoff(pause, pause)
            .on_unknown(OnUnknown::DeadLetter)
            .build()
            .unwrap()
    }

    /// As members of groups are expected to be in tests: quick to notice each other.
    pub fn config(&self) -> ClientConfig {
        let mut config = self.broker.config();
        config.set("session.timeout.ms", "6000");
        config.set("heartbeat.interval.ms", "500");
        config.set("statistics.interval.ms", "100");
        config
    }

    pub async fn guard(&self, group: &str) -> KafkaGuard {
        KafkaGuard::new(self.dedup(group).await, self.config())
            .topic("orders")
            .dead_letter_topic("orders.dead")
            .commit_interval(Duration::from_millis(20))
            .revoke_patience(Duration::from_millis(50))
    }

    /// A consumer in a process of its own, for kills.
    pub fn consumer(&self, options: &Options) -> Consumer {
        let journal = self.dir.path().join("journal");
        let settings = json!({
            "brokers": self.broker.address(),
            "redis": self.redis.url(),
            "group": "billing",
            "topic": "orders",
            "journal": journal,
            "runs_again": options.runs_again,
            "lease_ms": 1_000,
            "commit_interval_ms": options.commit_interval_ms,
            "backoff_ms": options.backoff_ms,
            "config": [["session.timeout.ms", "6000"], ["heartbeat.interval.ms", "500"]],
        });
        let mut command = Command::new(env!("CARGO_BIN_EXE_kafka-consumer"));
        command.arg(settings.to_string());
        let log = self.dir.path().join("consumer.log");
        let process = Process::start("kafka-consumer", command, log).unwrap();
        Consumer { process, journal }
    }
}

#[derive(Clone, Copy)]
pub struct Options {
    pub runs_again: bool,
    pub commit_interval_ms: u64,
    pub backoff_ms: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            runs_again: false,
            commit_interval_ms: 20,
            backoff_ms: 20,
        }
    }
}

/// A consumer in a process of its own.
pub struct Consumer {
    pub process: Process,
    journal: PathBuf,
}

impl Consumer {
    /// All lines that consumers have written up to now.
    pub fn journal(&self) -> Vec<String> {
        let journal = std::fs::read_to_string(&self.journal).unwrap_or_default();
        journal.lines().map(str::to_owned).collect()
    }

    pub async fn await_line(&self, wanted: &str) {
        eventually(wanted, async || self.journal().iter().any(|l| l == wanted)).await;
    }

    /// The runs of a message, by the numbers of their attempts.
    pub fn runs(&self, name: &str) -> Vec<u32> {
        let prefix = format!("ran {name} ");
        let runs = self.journal();
        let runs = runs.iter().filter_map(|line| line.strip_prefix(&prefix));
        runs.map(|number| number.parse().unwrap()).collect()
    }

    /// Ends it well; what it counted.
    pub fn stop(mut self) -> BTreeMap<String, u64> {
        let status = self.process.stop(Duration::from_secs(20));
        assert!(status.is_some_and(|status| status.success()), "{status:?}");
        let journal = self.journal();
        let last = journal.last().unwrap().strip_prefix("counts ").unwrap();
        serde_json::from_str(last).unwrap()
    }
}

pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(waited.is_ok(), "never: {what}");
}

type Handling = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;

/// What handlers did, and doors that they wait at.
#[derive(Clone, Default)]
pub struct Runs {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    runs: Vec<String>,
    ended: Vec<String>,
    doors: BTreeMap<String, Arc<Semaphore>>,
}

impl Runs {
    /// A message with this payload waits from now on until it is let go.
    pub fn hold(&self, payload: &str) {
        let mut inner = self.inner.lock().unwrap();
        let door = Arc::new(Semaphore::new(0));
        inner.doors.insert(payload.to_owned(), door);
    }

    pub fn let_go(&self, payload: &str) {
        let inner = self.inner.lock().unwrap();
        inner.doors[payload].add_permits(1_000);
    }

    pub fn all(&self) -> Vec<String> {
        self.inner.lock().unwrap().runs.clone()
    }

    pub fn ended(&self) -> Vec<String> {
        self.inner.lock().unwrap().ended.clone()
    }

    pub fn of(&self, payload: &str) -> usize {
        self.all().iter().filter(|run| *run == payload).count()
    }

    pub fn handler(
        &self,
    ) -> impl Fn(Arc<OwnedMessage>, Attempt) -> Handling + Send + Sync + 'static {
        let runs = self.clone();
        move |message, _attempt| {
            let inner = Arc::clone(&runs.inner);
            let payload = String::from_utf8_lossy(message.payload().unwrap()).into_owned();
            Box::pin(async move {
                let door = {
                    let mut inner = inner.lock().unwrap();
                    inner.runs.push(payload.clone());
                    inner.doors.get(&payload).cloned()
                };
                if let Some(door) = door {
                    let _ = door.acquire().await.unwrap();
                }
                inner.lock().unwrap().ended.push(payload.clone());
                match payload.split(' ').next() {
                    Some("fail") => Err(Failure::again("told to")),
                    Some("reject") => Err(Failure::reject("told to")),
                    Some("panic") => panic!("told to"),
                    _ => Ok(()),
                }
            })
        }
    }
}

pub fn count(running: &Running, name: &str) -> u64 {
    running.counts()[name]
}

/// Waits until a counter has at least this value.
pub async fn await_count(running: &Running, name: &str, least: u64) {
    let what = format!("{name} ≥ {least}: {:?}", running.counts());
    eventually(&what, async || count(running, name) >= least).await;
}

/// Stops a consumer, with a short time for its handlers.
pub async fn stop(running: Running) {
    running.stop(Duration::from_secs(5)).await.unwrap();
}
