//! What passes the filter of an answer, and how its end becomes the end of the execution. What the end means
//! is [`idempotency_core::ending`]'s: for executions that went on through the filter chain, for detached ones,
//! and for those that are only observed.

use crate::lease::Lease;
use crate::profile::Profile;
use crate::stream::Effect;
use idempotency_core::classify::Source;
use idempotency_core::headers::Headers;
use idempotency_core::request::Request;
use idempotency_protocol::Operation;

pub use idempotency_core::ending::Ending;

/// Ends the execution that holds a lease: it is renewed no more. What the service is to be told.
pub fn settle(ending: Ending, lease: &Lease, effects: &mut Vec<Effect>) -> Operation {
    effects.push(Effect::Untrack(lease.owner));
    ending.end().operation(lease.key.clone(), lease.owner)
}

/// An answer that passes the filter.
#[derive(Debug)]
pub struct Passing {
    ending: Ending,
    /// What is left of `content-length`.
    left: Option<u64>,
    over: bool,
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
        Passing {
            ending: Ending::answered(
                request,
                lease.map(Lease::sent),
                source,
                headers.status().unwrap_or(0),
                headers,
            ),
            left: headers.content_length(),
            over: end,
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
