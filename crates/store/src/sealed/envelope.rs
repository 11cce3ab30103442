//! What is sealed, as bytes.
//!
//! ```text
//! envelope := 1:u8 length:u8 name nonce:24 wrapped:48 ciphertext
//! ```
//!
//! Every envelope has a data key of its own, random and used once: ChaCha20-Poly1305 with a nonce of zeros, and the
//! place of the envelope as associated data. The data key is wrapped by the key of that name: XChaCha20-Poly1305 with
//! a random nonce of 192 bits, of which no number of records makes two equal. Rewrapping replaces the wrapped data key
//! and leaves the ciphertext as it is. See `docs/adr/0023-encryption.md`.

use super::keys::{Key, Keys};
use super::ring::Trouble;
use bytes::{Buf, BufMut, Bytes};
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Nonce, XNonce};
use zeroize::Zeroizing;

const VERSION: u8 = 1;
const NONCE: usize = 24;
const TAG: usize = 16;
const DATA_KEY: usize = 32;
const WRAPPED: usize = DATA_KEY + TAG;

/// What an envelope takes beside its content and the name of its key, in bytes.
#[cfg(test)]
pub(super) const OVERHEAD: usize = 2 + NONCE + WRAPPED + TAG;

/// Why something sealed cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Closed {
    /// Its key is not among ours.
    #[error("what is stored is encrypted with a key that is not given")]
    MissingKey,
    /// It is no envelope, or was changed, or belongs elsewhere.
    #[error("what is stored was changed, or belongs to another record")]
    Damaged,
}

impl Closed {
    /// As it is counted where a missing key is told by `missing`.
    pub fn trouble(self, missing: Trouble) -> Trouble {
        match self {
            Closed::MissingKey => missing,
            Closed::Damaged => Trouble::Damaged,
        }
    }
}

/// The operating system gave no random bytes.
#[derive(Debug)]
pub(super) struct NoRandom(pub String);

fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, NoRandom> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(&mut *bytes).map_err(|e| NoRandom(e.to_string()))?;
    Ok(bytes)
}

/// Seals `content` for its `place`.
pub(super) fn seal(key: &Key, place: &[u8], content: &[u8]) -> Result<Vec<u8>, NoRandom> {
    let data_key = random::<DATA_KEY>()?;
    let mut out = Vec::with_capacity(128 + key.name.len() + content.len());
    put_head(&mut out, key, &data_key)?;
    let payload = Payload {
        msg: content,
        aad: place,
    };
    // It fails only on messages of 256 GiB.
    let too_long = |_| NoRandom("a message is too long to be sealed".to_owned());
    let sealed = ChaCha20Poly1305::new((&*data_key).into())
        .encrypt(&Nonce::default(), payload)
        .map_err(too_long)?;
    out.extend_from_slice(&sealed);
    Ok(out)
}

fn put_head(out: &mut Vec<u8>, key: &Key, data_key: &[u8; DATA_KEY]) -> Result<(), NoRandom> {
    let start = out.len();
    out.put_u8(VERSION);
    out.put_u8(u8::try_from(key.name.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(key.name.as_bytes());
    let nonce = random::<NONCE>()?;
    let payload = Payload {
        msg: data_key.as_slice(),
        aad: out.get(start..).unwrap_or_default(),
    };
    let wrapped = key
        .wrap
        .encrypt(&XNonce::from(*nonce), payload)
        .map_err(|_| NoRandom("a data key cannot be wrapped".to_owned()))?;
    out.extend_from_slice(&*nonce);
    out.extend_from_slice(&wrapped);
    Ok(())
}

/// An envelope, taken apart.
struct EnvelopeParts {
    head: Bytes,
    nonce: [u8; NONCE],
    wrapped: Bytes,
    ciphertext: Bytes,
}

fn parts(mut envelope: Bytes) -> Option<EnvelopeParts> {
    let whole = envelope.clone();
    if envelope.try_get_u8().ok()? != VERSION {
        return None;
    }
    let length = usize::from(envelope.try_get_u8().ok()?);
    if envelope.len() < length + NONCE + WRAPPED + TAG {
        return None;
    }
    envelope.advance(length);
    let mut nonce = [0; NONCE];
    envelope.copy_to_slice(&mut nonce);
    Some(EnvelopeParts {
        head: whole.slice(..2 + length),
        nonce,
        wrapped: envelope.split_to(WRAPPED),
        ciphertext: envelope,
    })
}

impl EnvelopeParts {
    fn name(&self) -> &str {
        let name = self.head.get(2..).unwrap_or_default();
        std::str::from_utf8(name).unwrap_or_default()
    }

    fn data_key(&self, keys: &Keys) -> Result<Zeroizing<[u8; DATA_KEY]>, Closed> {
        let key = keys.named(self.name()).ok_or(Closed::MissingKey)?;
        let payload = Payload {
            msg: &self.wrapped,
            aad: &self.head,
        };
        let opened = key.wrap.decrypt(&XNonce::from(self.nonce), payload);
        let opened = Zeroizing::new(opened.map_err(|_| Closed::Damaged)?);
        let mut data_key = Zeroizing::new([0; DATA_KEY]);
        if opened.len() != DATA_KEY {
            return Err(Closed::Damaged);
        }
        data_key.copy_from_slice(&opened);
        Ok(data_key)
    }
}

/// The name of the key that an envelope is sealed with; `None`: it is no envelope.
pub(super) fn key_name(envelope: &Bytes) -> Option<String> {
    parts(envelope.clone()).map(|parts| parts.name().to_owned())
}

/// What was sealed for this place.
pub(super) fn open(keys: &Keys, place: &[u8], envelope: &Bytes) -> Result<Bytes, Closed> {
    let parts = parts(envelope.clone()).ok_or(Closed::Damaged)?;
    let data_key = parts.data_key(keys)?;
    let payload = Payload {
        msg: &parts.ciphertext,
        aad: place,
    };
    ChaCha20Poly1305::new((&*data_key).into())
        .decrypt(&Nonce::default(), payload)
        .map(Bytes::from)
        .map_err(|_| Closed::Damaged)
}

/// Why an envelope is not rewrapped.
#[derive(Debug)]
pub(super) enum NotRewrapped {
    Closed(Closed),
    NoRandom(NoRandom),
}

/// The same content, its data key wrapped by `key`. The content is not looked at.
pub(super) fn rewrap(keys: &Keys, key: &Key, envelope: &Bytes) -> Result<Vec<u8>, NotRewrapped> {
    let parts = parts(envelope.clone()).ok_or(NotRewrapped::Closed(Closed::Damaged))?;
    let data_key = parts.data_key(keys).map_err(NotRewrapped::Closed)?;
    let mut out = Vec::with_capacity(envelope.len() + key.name.len());
    put_head(&mut out, key, &data_key).map_err(NotRewrapped::NoRandom)?;
    out.extend_from_slice(&parts.ciphertext);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(names: &[&str]) -> Keys {
        let lines = names.iter().map(|name| Keys::line(name).unwrap());
        Keys::parse(&lines.collect::<String>()).unwrap()
    }

    #[test]
    fn what_is_sealed_is_opened_where_it_belongs() {
        let keys = keys(&["index", "new", "older"]);
        for key in &keys.keys {
            let sealed = Bytes::from(seal(key, b"place", b"content").unwrap());
            assert_eq!(sealed.len(), OVERHEAD + key.name.len() + 7);
            assert_eq!(key_name(&sealed).as_deref(), Some(key.name.as_str()));
            assert_eq!(open(&keys, b"place", &sealed).unwrap(), &b"content"[..]);
            assert_eq!(open(&keys, b"other", &sealed), Err(Closed::Damaged));
            // Nothing of it is the same twice.
            let again = seal(key, b"place", b"content").unwrap();
            assert_ne!(sealed, again);
        }
    }

    #[test]
    fn every_bit_counts() {
        let keys = keys(&["index", "k", "l"]);
        let sealed = seal(&keys.keys[0], b"p", b"content").unwrap();
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut other = sealed.clone();
                other[at] ^= 1 << bit;
                assert!(open(&keys, b"p", &other.into()).is_err(), "{at}.{bit}");
            }
            let cut = Bytes::copy_from_slice(&sealed[..at]);
            assert!(open(&keys, b"p", &cut).is_err(), "{at}");
        }
    }

    #[test]
    fn rewrapped_it_is_the_same_under_another_key() {
        let keys = keys(&["index", "new", "old"]);
        let [new, old] = keys.keys.as_slice() else {
            panic!("two keys");
        };
        let sealed = Bytes::from(seal(old, b"p", b"content").unwrap());
        let rewrapped = Bytes::from(rewrap(&keys, new, &sealed).unwrap());
        assert_eq!(key_name(&rewrapped).as_deref(), Some("new"));
        assert_eq!(rewrapped[2 + 3 + 72..], sealed[2 + 3 + 72..]);
        let only = Keys {
            keys: vec![new.clone()],
            ..keys.clone()
        };
        assert_eq!(open(&only, b"p", &rewrapped).unwrap(), &b"content"[..]);
        assert_eq!(open(&only, b"p", &sealed), Err(Closed::MissingKey));
        let lost = rewrap(&only, new, &sealed);
        assert!(matches!(
            lost,
            Err(NotRewrapped::Closed(Closed::MissingKey))
        ));
    }
}
