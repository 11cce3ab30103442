//! Keys: made by clients, or from what an operation is about.
//!
//! A key must be the same for every try of one operation, and another one for every other operation. A
//! client that can remember a key makes one with [`uuid_v7`], [`ulid()`] or [`uuid_v4`] *before* its first
//! try. Where nobody can remember, the fields of the operation make the key ([`Business`]).

mod business;
#[cfg(feature = "daily")]
mod daily;

pub use business::Business;
#[cfg(feature = "daily")]
pub use daily::{Daily, UnknownZone};

use crate::error::Error;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A random UUID (version 4).
///
/// # Errors
///
/// [`Error::NoRandomness`] if the operating system gives none.
///
/// ```
/// let key = idempotency::keys::uuid_v4()?;
/// assert_eq!(key.len(), 36);
/// # Ok::<(), idempotency::Error>(())
/// ```
pub fn uuid_v4() -> Result<String, Error> {
    let uuid = uuid::Builder::from_random_bytes(random()?).into_uuid();
    Ok(uuid.hyphenated().to_string())
}

/// A UUID that begins with the time (version 7): good for databases, which keep neighbours together.
///
/// # Errors
///
/// [`Error::NoRandomness`] if the operating system gives none.
pub fn uuid_v7() -> Result<String, Error> {
    let [a, b, c, d, e, f, g, h, i, j, ..] = random()?;
    let random = [a, b, c, d, e, f, g, h, i, j];
    let uuid = uuid::Builder::from_unix_timestamp_millis(now_ms(), &random).into_uuid();
    Ok(uuid.hyphenated().to_string())
}

/// A ULID: 26 characters that begin with the time.
///
/// # Errors
///
/// [`Error::NoRandomness`] if the operating system gives none.
pub fn ulid() -> Result<String, Error> {
    let random = u128::from_be_bytes(random()?);
    Ok(ulid::Ulid::from_parts(now_ms(), random).to_string())
}

fn random() -> Result<[u8; 16], Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| Error::NoRandomness(error.to_string()))?;
    Ok(bytes)
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    crate::operations::millis(now.unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn what_is_made_is_what_it_says() {
        let v4 = uuid::Uuid::parse_str(&uuid_v4().unwrap()).unwrap();
        assert_eq!(v4.get_version_num(), 4);
        assert_eq!(v4.get_variant(), uuid::Variant::RFC4122);
        let before = now_ms();
        let v7 = uuid::Uuid::parse_str(&uuid_v7().unwrap()).unwrap();
        assert_eq!(v7.get_version_num(), 7);
        assert_eq!(v7.get_variant(), uuid::Variant::RFC4122);
        let (seconds, nanos) = v7.get_timestamp().unwrap().to_unix();
        let made = seconds * 1000 + u64::from(nanos) / 1_000_000;
        let ulid: ulid::Ulid = ulid().unwrap().parse().unwrap();
        for made in [made, ulid.timestamp_ms()] {
            assert!((before..=now_ms()).contains(&made), "{made}");
        }
    }

    #[test]
    fn no_two_are_equal() {
        for make in [uuid_v4, uuid_v7, ulid] {
            let made: BTreeSet<String> = (0..1000).map(|_| make().unwrap()).collect();
            assert_eq!(made.len(), 1000);
        }
    }
}
