//! Errors of brokers, which librdkafka's mock cluster plays.

use crate::support::{await_count, count, eventually, stop, Runs};
use idempotency::kafka::rdkafka::consumer::{BaseConsumer, Consumer};
use idempotency::kafka::rdkafka::mocking::MockCluster;
use idempotency::kafka::rdkafka::producer::DefaultProducerContext;
use idempotency::kafka::rdkafka::producer::{FutureProducer, FutureRecord};
use idempotency::kafka::rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use idempotency::kafka::rdkafka::{ClientConfig, Offset, TopicPartitionList};
use idempotency::kafka::{KafkaGuard, Running};
use idempotency::message::{Deduplicator, OnUnknown};
use idempotency::store::Memory;
use idempotency::Guard;
use std::sync::Arc;
use std::time::Duration;

struct Mock {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl Mock {
    fn start() -> Mock {
        let cluster = MockCluster::new(1).unwrap();
        for topic in ["orders", "orders.dead"] {
            cluster.create_topic(topic, 1, 1).unwrap();
        }
        Mock { cluster }
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.cluster.bootstrap_servers());
        config.set("session.timeout.ms", "6000");
        config.set("heartbeat.interval.ms", "500");
        config
    }

    async fn send(&self, payloads: &[&str]) {
        let producer: FutureProducer = self.config().create().unwrap();
        for payload in payloads {
            let record = FutureRecord::<(), _>::to("orders").payload(*payload);
            let sent = producer.send(record, Duration::from_secs(20)).await;
            sent.map_err(|(error, _)| error).unwrap();
        }
    }

    fn consume(&self, runs: &Runs) -> Running {
        let guard = Guard::new(Arc::new(Memory::default()));
        let pause = Duration::from_millis(10);
        let dedup = Deduplicator::builder(guard, "billing")
            .backoff(pause, pause)
            .on_unknown(OnUnknown::DeadLetter)
            .build()
            .unwrap();
        KafkaGuard::new(dedup, self.config())
            .topic("orders")
            .dead_letter_topic("orders.dead")
            .commit_interval(Duration::from_millis(20))
            .start(runs.handler())
            .unwrap()
    }

    fn committed(&self) -> Option<i64> {
        let mut config = self.config();
        config.set("group.id", "billing");
        let consumer: BaseConsumer = config.create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition("orders", 0);
        let list = consumer.committed_offsets(list, Duration::from_secs(20));
        match list.unwrap().find_partition("orders", 0)?.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_refused_is_tried_again() {
    let mock = Mock::start();
    let runs = Runs::default();
    let refused = RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID;
    mock.cluster
        .request_errors(RDKafkaApiKey::OffsetCommit, &[refused]);
    let running = mock.consume(&runs);
    mock.send(&["a", "b"]).await;
    await_count(&running, "commit_errors", 1).await;
    eventually("both are committed", async || mock.committed() == Some(2)).await;
    assert_eq!((runs.of("a"), runs.of("b")), (1, 1));
    stop(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_fetches_and_heartbeats_run_nothing_twice() {
    let mock = Mock::start();
    let runs = Runs::default();
    let running = mock.consume(&runs);
    mock.send(&["a"]).await;
    await_count(&running, "messages_done", 1).await;
    let errors = [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
    ];
    mock.cluster.request_errors(RDKafkaApiKey::Fetch, &errors);
    // The member is told that its generation is over: it loses its partition, and joins again.
    let over = RDKafkaRespErr::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION;
    mock.cluster
        .request_errors(RDKafkaApiKey::Heartbeat, &[over]);
    await_count(&running, "rebalances", 2).await;
    mock.send(&["b"]).await;
    eventually("both are committed", async || mock.committed() == Some(2)).await;
    assert_eq!(runs.all(), ["a", "b"]);
    stop(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_cannot_be_sent_holds_its_partition() {
    let mock = Mock::start();
    let runs = Runs::default();
    mock.send(&["reject a", "b"]).await;
    // No error that librdkafka would try again by itself.
    let refused = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    mock.cluster
        .request_errors(RDKafkaApiKey::Produce, &[refused]);
    let running = mock.consume(&runs);
    await_count(&running, "dead_letter_errors", 1).await;
    assert_eq!(runs.of("b"), 0, "nothing overtakes it");
    assert_eq!(mock.committed(), None);
    eventually("it is sent, and the next one runs", async || {
        mock.committed() == Some(2)
    })
    .await;
    assert_eq!(count(&running, "dead_letters"), 1);
    assert_eq!(runs.of("b"), 1);
    stop(running).await;
}
