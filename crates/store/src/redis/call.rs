//! One call of a script, and what is handed to it.

use super::remembered;
use crate::clock::micros;
use crate::history::Failure;
use crate::machine::{AcquireEvent, Event, Room};
use crate::record::StoredOutcome;
use crate::store::{Resolution, Resolve};
use bytes::Bytes;
use idempotency_protocol::{Fingerprint, OnUnknown, Wait};

/// Outcomes up to this size (64 KiB) are sent along with the answer, and written by the
/// connection that all small operations share. Larger ones travel on connections of their own.
pub(super) const INLINE_MAX: u64 = 64 << 10;

/// One call of the script.
#[derive(Clone, Debug)]
pub(super) struct ScriptCall {
    /// The record's name.
    pub key: Bytes,
    /// `ARGV`.
    pub arguments: Vec<Bytes>,
    /// Keys that it names beside the first.
    pub beside: Vec<Bytes>,
    /// It is about what a tenant has, not about a record.
    pub ledger: bool,
    /// It is about a whole record.
    pub whole: bool,
    /// Bytes of the outcome that it carries.
    pub carries: u64,
    /// What it does is done when it is done twice.
    pub repeatable: bool,
    /// Ends an execution, or keeps it: sent again at any cost when the server is out of memory.
    pub must_get_through: bool,
}

pub(super) fn word(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

pub(super) fn number(n: u64) -> Bytes {
    Bytes::from(n.to_string())
}

fn flag(set: bool) -> Bytes {
    word(if set { "1" } else { "0" })
}

fn fingerprint(of: &Fingerprint) -> Bytes {
    let mut out = Vec::with_capacity(40);
    out.extend_from_slice(&of.scheme.0.to_be_bytes());
    out.extend_from_slice(&of.digest);
    Bytes::from(out)
}

fn owner(of: &idempotency_protocol::Owner) -> Bytes {
    Bytes::copy_from_slice(&of.0)
}

impl ScriptCall {
    fn new(key: Bytes, event: &'static str, rest: Vec<Bytes>) -> ScriptCall {
        let mut arguments = Vec::with_capacity(rest.len() + 7);
        arguments.push(word(event));
        arguments.extend(rest);
        ScriptCall {
            key,
            arguments,
            beside: Vec::new(),
            ledger: false,
            whole: false,
            carries: 0,
            repeatable: true,
            must_get_through: false,
        }
    }

    fn carrying(mut self, outcome: &StoredOutcome) -> ScriptCall {
        self.carries = outcome.size;
        self.arguments.extend([
            number(outcome.status.into()),
            flag(outcome.body_bytes.is_some()),
            number(outcome.body_bytes.unwrap_or(0)),
            Bytes::copy_from_slice(&outcome.digest),
            number(outcome.size),
            outcome.data.clone().unwrap_or_default(),
        ]);
        self
    }

    /// Number and bytes of its arguments, the record's name among them.
    pub fn room(&self) -> (usize, usize) {
        let all = || self.arguments.iter().chain(&self.beside);
        let bytes: usize = all().map(Bytes::len).sum();
        (all().count() + 1, self.key.len() + bytes)
    }

    /// The short way may answer it.
    pub fn goes_the_short_way(&self) -> bool {
        let event = self.arguments.first().map(Bytes::as_ref);
        matches!(event, Some(b"acquire" | b"complete"))
    }

    fn getting_through(mut self) -> ScriptCall {
        self.must_get_through = true;
        self
    }

    /// An operation; `room` is how much room the server is known to have.
    pub fn apply(key: Bytes, event: &Event, room: Room) -> ScriptCall {
        let facts_only = room == Room::FactsOnly;
        match event {
            Event::Acquire(acquire) => ScriptCall::acquire(key, acquire, room),
            Event::Complete { owner: o, outcome } => {
                let call = ScriptCall::new(key, "complete", vec![owner(o)]);
                call.carrying(&kept(outcome, facts_only)).getting_through()
            }
            Event::Fail { owner: o, failure } => {
                let (cause, redirect) = match failure {
                    Failure::Other => ("0", Bytes::new()),
                    Failure::NothingDone => ("1", Bytes::new()),
                    Failure::Redirected(outcome) => ("2", outcome.clone()),
                };
                let rest = vec![owner(o), word(cause), redirect];
                ScriptCall::new(key, "fail", rest).getting_through()
            }
            Event::Abandon { owner: o } => {
                ScriptCall::new(key, "abandon", vec![owner(o)]).getting_through()
            }
            Event::Extend { owner: o, lease_ms } => {
                let lease = number(micros(*lease_ms));
                ScriptCall::new(key, "extend", vec![owner(o), lease]).getting_through()
            }
            // Asked twice, the second answer would hide what the first one was.
            Event::Redeem {
                fence,
                fingerprint: f,
                expires_at_ms,
            } => {
                let end = number(micros(*expires_at_ms));
                let rest = vec![number(*fence), fingerprint(f), end];
                ScriptCall {
                    repeatable: false,
                    ..ScriptCall::new(key, "redeem", rest)
                }
            }
            Event::Settle { fence, outcome } => {
                let done = flag(outcome.is_some());
                let call =
                    ScriptCall::new(key, "settle", vec![number(*fence), done]).getting_through();
                match outcome {
                    Some(outcome) => call.carrying(&kept(outcome, facts_only)),
                    None => call,
                }
            }
        }
    }

    fn acquire(key: Bytes, a: &AcquireEvent, room: Room) -> ScriptCall {
        let unknown_ttl_ms = a.retention.unknown_ttl_ms.max(a.retention.ttl_ms);
        let retry = match a.on_unknown {
            OnUnknown::Refuse => "0",
            OnUnknown::Retry => "1",
            OnUnknown::RetryTransactions => "2",
        };
        let [before_the_time, behind_it] = remembered::first(a.kind, a.about.as_deref());
        let rest = vec![
            owner(&a.owner),
            fingerprint(&a.fingerprint),
            number(micros(a.lease_ms)),
            number(micros(a.retention.ttl_ms)),
            number(micros(unknown_ttl_ms)),
            word(retry),
            flag(room != Room::Plenty),
            number(INLINE_MAX),
            before_the_time,
            behind_it,
        ];
        ScriptCall::new(key, "acquire", rest)
    }

    /// An acquire that makes no new record, and says where it would; all others as they are.
    pub fn of_what_is_there(mut self) -> ScriptCall {
        if self
            .arguments
            .first()
            .is_some_and(|event| event == "acquire")
        {
            if let Some(grants) = self.arguments.get_mut(7).filter(|grants| *grants == "0") {
                *grants = word("2");
            }
        }
        self
    }

    /// An event of a tenant's ledger, which has three keys; `rest` is what follows it in `ARGV`.
    /// Events are told as they are, so the same one twice is told once.
    pub fn ledger(keys: [Bytes; 3], event: &'static str, rest: Vec<Bytes>) -> ScriptCall {
        let [key, leases, facts] = keys;
        ScriptCall {
            beside: vec![leases, facts],
            ledger: true,
            ..ScriptCall::new(key, event, rest)
        }
    }

    /// About a whole record.
    pub fn whole(key: Bytes, arguments: Vec<Bytes>) -> ScriptCall {
        ScriptCall {
            whole: true,
            arguments,
            ..ScriptCall::new(key, "", Vec::new())
        }
    }

    /// The same fact in the least space, for a server without memory.
    pub fn as_fact(event: &Event, key: Bytes) -> ScriptCall {
        ScriptCall::apply(key, event, Room::FactsOnly)
    }

    /// An operator's decision.
    pub fn resolve(key: Bytes, request: &Resolve) -> ScriptCall {
        let to = match request.to {
            Resolution::Completed(_) | Resolution::Prepared(_) => "completed",
            Resolution::Failed => "failed",
            Resolution::Deleted => "deleted",
        };
        let rest = vec![number(request.version), flag(request.force), word(to)];
        let call = ScriptCall::new(key, "resolve", rest);
        let call = match request.to.outcome() {
            Some(outcome) => call.carrying(&outcome),
            None => call,
        };
        // The second time, the version has changed.
        ScriptCall {
            repeatable: false,
            ..call
        }
    }

    /// A waiter's look.
    pub fn wait(key: Bytes, wait: &Wait) -> ScriptCall {
        let rest = vec![
            fingerprint(&wait.fingerprint),
            number(wait.fence),
            number(INLINE_MAX),
        ];
        ScriptCall::new(key, "wait", rest)
    }

    /// The outcome with that digest.
    pub fn outcome(key: Bytes, digest: Bytes) -> ScriptCall {
        ScriptCall::new(key, "outcome", vec![digest])
    }

    /// An operator's look.
    pub fn inspect(key: Bytes) -> ScriptCall {
        ScriptCall::new(key, "inspect", Vec::new())
    }

    /// An event of a lock on a node of the guard; `rest` is what follows it in `ARGV`.
    pub fn lock(key: Bytes, event: &'static str, rest: Vec<Bytes>) -> ScriptCall {
        ScriptCall::new(key, event, rest)
    }

    /// A sweeper's look.
    pub fn sweep(key: Bytes) -> ScriptCall {
        ScriptCall::new(key, "sweep", Vec::new())
    }
}

fn kept(outcome: &StoredOutcome, facts_only: bool) -> StoredOutcome {
    if facts_only {
        outcome.clone().into_tombstone()
    } else {
        outcome.clone()
    }
}
