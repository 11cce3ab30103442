//! The two consumers that are compared.

use crate::work::{Watch, Work};
use crate::{BoxError, DEAD, TOPIC};
use idempotency::kafka::rdkafka::consumer::{BaseConsumer, Consumer};
use idempotency::kafka::rdkafka::message::OwnedMessage;
use idempotency::kafka::rdkafka::Message;
use idempotency::kafka::KafkaGuard;
use idempotency::message::{Deduplicator, MessageId, OnUnknown};
use idempotency::store::Store;
use idempotency::Guard;
use idempotency_kafka_rig::Broker;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Longest poll.
const POLL: Duration = Duration::from_millis(20);
/// Messages of a partition in memory, with the guard.
const QUEUE: usize = 1_000;

/// What the guard does apart from records: partitions beside each other, each in its order, an offset stored for the
/// next commit when its message is handled, one commit each second. Messages per second.
pub async fn bare(
    broker: &Broker,
    group: &str,
    work: &Arc<Work>,
    all: usize,
) -> Result<f64, BoxError> {
    let mut config = broker.config();
    config
        .set("group.id", group)
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "true")
        .set("auto.commit.interval.ms", "1000")
        .set("enable.auto.offset.store", "false");
    let consumer: BaseConsumer = config.create()?;
    consumer.subscribe(&[TOPIC])?;
    let watch = Watch::new(all);
    let stop = Arc::new(AtomicBool::new(false));
    let polling = {
        let poller = Poller {
            consumer: Arc::new(consumer),
            watch: Arc::clone(&watch),
            work: Arc::clone(work),
            stop: Arc::clone(&stop),
            handle: Handle::current(),
        };
        std::thread::spawn(move || poller.run())
    };
    let rate = watch.rate().await;
    stop.store(true, Ordering::Relaxed);
    tokio::task::spawn_blocking(move || polling.join())
        .await?
        .map_err(|_| "the thread panicked")?;
    let rate = rate?;
    watch.check()?;
    Ok(rate)
}

struct Poller {
    consumer: Arc<BaseConsumer>,
    watch: Arc<Watch>,
    work: Arc<Work>,
    stop: Arc<AtomicBool>,
    handle: Handle,
}

impl Poller {
    /// The consumer is closed in this thread: its workers have ended before.
    fn run(self) {
        let mut workers: HashMap<i32, (mpsc::UnboundedSender<OwnedMessage>, JoinHandle<()>)> =
            HashMap::new();
        while !self.stop.load(Ordering::Relaxed) {
            let Some(Ok(message)) = self.consumer.poll(POLL) else {
                continue;
            };
            let worker = workers
                .entry(message.partition())
                .or_insert_with(|| self.hire());
            let _ = worker.0.send(message.detach());
        }
        for (_, (sender, worker)) in workers {
            drop(sender);
            let _ = self.handle.block_on(worker);
        }
    }

    /// Its queue has no bound. librdkafka hands messages over partition by partition, so a bounded queue that is full
    /// would hold up all other partitions, unless its partition is paused, as the guard does. A run fits into memory.
    fn hire(&self) -> (mpsc::UnboundedSender<OwnedMessage>, JoinHandle<()>) {
        let (sender, mut messages) = mpsc::unbounded_channel::<OwnedMessage>();
        let (consumer, watch) = (Arc::clone(&self.consumer), Arc::clone(&self.watch));
        let work = Arc::clone(&self.work);
        let worker = self.handle.spawn(async move {
            while let Some(message) = messages.recv().await {
                let (partition, offset) = (message.partition(), message.offset());
                let payload = message.payload().unwrap_or_default();
                work.handle(partition, offset, payload).await;
                let _ = consumer.store_offset(message.topic(), partition, offset);
                watch.handled();
            }
        });
        (sender, worker)
    }
}

/// The same with a record for each message. Messages per second.
pub async fn guarded(
    broker: &Broker,
    store: Arc<dyn Store>,
    group: &str,
    work: &Arc<Work>,
    all: usize,
) -> Result<f64, BoxError> {
    let dedup = Deduplicator::builder(Guard::new(store), group)
        .id(MessageId::header("event-id"))
        .on_unknown(OnUnknown::DeadLetter)
        .build()?;
    let watch = Watch::new(all);
    let (of_handler, work) = (Arc::clone(&watch), Arc::clone(work));
    let running = KafkaGuard::new(dedup, broker.config())
        .topic(TOPIC)
        .dead_letter_topic(DEAD)
        .high_water(QUEUE)
        .start(move |message, _attempt| {
            let (watch, work) = (Arc::clone(&of_handler), Arc::clone(&work));
            async move {
                let payload = message.payload().unwrap_or_default();
                work.handle(message.partition(), message.offset(), payload)
                    .await;
                watch.handled();
                Ok(())
            }
        })?;
    let rate = watch.rate().await;
    let counts = running.counts();
    let stopped = running.stop(Duration::from_secs(5)).await;
    stopped.map_err(|error| error.to_string())?;
    let rate = rate.map_err(|error| format!("{error}: {counts:?}"))?;
    watch.check()?;
    Ok(rate)
}
