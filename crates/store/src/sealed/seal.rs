//! What seals and opens: the parts of a record, each for its place.

use super::description::Description;
use super::envelope::{self, Closed, NoRandom, NotRewrapped};
use super::keys::{Key, Keys};
use super::ring::{KeyRing, Trouble};
use crate::history::Redirect;
use crate::record::StoredOutcome;
use bytes::{Buf, BufMut, Bytes};
use idempotency_protocol::{
    About, CarriedOutcome, Fingerprint, LookupKey, Outcome, Scheme, StoredResponse,
};
use std::sync::Arc;

/// What an envelope holds: one can never stand for the other.
#[derive(Clone, Copy)]
pub(super) enum What {
    Description,
    Answer,
    Redirect,
}

/// Where an envelope belongs: the associated data. `place` stands for tenant and key.
pub(super) fn place_of(what: What, place: &LookupKey, fence: u64) -> Vec<u8> {
    let mut out = b"idempotency-gateway/1/".to_vec();
    out.extend_from_slice(match what {
        What::Description => b"description/".as_slice(),
        What::Answer => b"answer/",
        What::Redirect => b"redirect/",
    });
    out.extend_from_slice(&fence.to_be_bytes());
    out.extend_from_slice(&place.to_bytes());
    out
}

/// Seals and opens with the keys of a process.
#[derive(Clone, Debug)]
pub struct Sealer {
    pub(super) ring: Arc<KeyRing>,
}

/// Two are the same if they have the same keys.
impl PartialEq for Sealer {
    fn eq(&self, other: &Sealer) -> bool {
        Arc::ptr_eq(&self.ring, &other.ring)
    }
}

impl Eq for Sealer {}

impl Sealer {
    /// With these keys, and those that replace them.
    pub fn new(ring: Arc<KeyRing>) -> Sealer {
        Sealer { ring }
    }

    pub(super) fn keys(&self) -> Arc<Keys> {
        self.ring.keys()
    }

    /// The key under which the record of a key is kept.
    pub(crate) fn place(&self, key: &LookupKey) -> LookupKey {
        self.keys().index.place(key)
    }

    /// As a store gets what completes the execution of this fence. `None` if the data is not at hand, or there is no
    /// randomness to seal it with.
    pub(crate) fn outcome(
        &self,
        place: &LookupKey,
        fence: u64,
        outcome: &StoredOutcome,
    ) -> Option<StoredOutcome> {
        let keys = self.keys();
        seal_outcome(&keys, keys.keys.first()?, place, fence, outcome).ok()?
    }

    /// Opens a stored answer, and counts what cannot be opened.
    pub(super) fn open_answer(
        &self,
        place: &LookupKey,
        fence: u64,
        outcome: CarriedOutcome,
    ) -> Result<CarriedOutcome, Closed> {
        open_answer(&self.keys(), place, fence, outcome).inspect_err(|closed| {
            self.ring.note(closed.trouble(Trouble::MissingForAnswer));
        })
    }
}

/// A response in which there is nothing but an envelope.
fn carrier(status: u16, envelope: Vec<u8>) -> Outcome {
    Outcome::Response(StoredResponse {
        status,
        headers: Vec::new(),
        body: envelope.into(),
    })
}

/// Seals the bytes of an outcome; a tombstone has none that need it. The digest becomes a MAC in either case.
/// `None`: the data is not at hand.
pub(super) fn seal_outcome(
    keys: &Keys,
    key: &Key,
    place: &LookupKey,
    fence: u64,
    outcome: &StoredOutcome,
) -> Result<Option<StoredOutcome>, NoRandom> {
    let Some(data) = &outcome.data else {
        return Ok(None);
    };
    let data = match outcome.body_bytes {
        None => data.clone(),
        Some(_) => seal_answer(key, place, fence, outcome.status, data)?,
    };
    Ok(Some(StoredOutcome {
        digest: keys.index.outcome(place, &outcome.digest),
        size: u64::try_from(data.len()).unwrap_or(u64::MAX),
        data: Some(data),
        ..outcome.clone()
    }))
}

/// An encoded response, sealed and encoded again.
pub(super) fn seal_answer(
    key: &Key,
    place: &LookupKey,
    fence: u64,
    status: u16,
    data: &[u8],
) -> Result<Bytes, NoRandom> {
    let sealed = envelope::seal(key, &place_of(What::Answer, place, fence), data)?;
    Ok(carrier(status, sealed).encode().into())
}

/// The envelope of a stored response; `None` for a tombstone, which has none.
pub(super) fn envelope_in(data: &Bytes) -> Result<Option<(u16, Bytes)>, Closed> {
    match Outcome::decode(data.clone()) {
        Ok(Outcome::Response(response)) => Ok(Some((response.status, response.body))),
        Ok(Outcome::Tombstone(_)) => Ok(None),
        Err(_) => Err(Closed::Damaged),
    }
}

/// The same answer with its data key wrapped anew; `None`: there is nothing to do.
pub(super) fn rewrap_answer(
    keys: &Keys,
    key: &Key,
    data: &Bytes,
) -> Result<Option<Bytes>, NotRewrapped> {
    let found = envelope_in(data).map_err(NotRewrapped::Closed)?;
    let Some((status, envelope)) = found else {
        return Ok(None);
    };
    if envelope::key_name(&envelope).as_ref() == Some(&key.name) {
        return Ok(None);
    }
    let rewrapped = envelope::rewrap(keys, key, &envelope)?;
    Ok(Some(carrier(status, rewrapped).encode().into()))
}

pub(super) fn open_answer(
    keys: &Keys,
    place: &LookupKey,
    fence: u64,
    outcome: CarriedOutcome,
) -> Result<CarriedOutcome, Closed> {
    let (status, envelope) = match &*outcome {
        Outcome::Tombstone(_) => return Ok(outcome),
        Outcome::Response(response) => (response.status, response.body.clone()),
    };
    // Only these are remembered as redirects; a rule may have one as its answer, too.
    if matches!(status, 307 | 308) {
        if let Ok((_, content)) = open_redirect(keys, place, fence, &envelope) {
            return CarriedOutcome::decode(content).map_err(|_| Closed::Damaged);
        }
    }
    let content = envelope::open(keys, &place_of(What::Answer, place, fence), &envelope)?;
    CarriedOutcome::decode(content).map_err(|_| Closed::Damaged)
}

/// A redirect is sealed with the fingerprint that got it, which a rewrap needs.
pub(super) fn seal_redirect_content(
    key: &Key,
    place: &LookupKey,
    fence: u64,
    fingerprint: &Fingerprint,
    answer: &Bytes,
) -> Result<Bytes, NoRandom> {
    let mut content = Vec::with_capacity(40 + answer.len());
    content.put_u64(fingerprint.scheme.0);
    content.put_slice(&fingerprint.digest);
    content.put_slice(answer);
    let status = match Outcome::decode(answer.clone()) {
        Ok(Outcome::Response(response)) => response.status,
        // It cannot be read in clear, either.
        Ok(Outcome::Tombstone(_)) | Err(_) => 307,
    };
    let sealed = envelope::seal(key, &place_of(What::Redirect, place, fence), &content)?;
    Ok(carrier(status, sealed).encode().into())
}

/// The fingerprint and the encoded answer in a redirect's envelope.
fn open_redirect(
    keys: &Keys,
    place: &LookupKey,
    fence: u64,
    envelope: &Bytes,
) -> Result<(Fingerprint, Bytes), Closed> {
    let place = place_of(What::Redirect, place, fence);
    let mut content = envelope::open(keys, &place, envelope)?;
    let scheme = content.try_get_u64().map_err(|_| Closed::Damaged)?;
    let mut digest = [0; 32];
    let read = content.try_copy_to_slice(&mut digest);
    read.map_err(|_| Closed::Damaged)?;
    let scheme = Scheme(scheme);
    Ok((Fingerprint { scheme, digest }, content))
}

/// A redirect that was kept in clear, sealed.
pub(super) fn seal_redirect(
    key: &Key,
    place: &LookupKey,
    redirect: &Redirect,
) -> Result<Redirect, NoRandom> {
    let (fence, of) = (redirect.fence, &redirect.fingerprint);
    Ok(Redirect {
        fingerprint: key.fingerprint(place, of),
        outcome: seal_redirect_content(key, place, fence, of, &redirect.outcome)?,
        ..redirect.clone()
    })
}

/// The same redirect under this key; `None`: there is nothing to do.
pub(super) fn rewrap_redirect(
    keys: &Keys,
    key: &Key,
    place: &LookupKey,
    redirect: &Redirect,
) -> Result<Option<Redirect>, NotRewrapped> {
    let found = envelope_in(&redirect.outcome).map_err(NotRewrapped::Closed)?;
    let (_, envelope) = found.ok_or(NotRewrapped::Closed(Closed::Damaged))?;
    let opened = open_redirect(keys, place, redirect.fence, &envelope);
    let (of, _) = opened.map_err(NotRewrapped::Closed)?;
    let fingerprint = key.fingerprint(place, &of);
    let outcome = rewrap_answer(keys, key, &redirect.outcome)?;
    if fingerprint == redirect.fingerprint && outcome.is_none() {
        return Ok(None);
    }
    Ok(Some(Redirect {
        fingerprint,
        outcome: outcome.unwrap_or_else(|| redirect.outcome.clone()),
        ..redirect.clone()
    }))
}

/// A description as a store gets it.
pub(super) fn describe(
    key: &Key,
    place: &LookupKey,
    description: &Description,
) -> Result<Arc<About>, NoRandom> {
    description.seal(key, place).map(Arc::new)
}
