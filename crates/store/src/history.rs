//! What a record remembers beside its newest execution, and its byte form.
//!
//! ```text
//! history  := format:u8 flags:u8 kinds:u8 newest:u8 started_at:u64
//!             count:u8 past* count:u8 redirect* seal:text (0 | 1 about)
//! past     := kind:u8 end:u8 started_at:u64 ended_at:u64
//! redirect := fingerprint:40 fence:u64 attempt:u32 answered_at:u64 length:u32 outcome
//! about    := 7 × text
//! text     := length:u16 UTF-8
//! ```
//!
//! Integers are big-endian; times are microseconds of store time. Flags: 1 doubt, 2 effects. Everything that
//! the script of the Redis store reads or changes stands before the texts, which it copies as they are.
//!
//! A build that meets another format, or more bytes than it knows, cannot read the record whole, and must not
//! rewrite it.

use crate::clock::Micros;
use crate::record::StoredOutcome;
use bytes::{Buf, BufMut, Bytes};
use idempotency_protocol::limits::{MAX_REDIRECTS, MAX_REDIRECT_BYTES};
use idempotency_protocol::{
    About, AttemptKind, FailCause, Fingerprint, Outcome, Scheme, StoredResponse,
};
use std::sync::Arc;

/// Layout of a history.
pub const FORMAT: u8 = 1;

/// Most earlier attempts that are remembered one by one; their number is never forgotten.
pub const MAX_PAST: usize = 8;

/// Longest name of a sealing key, in bytes.
pub const MAX_SEAL_BYTES: usize = 64;

const DOUBT: u8 = 1;
const EFFECTS: u8 = 2;

/// What is remembered of a record's attempts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// An attempt before the newest one may have been done: until something completes the record,
    /// it can be unknown, but never failed.
    pub doubt: bool,
    /// A failed attempt may have left effects, so the next request must be the same.
    pub effects: bool,
    /// Kinds of all attempts, the newest one too.
    pub kinds: Kinds,
    /// Kind of the newest attempt.
    pub newest: AttemptKind,
    /// When the newest attempt was granted.
    pub started_at: Micros,
    /// Earlier attempts, oldest first, at most [`MAX_PAST`]; older ones are forgotten.
    pub past: Vec<PastAttempt>,
    /// Redirects that were answered, oldest first, at most [`MAX_REDIRECTS`].
    pub redirects: Vec<Redirect>,
    /// Name of the key that seals the outcome; empty where it is not sealed.
    pub seal: String,
    /// What the record says of the newest attempt's request.
    pub about: Option<Arc<About>>,
}

/// A set of kinds of attempts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds(u8);

/// An attempt that has ended without completing the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PastAttempt {
    /// Who ran it.
    pub kind: AttemptKind,
    /// How it ended.
    pub end: PastEnd,
    /// When it was granted.
    pub started_at: Micros,
    /// When its end was recorded.
    pub ended_at: Micros,
}

/// How an attempt ended that was followed by another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PastEnd {
    /// Provably not done, or its answer may be retried.
    Failed = 0,
    /// Nobody knows.
    Unknown = 1,
}

/// A redirect (307, 308) that a request got: it is answered again to the same request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The request that got it.
    pub fingerprint: Fingerprint,
    /// Fence of the execution that got it.
    pub fence: u64,
    /// Number of that attempt.
    pub attempt: u32,
    /// When it was recorded.
    pub answered_at: Micros,
    /// The answer, as [`Outcome::encode`] writes it; at most [`MAX_REDIRECT_BYTES`].
    pub outcome: Bytes,
}

/// What the end of an execution says of what it did; [`FailCause`] with its answer encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Work may be half done.
    Other,
    /// Nothing was done: nothing was sent, or the upstream refused.
    NothingDone,
    /// Nothing was done, and this answer is remembered.
    Redirected(Bytes),
}

impl Kinds {
    /// The set of one kind.
    pub fn of(kind: AttemptKind) -> Kinds {
        Kinds(1 << (kind as u8))
    }

    /// The set with this kind.
    #[must_use]
    pub fn with(self, kind: AttemptKind) -> Kinds {
        Kinds(self.0 | Kinds::of(kind).0)
    }

    /// Whether there is no other kind in the set than this one.
    pub fn are_all(self, kind: AttemptKind) -> bool {
        self.0 & !Kinds::of(kind).0 == 0
    }

    /// The set as bits: 1 gateway, 2 guard, 4 transaction, 8 relayed.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// The set with these bits.
    pub fn from_bits(bits: u8) -> Kinds {
        Kinds(bits)
    }
}

impl Failure {
    /// What is kept of a cause. A redirect that is too long to be remembered still did nothing.
    pub fn new(cause: &FailCause) -> Failure {
        match cause {
            FailCause::Other => Failure::Other,
            FailCause::NotSent | FailCause::Refused => Failure::NothingDone,
            FailCause::Redirected(answer) => Failure::redirected(answer),
        }
    }

    fn redirected(answer: &StoredResponse) -> Failure {
        let outcome = Outcome::Response(answer.clone());
        if outcome.encoded_len() > MAX_REDIRECT_BYTES {
            return Failure::NothingDone;
        }
        Failure::Redirected(outcome.encode().into())
    }
}

impl Redirect {
    /// The answer as an outcome; `None` if it cannot be read.
    pub fn stored(&self) -> Option<StoredOutcome> {
        let outcome = Outcome::decode(self.outcome.clone()).ok()?;
        Some(StoredOutcome::new(&outcome))
    }
}

impl History {
    /// Of a record whose first attempt is granted now.
    pub fn first(kind: AttemptKind, about: Option<Arc<About>>, now: Micros) -> History {
        History {
            kinds: Kinds::of(kind),
            newest: kind,
            started_at: now,
            about,
            ..History::default()
        }
    }

    /// Of a record that was made before there were histories: its attempts were a gateway's.
    pub fn of_old(started_at: Micros) -> History {
        History {
            kinds: Kinds::of(AttemptKind::Gateway),
            started_at,
            // Nobody has noted why an attempt failed.
            effects: true,
            ..History::default()
        }
    }

    /// Remembers an attempt that is followed by another one.
    pub fn push_past(&mut self, attempt: PastAttempt) {
        if self.past.len() >= MAX_PAST {
            self.past.remove(0);
        }
        self.past.push(attempt);
    }

    /// Remembers a redirect. One that the same request got before makes room first, then the oldest.
    pub fn push_redirect(&mut self, redirect: Redirect) {
        self.redirects
            .retain(|r| r.fingerprint != redirect.fingerprint);
        if self.redirects.len() >= MAX_REDIRECTS {
            self.redirects.remove(0);
        }
        self.redirects.push(redirect);
    }

    /// The redirect that the request with this fingerprint got, if it got one.
    pub fn redirect_of(&self, fingerprint: &Fingerprint) -> Option<&Redirect> {
        self.redirects
            .iter()
            .find(|r| r.fingerprint == *fingerprint)
    }

    /// The byte form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        self.put(&mut out);
        out
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.put_u8(FORMAT);
        out.put_u8(if self.doubt { DOUBT } else { 0 } | if self.effects { EFFECTS } else { 0 });
        out.put_u8(self.kinds.0);
        out.put_u8(self.newest as u8);
        out.put_u64(self.started_at);
        out.put_u8(u8::try_from(self.past.len().min(MAX_PAST)).unwrap_or(0));
        for past in self.past.iter().take(MAX_PAST) {
            out.put_u8(past.kind as u8);
            out.put_u8(past.end as u8);
            out.put_u64(past.started_at);
            out.put_u64(past.ended_at);
        }
        out.put_u8(u8::try_from(self.redirects.len().min(MAX_REDIRECTS)).unwrap_or(0));
        for redirect in self.redirects.iter().take(MAX_REDIRECTS) {
            out.put_u64(redirect.fingerprint.scheme.0);
            out.put_slice(&redirect.fingerprint.digest);
            out.put_u64(redirect.fence);
            out.put_u32(redirect.attempt);
            out.put_u64(redirect.answered_at);
            out.put_u32(u32::try_from(redirect.outcome.len()).unwrap_or(u32::MAX));
            out.put_slice(&redirect.outcome);
        }
        put_text(out, &self.seal);
        match &self.about {
            None => out.put_u8(0),
            Some(about) => {
                out.put_u8(1);
                for field in about.fields() {
                    put_text(out, field);
                }
            }
        }
    }

    /// Reads what [`History::encode`] wrote; `None` if this build cannot read all of it.
    pub fn decode(bytes: Bytes) -> Option<History> {
        let mut bytes = bytes;
        let history = History::take(&mut bytes)?;
        bytes.is_empty().then_some(history)
    }

    pub(crate) fn take(r: &mut Bytes) -> Option<History> {
        if r.try_get_u8().ok()? != FORMAT {
            return None;
        }
        let flags = r.try_get_u8().ok()?;
        if flags & !(DOUBT | EFFECTS) != 0 {
            return None;
        }
        let kinds = Kinds(r.try_get_u8().ok()?);
        let newest = AttemptKind::from_code(r.try_get_u8().ok()?)?;
        let started_at = r.try_get_u64().ok()?;
        let past = (0..r.try_get_u8().ok()?)
            .map(|_| past_attempt(r))
            .collect::<Option<Vec<_>>>()?;
        let redirects = (0..r.try_get_u8().ok()?)
            .map(|_| redirect(r))
            .collect::<Option<Vec<_>>>()?;
        let seal = text(r)?;
        let about = match r.try_get_u8().ok()? {
            0 => None,
            1 => {
                let mut about = About::default();
                for field in about.fields_mut() {
                    *field = text(r)?;
                }
                Some(Arc::new(about))
            }
            _ => return None,
        };
        Some(History {
            doubt: flags & DOUBT != 0,
            effects: flags & EFFECTS != 0,
            kinds,
            newest,
            started_at,
            past,
            redirects,
            seal,
            about,
        })
    }
}

fn past_attempt(r: &mut Bytes) -> Option<PastAttempt> {
    Some(PastAttempt {
        kind: AttemptKind::from_code(r.try_get_u8().ok()?)?,
        end: match r.try_get_u8().ok()? {
            0 => PastEnd::Failed,
            1 => PastEnd::Unknown,
            _ => return None,
        },
        started_at: r.try_get_u64().ok()?,
        ended_at: r.try_get_u64().ok()?,
    })
}

fn redirect(r: &mut Bytes) -> Option<Redirect> {
    let scheme = Scheme(r.try_get_u64().ok()?);
    let mut digest = [0; 32];
    r.try_copy_to_slice(&mut digest).ok()?;
    Some(Redirect {
        fingerprint: Fingerprint { scheme, digest },
        fence: r.try_get_u64().ok()?,
        attempt: r.try_get_u32().ok()?,
        answered_at: r.try_get_u64().ok()?,
        outcome: {
            let length = usize::try_from(r.try_get_u32().ok()?).ok()?;
            take(r, length)?
        },
    })
}

fn take(r: &mut Bytes, length: usize) -> Option<Bytes> {
    (r.len() >= length).then(|| r.split_to(length))
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    // Descriptions are cut far below 64 KiB before they come here.
    let length = u16::try_from(text.len()).unwrap_or(0);
    out.put_u16(length);
    out.put_slice(text.as_bytes().get(..usize::from(length)).unwrap_or(&[]));
}

fn text(r: &mut Bytes) -> Option<String> {
    let length = usize::from(r.try_get_u16().ok()?);
    let bytes = take(r, length)?;
    std::str::from_utf8(&bytes).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn full() -> History {
        let redirect = |n: u8| Redirect {
            fingerprint: Fingerprint {
                scheme: Scheme(9),
                digest: [n; 32],
            },
            fence: 7,
            attempt: 1,
            answered_at: 10,
            outcome: Bytes::from_static(b"outcome"),
        };
        History {
            doubt: true,
            effects: true,
            kinds: Kinds::of(AttemptKind::Guard).with(AttemptKind::Transaction),
            newest: AttemptKind::Transaction,
            started_at: 99,
            past: vec![
                PastAttempt {
                    kind: AttemptKind::Guard,
                    end: PastEnd::Unknown,
                    started_at: 1,
                    ended_at: 2,
                };
                3
            ],
            redirects: vec![redirect(1), redirect(2)],
            seal: "2026-11".into(),
            about: Some(Arc::new(About {
                method: "POST".into(),
                path: "/charges".into(),
                ..About::default()
            })),
        }
    }

    #[test]
    fn a_history_survives_the_round_trip() {
        for history in [History::default(), History::of_old(5), full()] {
            assert_eq!(History::decode(history.encode().into()), Some(history));
        }
    }

    #[test]
    fn what_is_cut_off_longer_or_of_another_format_is_not_read() {
        let bytes = Bytes::from(full().encode());
        for cut in 0..bytes.len() {
            assert_eq!(History::decode(bytes.slice(..cut)), None, "cut at {cut}");
        }
        let longer = [&bytes[..], b"!"].concat();
        assert_eq!(History::decode(longer.into()), None);
        for (at, value) in [(0, FORMAT + 1), (1, 4)] {
            let mut other = bytes.to_vec();
            other[at] = value;
            assert_eq!(History::decode(other.into()), None, "byte {at}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut history = full();
        for n in 0..20 {
            history.push_past(PastAttempt {
                kind: AttemptKind::Gateway,
                end: PastEnd::Failed,
                started_at: n,
                ended_at: n,
            });
            let digest = [u8::try_from(n).unwrap(); 32];
            history.push_redirect(Redirect {
                fingerprint: Fingerprint {
                    scheme: Scheme(1),
                    digest,
                },
                fence: n,
                attempt: 1,
                answered_at: n,
                outcome: Bytes::new(),
            });
        }
        assert_eq!(history.past.len(), MAX_PAST);
        let fences: Vec<u64> = history.redirects.iter().map(|r| r.fence).collect();
        assert_eq!(fences, [16, 17, 18, 19]);
    }

    #[test]
    fn kinds() {
        let transactions = Kinds::of(AttemptKind::Transaction);
        assert!(transactions.are_all(AttemptKind::Transaction));
        let mixed = transactions.with(AttemptKind::Gateway);
        assert!(!mixed.are_all(AttemptKind::Transaction));
        assert_eq!(Kinds::from_bits(mixed.bits()), mixed);
    }

    #[test]
    fn a_redirect_that_is_too_long_is_not_remembered() {
        let answer = |body: usize| {
            FailCause::Redirected(Box::new(StoredResponse {
                status: 307,
                headers: Vec::new(),
                body: vec![0; body].into(),
            }))
        };
        assert!(matches!(
            Failure::new(&answer(MAX_REDIRECT_BYTES - 9)),
            Failure::Redirected(bytes) if bytes.len() == MAX_REDIRECT_BYTES
        ));
        assert_eq!(
            Failure::new(&answer(MAX_REDIRECT_BYTES - 8)),
            Failure::NothingDone
        );
    }
}
