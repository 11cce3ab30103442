//! The bugs that can be planted.

use clap::ValueEnum;

/// A mistake that somebody could make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Bug {
    /// None: this is what the real one does, on the same ways.
    None,
    /// Complete, fail, abandon and extend count, whoever sends them.
    NoOwnerCheck,
    /// A client that left inline frees its key.
    ReleaseOnDisconnect,
    /// An execution whose lease is over is forgotten.
    ExpiresIntoAbsence,
    /// When a key is free, it goes to one that waited for it and may have left.
    GrantToLeftWaiter,
    /// Complete frees the key before it stores the answer.
    FreedBeforeStored,
    /// Every payload is the same.
    FingerprintIgnored,
    /// Of each replay, one octet is another.
    ReplayChanged,
    /// Every tenant is the same.
    TenantIgnored,
    /// Every execution has the same fence.
    FenceStuck,
    /// One complete in five is acknowledged, and nothing is stored.
    AcknowledgedNotStored,
    /// One complete in five is forgotten soon after it was stored.
    StoredAndForgotten,
    /// One unknown outcome in two is told to be in flight.
    UnknownInFlight,
}
