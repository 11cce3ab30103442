//! Answers that are sent in place of the upstream's, as data.

use crate::config::{Policies, Policy};
use crate::cors::{self, STORED_ORIGIN};
use crate::headers::{is, is_one_line};
use bytes::Bytes;
use idempotency_protocol::{Stored, StoredResponse};

/// An answer that the host sends on the filter's behalf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalReply {
    /// HTTP status.
    pub status: u16,
    /// Ordered; repeated names allowed.
    pub headers: Vec<(Bytes, Bytes)>,
    /// Exact bytes.
    pub body: Bytes,
}

impl LocalReply {
    /// An answer that hosts can send as it is. A 204 or 304 with a body would be written to the
    /// wire with it, and the next answer on the connection would start in the middle of it
    /// (measured on Envoy).
    pub fn new(status: u16, headers: Vec<(Bytes, Bytes)>, body: Bytes) -> Self {
        let body = if matches!(status, 100..=199 | 204 | 304) {
            Bytes::new()
        } else {
            body
        };
        LocalReply {
            status,
            headers,
            body,
        }
    }
}

/// Response header that tells until when the record is kept (an RFC 9651 Date).
pub const EXPIRES_HEADER: &str = "idempotency-expires";

/// The replay of a stored response.
///
/// `access-control-*` headers that were stored for one origin are replayed to an equal origin only: all of
/// them or none.
pub fn replay(
    policies: &Policies,
    policy: &Policy,
    stored: &Stored,
    response: &StoredResponse,
    origin: Option<&Bytes>,
) -> LocalReply {
    let shared = policy.cors.replayed && cors::is_shared(response, origin);
    let mut withheld = false;
    let mut headers: Vec<(Bytes, Bytes)> = response
        .headers
        .iter()
        .filter(|(name, _)| {
            let not_for_it = !shared && cors::is_cors(name);
            withheld |= not_for_it;
            !not_for_it && name.as_ref() != STORED_ORIGIN.as_bytes()
        })
        .cloned()
        .collect();
    if withheld {
        cors::vary(&mut headers);
    }
    headers.push((
        Bytes::copy_from_slice(policies.replay_header.as_bytes()),
        "true".into(),
    ));
    headers.push(("age".into(), decimal("", stored.age_ms / 1000)));
    headers.push(expires(stored.expires_at_ms));
    // Useless to a browser that may not read them. Without stored CORS headers, the gateway may make some.
    if origin.is_some() && !withheld {
        headers.push(cors::expose(policies, &[]));
    }
    LocalReply::new(response.status, headers, response.body.clone())
}

/// Whether a stored response may be sent. It is checked again, because a damaged record must not make a host send
/// something invalid.
pub fn is_replayable(response: &StoredResponse) -> bool {
    (200..=599).contains(&response.status)
        && response.headers.iter().all(|(name, value)| {
            !name.is_empty()
                && name.iter().all(|b| b.is_ascii_graphic() && *b != b':')
                && is_one_line(value)
        })
}

/// The header that tells until when the record is kept.
pub fn expires(expires_at_ms: u64) -> (Bytes, Bytes) {
    (EXPIRES_HEADER.into(), decimal("@", expires_at_ms / 1000))
}

/// A number as the value of a header, behind a short prefix. (`format!` is five times as long, and a request has
/// several numbers.)
pub fn decimal(prefix: &str, number: u64) -> Bytes {
    const DIGITS: &[u8] = b"0123456789";
    if prefix.is_empty() {
        // Attempts, almost always.
        let at = usize::try_from(number).unwrap_or(usize::MAX);
        if let Some(digit) = DIGITS.get(at..at.saturating_add(1)) {
            return Bytes::from_static(digit);
        }
    }
    let mut text = [0; 24];
    let mut left = number;
    let mut length = 0;
    for digit in text.iter_mut().rev() {
        *digit = b'0' + (left % 10) as u8;
        left /= 10;
        length += 1;
        if left == 0 {
            break;
        }
    }
    let mut free = text.iter_mut().rev().skip(length);
    for byte in prefix.bytes().rev() {
        if let Some(place) = free.next() {
            *place = byte;
            length += 1;
        }
    }
    Bytes::copy_from_slice(text.get(text.len() - length..).unwrap_or_default())
}

/// Headers by which the filter tells clients about the record. An upstream that sends them would
/// speak for the gateway, so they do not pass on the first answer.
pub fn is_ours(policies: &Policies, name: &[u8]) -> bool {
    is(name, policies.replay_header.as_bytes())
        || is(name, EXPIRES_HEADER.as_bytes())
        || is(name, crate::hop::REFUSAL.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_the_library_writes_them() {
        for number in [0, 7, 10, 99, 1_700_000_000, u64::MAX] {
            assert_eq!(decimal("", number), number.to_string());
            assert_eq!(decimal("@", number), format!("@{number}"));
        }
    }
}
