//! What the applier is asked to do, and where its answers go.

use super::body::{ApplierAnswer, BodyReader, WaiterLook};
use super::commits::Held;
use crate::machine::Event;
use crate::quota::Quotas;
use crate::record::{Slot, StoredOutcome};
use crate::store::{RecordView, Resolve, Resolved, StoreError, Swept};
use idempotency_protocol::{LookupKey, Wait};
use tokio::sync::oneshot;

/// Where an answer goes. The asker may have left.
pub(super) type ReplyTo<T> = oneshot::Sender<Result<T, StoreError>>;

/// An outcome, and where its data is if it is not in it.
pub(super) type Stored = (StoredOutcome, Option<BodyReader>);

/// What the applier is asked to do.
pub(super) enum Job {
    /// Operations, in order.
    Apply(Vec<(LookupKey, Event)>, ReplyTo<Vec<ApplierAnswer>>),
    /// A look on behalf of a waiter.
    Look(Wait, ReplyTo<WaiterLook>),
    /// One record.
    Inspect(LookupKey, ReplyTo<Option<RecordView>>),
    /// What is stored under a key; a body that is elsewhere is still to be read.
    Stored(LookupKey, ReplyTo<Option<Stored>>),
    /// Everything under a key; a body that is elsewhere is still to be read.
    Export(LookupKey, ReplyTo<Option<(Slot, Option<BodyReader>)>>),
    /// What is to be under a key in the place of what has this version.
    Replace(LookupKey, u64, Option<Box<Slot>>, ReplyTo<bool>),
    /// An operator's decision.
    Resolve(Resolve, ReplyTo<Resolved>),
    /// At most so many index entries.
    Sweep(usize, ReplyTo<Swept>),
    /// What every tenant is held to.
    Quotas(Quotas, ReplyTo<()>),
    /// The last job.
    Close(ReplyTo<()>),
}

/// Answers with `value` when the commit is done, or with its failure.
pub(super) fn held<T: Send + 'static>(reply: ReplyTo<T>, value: T) -> Held {
    Box::new(move |result| {
        let _ = reply.send(result.map(|()| value));
    })
}

/// Answers with an error.
pub(super) fn refuse(job: Job, error: StoreError) {
    fn send<T>(reply: ReplyTo<T>, error: StoreError) {
        let _ = reply.send(Err(error));
    }
    match job {
        Job::Apply(_, reply) => send(reply, error),
        Job::Look(_, reply) => send(reply, error),
        Job::Inspect(_, reply) => send(reply, error),
        Job::Stored(_, reply) => send(reply, error),
        Job::Export(_, reply) => send(reply, error),
        Job::Replace(_, _, _, reply) => send(reply, error),
        Job::Resolve(_, reply) => send(reply, error),
        Job::Sweep(_, reply) => send(reply, error),
        Job::Quotas(_, reply) => send(reply, error),
        Job::Close(reply) => send(reply, error),
    }
}
