//! What is known of a connection over time, and when it must end.
//!
//! The HTTP library has timeouts of its own, but its timeout for heads also runs while a
//! connection is idle between two requests, so that a gateway which re-uses a pooled connection at
//! that moment meets a reset; and it has none for answers that nobody reads.

use crate::config::Limits;
use crate::telemetry::refusals::Closed;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Milliseconds since the connection was opened; `NOTHING`: it has not happened.
type Moment = u64;
const NOTHING: Moment = u64::MAX;
/// A new connection that has to go gets this time to show a token.
const GRACE: Duration = Duration::from_millis(250);
/// What is read of a stranger before its requests are looked at.
const ROUND_BYTES: usize = 4096;

/// What is known of a connection.
pub(super) struct Watch {
    opened: Instant,
    /// When bytes of a head first came.
    head_since: AtomicU64,
    /// Since when no request is open.
    quiet_since: AtomicU64,
    /// Since when the socket takes no more bytes.
    blocked_since: AtomicU64,
    /// Many requests share an HTTP/2 connection, and its frames are no heads.
    http2: AtomicBool,
    seen: AtomicBool,
    /// It has shown a valid token.
    known: AtomicBool,
    /// It asked for more than it may, and nothing more is read of it.
    greedy: AtomicBool,
    /// Bytes read since the library was last asked to go on.
    round: AtomicUsize,
    open: Mutex<OpenRequests>,
}

#[derive(Default)]
struct OpenRequests {
    next: u64,
    /// When each request that is open must have got further.
    until: HashMap<u64, Due>,
}

struct Due {
    at: Moment,
    answered: bool,
}

/// A request, open until its answer was taken; over on drop.
pub(super) struct Request {
    watch: Arc<Watch>,
    id: u64,
}

impl Watch {
    pub(super) fn new() -> Arc<Watch> {
        Arc::new(Watch {
            opened: Instant::now(),
            head_since: AtomicU64::new(NOTHING),
            quiet_since: AtomicU64::new(0),
            blocked_since: AtomicU64::new(NOTHING),
            http2: AtomicBool::new(false),
            seen: AtomicBool::new(false),
            known: AtomicBool::new(false),
            greedy: AtomicBool::new(false),
            round: AtomicUsize::new(0),
            open: Mutex::default(),
        })
    }

    fn now(&self) -> Moment {
        millis(self.opened.elapsed())
    }

    fn open(&self) -> MutexGuard<'_, OpenRequests> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These bytes came.
    pub(super) fn read(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.round.fetch_add(bytes.len(), Relaxed);
        if !self.seen.swap(true, Relaxed) {
            // The preface of HTTP/2; no method of HTTP/1.1 begins so.
            self.http2.store(bytes.starts_with(b"PRI"), Relaxed);
        }
        let first = self.head_since.load(Relaxed) == NOTHING
            && self.quiet_since.load(Relaxed) != NOTHING
            && !self.http2.load(Relaxed);
        if first {
            self.head_since.store(self.now(), Relaxed);
        }
    }

    /// The library goes on.
    pub(super) fn new_round(&self) {
        self.round.store(0, Relaxed);
    }

    /// So much was read that the requests in it must be looked at first: the HTTP library would
    /// read all that there is before it shows us one of them.
    pub(super) fn read_enough(&self) -> bool {
        !self.is_known() && self.round.load(Relaxed) >= ROUND_BYTES
    }

    /// The socket took bytes, or would not.
    pub(super) fn wrote(&self, took: bool) {
        if took {
            self.blocked_since.store(NOTHING, Relaxed);
        } else if !self.is_blocked() {
            self.blocked_since.store(self.now(), Relaxed);
        }
    }

    /// The socket takes no bytes now.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked_since.load(Relaxed) != NOTHING
    }

    /// It shows a valid token; true if it had not before.
    pub(super) fn becomes_known(&self) -> bool {
        !self.known.load(Relaxed) && !self.known.swap(true, Relaxed)
    }

    /// It has shown a valid token.
    pub(super) fn is_known(&self) -> bool {
        self.known.load(Relaxed)
    }

    /// It asks for more than it may.
    pub(super) fn asks_too_much(&self) {
        self.greedy.store(true, Relaxed);
    }

    /// It asked for more than it may.
    pub(super) fn is_greedy(&self) -> bool {
        self.greedy.load(Relaxed)
    }

    /// A head is complete.
    pub(super) fn begin(self: &Arc<Watch>, limits: &Limits) -> Request {
        let allowed = if self.is_known() {
            limits.request_timeout
        } else {
            limits.write_timeout
        };
        let at = self.now().saturating_add(millis(allowed));
        self.head_since.store(NOTHING, Relaxed);
        self.quiet_since.store(NOTHING, Relaxed);
        let mut open = self.open();
        let id = open.next;
        open.next += 1;
        let due = Due {
            at,
            answered: false,
        };
        open.until.insert(id, due);
        Request {
            watch: self.clone(),
            id,
        }
    }

    /// How many requests are open.
    pub(super) fn requests(&self) -> usize {
        self.open().until.len()
    }

    /// What is left of the time in which a new connection may show its first request, although it
    /// was told to go: it may be a gateway's, in the middle of a flood from the same address.
    pub(super) fn grace(&self) -> Duration {
        if self.open().next == 0 {
            GRACE.saturating_sub(self.opened.elapsed())
        } else {
            Duration::ZERO
        }
    }

    /// Why the connection must end now, if it must.
    pub(super) fn verdict(&self, limits: &Limits) -> Option<Closed> {
        let now = self.now();
        let over = |since: Moment, limit: Duration| {
            since != NOTHING && now.saturating_sub(since) >= millis(limit)
        };
        if over(self.blocked_since.load(Relaxed), limits.write_timeout) {
            return Some(Closed::NotRead);
        }
        if let Some(late) = self.open().until.values().find(|due| due.at <= now) {
            return Some(if late.answered {
                Closed::NotRead
            } else {
                Closed::SlowRequest
            });
        }
        if over(self.head_since.load(Relaxed), limits.header_timeout) {
            return Some(Closed::SlowHead);
        }
        let quiet_since = self.quiet_since.load(Relaxed);
        if self.is_known() {
            return over(quiet_since, limits.idle_timeout).then_some(Closed::Idle);
        }
        // Nothing was ever asked: what is slow here is the first head.
        let never = self.open().next == 0;
        over(quiet_since, limits.header_timeout).then_some(if never {
            Closed::SlowHead
        } else {
            Closed::Idle
        })
    }
}

impl Request {
    /// Its answer is ready, and waits to be taken.
    pub(super) fn answered(&self, limits: &Limits) {
        let at = self
            .watch
            .now()
            .saturating_add(millis(limits.write_timeout));
        if let Some(due) = self.watch.open().until.get_mut(&self.id) {
            due.at = at;
            due.answered = true;
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let mut open = self.watch.open();
        open.until.remove(&self.id);
        if open.until.is_empty() {
            self.watch.quiet_since.store(self.watch.now(), Relaxed);
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(NOTHING - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    /// Each limit that is named is over at once; the others never are.
    fn limits(over: &[&str]) -> Limits {
        let mut limits = Settings {
            gateway_tokens: vec!["0123456789abcdef".into()],
            ..Settings::default()
        }
        .check()
        .unwrap()
        .limits;
        let is = |name| {
            if over.contains(&name) {
                Duration::ZERO
            } else {
                Duration::from_secs(3600)
            }
        };
        limits.header_timeout = is("header");
        limits.write_timeout = is("write");
        limits.request_timeout = is("request");
        limits.idle_timeout = is("idle");
        limits
    }

    #[test]
    fn the_first_head_then_idleness() {
        let watch = Watch::new();
        let header = limits(&["header"]);
        assert_eq!(watch.verdict(&header), Some(Closed::SlowHead), "silent");
        watch.read(b"PRI");
        assert_eq!(watch.verdict(&header), Some(Closed::SlowHead), "a preface");
        let request = watch.begin(&header);
        assert_eq!(watch.verdict(&header), None, "answering");
        drop(request);
        assert_eq!(watch.verdict(&header), Some(Closed::Idle));
        assert_eq!(watch.verdict(&limits(&["idle"])), None);
        watch.becomes_known();
        assert_eq!(watch.verdict(&header), None);
        assert_eq!(watch.verdict(&limits(&["idle"])), Some(Closed::Idle));
    }

    #[test]
    fn a_known_connection_s_head_is_timed_from_its_first_byte() {
        let watch = Watch::new();
        let header = limits(&["header"]);
        assert!(watch.becomes_known() && !watch.becomes_known());
        let request = watch.begin(&header);
        watch.read(b"more of the body");
        assert_eq!(watch.verdict(&header), None, "bytes of a body are no head");
        drop(request);
        assert_eq!(watch.verdict(&header), None, "idle");
        watch.read(b"POS");
        assert_eq!(watch.verdict(&header), Some(Closed::SlowHead));
        assert_eq!(watch.verdict(&limits(&[])), None);
    }

    #[test]
    fn requests_and_their_answers() {
        let watch = Watch::new();
        let write = limits(&["write"]);
        drop(watch.begin(&write));
        watch.becomes_known();
        let slow = watch.begin(&limits(&["request"]));
        assert_eq!(watch.verdict(&write), Some(Closed::SlowRequest));
        drop(slow);
        let other = watch.begin(&write);
        let request = watch.begin(&write);
        assert_eq!((watch.verdict(&write), watch.requests()), (None, 2));
        request.answered(&write);
        assert_eq!(watch.verdict(&write), Some(Closed::NotRead));
        drop(request);
        assert_eq!(watch.verdict(&write), None);
        drop(other);
        watch.wrote(false);
        assert!(watch.is_blocked());
        assert_eq!(watch.verdict(&write), Some(Closed::NotRead));
        watch.wrote(true);
        assert_eq!(watch.verdict(&write), None);
    }
}
