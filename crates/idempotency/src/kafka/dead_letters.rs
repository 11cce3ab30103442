//! The dead letter topic.

use crate::message::{DeadLetter, Reason};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Message};
use std::time::Duration;

/// Longest that one is tried; librdkafka tries again within it.
const LONGEST: Duration = Duration::from_secs(30);
/// Longest error in a header.
const MAX_ERROR: usize = 1_000;

pub(crate) struct DeadLetters {
    producer: FutureProducer,
    topic: String,
}

impl DeadLetters {
    pub fn new(config: &ClientConfig, topic: &str) -> Result<DeadLetters, KafkaError> {
        let mut config = config.clone();
        // One that is not stored by all replicas could be lost after its original was acknowledged.
        config.set("acks", "all");
        config.set("delivery.timeout.ms", LONGEST.as_millis().to_string());
        Ok(DeadLetters {
            producer: config.create()?,
            topic: topic.to_owned(),
        })
    }

    /// Sends a message as it is, with headers that say why it is here. Returns when the broker has it.
    pub async fn send(
        &self,
        message: &OwnedMessage,
        letter: &DeadLetter,
    ) -> Result<(), KafkaError> {
        let mut record: FutureRecord<'_, [u8], [u8]> =
            FutureRecord::to(&self.topic).headers(headers(message, letter));
        if let Some(key) = message.key() {
            record = record.key(key);
        }
        if let Some(payload) = message.payload() {
            record = record.payload(payload);
        }
        let sent = self.producer.send(record, LONGEST).await;
        sent.map(drop).map_err(|(error, _)| error)
    }
}

fn headers(message: &OwnedMessage, letter: &DeadLetter) -> OwnedHeaders {
    let mut headers = message.headers().cloned().unwrap_or_default();
    let mut facts = vec![
        ("reason", letter.reason().name().to_owned()),
        ("topic", message.topic().to_owned()),
        ("partition", message.partition().to_string()),
        ("offset", message.offset().to_string()),
    ];
    if let Reason::Poison { attempts } = letter.reason() {
        facts.push(("attempts", attempts.to_string()));
    }
    if let Some(error) = letter.error() {
        facts.push(("error", error.chars().take(MAX_ERROR).collect()));
    }
    for (name, value) in facts {
        headers = headers.insert(Header {
            key: &format!("idempotency-dead-letter-{name}"),
            value: Some(&value),
        });
    }
    headers
}
