//! A deduplicator on the stores that several processes share. Memory and the embedded one have their turn in the
//! library's own tests.

use idempotency::message::{
    Deduplicator, Failure, Letter, MessageDeduplicator, MessageId, OnUnknown, Reason, Verdict,
};
use idempotency::remote::Remote;
use idempotency::store::{Postgres, PostgresOptions, RedisOptions, RedisStore, Store};
use idempotency::Guard;
use idempotency_stack::{self as stack, Redis, Service, ServiceOptions};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

async fn every_verdict(name: &str, store: Arc<dyn Store>) {
    let guard = Guard::new(Arc::clone(&store)).lease(Duration::from_secs(5));
    let dedup = Deduplicator::builder(guard.clone(), "billing")
        .id(MessageId::header("event-id"))
        .max_attempts(2)
        .backoff(Duration::ZERO, Duration::ZERO)
        .on_unknown(OnUnknown::DeadLetter)
        .build()
        .unwrap();
    let runs = Cell::new(0);
    let run = async |id: &str, payload: &str, fails: bool| {
        let message = Letter::new("orders", payload).header("event-id", id);
        let handler = |_| async {
            runs.set(runs.get() + 1);
            match fails {
                true => Err(Failure::again("told to")),
                false => Ok(()),
            }
        };
        dedup.run(&message, handler).await
    };
    let first = run("e-1", "a", false).await;
    assert!(matches!(first, Verdict::Done), "{name}: {first:?}");
    let again = run("e-1", "a", false).await;
    assert!(matches!(again, Verdict::Duplicate(_)), "{name}: {again:?}");
    let other = run("e-1", "b", false).await;
    let Verdict::DeadLetter(letter) = other else {
        panic!("{name}: {other:?}")
    };
    assert_eq!(letter.reason(), Reason::OtherContent, "{name}");
    assert_eq!(runs.get(), 1, "{name}");
    let failed = run("e-2", "a", true).await;
    assert!(matches!(failed, Verdict::Retry(_)), "{name}: {failed:?}");
    let poison = run("e-2", "a", true).await;
    let Verdict::DeadLetter(letter) = poison else {
        panic!("{name}: {poison:?}")
    };
    assert_eq!(letter.reason(), Reason::Poison { attempts: 2 }, "{name}");
    letter.sent().await.unwrap();
    let aside = run("e-2", "a", true).await;
    assert!(matches!(aside, Verdict::Duplicate(_)), "{name}: {aside:?}");
    assert_eq!(runs.get(), 3, "{name}");

    let processed = MessageDeduplicator::new(guard.namespace("mails"));
    assert!(!processed.is_duplicate("e-1").await.unwrap(), "{name}");
    assert!(processed.mark_processed("e-1").await.unwrap(), "{name}");
    assert!(processed.is_duplicate("e-1").await.unwrap(), "{name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verdict_on_redis() {
    let server = Redis::start(&[]).unwrap();
    let options = RedisOptions::parse(&server.url()).unwrap();
    let store = RedisStore::open(options).await.unwrap();
    every_verdict("redis", Arc::new(store)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verdict_on_postgres() {
    let server = stack::Postgres::start(stack::PostgresOptions::default()).unwrap();
    let options = PostgresOptions::from_url(&server.fresh_database()).unwrap();
    Postgres::migrate(&options).await.unwrap();
    let store = Postgres::open(options).await.unwrap();
    every_verdict("postgres", Arc::new(store)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verdict_on_a_service() {
    let service = Service::start(ServiceOptions::default()).unwrap();
    let tokens = service.tokens();
    let store = Remote::new(
        format!("unix:{}", service.socket().display())
            .parse()
            .unwrap(),
    )
    .token(&tokens.gateway)
    .unwrap()
    .operator_token(&tokens.operator)
    .unwrap();
    every_verdict("remote", Arc::new(store)).await;
}
