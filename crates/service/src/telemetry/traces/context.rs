//! Trace contexts (W3C Trace Context), and the ids of spans that others must find.

use http::HeaderMap;
use idempotency_protocol::LookupKey;
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
use sha2::{Digest, Sha256};

/// The header that has a trace context.
pub(super) const TRACEPARENT: &str = "traceparent";

/// Behind version, trace and span, each with its hyphen, the second digit of the flags; its lowest bit says *sampled*.
const LAST_DIGIT_OF_FLAGS: usize = "00-".len() + 32 + "-".len() + 16 + "-".len() + 1;

/// The span of another program that caused what we do. `None`: there is none, it cannot be read, or its trace is not
/// kept by the program that began it; then nothing of ours is kept either.
pub(super) fn sampled(traceparent: &[u8]) -> Option<SpanContext> {
    let traceparent = traceparent.trim_ascii();
    // Most traces are not kept, so the flag is looked at first: it has the same place in every version.
    let last_digit = char::from(*traceparent.get(LAST_DIGIT_OF_FLAGS)?).to_digit(16)?;
    if last_digit % 2 == 0 {
        return None;
    }
    let text = std::str::from_utf8(traceparent).ok()?;
    let mut fields = text.split('-');
    let version = hex::<1>(fields.next()?)?;
    let trace = TraceId::from_bytes(hex(fields.next()?)?);
    let span = SpanId::from_bytes(hex(fields.next()?)?);
    let flags = TraceFlags::new(hex::<1>(fields.next()?)?[0]);
    // Later versions may have more fields; version ff is none.
    let known = match version {
        [0] => fields.next().is_none(),
        [0xff] => false,
        _ => true,
    };
    let context = SpanContext::new(trace, span, flags, true, TraceState::NONE);
    (known && context.is_valid() && context.is_sampled()).then_some(context)
}

/// The same from the headers of a call. Two are none.
pub(super) fn of_headers(headers: &HeaderMap) -> Option<SpanContext> {
    let mut all = headers.get_all(TRACEPARENT).iter();
    match (all.next(), all.next()) {
        (Some(one), None) => sampled(one.as_bytes()),
        _ => None,
    }
}

/// Lower-case hexadecimal digits, two for each byte.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let lower = text
        .bytes()
        .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    (lower && ::hex::decode_to_slice(text, &mut bytes).is_ok()).then_some(bytes)
}

/// The id of the span of the acquire that got this fence. It is computed, not drawn: who answers a replay knows the
/// record, its fence and its trace, and so the very span in which the first execution began, whichever process that
/// was.
pub(super) fn of_grant(trace: TraceId, key: &LookupKey, fence: u64) -> SpanId {
    let mut hash = Sha256::new();
    hash.update(b"idempotency grant span");
    hash.update(trace.to_bytes());
    for part in [&key.tenant, &key.namespace, &key.key] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.update([key.origin as u8]);
    hash.update(fence.to_be_bytes());
    let mut id = [0; 8];
    for (to, from) in id.iter_mut().zip(hash.finalize()) {
        *to = from;
    }
    SpanId::from_bytes(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use idempotency_protocol::Origin;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[test]
    fn a_trace_context_is_what_w3c_says() {
        let right = sampled(format!("00-{TRACE}-{SPAN}-01").as_bytes()).unwrap();
        assert_eq!(right.trace_id().to_string(), TRACE);
        assert_eq!(right.span_id().to_string(), SPAN);
        assert!(right.is_remote());
        let later = format!("cc-{TRACE}-{SPAN}-03-later");
        assert_eq!(
            sampled(later.as_bytes()).unwrap().span_id(),
            right.span_id()
        );
        let zeros = "0".repeat(32);
        for none in [
            format!("00-{TRACE}-{SPAN}-00"),
            format!("00-{TRACE}-{SPAN}-01-later"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{zeros}-{SPAN}-01"),
            format!("00-{TRACE}-{}-01", &zeros[..16]),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}0-01"),
            String::new(),
            "\u{e4}".to_owned(),
        ] {
            assert_eq!(sampled(none.as_bytes()), None, "{none}");
        }
    }

    #[test]
    fn two_headers_are_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(of_headers(&headers), None);
        let value = format!("00-{TRACE}-{SPAN}-01");
        headers.append(TRACEPARENT, value.parse().unwrap());
        assert!(of_headers(&headers).is_some());
        headers.append(TRACEPARENT, value.parse().unwrap());
        assert_eq!(of_headers(&headers), None);
    }

    #[test]
    fn the_span_of_a_grant_has_an_id_of_its_own() {
        let key = |tenant: &str, key: &str| LookupKey {
            tenant: tenant.into(),
            namespace: String::new(),
            origin: Origin::Client,
            key: key.into(),
        };
        let trace = TraceId::from_bytes([7; 16]);
        let id = of_grant(trace, &key("a", "bc"), 5);
        assert_eq!(id, of_grant(trace, &key("a", "bc"), 5));
        for other in [
            of_grant(trace, &key("ab", "c"), 5),
            of_grant(trace, &key("a", "bc"), 6),
            of_grant(TraceId::from_bytes([8; 16]), &key("a", "bc"), 5),
        ] {
            assert_ne!(id, other);
        }
    }
}
