//! Header fields as the host gives them: ordered, names lower-case, values raw bytes.

use bytes::Bytes;

/// One header map, read from the host in one call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(Bytes, Bytes)>);

impl Headers {
    /// As [`Headers`] are to be, from a host that keeps the case in which names were sent.
    pub fn lowered(fields: Vec<(Bytes, Bytes)>) -> Headers {
        let lower = |(name, value): (Bytes, Bytes)| {
            if name.iter().any(u8::is_ascii_uppercase) {
                return (name.to_ascii_lowercase().into(), value);
            }
            (name, value)
        };
        Headers(fields.into_iter().map(lower).collect())
    }

    /// The value of a header that occurs once or more: the first one.
    pub fn get<'a>(&'a self, name: &'a str) -> Option<&'a Bytes> {
        self.all(name).next()
    }

    /// All values of a header, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Bytes> + 'a {
        self.0
            .iter()
            .filter(move |(n, _)| is(n, name.as_bytes()))
            .map(|(_, v)| v)
    }

    /// Whether the header occurs.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// `content-length`, if it is a number; one that no integer can hold counts as the largest. Not
    /// a `usize`: that has 32 bits in wasm, and lengths of 4 GiB and more are told.
    pub fn content_length(&self) -> Option<u64> {
        let digits = self.get("content-length")?.trim_ascii();
        if digits.is_empty() {
            return None;
        }
        digits.iter().try_fold(0u64, |sum, byte| {
            let digit = byte.wrapping_sub(b'0');
            let sum = sum.saturating_mul(10).saturating_add(u64::from(digit));
            (digit < 10).then_some(sum)
        })
    }

    /// `:status` of a response.
    pub fn status(&self) -> Option<u16> {
        match *self.get(":status")?.as_ref() {
            [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] => {
                let digit = |byte: u8| u16::from(byte - b'0');
                Some(digit(a) * 100 + digit(b) * 10 + digit(c))
            }
            // No host writes it in another way.
            ref other => std::str::from_utf8(other).ok()?.parse().ok(),
        }
    }
}

/// Whether a field has this name, in any case. Hosts send lower case, so the names that are the same are the same
/// bytes, which are compared at once.
#[inline]
pub(crate) fn is(name: &[u8], wanted: &[u8]) -> bool {
    name.len() == wanted.len() && (name == wanted || name.eq_ignore_ascii_case(wanted))
}

/// Whether a value has no byte that would end it (RFC 9110 §5.5). All of it is looked at, which is faster than to stop
/// at the first one: most values have none.
pub(crate) fn is_one_line(value: &[u8]) -> bool {
    let ends = |byte: &u8| matches!(byte, b'\r' | b'\n' | 0);
    !value.iter().fold(false, |found, byte| found | ends(byte))
}

impl FromIterator<(Bytes, Bytes)> for Headers {
    fn from_iter<T: IntoIterator<Item = (Bytes, Bytes)>>(iter: T) -> Self {
        Headers(iter.into_iter().collect())
    }
}

/// Fields that belong to one connection and are never forwarded by us (RFC 9110 §7.6.1).
pub fn is_hop_by_hop(name: &[u8]) -> bool {
    const NAMES: [&str; 9] = [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    NAMES
        .iter()
        .any(|n| name.eq_ignore_ascii_case(n.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_may_be_larger_than_the_memory() {
        for (value, expected) in [
            ("0", Some(0)),
            (" 12 ", Some(12)),
            ("4294967296", Some(1 << 32)),
            ("18446744073709551615", Some(u64::MAX)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("", None),
            ("+1", None),
            ("1,1", None),
        ] {
            let headers = Headers(vec![("content-length".into(), value.into())]);
            assert_eq!(headers.content_length(), expected, "{value}");
        }
        assert_eq!(Headers::default().content_length(), None);
    }
}
