//! Committing offsets: only from the consumer's thread, and waiting for the answer.
//!
//! A commit that nobody waits for can be sent later, when librdkafka has found the group's coordinator again, and by
//! then in the name of a generation in which the partition is somebody else's. The thread that waits for the answer is
//! the one that would take part in the next rebalance, so no commit outlives its generation.

use super::ledger::{Commit, Partition};
use super::metrics::ConsumerCounter;
use super::state::ConsumerState;
use crate::seldom::Seldom;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::{Offset, TopicPartitionList};

/// Commits what is done, of all partitions or of these. What fails is tried again with the next commit.
pub(crate) fn commit<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    state: &ConsumerState,
    of: Option<&[Partition]>,
    troubles: &Seldom,
) {
    let commits = state.lock().ledger.to_commit(of);
    if commits.is_empty() {
        return;
    }
    let mut list = TopicPartitionList::with_capacity(commits.len());
    for Commit { place, next, .. } in &commits {
        let offset = Offset::Offset(*next);
        let added = list.add_partition_offset(&place.topic, place.partition, offset);
        if let Err(error) = added {
            tracing::error!(%error, "an offset that cannot be committed");
        }
    }
    match consumer.commit(&list, CommitMode::Sync) {
        Ok(()) => {
            state.counters.count(ConsumerCounter::Commits);
            let ledger = &mut state.lock().ledger;
            commits.iter().for_each(|commit| ledger.committed(commit));
        }
        Err(error) => {
            state.counters.count(ConsumerCounter::CommitErrors);
            if let Some(unsaid) = troubles.say() {
                tracing::warn!(%error, unsaid, "offsets are not committed; they will be tried again");
            }
        }
    }
}
