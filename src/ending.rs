//! What passes the filter of an answer, and how its end becomes the end of the execution. What the end means
//! is [`idempotency_core::ending`]'s: for executions that went on through the filter chain, for detached ones,
//! and for those that are only observed.

use crate::lease::Lease;
use crate::note::Note;
use crate::profile::Profile;
use crate::stats::Counter;
use crate::stream::Effect;
use idempotency_core::classify::Source;
use idempotency_core::headers::Headers;
use idempotency_core::request::Request;
use idempotency_protocol::{LookupKey, Operation};

pub use idempotency_core::ending::Ending;

/// Ends the execution that holds a lease: it is renewed no more. What the service is to be told.
pub fn settle(ending: Ending, lease: &Lease, effects: &mut Vec<Effect>) -> Box<Operation> {
    effects.push(Effect::Untrack(lease.owner));
    let key = LookupKey::clone(&lease.key);
    Box::new(ending.end().operation(key, lease.owner))
}

/// Why an outcome is unknown: the client or the gateway ended the request before its answer was whole.
pub const CUT: &str = "the request or its answer was cut off";
/// Why an outcome is unknown: an answer of its class proves nothing.
pub const UNCLEAR: &str = "this answer does not show whether the request was executed";

/// The same, and the operator is told of an outcome that nobody knows. `status`: what the client gets; 0: nothing
/// whole.
pub fn settle_telling(
    request: &Request,
    ending: Ending,
    lease: &Lease,
    (status, why): (u16, &'static str),
    effects: &mut Vec<Effect>,
) -> Box<Operation> {
    if matches!(ending, Ending::Unknown) {
        let mut note = Note::of(request, Counter::Unknown).about(&lease.key, lease.fence);
        (note.status, note.why) = (status, why.into());
        effects.push(Effect::Note(note));
    }
    settle(ending, lease, effects)
}

/// An answer that passes the filter.
#[derive(Debug)]
pub struct Passing {
    ending: Ending,
    /// What is left of `content-length`.
    left: Option<u64>,
    over: bool,
    status: u16,
}

impl Passing {
    /// The head has come. `end`: there is no body.
    pub fn begin(
        request: &Request,
        lease: Option<&Lease>,
        source: &Source,
        headers: &Headers,
        end: bool,
    ) -> Passing {
        let status = headers.status().unwrap_or(0);
        let sent = lease.map(Lease::sent);
        Passing {
            ending: Ending::answered(request, sent, source, status, headers),
            left: headers.content_length(),
            over: end,
            status,
        }
    }

    /// More of the body. `end`: nothing follows, not even trailers.
    pub fn body(&mut self, chunk: &[u8], end: bool, profile: Profile) {
        self.ending.body(chunk);
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(chunk.len() as u64);
        }
        // Kong's host does not always say that a body is whole.
        self.over |= end || profile == Profile::Kong && self.left == Some(0);
    }

    /// There are trailers: the body is over.
    pub fn trailers(&mut self) {
        self.ending.trailers();
        self.over = true;
    }

    /// A piece of the body cannot be read.
    pub fn unreadable(&mut self) {
        self.ending.unreadable();
    }

    /// Its status; 0 where it has none.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// How it ends, as far as it has come.
    pub fn so_far(&self) -> &Ending {
        &self.ending
    }

    /// What is left of `content-length`.
    pub fn left(&self) -> Option<u64> {
        self.left
    }

    /// Whether nothing of it is to come.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// How the execution ended. An answer that is not over will never be: it was cut.
    pub fn ending(self) -> Ending {
        match self.over {
            true => self.ending,
            false => self.ending.cut(),
        }
    }
}
