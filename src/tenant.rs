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
}

impl fmt::Display for TenantError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TenantError::Missing => "the caller could not be identified",
            TenantError::Empty => "the identity of the caller is empty",
            TenantError::Repeated => "the identity of the caller is given more than once",
            TenantError::TooLong => "the identity of the caller is longer than 255 bytes",
            TenantError::Invalid => "the identity of the caller is not valid text",
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
        Scope::Property(_) => plain(property.ok_or(TenantError::Missing)?),
        Scope::StaticCredentials => credentials(single(headers, "authorization")?),
    }
}

fn single<'h>(headers: &'h [(Bytes, Bytes)], name: &str) -> Result<&'h [u8], TenantError> {
    let mut values = headers
        .iter()
        .filter(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes()));
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

/// A hash: the store must not hold credentials. The name of the scheme has no case (RFC 9110
/// §11.1).
fn credentials(value: &[u8]) -> Result<String, TenantError> {
    let value = value.trim_ascii();
    if value.is_empty() {
        return Err(TenantError::Empty);
    }
    let end = value.iter().position(|b| *b == b' ').unwrap_or(value.len());
    let (scheme, rest) = value.split_at_checked(end).unwrap_or((value, &[]));
    let mut hash = Sha256::new_with_prefix(DOMAIN);
    hash.update(scheme.to_ascii_lowercase());
    hash.update(b" ");
    hash.update(rest.trim_ascii());
    Ok(format!("{CREDENTIALS}{}", hex::encode(hash.finalize())))
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

    proptest! {
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
