//! How an embedded store is opened.

use crate::quota::Quotas;
use crate::waiters::WaiterCaps;
use std::path::PathBuf;
use std::time::Duration;

/// When a write is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Before it is answered: survives `kill -9` and power loss. Operations that arrive during an
    /// fsync share the next one.
    Durable,
    /// Within `interval`: survives `kill -9`; power loss may forget the last moments, and so may
    /// repeat an execution.
    Relaxed {
        /// Time between two fsyncs.
        interval: Duration,
    },
}

/// Settings of an [`crate::Embedded`] store.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// Directory of the store; created if it does not exist. One process at a time.
    pub path: PathBuf,
    /// When a write is on disk. Default: [`Durability::Durable`].
    pub durability: Durability,
    /// High-water mark of the data: keys, records and bodies in bytes, as
    /// [`crate::Usage::bytes`] tells them. Above it acquires that would be granted are refused;
    /// one eighth above it, completes are kept as tombstones. The directory is larger than the
    /// data: see `journal_bytes`, and count on twice the data under churn. Default: no limit.
    pub max_bytes: Option<u64>,
    /// High-water mark of the disk: the same when less than this is free, in bytes, and the hard
    /// limit at half of it. Default: 256 MiB.
    pub min_free_bytes: u64,
    /// What one tenant may have. With any, a start looks at every record to count.
    pub quotas: Quotas,
    /// Most waits at one time.
    pub waiters: WaiterCaps,
    /// Memory for the cache of blocks and bodies, in bytes. Default: 128 MiB.
    pub cache_bytes: u64,
    /// Memory for recent writes, in bytes, per tree (there are four) and before it is flushed.
    /// Default: 32 MiB.
    pub write_buffer_bytes: u64,
    /// Size of the journals, in bytes, above which old ones are flushed and removed; at least
    /// 64 MiB. Default: 256 MiB.
    pub journal_bytes: u64,
}

impl EmbeddedOptions {
    /// The defaults, at `path`.
    pub fn new(path: impl Into<PathBuf>) -> EmbeddedOptions {
        EmbeddedOptions {
            path: path.into(),
            durability: Durability::Durable,
            max_bytes: None,
            min_free_bytes: 256 << 20,
            quotas: Quotas::default(),
            waiters: WaiterCaps::default(),
            cache_bytes: 128 << 20,
            write_buffer_bytes: 32 << 20,
            journal_bytes: 256 << 20,
        }
    }
}
