//! The record that a gateway, or an HTTP layer, holds for the request that is being handled.

use crate::error::Error;
use idempotency_protocol::limits::{MAX_KEY_CHARS, MAX_SCOPE_BYTES};
use idempotency_protocol::{LookupKey, Origin};

/// A record and its execution, as the request headers `Idempotency-Record` and `Idempotency-Fence` name them.
///
/// Take them only from a gateway: a caller that may set these headers may settle any record.
///
/// ```
/// use idempotency::postgres::Record;
/// let record = Record::parse("tenant=acme&namespace=&key=order%2D7", "1764442800000001")?;
/// assert_eq!(record.fence(), 1764442800000001);
/// # Ok::<(), idempotency::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub(super) key: LookupKey,
    fence: u64,
}

impl Record {
    /// Reads the values of the two headers.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidKey`] if they are not what a gateway sends.
    pub fn parse(record: &str, fence: &str) -> Result<Record, Error> {
        const INVALID: Error = Error::InvalidKey("no record of a gateway");
        let fence = fence.parse().map_err(|_| INVALID)?;
        let mut parts: [Option<String>; 4] = [const { None }; 4];
        for pair in record.split('&') {
            let (name, value) = pair.split_once('=').ok_or(INVALID)?;
            let names = ["tenant", "namespace", "key", "origin"];
            let place = names.iter().position(|n| *n == name).ok_or(INVALID)?;
            let part = parts.get_mut(place).ok_or(INVALID)?;
            if part.is_some() {
                return Err(INVALID);
            }
            *part = Some(unescape(value).ok_or(INVALID)?);
        }
        let [Some(tenant), Some(namespace), Some(key), origin] = parts else {
            return Err(INVALID);
        };
        let origin = match origin.as_deref() {
            None | Some("client") => Origin::Client,
            Some("derived") => Origin::Derived,
            Some(_) => return Err(INVALID),
        };
        let chars = key.chars().take(MAX_KEY_CHARS + 1).count();
        let scopes = [&tenant, &namespace];
        if !(1..=MAX_KEY_CHARS).contains(&chars) || scopes.iter().any(|s| s.len() > MAX_SCOPE_BYTES)
        {
            return Err(INVALID);
        }
        let key = LookupKey {
            tenant,
            namespace,
            origin,
            key,
        };
        Ok(Record { key, fence })
    }

    /// The fence of the execution.
    pub fn fence(&self) -> u64 {
        self.fence
    }
}

/// Of the request's headers. See [`Record`].
///
/// # Errors
///
/// As [`Record::parse`]; also if one of them is absent or there twice.
#[cfg(feature = "http")]
pub fn record_from(headers: &http::HeaderMap) -> Result<Record, Error> {
    use idempotency_core::upstream::{FENCE, RECORD};
    const ABSENT: Error = Error::InvalidKey("the request names no record");
    let only = |name| {
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => value.to_str().map_err(|_| ABSENT),
            _ => Err(ABSENT),
        }
    };
    Record::parse(only(RECORD)?, only(FENCE)?)
}

#[cfg(feature = "http")]
impl TryFrom<&crate::http::Attempt> for Record {
    type Error = Error;

    /// Of the request that the HTTP layer lets this handler execute.
    fn try_from(attempt: &crate::http::Attempt) -> Result<Record, Error> {
        Record::parse(attempt.record(), &attempt.fence().to_string())
    }
}

fn unescape(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let high = digit(bytes.next()?)?;
                let low = digit(bytes.next()?)?;
                u8::try_from(high * 16 + low).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use idempotency_core::upstream::record_query;

    #[test]
    fn what_the_gateway_names_is_what_is_read() {
        for origin in [Origin::Client, Origin::Derived] {
            let key = LookupKey {
                tenant: "a & b=ü".to_owned(),
                namespace: "%2F".to_owned(),
                origin,
                key: "k/1 +".to_owned(),
            };
            let record = Record::parse(&record_query(&key), "7").unwrap();
            assert_eq!((record.fence(), &record.key), (7, &key));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let good = "tenant=&namespace=&key=k";
        assert!(Record::parse(good, "1").is_ok());
        let long = format!("tenant=&namespace=&key={}", "k".repeat(256));
        for record in [
            "",
            "key=k",
            "tenant=&namespace=&key=",
            "tenant=&namespace=&key=k&key=l",
            "tenant=&namespace=&key=k&more=1",
            "tenant=&namespace=&key=%G0",
            "tenant=&namespace=&key=%ff",
            "tenant=&namespace=&key=%4",
            "tenant=&namespace=&key=k&origin=other",
            long.as_str(),
        ] {
            assert!(Record::parse(record, "1").is_err(), "{record}");
        }
        for fence in ["", "-1", "x", "1 "] {
            assert!(Record::parse(good, fence).is_err(), "{fence}");
        }
    }
}
