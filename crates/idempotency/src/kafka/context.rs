//! What librdkafka tells: rebalances, statistics, errors. All of it comes in the consumer's thread.

use super::commit::commit;
use super::ledger::Partition;
use super::metrics::ConsumerCounter;
use super::state::ConsumerState;
use crate::seldom::Seldom;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use rdkafka::{ClientContext, Statistics, TopicPartitionList};
use std::sync::Arc;
use std::time::Duration;

pub(crate) struct GuardContext {
    pub state: Arc<ConsumerState>,
    /// How long a partition that is revoked waits for its handler, so that its offset can be committed.
    pub patience: Duration,
    pub troubles: Seldom,
}

impl GuardContext {
    /// Handlers that end soon are waited for, so that the next consumer need not look them up. The others go on; what
    /// they say about offsets is not heard any more.
    fn revoked(&self, consumer: &BaseConsumer<GuardContext>, places: &[Partition]) {
        self.state.leave(Some(places));
        // A lost partition may be somebody else's by now.
        if !consumer.assignment_lost() {
            self.state.wait_for(places, self.patience);
            commit(consumer, &self.state, Some(places), &self.troubles);
        }
        let mut inner = self.state.lock();
        for place in places {
            inner.ledger.revoked(place);
        }
    }

    fn assigned(&self, places: &[Partition]) {
        let mut inner = self.state.lock();
        for place in places {
            inner.ledger.assigned(place.clone());
        }
    }
}

fn places(list: &TopicPartitionList) -> Vec<Partition> {
    let elements = list.elements();
    let places = elements.iter().map(|element| Partition {
        topic: element.topic().into(),
        partition: element.partition(),
    });
    places.collect()
}

impl ClientContext for GuardContext {
    fn stats(&self, statistics: Statistics) {
        for (topic, of_topic) in statistics.topics {
            let topic: Arc<str> = topic.into();
            for (partition, of_partition) in of_topic.partitions {
                let place = Partition {
                    topic: Arc::clone(&topic),
                    partition,
                };
                let (end, behind) = (of_partition.hi_offset, of_partition.consumer_lag);
                if end >= 0 {
                    self.state.note_end(place, end, behind);
                }
            }
        }
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error => tracing::error!(facility, "librdkafka: {line}"),
            RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice => {
                tracing::warn!(facility, "librdkafka: {line}");
            }
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
                tracing::debug!(facility, "librdkafka: {line}");
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(unsaid) = self.troubles.say() {
            tracing::warn!(%error, reason, unsaid, "Kafka");
        }
    }
}

impl ConsumerContext for GuardContext {
    fn pre_rebalance(&self, consumer: &BaseConsumer<GuardContext>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Revoke(list) => self.revoked(consumer, &places(list)),
            Rebalance::Assign(list) => {
                self.state.counters.count(ConsumerCounter::Rebalances);
                self.assigned(&places(list));
            }
            Rebalance::Error(error) => tracing::error!(%error, "a rebalance has failed"),
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<GuardContext>, rebalance: &Rebalance<'_>) {
        // A pause can outlast the assignment in which it was made.
        if let Rebalance::Assign(list) = rebalance {
            if let Err(error) = consumer.resume(list) {
                tracing::warn!(%error, "a partition is not resumed");
            }
        }
    }
}
