//! The one trait that every backend implements.

use crate::history::PastEnd;
use crate::machine::Event;
use crate::quota::Quotas;
use crate::record::{Slot, StoredOutcome};
use crate::search::{self, Found, Search};
use crate::transaction::Transactions;
use crate::waiters::WaitCounts;
use async_trait::async_trait;
use idempotency_protocol::{
    About, Answer, AttemptKind, Fault, FaultCode, LookupKey, Operation, Outcome, Wait,
};

/// State of a record as an operator sees it. `absent` is the lack of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordState {
    /// An execution holds the key (its lease may be over).
    Executing,
    /// Done; the outcome is stored.
    Completed,
    /// Provably not done; a retry executes.
    Failed,
    /// May have been done.
    Unknown,
}

/// One record without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordView {
    /// The record's identity.
    pub key: LookupKey,
    /// Its state.
    pub state: RecordState,
    /// Changes with every change of the record; for compare-and-set.
    pub version: u64,
    /// Fence of the newest execution.
    pub fence: u64,
    /// Number of the newest execution, 1 for the first.
    pub attempt: u32,
    /// The first eight hexadecimal digits of the owner of the newest execution: they tell two owners apart, and
    /// are not enough to be one. `None`: an operator has decided, and nobody is the owner.
    pub owner: Option<String>,
    /// Status of the stored response or tombstone.
    pub status: Option<u16>,
    /// Size of the stored body in bytes.
    pub body_bytes: Option<u64>,
    /// Completed, but there is nothing to replay.
    pub tombstone: bool,
    /// When the key was first granted, milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// When the record entered its state, milliseconds since the Unix epoch.
    pub changed_at_ms: u64,
    /// What is left of the lease, while executing (0: over).
    pub lease_left_ms: Option<u64>,
    /// When the record is forgotten, milliseconds since the Unix epoch; `None` while executing.
    pub expires_at_ms: Option<u64>,
    /// What the record says of the request of the newest attempt.
    pub about: Option<Box<About>>,
    /// The attempts that are remembered one by one, oldest first. The last one is the newest: how that ended is
    /// the record's state. Empty where this build cannot read the history.
    pub attempts: Vec<AttemptView>,
}

/// One attempt, as an operator sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptView {
    /// 1 for the first one.
    pub number: u32,
    /// Who ran it.
    pub kind: AttemptKind,
    /// When it was granted, milliseconds since the Unix epoch.
    pub started_at_ms: u64,
    /// How it ended and when, milliseconds since the Unix epoch; `None` for the newest attempt.
    pub end: Option<(PastEnd, u64)>,
}

/// What an operator looks for.
#[derive(Clone, Debug, Default)]
pub struct ListFilter {
    /// Only this tenant.
    pub tenant: Option<String>,
    /// Only this namespace.
    pub namespace: Option<String>,
    /// Only this state.
    pub state: Option<RecordState>,
    /// Where the previous page ended ([`Page::next`]).
    pub after: Option<Vec<u8>>,
    /// Longest page; backends cap it at 1,000.
    pub limit: usize,
}

/// One page of records, in key order.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The records.
    pub records: Vec<RecordView>,
    /// Pass as [`ListFilter::after`] for the next page; `None` at the end.
    pub next: Option<Vec<u8>>,
}

/// What an operator sets a record to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// It was done; replay this.
    Completed(Outcome),
    /// The same, prepared by a store that wraps this one: what is kept of the outcome does not follow from its bytes.
    Prepared(StoredOutcome),
    /// It was not done; a retry executes.
    Failed,
    /// Forget the record: the key is absent afterwards.
    Deleted,
}

impl Resolution {
    /// What is stored, if it is done.
    pub fn outcome(&self) -> Option<StoredOutcome> {
        match self {
            Resolution::Completed(outcome) => Some(StoredOutcome::new(outcome)),
            Resolution::Prepared(outcome) => Some(outcome.clone()),
            Resolution::Failed | Resolution::Deleted => None,
        }
    }
}

/// A batch of a rewrap: records that are sealed with an older key, or not at all, are sealed with the newest.
#[derive(Clone, Debug, Default)]
pub struct Rewrap {
    /// Where the previous batch ended ([`Rewrapped::next`]).
    pub after: Option<Vec<u8>>,
    /// Most records that are looked at; backends cap it at 1,000.
    pub limit: usize,
}

/// What a batch of a rewrap did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrapped {
    /// Records that were looked at.
    pub looked_at: usize,
    /// Records that are sealed with the newest key now, and were not before.
    pub rewrapped: usize,
    /// How many of them were in clear.
    pub in_clear: usize,
    /// Records that changed meanwhile, or that a transaction holds: for another pass.
    pub busy: usize,
    /// Records that cannot be opened: their key is missing, or they are damaged.
    pub unreadable: usize,
    /// Pass as [`Rewrap::after`] to go on; `None`: the pass is over.
    pub next: Option<Vec<u8>>,
}

/// An operator's change of one record, compare-and-set on its version.
#[derive(Clone, Debug)]
pub struct Resolve {
    /// The record.
    pub key: LookupKey,
    /// The version that the operator saw.
    pub version: u64,
    /// What to set it to.
    pub to: Resolution,
    /// Also while an execution holds a live lease: the operator knows that it is dead.
    pub force: bool,
}

/// How a [`Resolve`] ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// Changed; the record as it is now (`None` after a delete).
    Done(Option<RecordView>),
    /// There is no such record.
    NoSuchKey,
    /// The record has changed since the operator saw it.
    VersionChanged(RecordView),
    /// An execution holds a live lease, and `force` was not set.
    Executing(RecordView),
}

/// Gauges for metrics and readiness.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// Number of records, where the backend knows it cheaply.
    pub records: Option<u64>,
    /// Bytes on disk or in memory.
    pub bytes: Option<u64>,
    /// Acquires are refused: above the high-water mark.
    pub above_high_water: bool,
}

/// What one sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Records forgotten because their TTL was over.
    pub expired: usize,
    /// Executions whose lease was over, now `unknown`.
    pub lapsed: usize,
    /// Slots that were changed or removed, whatever they held: also those of which only marks were
    /// left, and leases of an earlier start that are now counted from this one.
    pub slots: usize,
    /// More is due than one batch takes.
    pub more: bool,
}

impl Swept {
    /// Whether the next sweep should follow at once: more is due, and this one did something. A
    /// sweep that did nothing and still promises more would otherwise be repeated without an end.
    pub fn again(&self) -> bool {
        self.more && self.slots > 0
    }
}

const NO_EXPORT: &str = "this store hands no records out";

/// A backend could not do its work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// May work later: connection lost, timeout, fail-over, disk full.
    #[error("store unavailable: {0}")]
    Transient(String),
    /// Will not work until somebody acts: wrong password, corrupt file, wrong version.
    #[error("store failed: {0}")]
    Permanent(String),
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Fault {
        use idempotency_protocol::FaultCode;
        let code = match error {
            StoreError::Transient(_) => FaultCode::Unavailable,
            StoreError::Permanent(_) => FaultCode::Internal,
        };
        Fault {
            code,
            detail: error.to_string(),
        }
    }
}

/// A place for records. All clocks are the store's; see `docs/semantics.md` for the table of
/// states and events that every backend implements, and `contract` for the suite that proves it.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Applies each operation atomically, in order where they concern the same key, and answers
    /// each on its own, in the order asked. An answer is returned only when the state that it
    /// tells of is as durable as this store's mode promises. A failure of the store is an
    /// [`Answer::Fault`] in the place of each operation that it hit.
    async fn apply(&self, operations: Vec<Operation>) -> Vec<Answer>;

    /// As [`Store::apply`], with operations that were prepared before ([`Event::prepare`]): for a store that wraps
    /// this one and changes what is kept.
    ///
    /// The default is for stores that nobody wraps so: it answers with faults, and nothing happens.
    async fn apply_events(&self, events: Vec<(LookupKey, Event)>) -> Vec<Answer> {
        let fault = Fault {
            code: FaultCode::Internal,
            detail: "this store takes no prepared operations".to_owned(),
        };
        vec![Answer::Fault(fault); events.len()]
    }

    /// Waits until the execution with that fence has ended, at most `wait.wait_ms`. Answers
    /// [`Answer::Stored`], [`Answer::Changed`], [`Answer::TimedOut`] or [`Answer::Fault`].
    /// Dropping the future ends the wait.
    ///
    /// The store keeps the number of waits within its [`WaiterCaps`](crate::WaiterCaps): a wait
    /// over a cap is answered [`Answer::TimedOut`] at once. Its callers count nothing themselves.
    async fn wait(&self, wait: Wait) -> Answer;

    /// How many wait in this instance, and how many were refused; for metrics. A store that wraps
    /// another one hands on what that says. The default is for stores that nobody watches.
    fn waits(&self) -> WaitCounts {
        WaitCounts::default()
    }

    /// Reads one record.
    async fn inspect(&self, key: &LookupKey) -> Result<Option<RecordView>, StoreError>;

    /// Reads one page of records.
    async fn list(&self, filter: ListFilter) -> Result<Page, StoreError>;

    /// Goes through the records in this store's own order, a bounded number of them per call, and returns those
    /// that match. What is there all the while is found, whatever changes meanwhile; a store whose order is not
    /// that of the keys may show a record twice.
    ///
    /// The default goes through pages of [`Store::list`]. A store that wraps another one hands the search on.
    async fn search(&self, search: Search) -> Result<Found, StoreError> {
        search::by_pages(self, &search).await
    }

    /// Reads the stored answer of a completed record: what is replayed. `None` if there is no such record, or it is
    /// not completed.
    ///
    /// # Errors
    ///
    /// [`StoreError::Permanent`] where the answer cannot be read, and from a store that knows no way.
    async fn stored(&self, key: &LookupKey) -> Result<Option<Outcome>, StoreError> {
        let _ = key;
        let message = "this store does not show stored answers".to_owned();
        Err(StoreError::Permanent(message))
    }

    /// Changes one record on an operator's behalf.
    async fn resolve(&self, resolve: Resolve) -> Result<Resolved, StoreError>;

    /// Forgets expired records and turns lapsed executions into `unknown`, at most `limit` of
    /// them. Never touches an execution with a live lease.
    async fn sweep(&self, limit: usize) -> Result<Swept, StoreError>;

    /// Holds every tenant to these quotas from now on, for new records only: an acquire that would
    /// make one beyond them is answered [`FaultCode::Quota`](idempotency_protocol::FaultCode), and
    /// everything else goes on. What is there already counts, at once or after a pass of
    /// [`Store::sweep`] over all records.
    ///
    /// # Errors
    ///
    /// [`StoreError::Permanent`] from a store that knows no quotas, unless there are none.
    async fn set_quotas(&self, quotas: Quotas) -> Result<(), StoreError> {
        if quotas.any() {
            let message = "this store knows no quotas".to_owned();
            return Err(StoreError::Permanent(message));
        }
        Ok(())
    }

    /// Everything that is kept under a key, with the outcome's data, expired or not. For tools that move or rewrite
    /// records, with [`Store::replace`].
    ///
    /// # Errors
    ///
    /// [`StoreError::Permanent`] where a record cannot be read whole, and from a store that knows no way.
    async fn export(&self, key: &LookupKey) -> Result<Option<Slot>, StoreError> {
        let _ = key;
        Err(StoreError::Permanent(NO_EXPORT.to_owned()))
    }

    /// Puts `slot`, or nothing, in the place of what is kept under a key at that version; 0: nothing is kept there.
    /// False: something else is there, or a transaction holds it, and nothing happened. Waiters look again.
    ///
    /// Nothing is decided by the state machine here: a caller changes how a record is kept, and never what it says.
    /// A slot that replaces another one has a later version.
    ///
    /// # Errors
    ///
    /// As [`Store::export`].
    async fn replace(
        &self,
        key: &LookupKey,
        replaces: u64,
        slot: Option<Slot>,
    ) -> Result<bool, StoreError> {
        let _ = (key, replaces, slot);
        Err(StoreError::Permanent(NO_EXPORT.to_owned()))
    }

    /// Seals what is sealed with an older key, or is in clear, with the newest: one batch.
    ///
    /// # Errors
    ///
    /// [`StoreError::Permanent`] from a store that seals nothing.
    async fn rewrap(&self, rewrap: Rewrap) -> Result<Rewrapped, StoreError> {
        let _ = rewrap;
        let message = "this store is not encrypted".to_owned();
        Err(StoreError::Permanent(message))
    }

    /// Has what was deleted leave the store's files at once, where these are this process' own. False: they are
    /// another server's, which has its own ways and times. Takes time in proportion to the records; operations go on.
    /// A store that wraps another one hands it on.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it could not be done.
    async fn scrub(&self) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// Whether the store can do its work now; the error names what is wrong.
    async fn ready(&self) -> Result<Usage, StoreError>;

    /// Ends when this store can never work again in this process, and says why: the process should
    /// end then, and be started again. Stores that recover by themselves never say so.
    async fn broken(&self) -> StoreError {
        std::future::pending().await
    }

    /// What this store has for transactions of applications that complete their record themselves: its records are
    /// in a database that those can reach. `None` for all others. A store that wraps another one hands on what that
    /// says, if what applications do past it is of no concern to it.
    fn transactions(&self) -> Option<&dyn Transactions> {
        None
    }

    /// Finishes what is in flight and makes it durable. Waiters are answered
    /// [`Answer::TimedOut`]. Operations that arrive later are answered with a fault.
    async fn close(&self);
}
