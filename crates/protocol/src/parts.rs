//! The byte form of what operations and answers are made of.

use crate::codec::{put_long, put_short, DecodeError, Decoded, Reader};
use crate::key::{Fingerprint, LookupKey, Origin, Owner, Scheme};
use crate::response::{Outcome, StoredResponse, Tombstone, TombstoneReason};

pub(crate) fn put_key(out: &mut Vec<u8>, key: &LookupKey) {
    put_short(out, key.tenant.as_bytes());
    put_short(out, key.namespace.as_bytes());
    out.push(key.origin as u8);
    put_short(out, key.key.as_bytes());
}

pub(crate) fn key(r: &mut Reader) -> Decoded<LookupKey> {
    Ok(LookupKey {
        tenant: r.text("tenant")?,
        namespace: r.text("namespace")?,
        origin: match r.u8("origin")? {
            0 => Origin::Client,
            1 => Origin::Derived,
            _ => return Err(DecodeError::BadValue("origin")),
        },
        key: r.text("key")?,
    })
}

pub(crate) fn owner(r: &mut Reader) -> Decoded<Owner> {
    r.array("owner").map(Owner)
}

pub(crate) fn put_fingerprint(out: &mut Vec<u8>, fingerprint: &Fingerprint) {
    out.extend_from_slice(&fingerprint.scheme.0.to_be_bytes());
    out.extend_from_slice(&fingerprint.digest);
}

pub(crate) fn fingerprint(r: &mut Reader) -> Decoded<Fingerprint> {
    Ok(Fingerprint {
        scheme: Scheme(r.u64("scheme")?),
        digest: r.array("digest")?,
    })
}

pub(crate) fn put_outcome(out: &mut Vec<u8>, outcome: &Outcome) {
    match outcome {
        Outcome::Response(response) => {
            out.reserve(outcome.encoded_len());
            out.push(0);
            put_response(out, response);
        }
        Outcome::Tombstone(tombstone) => {
            out.push(1);
            out.extend_from_slice(&tombstone.status.to_be_bytes());
            out.push(tombstone.reason as u8);
        }
    }
}

pub(crate) fn outcome(r: &mut Reader) -> Decoded<Outcome> {
    match r.u8("outcome")? {
        0 => Ok(Outcome::Response(response(r)?)),
        1 => Ok(Outcome::Tombstone(Tombstone {
            status: r.u16("status")?,
            reason: match r.u8("tombstone reason")? {
                0 => TombstoneReason::TooLarge,
                1 => TombstoneReason::Trailers,
                2 => TombstoneReason::Capacity,
                3 => TombstoneReason::NotStorable,
                _ => return Err(DecodeError::BadValue("tombstone reason")),
            },
        })),
        _ => Err(DecodeError::BadValue("outcome")),
    }
}

pub(crate) fn put_response(out: &mut Vec<u8>, response: &StoredResponse) {
    out.extend_from_slice(&response.status.to_be_bytes());
    let count = u16::try_from(response.headers.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&count.to_be_bytes());
    for (name, value) in response.headers.iter().take(usize::from(count)) {
        put_short(out, name);
        put_long(out, value);
    }
    put_long(out, &response.body);
}

pub(crate) fn response(r: &mut Reader) -> Decoded<StoredResponse> {
    let status = r.u16("status")?;
    let count = r.u16("header count")?;
    let mut headers = Vec::with_capacity(usize::from(count).min(r.left() / 6));
    for _ in 0..count {
        headers.push((r.short("header name")?, r.long("header value")?));
    }
    let body = r.long("body")?;
    Ok(StoredResponse {
        status,
        headers,
        body,
    })
}
