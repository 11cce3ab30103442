//! What an execution leaves for those who come with the same key, and how they read it.

use crate::error::Error;
use bytes::Bytes;
use idempotency_core::headers::is_hop_by_hop;
use idempotency_protocol::limits::MAX_RESPONSE_BYTES;
use idempotency_protocol::{self as protocol, Stored, StoredResponse, Tombstone, TombstoneReason};
use serde::de::DeserializeOwned;
use serde::Serialize;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The result of an execution: a status as in HTTP, headers, bytes. A gateway that meets the record replays
/// it as a response.
///
/// ```
/// use idempotency::Outcome;
///
/// let created = Outcome::json(201, &["chair"])?.header("location", "/orders/7")?;
/// assert!(Outcome::empty(200)?.header("set-cookie", "a=b").is_err());
/// # Ok::<(), idempotency::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome(pub(crate) protocol::Outcome);

impl Outcome {
    /// A value as JSON.
    ///
    /// # Errors
    ///
    /// [`Error::Json`] if it cannot be written as JSON, [`Error::NotStorable`] for a status outside 200–599.
    pub fn json<T: Serialize + ?Sized>(status: u16, value: &T) -> Result<Outcome, Error> {
        let body = serde_json::to_vec(value)?;
        Outcome::bytes(status, "application/json", body)
    }

    /// Bytes of this content type. More than 15 MiB are not kept: then others learn that it was done, and
    /// nothing else.
    ///
    /// # Errors
    ///
    /// [`Error::NotStorable`] for a status outside 200–599, or a content type with a line break.
    pub fn bytes(
        status: u16,
        content_type: &str,
        body: impl Into<Bytes>,
    ) -> Result<Outcome, Error> {
        check_status(status)?;
        let body = body.into();
        if body.len() > MAX_RESPONSE_BYTES {
            let reason = TombstoneReason::TooLarge;
            return Ok(Outcome(protocol::Outcome::Tombstone(Tombstone {
                status,
                reason,
            })));
        }
        let response = StoredResponse {
            status,
            headers: Vec::new(),
            body,
        };
        Outcome(protocol::Outcome::Response(response)).header("content-type", content_type)
    }

    /// A status without a body.
    ///
    /// # Errors
    ///
    /// [`Error::NotStorable`] for a status outside 200–599.
    pub fn empty(status: u16) -> Result<Outcome, Error> {
        check_status(status)?;
        Ok(Outcome(protocol::Outcome::Response(StoredResponse {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
        })))
    }

    /// Adds a header, such as `location`. An outcome whose body was too large keeps none.
    ///
    /// # Errors
    ///
    /// [`Error::NotStorable`] for a name that is no HTTP token, a value with CR, LF or NUL, and headers that
    /// must not be replayed to somebody else or at another time: `set-cookie`, `date`, credentials, and those
    /// of one connection.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Result<Outcome, Error> {
        let name = name.to_ascii_lowercase();
        let value = Bytes::copy_from_slice(value.as_ref());
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || !name.bytes().all(token) {
            return Err(Error::NotStorable("the name of a header is an HTTP token"));
        }
        if value.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)) {
            return Err(Error::NotStorable(
                "the value of a header has no CR, LF or NUL",
            ));
        }
        let never = [
            "authorization",
            "content-length",
            "cookie",
            "date",
            "set-cookie",
        ];
        if never.contains(&name.as_str()) || is_hop_by_hop(name.as_bytes()) {
            return Err(Error::NotStorable("this header is never replayed"));
        }
        if let protocol::Outcome::Response(response) = &mut self.0 {
            response.headers.push((name.into(), value));
        }
        Ok(self)
    }
}

fn check_status(status: u16) -> Result<(), Error> {
    match status {
        200..=599 => Ok(()),
        _ => Err(Error::NotStorable("a status is between 200 and 599")),
    }
}

/// An operation that was done before, and its answer.
///
/// ```
/// # use idempotency::{store::Memory, Entry, Fingerprint, Guard, Outcome};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let guard = Guard::new(std::sync::Arc::new(Memory::default()));
/// # let same = Fingerprint::raw("");
/// # if let Entry::Execute(execution) = guard.acquire("k", same).await? {
/// #     execution.complete(Outcome::json(201, &7)?).await?;
/// # }
/// let Entry::Replay(done) = guard.acquire("k", same).await? else { panic!() };
/// assert_eq!(done.status(), 201);
/// let id: u64 = done.json()?;
/// # assert_eq!(id, 7);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done(pub(crate) Stored);

impl Done {
    /// The status that was stored.
    pub fn status(&self) -> u16 {
        match &*self.0.outcome {
            protocol::Outcome::Response(response) => response.status,
            protocol::Outcome::Tombstone(tombstone) => tombstone.status,
        }
    }

    /// The stored bytes; `None` if they were not kept: the operation is done all the same.
    pub fn body(&self) -> Option<&Bytes> {
        self.response().map(|response| &response.body)
    }

    /// The stored headers, in their order, names in lower case.
    pub fn headers(&self) -> &[(Bytes, Bytes)] {
        self.response()
            .map_or(&[], |response| response.headers.as_slice())
    }

    /// The stored answer, read from its JSON form.
    ///
    /// # Errors
    ///
    /// [`Error::NotReplayable`] if it was not kept, [`Error::Json`] if it is not a `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let body = self.body().ok_or(Error::NotReplayable)?;
        Ok(serde_json::from_slice(body)?)
    }

    /// The fence of the execution that stored it.
    pub fn fence(&self) -> u64 {
        self.0.fence
    }

    /// The number of the execution that stored it, 1 for the first.
    pub fn number(&self) -> u32 {
        self.0.attempt
    }

    /// How long ago it was stored, in whole milliseconds.
    pub fn age(&self) -> Duration {
        Duration::from_millis(self.0.age_ms)
    }

    /// Until when it is kept. A request with this key executes again afterwards.
    pub fn expires_at(&self) -> SystemTime {
        time(self.0.expires_at_ms)
    }

    fn response(&self) -> Option<&StoredResponse> {
        match &*self.0.outcome {
            protocol::Outcome::Response(response) => Some(response),
            protocol::Outcome::Tombstone(_) => None,
        }
    }
}

/// A time of the store, which counts milliseconds since the Unix epoch.
pub(crate) fn time(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_not_be_replayed_is_refused() {
        let outcome = || Outcome::empty(200).unwrap();
        for name in ["Set-Cookie", "date", "connection", "TE", "", "a b", "x:y"] {
            let refused = outcome().header(name, "v");
            assert!(matches!(refused, Err(Error::NotStorable(_))), "{name}");
        }
        assert!(outcome().header("x-a", "v\r\nx: y").is_err());
        assert!(outcome().header("Location", "/orders/1").is_ok());
        for status in [0, 100, 199, 600] {
            assert!(Outcome::empty(status).is_err(), "{status}");
        }
    }

    #[test]
    fn what_is_too_large_is_still_done() {
        let outcome = Outcome::bytes(200, "text/plain", vec![0; MAX_RESPONSE_BYTES + 1]).unwrap();
        let done = Done(Stored {
            outcome: outcome.header("location", "/1").unwrap().0.into(),
            fence: 1,
            attempt: 1,
            age_ms: 0,
            expires_at_ms: 0,
        });
        assert_eq!(done.status(), 200);
        assert_eq!(done.body(), None);
        assert!(matches!(done.json::<u8>(), Err(Error::NotReplayable)));
    }
}
