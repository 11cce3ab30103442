//! What can go wrong, told apart by what the caller should do.

/// Why there is no [`Entry`](crate::Entry), or why a value cannot be used. In every case the caller has
/// executed nothing yet, and may not.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store cannot be reached now. The attempt to lock the key is taken back; try again later.
    #[error("the idempotency store cannot be reached: {0}")]
    StoreDown(String),
    /// The store refused, and will go on refusing until somebody acts.
    #[error("the idempotency store refused: {0}")]
    StoreFailed(String),
    /// The store is above its high-water mark and accepts no new executions.
    #[error("the idempotency store is full: {0}")]
    Full(String),
    /// The tenant's quota of new records is used up.
    #[error("the tenant's quota of idempotency keys is used up: {0}")]
    Quota(String),
    /// The store granted the key, but too late: too little of the lease was left. The key is free
    /// again; try again.
    #[error("the grant came too late to be used")]
    Late,
    /// As many executions as [`Guard::max_executions`](crate::Guard::max_executions) allows are running.
    /// The key is free again; try again later.
    #[error("too many executions are running")]
    Busy,
    /// [`Guard::drain`](crate::Guard::drain) has begun: this process starts no new executions.
    #[error("this process is shutting down")]
    Closing,
    /// The key, the tenant or the namespace is empty or too long.
    #[error("invalid key: {0}")]
    InvalidKey(&'static str),
    /// A setting of the guard is out of its range.
    #[error("invalid setting: {0}")]
    Settings(&'static str),
    /// The operating system gives no random numbers, so no execution can be told from another.
    #[error("no random numbers: {0}")]
    NoRandomness(String),
    /// A value cannot be written as JSON, or a stored answer cannot be read as the wanted type.
    #[error("JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A payload has no unambiguous form to compare: an object names a member twice.
    #[error("the payload cannot be compared: {0}")]
    Payload(String),
    /// An outcome that could not be replayed: its status is not between 200 and 599, or it has a header
    /// that is never stored.
    #[error("the outcome cannot be stored: {0}")]
    NotStorable(&'static str),
    /// The operation was done before, but its answer was not kept (it was too large, for example).
    #[error("done before, but the answer was not kept")]
    NotReplayable,
}

impl Error {
    /// Whether the same call may succeed later without anybody doing anything.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Error::StoreDown(_)
                | Error::Full(_)
                | Error::Quota(_)
                | Error::Late
                | Error::Busy
                | Error::Closing
        )
    }
}

/// Why the end of an execution is not recorded as asked. The execution itself has happened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettleError {
    /// This execution does not hold its key any more: its lease ran out and another execution took the
    /// key, or an operator decided. What the other one did counts; undo, or report.
    #[error("another execution holds the key")]
    Lost,
    /// This execution has already stored another outcome, which stays.
    #[error("this execution has already stored another outcome")]
    Differs,
    /// The record is settled in another way, which stays: a completed record is not freed.
    #[error("the record is already settled in another way")]
    Refused,
    /// The store cannot be reached now. The guard goes on trying in the background, for up to 15
    /// minutes; if that fails too, the outcome ends *unknown*.
    #[error("the idempotency store cannot be reached: {0}")]
    StoreDown(String),
    /// The store refused the outcome itself: it is over a limit. The record ends *unknown*.
    #[error("the idempotency store refused the outcome: {0}")]
    StoreFailed(String),
}
