//! What counts as the same payload under one key.

use crate::error::Error;
use idempotency_core::{canonical_json, fingerprint};
use serde::Serialize;

/// A digest of what is asked for. A key that comes back with another fingerprint is a
/// [`Mismatch`](crate::Entry::Mismatch): somebody used it for another operation.
///
/// Fingerprints of different kinds (`json`, `raw`, those of HTTP requests) are not comparable: keep to one
/// kind per namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub(crate) idempotency_protocol::Fingerprint);

impl Fingerprint {
    /// Of a value, by its JSON form. The order of members does not count; numbers count as they are
    /// written (`1` and `1.0` differ). Leave out of the value what changes from one try to the next, such as
    /// timestamps.
    ///
    /// # Errors
    ///
    /// [`Error::Json`] if the value cannot be written as JSON, [`Error::Payload`] if an object names a
    /// member twice.
    ///
    /// ```
    /// # use idempotency::Fingerprint;
    /// # use serde_json::json;
    /// let one = Fingerprint::json(&json!({"amount": 100, "currency": "EUR"}))?;
    /// let same = Fingerprint::json(&json!({"currency": "EUR", "amount": 100}))?;
    /// let other = Fingerprint::json(&json!({"currency": "EUR", "amount": 101}))?;
    /// assert_eq!(one, same);
    /// assert_ne!(one, other);
    /// # Ok::<(), idempotency::Error>(())
    /// ```
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Fingerprint, Error> {
        let text = serde_json::to_vec(value)?;
        let canonical = canonical_json::canonicalise(&text)
            .map_err(|error| Error::Payload(error.to_string()))?;
        Ok(Fingerprint(fingerprint::of_payload("json", &canonical)))
    }

    /// Of bytes as they are.
    pub fn raw(bytes: impl AsRef<[u8]>) -> Fingerprint {
        Fingerprint(fingerprint::of_payload("raw", bytes.as_ref()))
    }
}

/// One that was made elsewhere, by the gateway's rules for example.
impl From<idempotency_protocol::Fingerprint> for Fingerprint {
    fn from(fingerprint: idempotency_protocol::Fingerprint) -> Fingerprint {
        Fingerprint(fingerprint)
    }
}
