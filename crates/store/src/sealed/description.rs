//! The description of a record, sealed: what is told of the request, the key itself, and the fingerprint, which a
//! rewrap needs.
//!
//! ```text
//! description := 1:u8 scheme:u64 digest:32 length:u32 key (0 | 1 7 × text)
//! text        := length:u16 UTF-8
//! ```
//!
//! To the store it is a description whose only text is the envelope in base64, in the place of the path.

use super::envelope::{self, Closed, NoRandom};
use super::keys::{Key, Keys};
use super::seal::{place_of, What};
use crate::keys;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine as _;
use bytes::{Buf, BufMut, Bytes};
use idempotency_protocol::{About, Fingerprint, LookupKey, Scheme};

/// How the text begins.
const MARK: &str = "~1";
const VERSION: u8 = 1;

/// What is sealed in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Description {
    pub key: LookupKey,
    pub fingerprint: Fingerprint,
    pub about: Option<About>,
}

impl Description {
    /// As the store of the record gets it.
    pub fn seal(&self, key: &Key, place: &LookupKey) -> Result<About, NoRandom> {
        let place = place_of(What::Description, place, 0);
        envelope::seal(key, &place, &self.encode()).map(|sealed| text(&sealed))
    }

    /// Of a record at this place. `None`: it has no sealed description.
    pub fn open(keys: &Keys, place: &LookupKey, about: &About) -> Option<Result<Self, Closed>> {
        let envelope = envelope_of(about)?;
        let place = place_of(What::Description, place, 0);
        let opened = envelope::open(keys, &place, &envelope);
        Some(opened.and_then(|content| Description::decode(content).ok_or(Closed::Damaged)))
    }

    fn encode(&self) -> Vec<u8> {
        let key = self.key.to_bytes();
        let mut out = Vec::with_capacity(64 + key.len() + 256);
        out.put_u8(VERSION);
        out.put_u64(self.fingerprint.scheme.0);
        out.put_slice(&self.fingerprint.digest);
        out.put_u32(u32::try_from(key.len()).unwrap_or(u32::MAX));
        out.put_slice(&key);
        match &self.about {
            None => out.put_u8(0),
            Some(about) => {
                out.put_u8(1);
                for field in about.fields() {
                    // Descriptions are cut far below 64 KiB before they come here.
                    let length = u16::try_from(field.len()).unwrap_or(0);
                    out.put_u16(length);
                    out.extend(field.bytes().take(length.into()));
                }
            }
        }
        out
    }

    fn decode(mut bytes: Bytes) -> Option<Description> {
        let r = &mut bytes;
        if r.try_get_u8().ok()? != VERSION {
            return None;
        }
        let scheme = Scheme(r.try_get_u64().ok()?);
        let mut digest = [0; 32];
        r.try_copy_to_slice(&mut digest).ok()?;
        let length = usize::try_from(r.try_get_u32().ok()?).ok()?;
        let key = keys::from_bytes(&take(r, length)?)?;
        let about = match r.try_get_u8().ok()? {
            0 => None,
            1 => {
                let mut about = About::default();
                for field in about.fields_mut() {
                    let length = usize::from(r.try_get_u16().ok()?);
                    *field = std::str::from_utf8(&take(r, length)?).ok()?.to_owned();
                }
                Some(about)
            }
            _ => return None,
        };
        let fingerprint = Fingerprint { scheme, digest };
        r.is_empty().then_some(Description {
            key,
            fingerprint,
            about,
        })
    }
}

fn take(r: &mut Bytes, length: usize) -> Option<Bytes> {
    (r.len() >= length).then(|| r.split_to(length))
}

/// An envelope as a description.
pub(super) fn text(envelope: &[u8]) -> About {
    let mut path = MARK.to_owned();
    URL_SAFE_NO_PAD.encode_string(envelope, &mut path);
    About {
        path,
        ..About::default()
    }
}

/// The envelope of a description.
pub(super) fn envelope_of(about: &About) -> Option<Bytes> {
    let text = about.path.strip_prefix(MARK)?;
    URL_SAFE_NO_PAD.decode(text).ok().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use idempotency_protocol::Origin;

    #[test]
    fn a_description_survives_the_round_trip() {
        let lines = ["index", "k"].map(|name| Keys::line(name).unwrap());
        let keys = Keys::parse(&lines.concat()).unwrap();
        let mut about = About::default();
        for (n, field) in about.fields_mut().into_iter().enumerate() {
            *field = "ü".repeat(n);
        }
        for about in [None, Some(about)] {
            let description = Description {
                key: LookupKey {
                    tenant: "acme".into(),
                    namespace: "n".into(),
                    origin: Origin::Derived,
                    key: "order-1".into(),
                },
                fingerprint: Fingerprint {
                    scheme: Scheme(3),
                    digest: [5; 32],
                },
                about,
            };
            let place = keys.index.place(&description.key);
            let sealed = description.seal(&keys.keys[0], &place).unwrap();
            let opened = Description::open(&keys, &place, &sealed);
            assert_eq!(opened, Some(Ok(description.clone())));
            let other = LookupKey {
                origin: Origin::Client,
                ..place
            };
            let moved = Description::open(&keys, &other, &sealed);
            assert_eq!(moved, Some(Err(Closed::Damaged)));
        }
        assert_eq!(
            Description::open(&keys, &keys.index.place(&key()), &About::default()),
            None
        );
    }

    fn key() -> LookupKey {
        LookupKey {
            tenant: String::new(),
            namespace: String::new(),
            origin: Origin::Client,
            key: "k".into(),
        }
    }
}
