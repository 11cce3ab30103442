//! What a completed record holds.

use bytes::Bytes;

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
