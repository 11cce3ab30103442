//! For code that cannot be wrapped.

use crate::entry::Entry;
use crate::error::Error;
use crate::fingerprint::Fingerprint;
use crate::guard::{Guard, OnUnknown};
use crate::outcome::Outcome;
use idempotency_protocol::{LookupKey, Origin};
use idempotency_store::{RecordState, StoreError};
use std::time::Duration;

/// Longest wait for somebody who marks the same id at this moment.
const LONGEST: Duration = Duration::from_secs(5);

/// Remembers which messages were processed: a question before, and a word after.
///
/// **This has a race, which [`Deduplicator`](super::Deduplicator) has not.** Between the question and the word lies
/// the work. Two consumers that ask at the same time both hear *no*, and both work. A consumer that dies after the
/// work and before the word leaves nothing, and the message is processed again. So it lowers the number of
/// duplicates; it does not rule them out. Take it where the code that processes messages cannot be put into a
/// handler, and where only one consumer at a time gets a message, as with one partition of Kafka.
///
/// ```
/// use idempotency::message::MessageDeduplicator;
/// use idempotency::{store::Memory, Guard};
/// use std::sync::Arc;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), idempotency::Error> {
/// let processed = MessageDeduplicator::new(Guard::new(Arc::new(Memory::default())).namespace("mails"));
/// if !processed.is_duplicate("e-1").await? {
///     // … send the mail …
///     processed.mark_processed("e-1").await?;
/// }
/// assert!(processed.is_duplicate("e-1").await?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct MessageDeduplicator {
    guard: Guard,
}

impl MessageDeduplicator {
    /// Ids are compared within this guard's namespace and tenant, and remembered for its TTL. Give each consumer
    /// group and topic a namespace of its own.
    pub fn new(guard: Guard) -> MessageDeduplicator {
        MessageDeduplicator {
            guard: guard.on_unknown(OnUnknown::Retry),
        }
    }

    /// Whether the message with this id was marked. One look at the store, which changes nothing. A store that is
    /// `remote` needs its token of the operator role for it.
    ///
    /// # Errors
    ///
    /// [`Error::StoreDown`] or [`Error::StoreFailed`]: nobody knows.
    pub async fn is_duplicate(&self, id: &str) -> Result<bool, Error> {
        let key = LookupKey {
            tenant: self.guard.tenant_name().to_owned(),
            namespace: self.guard.namespace_name().to_owned(),
            origin: Origin::Client,
            key: id.to_owned(),
        };
        let looked = tokio::time::timeout(LONGEST, self.guard.store().inspect(&key)).await;
        match looked {
            Ok(Ok(record)) => Ok(record.is_some_and(|r| r.state == RecordState::Completed)),
            Ok(Err(StoreError::Transient(detail))) => Err(Error::StoreDown(detail)),
            Ok(Err(error)) => Err(Error::StoreFailed(error.to_string())),
            Err(_) => Err(Error::StoreDown("no answer in time".to_owned())),
        }
    }

    /// The message with this id was processed. `false`: it was marked before, so it was processed more than once, or
    /// marked twice.
    ///
    /// # Errors
    ///
    /// As [`Guard::acquire`]; [`Error::StoreDown`] also if the mark itself is not known to be stored. Mark it again.
    pub async fn mark_processed(&self, id: &str) -> Result<bool, Error> {
        let mut entry = self.guard.acquire(id, Fingerprint::raw("")).await?;
        if let Entry::InFlight(running) = entry {
            entry = running.wait(LONGEST).await?;
        }
        match entry {
            Entry::Execute(execution) => {
                let marked = execution.complete(Outcome::empty(204)?).await;
                let lost = |error: crate::SettleError| Error::StoreDown(error.to_string());
                marked.map(|_| true).map_err(lost)
            }
            Entry::Replay(_) => Ok(false),
            Entry::InFlight(_) => Err(Error::StoreDown(
                "somebody else marks it, and does not come to an end".to_owned(),
            )),
            Entry::Mismatch | Entry::NotComparable | Entry::Unknown(_) => Err(Error::InvalidKey(
                "this namespace is used for something else, too",
            )),
        }
    }
}
