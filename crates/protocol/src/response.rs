//! What a completed record holds.

use std::ops::Deref;

use bytes::Bytes;

use crate::codec::{Decoded, Reader};
use crate::parts;

/// An upstream's answer as it is stored and replayed: status, ordered headers, bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredResponse {
    /// HTTP status, 200–599.
    pub status: u16,
    /// Ordered; repeated names kept; names lower-case. Values are raw bytes.
    pub headers: Vec<(Bytes, Bytes)>,
    /// The body exactly as it passed the filter.
    pub body: Bytes,
}

/// Why a completed record has no response to replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TombstoneReason {
    /// The response was larger than the capture cap.
    TooLarge = 0,
    /// The response had trailers, which a replay cannot carry.
    Trailers = 1,
    /// The store was above its high-water mark: there was room only for the fact.
    Capacity = 2,
    /// The response had a status or a header that must not be stored.
    NotStorable = 3,
}

/// The execution is done, but its response cannot be replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// The status that the first client saw.
    pub status: u16,
    /// Why there is nothing to replay.
    pub reason: TombstoneReason,
}

/// The result of a finished execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Replayable.
    Response(StoredResponse),
    /// Done, not replayable.
    Tombstone(Tombstone),
}

/// An outcome on its way between a gateway and a store.
///
/// An outcome that was read from a message or from a record keeps the bytes that it was read from. Reading is what
/// shows that it is whole; the bytes then travel on as they are, and are not made again. An outcome that a program
/// made itself has none, and is encoded when it is sent.
#[derive(Clone, Debug)]
pub struct CarriedOutcome {
    outcome: Outcome,
    /// The form that [`Outcome::encode`] makes of `outcome`. It cannot become outdated: nothing changes `outcome`.
    bytes: Option<Bytes>,
}

impl CarriedOutcome {
    /// Reads what [`Outcome::encode`] wrote, and keeps it.
    pub fn decode(bytes: Bytes) -> Decoded<CarriedOutcome> {
        let outcome = Outcome::decode(bytes.clone())?;
        let bytes = Some(bytes);
        Ok(CarriedOutcome { outcome, bytes })
    }

    /// Reads an outcome after which more may follow.
    pub(crate) fn read(r: &mut Reader) -> Decoded<CarriedOutcome> {
        let (outcome, bytes) = r.keeping(parts::outcome)?;
        let bytes = Some(bytes);
        Ok(CarriedOutcome { outcome, bytes })
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        match &self.bytes {
            Some(bytes) => out.extend_from_slice(bytes),
            None => parts::put_outcome(out, &self.outcome),
        }
    }

    /// What [`Outcome::encode`] makes of it. Costs nothing where it was read.
    pub fn bytes(&self) -> Bytes {
        match &self.bytes {
            Some(bytes) => bytes.clone(),
            None => self.outcome.encode().into(),
        }
    }

    /// The outcome alone.
    pub fn into_outcome(self) -> Outcome {
        self.outcome
    }
}

impl From<Outcome> for CarriedOutcome {
    fn from(outcome: Outcome) -> CarriedOutcome {
        CarriedOutcome {
            outcome,
            bytes: None,
        }
    }
}

impl Deref for CarriedOutcome {
    type Target = Outcome;

    fn deref(&self) -> &Outcome {
        &self.outcome
    }
}

/// Two are the same if their outcomes are: the bytes follow from them.
impl PartialEq for CarriedOutcome {
    fn eq(&self, other: &CarriedOutcome) -> bool {
        self.outcome == other.outcome
    }
}

impl Eq for CarriedOutcome {}

impl PartialEq<Outcome> for CarriedOutcome {
    fn eq(&self, other: &Outcome) -> bool {
        self.outcome == *other
    }
}
