//! `kafka-bench [--messages N] [--rounds N] [--partitions N] [--out FILE]`: how many messages a consumer handles per
//! second with the guard, and without it. Records are in Redis; broker, Redis, database and consumer share this
//! machine.
#![forbid(unsafe_code)]

mod consumers;
mod work;

use consumers::{bare, guarded};
use idempotency::kafka::rdkafka::message::{Header, OwnedHeaders};
use idempotency::kafka::rdkafka::producer::FutureRecord;
use idempotency::store::{RedisOptions, RedisStore, Store};
use idempotency_kafka_rig::Broker;
use idempotency_stack::{Postgres, PostgresOptions, Redis};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use work::Work;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

const TOPIC: &str = "orders";
const DEAD: &str = "orders.dead";
/// Payload, in bytes.
const SIZE: usize = 200;

struct Options {
    messages: usize,
    rounds: usize,
    partitions: usize,
    out: Option<String>,
}

fn options() -> Result<Options, BoxError> {
    let mut options = Options {
        messages: 10_000,
        rounds: 5,
        partitions: 8,
        out: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or("a value is missing")?;
        match name.as_str() {
            "--messages" => options.messages = value.parse()?,
            "--rounds" => options.rounds = value.parse::<usize>()?.max(1),
            "--partitions" => options.partitions = value.parse::<usize>()?.max(1),
            "--out" => options.out = Some(value),
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    Ok(options)
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

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn extremes(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    (least, values.iter().copied().fold(0.0, f64::max))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let options = options()?;
    let broker = Broker::start()?;
    let partitions = i32::try_from(options.partitions)?;
    broker.make_topics(&[TOPIC, DEAD], partitions).await;
    fill(&broker, &options).await?;
    let redis = Redis::start(&[])?;
    let redis_options = RedisOptions::parse(&redis.url())?;
    let store: Arc<dyn Store> = Arc::new(RedisStore::open(redis_options).await?);
    let server = Postgres::start(PostgresOptions {
        fsync: true,
        ..PostgresOptions::default()
    })?;
    let works = [
        Work::Nothing,
        Work::Wait(Duration::from_millis(1)),
        Work::Wait(Duration::from_millis(5)),
        Work::commits(&server, options.partitions).await?,
    ];

    let mut table = format!(
        "{} messages of {SIZE} bytes, {} partitions, medians of {} rounds by turns; messages per second.\n\n\
         | the handler | bare | with the guard | in parts of bare |\n|---|--:|--:|--:|\n",
        options.messages, options.partitions, options.rounds
    );
    for (place, work) in works.into_iter().enumerate() {
        let work = Arc::new(work);
        let (mut without, mut with, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..options.rounds {
            let all = options.messages;
            let group = format!("{place}-{round}");
            let bare = bare(&broker, &format!("bare-{group}"), &work, all).await?;
            let store = Arc::clone(&store);
            let guarded = guarded(&broker, store, &format!("guard-{group}"), &work, all).await?;
            eprintln!("{}, round {round}: {bare:.0}, {guarded:.0}", work.name());
            without.push(bare);
            with.push(guarded);
            ratios.push(guarded / bare);
        }
        let (least, most) = extremes(&ratios);
        let line = format!(
            "| {} | {:.0} | {:.0} | {:.2} [{least:.2}–{most:.2}] |",
            work.name(),
            median(&without),
            median(&with),
            median(&ratios)
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
