//! Reading large outcomes outside the order of operations.
//!
//! The applier decides that an outcome is replayed; fetching a megabyte from disk would delay
//! all operations behind it. So it takes a snapshot, which no later write can change, and the caller
//! reads the body from that.

use super::engine;
use crate::machine::Replay;
use crate::replay;
use crate::store::StoreError;
use bytes::Bytes;
use fjall::{Keyspace, Readable, Snapshot};
use idempotency_protocol::Answer;

/// An answer of the applier.
pub(super) enum ApplierAnswer {
    /// Complete.
    Whole(Answer),
    /// The body is still to be read.
    Bodyless(Replay, BodyReader),
}

/// What a waiter is told.
pub(super) enum WaiterLook {
    /// The wait is over.
    Over(ApplierAnswer),
    /// Still in flight.
    Wait {
        /// What is left of the lease.
        lease_left_ms: u64,
    },
}

/// One body as it was when the applier looked.
pub(super) struct BodyReader {
    pub snapshot: Snapshot,
    pub bodies: Keyspace,
    pub key: Vec<u8>,
}

impl BodyReader {
    /// Blocks on the disk. `None` if the body is gone or damaged, which it will be the next time, too.
    pub fn read(&self) -> Result<Option<Bytes>, StoreError> {
        match self.snapshot.get(&self.bodies, &self.key) {
            Ok(found) => Ok(found.map(Bytes::from)),
            Err(error) if engine::is_damage(&error) => Ok(None),
            Err(error) => Err(engine::unreadable(error)),
        }
    }
}

impl ApplierAnswer {
    /// The whole answer; a body is read on a thread that may block.
    pub async fn whole(self) -> Answer {
        let (mut found, reader) = match self {
            ApplierAnswer::Whole(answer) => return answer,
            ApplierAnswer::Bodyless(found, reader) => (found, reader),
        };
        let read = tokio::task::spawn_blocking(move || match reader.read() {
            Ok(data) => {
                found.outcome.data = data;
                replay::answer(found)
            }
            Err(error) => replay::unread(&error),
        });
        read.await
            .unwrap_or_else(|e| replay::damaged(format!("reading a body failed: {e}")))
    }
}
