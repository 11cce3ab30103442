//! The consumer's thread. Everything that is asked of librdkafka is asked here, so that a commit and a rebalance never
//! happen at the same time.

use super::commit::commit;
use super::context::GuardContext;
use super::ledger::{Flow, Partition};
use super::metrics::ConsumerCounter;
use super::state::Worker;
use super::worker::{self, Shop};
use super::Error;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::{Message, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::mpsc::unbounded_channel;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Longest wait for a message, and so until a partition is paused or resumed.
const POLL: Duration = Duration::from_millis(20);

/// How the thread is told to end.
#[derive(Default)]
pub(crate) struct Stop {
    /// It begins nothing new.
    pub asked: CancellationToken,
    /// How long running handlers get.
    longest: Mutex<Duration>,
}

impl Stop {
    pub fn ask(&self, longest: Duration) {
        *self.longest.lock().unwrap_or_else(PoisonError::into_inner) = longest;
        self.asked.cancel();
    }

    fn longest(&self) -> Duration {
        *self.longest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct Poller {
    pub consumer: BaseConsumer<GuardContext>,
    pub shop: Arc<Shop>,
    pub stop: Arc<Stop>,
    pub workers: TaskTracker,
    /// Workers are cut off.
    pub cut: CancellationToken,
    pub handle: Handle,
    pub commit_interval: Duration,
}

impl Poller {
    /// Until it is told to stop, or librdkafka cannot go on.
    pub fn run(self) -> Result<(), Error> {
        let mut next_commit = Instant::now() + self.commit_interval;
        let mut topics = Topics::default();
        let mut end = Ok(());
        while !self.stop.asked.is_cancelled() {
            match self.consumer.poll(POLL) {
                Some(Ok(message)) => self.deliver(&message, &mut topics),
                Some(Err(error)) if is_fatal(&error) => {
                    tracing::error!(%error, "the consumer cannot go on");
                    end = Err(error.into());
                    break;
                }
                // librdkafka goes on by itself; it is in the log.
                Some(Err(error)) => self.note(&error),
                None => {}
            }
            self.regulate();
            if Instant::now() >= next_commit {
                self.commit();
                next_commit = Instant::now() + self.commit_interval;
            }
        }
        self.wind_down();
        end
    }

    fn commit(&self) {
        let troubles = &self.consumer.context().troubles;
        commit(&self.consumer, &self.shop.state, None, troubles);
    }

    fn note(&self, error: &KafkaError) {
        if let Some(unsaid) = self.consumer.context().troubles.say() {
            tracing::warn!(%error, unsaid, "Kafka");
        }
    }

    fn deliver(&self, message: &BorrowedMessage<'_>, topics: &mut Topics) {
        let place = Partition {
            topic: topics.get(message.topic()),
            partition: message.partition(),
        };
        let mut inner = self.shop.state.lock();
        let Some(generation) = inner.ledger.delivered(&place, message.offset()) else {
            return;
        };
        let of_this = |worker: &&Worker| worker.generation == generation;
        if inner.workers.get(&place).filter(of_this).is_none() {
            let worker = self.hire(&place, generation);
            inner.workers.insert(place.clone(), worker);
        }
        if let Some(worker) = inner.workers.get(&place) {
            // One that has ended, ended with its generation.
            let _ = worker.messages.send(message.detach());
        }
    }

    fn hire(&self, place: &Partition, generation: u64) -> Worker {
        let (messages, receiver) = unbounded_channel();
        // A worker hears of the end as soon as it is asked for.
        let leave = self.stop.asked.child_token();
        let shop = Arc::clone(&self.shop);
        let work = worker::work(shop, place.clone(), generation, receiver, leave.clone());
        let cut = self.cut.clone();
        let work = async move {
            cut.run_until_cancelled(work).await;
        };
        self.workers.spawn_on(work, &self.handle);
        Worker {
            generation,
            messages,
            leave,
        }
    }

    fn regulate(&self) {
        let changes = self.shop.state.lock().ledger.flow();
        for (place, flow) in changes {
            let mut list = TopicPartitionList::new();
            list.add_partition(&place.topic, place.partition);
            let done = match flow {
                Flow::Pause => {
                    self.shop.state.counters.count(ConsumerCounter::Pauses);
                    self.consumer.pause(&list)
                }
                Flow::Resume => self.consumer.resume(&list),
            };
            if let Err(error) = done {
                self.note(&error);
            }
        }
    }

    /// Running handlers end; what they have done is committed; the consumer leaves its group.
    fn wind_down(self) {
        let state = &self.shop.state;
        state.leave(None);
        let until = Instant::now() + self.stop.longest();
        // It stays in the group until then; what it is given now is not begun, and not committed.
        while state.is_running() && Instant::now() < until {
            let _ = self.consumer.poll(POLL);
        }
        self.commit();
        // What still runs is abandoned, unless it is librdkafka that has ended.
        if self.stop.asked.is_cancelled() {
            self.cut.cancel();
        }
    }
}

fn is_fatal(error: &KafkaError) -> bool {
    matches!(error, KafkaError::MessageConsumptionFatal(_))
}

/// Names of topics, each once.
#[derive(Default)]
struct Topics(BTreeMap<String, Arc<str>>);

impl Topics {
    fn get(&mut self, name: &str) -> Arc<str> {
        if let Some(topic) = self.0.get(name) {
            return Arc::clone(topic);
        }
        let topic: Arc<str> = Arc::from(name);
        self.0.insert(name.to_owned(), Arc::clone(&topic));
        topic
    }
}
