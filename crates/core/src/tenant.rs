//! Whose key space a request belongs to.
//!
//! Without a tenant, a key that two callers happen to share would replay one caller's response to
//! the other. The value must come from something that a client cannot choose: a header that the
//! authentication in front of the filter sets (and strips from requests), a property of the host,
//! or the credentials themselves.

use std::fmt;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::config::Scope;
use crate::{fingerprint, headers};

/// Longest tenant, in bytes.
pub const MAX_LEN: usize = 255;

/// Marks tenants that are hashes of credentials; no other source may start with it.
const CREDENTIALS: &str = "cred:";
const DOMAIN: &[u8] = b"idempotency-gateway/credentials/1\0";

/// Why there is no tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TenantError {
    /// The header or property is not there.
    Missing,
    /// It is empty.
    Empty,
    /// The header occurs more than once: one of them may be the client's.
    Repeated,
    /// Longer than [`MAX_LEN`].
    TooLong,
    /// Not UTF-8, contains control characters, or starts with a reserved prefix.
    Invalid,
    /// Credentials that can be written in another way.
    NotCanonical,
}

impl fmt::Display for TenantError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TenantError::Missing => "the caller could not be identified",
            TenantError::Empty => "the identity of the caller is empty",
            TenantError::Repeated => "the identity of the caller is given more than once",
            TenantError::TooLong => "the identity of the caller is longer than 255 bytes",
            TenantError::Invalid => "the identity of the caller is not valid text",
            TenantError::NotCanonical => "the credentials are not written in their usual form",
        })
    }
}

/// The tenant of a request; empty for [`Scope::Global`], and only for it. `property` is the value
/// of the property that [`Scope::Property`] names, read by the caller.
pub fn resolve(
    scope: &Scope,
    headers: &[(Bytes, Bytes)],
    property: Option<&[u8]>,
) -> Result<String, TenantError> {
    match scope {
        Scope::Global => Ok(String::new()),
        Scope::Header(name) => plain(single(headers, name)?),
        Scope::Property(_) => {
            let value = property.ok_or(TenantError::Missing)?;
            match number(value) {
                // Of text, spaces around it are dropped, and two numbers would be one.
                Some(number) if value.trim_ascii().len() < value.len() => Ok(number),
                number => plain(value).or_else(|error| number.ok_or(error)),
            }
        }
        Scope::StaticCredentials => credentials(single(headers, "authorization")?),
    }
}

fn single<'h>(headers: &'h [(Bytes, Bytes)], name: &str) -> Result<&'h [u8], TenantError> {
    let mut values = headers
        .iter()
        .filter(|(n, _)| headers::is(n, name.as_bytes()));
    match (values.next(), values.next()) {
        (Some((_, value)), None) => Ok(value),
        (None, _) => Err(TenantError::Missing),
        (Some(_), Some(_)) => Err(TenantError::Repeated),
    }
}

fn plain(value: &[u8]) -> Result<String, TenantError> {
    let value = value.trim_ascii();
    if value.is_empty() {
        return Err(TenantError::Empty);
    }
    if value.len() > MAX_LEN {
        return Err(TenantError::TooLong);
    }
    match std::str::from_utf8(value) {
        Ok(text) if !text.contains(char::is_control) && !text.starts_with(CREDENTIALS) => {
            Ok(text.to_owned())
        }
        _ => Err(TenantError::Invalid),
    }
}

/// A number or a boolean, as Envoy gives properties that are no text: its own bytes, without a word of what
/// they are. So `7` and `"7"` are one tenant. JSON's numbers are doubles there: beyond 2⁵³ two identities
/// would be one, and what is no whole number is no identity.
///
/// What is text is taken as text, though a number from 2⁵¹ on may have bytes that are: it keeps a tenant of
/// its own by them. The bytes of a smaller number are never text.
fn number(value: &[u8]) -> Option<String> {
    const BEYOND: f64 = 9_007_199_254_740_992.0;
    match *value {
        [0] => Some("false".to_owned()),
        [1] => Some("true".to_owned()),
        [a, b, c, d, e, f, g, h] => {
            let number = f64::from_le_bytes([a, b, c, d, e, f, g, h]);
            let whole = number as i64;
            (number.abs() < BEYOND && whole as f64 == number).then(|| whole.to_string())
        }
        _ => None,
    }
}

/// A hash: the store must not hold credentials. The name of the scheme has no case (RFC 9110
/// §11.1). One credential must have one hash, or its owner could run one key in two scopes: what
/// servers read leniently is taken in one form only.
fn credentials(value: &[u8]) -> Result<String, TenantError> {
    let value = value.trim_ascii();
    if value.is_empty() {
        return Err(TenantError::Empty);
    }
    let is_space = |b: &u8| matches!(b, b' ' | b'\t');
    let end = value.iter().position(is_space).unwrap_or(value.len());
    let (scheme, rest) = value.split_at_checked(end).unwrap_or((value, &[]));
    let canonical = match scheme.to_ascii_lowercase().as_slice() {
        b"basic" => is_canonical_base64(rest.trim_ascii()),
        b"bearer" => is_canonical_bearer(rest.trim_ascii()),
        _ => is_single(value),
    };
    if !canonical {
        return Err(TenantError::NotCanonical);
    }
    let mut hash = Sha256::new_with_prefix(DOMAIN);
    hash.update(scheme.to_ascii_lowercase());
    hash.update(b" ");
    hash.update(rest.trim_ascii());
    Ok(format!("{CREDENTIALS}{}", hex::encode(hash.finalize())))
}

/// One set of credentials, not several that somebody has joined: behind a comma, a parameter goes
/// on (RFC 9110 §11.4).
fn is_single(value: &[u8]) -> bool {
    let mut quoted = false;
    value.iter().enumerate().all(|(at, byte)| {
        quoted ^= *byte == b'"';
        if *byte != b',' || quoted {
            return true;
        }
        let rest = value.get(at + 1..).unwrap_or_default().trim_ascii_start();
        let name = rest.split(|b| *b == b'=').next().unwrap_or_default();
        name.len() < rest.len() && fingerprint::is_token(name.trim_ascii_end())
    })
}

/// One token (RFC 6750 §2.1), not a list. What looks like a JWT must end as it was issued: the last
/// character of a signature has bits that verifiers ignore.
fn is_canonical_bearer(token: &[u8]) -> bool {
    let is_char = |b: &u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(b);
    let parts = token.iter().filter(|b| **b == b'.').count();
    let signature = token.rsplit(|b| *b == b'.').next().unwrap_or_default();
    token.iter().all(is_char)
        && (!token.starts_with(b"eyJ") || parts != 2 || has_canonical_end(signature))
}

/// RFC 4648 §4: padded, nothing but the alphabet, no bits set that no byte holds (§3.5).
fn is_canonical_base64(text: &[u8]) -> bool {
    let digits = match text {
        [digits @ .., b'=', b'='] | [digits @ .., b'='] => digits,
        digits => digits,
    };
    let is_digit = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    text.len().is_multiple_of(4) && digits.iter().all(is_digit) && has_canonical_end(digits)
}

/// Whether the last character of base64 digits has no bits beyond the last byte.
fn has_canonical_end(digits: &[u8]) -> bool {
    let spare = match digits.len() % 4 {
        0 => return true,
        2 => 0b1111,
        3 => 0b11,
        _ => return false,
    };
    let value = digits.last().map_or(0, |last| match last {
        b'A'..=b'Z' => last - b'A',
        b'a'..=b'z' => last - b'a' + 26,
        b'0'..=b'9' => last - b'0' + 52,
        b'+' | b'-' => 62,
        _ => 63,
    });
    value & spare == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(list: &[(&'static str, &'static [u8])]) -> Vec<(Bytes, Bytes)> {
        list.iter()
            .map(|(n, v)| (Bytes::from_static(n.as_bytes()), Bytes::from_static(v)))
            .collect()
    }

    #[test]
    fn header() {
        use TenantError::*;
        let scope = Scope::Header("x-tenant".into());
        const LONG: &[u8] = &[b'a'; 256];
        type Row<'a> = (
            &'a [(&'static str, &'static [u8])],
            Result<&'a str, TenantError>,
        );
        let rows: [Row; 11] = [
            (&[("x-tenant", b"acme")], Ok("acme")),
            (&[("x-tenant", b" Acme\t")], Ok("Acme")),
            (&[("x-tenant", "Größe".as_bytes())], Ok("Größe")),
            (&[("x-other", b"acme")], Err(Missing)),
            (&[("x-tenant", b"")], Err(Empty)),
            (&[("x-tenant", b"  ")], Err(Empty)),
            (&[("x-tenant", b"a"), ("x-tenant", b"a")], Err(Repeated)),
            (&[("x-tenant", b"a\x01")], Err(Invalid)),
            (&[("x-tenant", b"\xff")], Err(Invalid)),
            (&[("x-tenant", b"cred:00")], Err(Invalid)),
            (&[("x-tenant", LONG)], Err(TooLong)),
        ];
        for (list, want) in rows {
            let got = resolve(&scope, &headers(list), Some(b"property"));
            assert_eq!(got, want.map(str::to_owned), "{list:?}");
        }
    }

    #[test]
    fn property_and_global() {
        let scope = Scope::Property(vec!["metadata".into(), "sub".into()]);
        assert_eq!(resolve(&scope, &[], Some(b"acme")), Ok("acme".into()));
        assert_eq!(resolve(&scope, &[], Some(b"")), Err(TenantError::Empty));
        assert_eq!(resolve(&scope, &[], None), Err(TenantError::Missing));
        assert_eq!(
            resolve(&Scope::Global, &headers(&[("x-tenant", b"a")]), None),
            Ok("".into())
        );
    }

    /// As Envoy gives them (`serializeValue`): doubles in 8 octets, booleans in one.
    #[test]
    fn numbers_and_booleans() {
        use TenantError::{Empty, Invalid};
        let scope = Scope::Property(vec!["metadata".into(), "sub".into()]);
        let of = |value: &[u8]| resolve(&scope, &[], Some(value));
        for (number, want) in [
            (0.0, Ok("0")),
            (-0.0, Ok("0")),
            (1.0, Ok("1")),
            (-42.0, Ok("-42")),
            (1_234_567.0, Ok("1234567")),
            (35_184_372_088_831.0, Ok("35184372088831")),
            (9_007_199_254_740_991.0, Ok("9007199254740991")),
            (-9_007_199_254_740_991.0, Ok("-9007199254740991")),
            (9_007_199_254_740_992.0, Err(Invalid)),
            (-9_007_199_254_740_992.0, Err(Invalid)),
            (1.5, Err(Invalid)),
            (1e300, Err(Invalid)),
            (f64::MIN_POSITIVE, Err(Invalid)),
            (f64::NAN, Err(Invalid)),
            (f64::INFINITY, Err(Invalid)),
        ] {
            assert_eq!(
                of(&number.to_le_bytes()),
                want.map(str::to_owned),
                "{number}"
            );
        }
        assert_eq!(of(&[0]), Ok("false".into()));
        assert_eq!(of(&[1]), Ok("true".into()));
        assert_eq!(of(&[2]), Err(Invalid));
        assert_eq!(of(&[]), Err(Empty));
        assert_eq!(of(&[0; 9]), Err(Invalid));
        // Text of eight octets is text.
        assert_eq!(of(b"acmecorp"), Ok("acmecorp".into()));
        // An integer of 64 bits, which is no double.
        assert_eq!(of(&42u64.to_le_bytes()), Err(Invalid));
        // Only properties come like this.
        let header = headers(&[("x-tenant", b"\x01")]);
        let named = Scope::Header("x-tenant".into());
        assert_eq!(resolve(&named, &header, None), Err(Invalid));
    }

    #[test]
    fn static_credentials() {
        let of = |list| resolve(&Scope::StaticCredentials, &headers(list), None);
        let bearer = of(&[("authorization", b"Bearer s3cret")]).unwrap();
        assert_eq!(
            bearer, "cred:e12d64a0f323225e615d47384e1430d6fe4c73671e24f672b288018f047fd6ed",
            "pinned: a change opens new scopes for everybody"
        );
        assert_eq!(
            of(&[("authorization", b"bearer  s3cret ")]).unwrap(),
            bearer
        );
        assert_ne!(of(&[("authorization", b"Bearer S3cret")]).unwrap(), bearer);
        assert_eq!(of(&[]), Err(TenantError::Missing));
        assert_eq!(of(&[("authorization", b" ")]), Err(TenantError::Empty));
        let twice: &[(&str, &[u8])] = &[("authorization", b"a"), ("authorization", b"a")];
        assert_eq!(of(twice), Err(TenantError::Repeated));
    }

    #[test]
    fn one_credential_is_written_in_one_way() {
        for (value, good) in [
            ("Basic YTpi", true),
            ("bAsIc\tYTpi", true),
            ("Basic YTpiYw==", true),
            ("Basic YTpiYw", false),
            ("Basic YTpiYw=", false),
            ("Basic YTpiYx==", false),
            ("Basic YTpiY2Q=", true),
            ("Basic YTpiY2R=", false),
            ("Basic YTpi, Basic YTpi", false),
            ("Basic YTpi YTpi", false),
            ("Basic YT-i", false),
            ("Basic YTpi====", false),
            ("Bearer s3cret", true),
            ("Bearer s3cret, Bearer other", false),
            ("Bearer a b", false),
            ("Bearer eyJh.eyJz.AAAA", true),
            ("Bearer eyJh.eyJz.AAA", true),
            ("Bearer eyJh.eyJz.AAB", false),
            ("Bearer opaque.of.AAB", true),
            ("key1", true),
            ("key1,key2", false),
            ("Token a", true),
            ("Token a,Token b", false),
            ("Digest a=1,Digest b=2", false),
            ("Digest a=1,b = \"c,d\"", true),
            ("Digest username=\"a\", realm=\"b\"", true),
        ] {
            let list = headers(&[("authorization", value.as_bytes())]);
            let got = resolve(&Scope::StaticCredentials, &list, None);
            let bad = got == Err(TenantError::NotCanonical);
            assert_eq!((got.is_ok(), bad), (good, !good), "{value}");
        }
        let of = |value: &'static str| {
            let list = headers(&[("authorization", value.as_bytes())]);
            resolve(&Scope::StaticCredentials, &list, None).unwrap()
        };
        assert_eq!(of("Basic YTpi"), of("basic\t YTpi"));
    }

    proptest! {
        #[test]
        fn numbers_keep_their_value(number in -(1i64 << 51) + 1..1i64 << 51) {
            let scope = Scope::Property(vec![]);
            let bytes = (number as f64).to_le_bytes();
            prop_assert_eq!(resolve(&scope, &[], Some(&bytes)), Ok(number.to_string()));
        }

        /// Also where their bytes are text.
        #[test]
        fn no_two_numbers_are_one_tenant(one in "[ \\t\\n0-9a-c]{6}[0-?]C", other in "[ \\t\\n0-9a-c]{6}[0-?]C") {
            let scope = Scope::Property(vec![]);
            let of = |bytes: &str| resolve(&scope, &[], Some(bytes.as_bytes())).unwrap();
            prop_assert_eq!(of(&one) == of(&other), one == other);
        }

        #[test]
        fn never_panics(value in proptest::collection::vec(any::<u8>(), 0..300)) {
            let list = vec![(Bytes::from_static(b"authorization"), Bytes::from(value.clone()))];
            for scope in [Scope::Header("authorization".into()), Scope::StaticCredentials] {
                if let Ok(tenant) = resolve(&scope, &list, None) {
                    prop_assert!((1..=MAX_LEN).contains(&tenant.len()));
                }
            }
            let _ = resolve(&Scope::Property(vec![]), &[], Some(&value));
        }
    }
}
