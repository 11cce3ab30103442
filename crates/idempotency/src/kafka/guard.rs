//! How a consumer is made, and how it ends.

use super::context::GuardContext;
use super::dead_letters::DeadLetters;
use super::metrics::Lag;
use super::poll::{Poller, Stop};
use super::state::ConsumerState;
use super::worker::{Handler, Shop};
use super::Error;
use crate::message::{Attempt, Deduplicator, Failure};
use crate::seldom::Seldom;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::OwnedMessage;
use rdkafka::ClientConfig;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What the guard decides itself.
const OURS: [(&str, &str); 2] = [
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
];

/// What it sets if the application has not.
const DEFAULTS: [(&str, &str); 2] = [
    // With "latest", messages that come before the first commit of a group can be missed.
    ("auto.offset.reset", "earliest"),
    ("statistics.interval.ms", "5000"),
];

/// A consumer of Kafka whose messages run once: see the [module](super).
#[must_use = "nothing is consumed before `start`"]
pub struct KafkaGuard {
    dedup: Deduplicator,
    config: ClientConfig,
    topics: Vec<String>,
    dead_letter_topic: Option<String>,
    commit_interval: Duration,
    patience: Duration,
    high_water: usize,
}

impl fmt::Debug for KafkaGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaGuard")
            .field("group", &self.dedup.group())
            .field("topics", &self.topics)
            .finish_non_exhaustive()
    }
}

impl KafkaGuard {
    /// A consumer with this configuration of librdkafka (`bootstrap.servers` and what else the cluster asks for) and
    /// the deduplicator's group. The guard commits offsets itself, starts at the earliest one unless told otherwise,
    /// and asks for statistics every five seconds unless told otherwise.
    pub fn new(dedup: Deduplicator, config: ClientConfig) -> KafkaGuard {
        KafkaGuard {
            dedup,
            config,
            topics: Vec::new(),
            dead_letter_topic: None,
            commit_interval: Duration::from_secs(1),
            patience: Duration::from_secs(2),
            high_water: 1_000,
        }
    }

    /// Another configuration of librdkafka.
    pub fn config(mut self, config: ClientConfig) -> KafkaGuard {
        self.config = config;
        self
    }

    /// Consumes this topic, too.
    pub fn topic(mut self, topic: &str) -> KafkaGuard {
        self.topics.push(topic.to_owned());
        self
    }

    /// Where messages go that must not be run (any more), with their key, content and headers, and with headers
    /// `idempotency-dead-letter-reason`, `-topic`, `-partition`, `-offset`, `-attempts` and `-error`. It has to be
    /// there, or the brokers have to make it.
    pub fn dead_letter_topic(mut self, topic: &str) -> KafkaGuard {
        self.dead_letter_topic = Some(topic.to_owned());
        self
    }

    /// How often offsets are committed: every second unless told otherwise. What was done and not committed is
    /// delivered again after a crash, and skipped.
    pub fn commit_interval(mut self, interval: Duration) -> KafkaGuard {
        self.commit_interval = interval;
        self
    }

    /// How long a partition that is taken away waits for its running handler, so that its offset can be committed:
    /// two seconds unless told otherwise. The whole group waits with it, so it must be far below
    /// `max.poll.interval.ms`. The handler goes on in any case.
    pub fn revoke_patience(mut self, longest: Duration) -> KafkaGuard {
        self.patience = longest;
        self
    }

    /// A partition with so many messages in memory is paused until half of them are done: 1,000 unless told
    /// otherwise.
    pub fn high_water(mut self, messages: usize) -> KafkaGuard {
        self.high_water = messages;
        self
    }

    /// Begins to consume. Handlers run on the runtime in which this is called; a thread of its own polls. A handler
    /// can take as long as it likes: polling goes on meanwhile, and its lease is renewed.
    ///
    /// # Errors
    ///
    /// [`Error::Settings`] without a topic or a dead letter topic, or if the configuration says something about
    /// commits or about another group; [`Error::Kafka`] if librdkafka does not take the configuration.
    pub fn start<H, F>(mut self, handler: H) -> Result<Running, Error>
    where
        H: Fn(Arc<OwnedMessage>, Attempt) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        self.configure()?;
        let handle = Handle::try_current().map_err(|error| Error::Thread(error.to_string()))?;
        let Some(dead_letter_topic) = &self.dead_letter_topic else {
            return Err(settings("a dead letter topic is needed"));
        };
        let dead_letters = DeadLetters::new(&producer_config(&self.config), dead_letter_topic)?;
        let state = ConsumerState::new(self.high_water);
        let context = GuardContext {
            state: Arc::clone(&state),
            patience: self.patience,
            troubles: Seldom::default(),
        };
        let consumer: BaseConsumer<GuardContext> = self.config.create_with_context(context)?;
        let topics: Vec<&str> = self.topics.iter().map(String::as_str).collect();
        consumer.subscribe(&topics)?;
        let handler: Handler =
            Arc::new(move |message, attempt| Box::pin(handler(message, attempt)));
        let stop = Arc::<Stop>::default();
        let workers = TaskTracker::new();
        workers.close();
        let poller = Poller {
            consumer,
            shop: Arc::new(Shop {
                dedup: self.dedup,
                handler,
                dead_letters,
                state: Arc::clone(&state),
                troubles: Seldom::default(),
            }),
            stop: Arc::clone(&stop),
            workers: workers.clone(),
            cut: CancellationToken::new(),
            handle,
            commit_interval: self.commit_interval,
        };
        let (ended, end) = watch::channel(None);
        let thread = std::thread::Builder::new().name("kafka-guard".to_owned());
        let run = move || {
            let result = poller.run().map_err(Arc::new);
            ended.send_replace(Some(result));
        };
        thread
            .spawn(run)
            .map_err(|error| Error::Thread(error.to_string()))?;
        Ok(Running {
            state,
            stop,
            workers,
            end,
        })
    }

    fn configure(&mut self) -> Result<(), Error> {
        if self.topics.is_empty() {
            return Err(settings("a topic is needed"));
        }
        let group = self.dedup.group();
        let ours = OURS.iter().copied().chain([("group.id", group)]);
        for (name, value) in ours {
            match self.config.get(name) {
                Some(other) if other != value => {
                    return Err(Error::Settings(format!(
                        "{name} is {other}, and has to be {value}"
                    )))
                }
                _ => {}
            }
        }
        let group = group.to_owned();
        self.config.set("group.id", group);
        for (name, value) in OURS {
            self.config.set(name, value);
        }
        for (name, value) in DEFAULTS {
            if self.config.get(name).is_none() {
                self.config.set(name, value);
            }
        }
        Ok(())
    }
}

fn settings(what: &str) -> Error {
    Error::Settings(what.to_owned())
}

/// The same cluster and credentials, without what only consumers know.
fn producer_config(config: &ClientConfig) -> ClientConfig {
    const CONSUMERS: [&str; 12] = [
        "group.",
        "enable.auto.",
        "auto.",
        "fetch.",
        "max.poll.",
        "session.",
        "heartbeat.",
        "partition.assignment.",
        "queued.",
        "isolation.",
        "check.crcs",
        "statistics.",
    ];
    let mut producer = ClientConfig::new();
    for (name, value) in config.config_map() {
        if !CONSUMERS.iter().any(|prefix| name.starts_with(prefix)) {
            producer.set(name, value);
        }
    }
    producer
}

/// A consumer that runs. Dropped, it stops at once: running handlers are cut off, and their outcomes are unknown.
#[must_use = "dropped, the consumer stops"]
pub struct Running {
    state: Arc<ConsumerState>,
    stop: Arc<Stop>,
    workers: TaskTracker,
    end: watch::Receiver<Option<Result<(), Arc<Error>>>>,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").finish_non_exhaustive()
    }
}

impl Running {
    /// Ends well: nothing new is begun from the call on, running handlers get `longest` to end, what they did is committed, and the
    /// consumer leaves its group. Handlers that have not ended are cut off, and their outcomes are unknown. Call
    /// [`Guard::drain`](crate::Guard::drain) afterwards, which waits until that is recorded.
    ///
    /// # Errors
    ///
    /// Why the consumer had ended before.
    pub fn stop(mut self, longest: Duration) -> impl Future<Output = Result<(), Arc<Error>>> {
        self.stop.ask(longest);
        async move {
            self.ended().await?;
            self.workers.wait().await;
            Ok(())
        }
    }

    /// Waits until the consumer ends by itself: librdkafka cannot go on.
    ///
    /// # Errors
    ///
    /// Why.
    pub async fn ended(&mut self) -> Result<(), Arc<Error>> {
        match self.end.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or(Ok(())),
            Err(_) => Err(Arc::new(Error::Thread("it panicked".to_owned()))),
        }
    }

    /// What was counted up to now, by name: `messages_done`, `messages_duplicate`, `retries_in_flight`,
    /// `retries_failed`, `retries_store`, `dead_letters`, `dead_letter_errors`, `commits`, `commit_errors`,
    /// `rebalances`, `ends_of_old_generations` (a handler ended after its partition had gone), `pauses`. `pending` is
    /// a gauge: messages in memory that are not done.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let mut counts = self.state.counters.read();
        let pending = self.state.lock().ledger.pending();
        counts.insert(
            "pending".to_owned(),
            u64::try_from(pending).unwrap_or(u64::MAX),
        );
        counts
    }

    /// How far behind it is, of the partitions that it has.
    pub fn lag(&self) -> Lag {
        self.state.lag()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.asked.cancel();
    }
}
