//! What a stream wants done, as data: the state machine makes no hostcall.

use crate::call::Call;
use crate::forward::HeaderChange;
use crate::lease::Lease;
use crate::note::Note;
use crate::stats::Counter;
use bytes::Bytes;
use idempotency_core::config::Rule;
use idempotency_core::forward::Forwarding;
use idempotency_core::reply::LocalReply;
use idempotency_core::request::Request;
use idempotency_protocol::{Operation, Owner};
use std::sync::Arc;

/// What the host does with the data that the event told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Pass it on.
    Continue,
    /// Hold it.
    Pause,
}

/// One thing to do. Effects are done in order.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Ask the service; the answer comes back as [`crate::stream::Event::Answer`], unless the
    /// stream has gone. A settlement whose stream has gone goes on in the background.
    Call(Call),
    /// Settle in the background: retried until it is answered, or its time is over.
    Background(Box<Operation>),
    /// Execute detached; the end comes back as [`crate::stream::Event::Executed`].
    Execute(Box<Execute>),
    /// Renew this lease while the execution runs.
    Track(Lease),
    /// The execution has ended: renew no more.
    Untrack(Owner),
    /// Change the request's headers before it goes on.
    ChangeRequest(Vec<HeaderChange>),
    /// Let the request go on.
    ResumeRequest,
    /// Add a header to the held response.
    AddResponseHeader(Bytes, Bytes),
    /// Remove all occurrences of a header from the response.
    RemoveResponseHeader(Bytes),
    /// Let the response go on.
    ResumeResponse,
    /// Answer in place of the upstream.
    Reply(LocalReply),
    /// Cut the stream off: its response must not look complete.
    Reset,
    /// Count.
    Count(Counter),
    /// Count what became of a request of this rule.
    CountRule(Counter, Arc<Rule>),
    /// Tell the operator, and count it.
    Note(Box<Note>),
}

/// An execution that belongs to the gateway.
#[derive(Clone, Debug)]
pub struct Execute {
    /// What is executed.
    pub request: Arc<Request>,
    /// Under which lease.
    pub lease: Lease,
    /// Fence, attempt, proof.
    pub forwarding: Forwarding,
    /// The request's trailers.
    pub trailers: Vec<(Bytes, Bytes)>,
}
