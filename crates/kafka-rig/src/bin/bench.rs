//! `kafka-bench [--messages N] [--rounds N] [--partitions N] [--out FILE]`: how many messages a consumer handles per
//! second with the guard, and without it. Records are in Redis; broker, Redis and consumer share this machine.
//!
//! The bare consumer does what the guard does apart from records: partitions beside each other, each in its order,
//! offsets committed every second.
#![forbid(unsafe_code)]

use idempotency::kafka::rdkafka::consumer::{BaseConsumer, Consumer};
use idempotency::kafka::rdkafka::message::{Header, OwnedHeaders, OwnedMessage};
use idempotency::kafka::rdkafka::producer::FutureRecord;
use idempotency::kafka::rdkafka::Message;
use idempotency::kafka::KafkaGuard;
use idempotency::message::{Deduplicator, MessageId, OnUnknown};
use idempotency::store::{RedisOptions, RedisStore, Store};
use idempotency::Guard;
use idempotency_kafka_rig::Broker;
use idempotency_stack::Redis;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, Notify};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

const TOPIC: &str = "orders";
/// Payload, in bytes.
const SIZE: usize = 200;
/// What handlers do, by how long it takes.
const WORK: [(&str, Duration); 3] = [
    ("nothing", Duration::ZERO),
    ("1 ms", Duration::from_millis(1)),
    ("5 ms", Duration::from_millis(5)),
];

struct Options {
    messages: usize,
    rounds: usize,
    partitions: usize,
    out: Option<String>,
}

fn options() -> Result<Options, BoxError> {
    let mut options = Options {
        messages: 20_000,
        rounds: 5,
        partitions: 8,
        out: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or("a value is missing")?;
        match name.as_str() {
            "--messages" => options.messages = value.parse()?,
            "--rounds" => options.rounds = value.parse()?,
            "--partitions" => options.partitions = value.parse()?,
            "--out" => options.out = Some(value),
            other => return Err(format!("what is {other}?").into()),
        }
    }
    Ok(options)
}

/// When the first and the last message were handled.
struct Watch {
    inner: Mutex<(usize, Option<Instant>)>,
    all: usize,
    took: Mutex<Option<Duration>>,
    done: Notify,
}

impl Watch {
    fn new(all: usize) -> Arc<Watch> {
        Arc::new(Watch {
            inner: Mutex::default(),
            all,
            took: Mutex::default(),
            done: Notify::new(),
        })
    }

    fn handled(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let first = *inner.1.get_or_insert_with(Instant::now);
        inner.0 += 1;
        if inner.0 == self.all {
            let mut took = self.took.lock().unwrap_or_else(PoisonError::into_inner);
            *took = Some(first.elapsed());
            self.done.notify_one();
        }
    }

    /// Messages per second.
    #[allow(clippy::cast_precision_loss)]
    async fn rate(&self) -> f64 {
        self.done.notified().await;
        let took = *self.took.lock().unwrap_or_else(PoisonError::into_inner);
        self.all as f64 / took.unwrap_or_default().as_secs_f64().max(1e-9)
    }
}

async fn work(takes: Duration) {
    if !takes.is_zero() {
        tokio::time::sleep(takes).await;
    }
}

async fn bare(broker: &Broker, group: &str, takes: Duration, all: usize) -> Result<f64, BoxError> {
    let mut config = broker.config();
    config
        .set("group.id", group)
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "true")
        .set("auto.commit.interval.ms", "1000")
        .set("enable.auto.offset.store", "false");
    let consumer: BaseConsumer = config.create()?;
    consumer.subscribe(&[TOPIC])?;
    let (consumer, watch) = (Arc::new(consumer), Watch::new(all));
    let (stop, handle) = (Arc::new(AtomicBool::new(false)), Handle::current());
    let polling = {
        let (watch, stop) = (Arc::clone(&watch), Arc::clone(&stop));
        std::thread::spawn(move || {
            let mut workers: HashMap<i32, mpsc::Sender<OwnedMessage>> = HashMap::new();
            while !stop.load(Ordering::Relaxed) {
                let Some(Ok(message)) = consumer.poll(Duration::from_millis(20)) else {
                    continue;
                };
                let worker = workers.entry(message.partition()).or_insert_with(|| {
                    let (sender, mut receiver) = mpsc::channel::<OwnedMessage>(1_000);
                    let (consumer, watch) = (Arc::clone(&consumer), Arc::clone(&watch));
                    handle.spawn(async move {
                        while let Some(message) = receiver.recv().await {
                            work(takes).await;
                            let at = (message.topic(), message.partition(), message.offset());
                            let _ = consumer.store_offset(at.0, at.1, at.2);
                            watch.handled();
                        }
                    });
                    sender
                });
                let _ = worker.blocking_send(message.detach());
            }
        })
    };
    let rate = watch.rate().await;
    stop.store(true, Ordering::Relaxed);
    tokio::task::spawn_blocking(move || polling.join())
        .await?
        .map_err(|_| "the thread panicked")?;
    Ok(rate)
}

async fn guarded(
    broker: &Broker,
    store: Arc<dyn Store>,
    group: &str,
    takes: Duration,
    all: usize,
) -> Result<f64, BoxError> {
    let dedup = Deduplicator::builder(Guard::new(store), group)
        .id(MessageId::header("event-id"))
        .on_unknown(OnUnknown::DeadLetter)
        .build()?;
    let watch = Watch::new(all);
    let of_handler = Arc::clone(&watch);
    let running = KafkaGuard::new(dedup, broker.config())
        .topic(TOPIC)
        .dead_letter_topic("orders.dead")
        .start(move |_message, _attempt| {
            let watch = Arc::clone(&of_handler);
            async move {
                work(takes).await;
                watch.handled();
                Ok(())
            }
        })?;
    let rate = watch.rate().await;
    let stopped = running.stop(Duration::from_secs(5)).await;
    stopped.map_err(|error| error.to_string())?;
    Ok(rate)
}

async fn fill(broker: &Broker, options: &Options) -> Result<(), BoxError> {
    let producer = broker.producer();
    let payload = "x".repeat(SIZE);
    let mut sends = Vec::new();
    for number in 0..options.messages {
        let id = format!("e-{number}");
        let headers = OwnedHeaders::new().insert(Header {
            key: "event-id",
            value: Some(&id),
        });
        let partition = i32::try_from(number % options.partitions)?;
        let record = FutureRecord::<(), _>::to(TOPIC)
            .partition(partition)
            .headers(headers)
            .payload(payload.as_bytes());
        sends.push(producer.send_result(record).map_err(|(error, _)| error)?);
        if sends.len() == 1_000 {
            for send in sends.drain(..) {
                send.await?.map_err(|(error, _)| error)?;
            }
        }
    }
    for send in sends {
        send.await?.map_err(|(error, _)| error)?;
    }
    Ok(())
}

fn median(rates: &mut [f64]) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or_default()
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let options = options()?;
    let broker = Broker::start()?;
    let partitions = i32::try_from(options.partitions)?;
    broker
        .make_topics(&[TOPIC, "orders.dead"], partitions)
        .await;
    fill(&broker, &options).await?;
    let redis = Redis::start(&[])?;
    let redis_options = RedisOptions::parse(&redis.url())?;
    let store: Arc<dyn Store> = Arc::new(RedisStore::open(redis_options).await?);

    let mut table = format!(
        "{} messages of {SIZE} bytes, {} partitions, medians of {} rounds by turns; messages per second.\n\n\
         | the handler takes | bare | with the guard | in parts of bare |\n|---|--:|--:|--:|\n",
        options.messages, options.partitions, options.rounds
    );
    for (name, takes) in WORK {
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for round in 0..options.rounds {
            let group = format!("{takes:?}-{round}");
            let all = options.messages;
            without.push(bare(&broker, &format!("bare-{group}"), takes, all).await?);
            let store = Arc::clone(&store);
            with.push(guarded(&broker, store, &format!("guard-{group}"), takes, all).await?);
        }
        let (without, with) = (median(&mut without), median(&mut with));
        let line = format!(
            "| {name} | {without:.0} | {with:.0} | {:.2} |",
            with / without
        );
        println!("{line}");
        writeln!(table, "{line}")?;
    }
    match &options.out {
        Some(path) => std::fs::write(path, table)?,
        None => print!("\n{table}"),
    }
    Ok(())
}
