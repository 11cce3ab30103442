//! Keys: how they are written, and what is derived from each.
//! The [module above](super) has the form.

use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, Engine as _, GeneralPurpose, GeneralPurposeConfig};
use chacha20poly1305::aead::KeyInit as _;
use chacha20poly1305::XChaCha20Poly1305;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::fmt;
use zeroize::Zeroizing;

/// Length of a key in bytes.
pub const KEY_BYTES: usize = 32;

/// Longest name of a key, in bytes.
pub const MAX_NAME_BYTES: usize = crate::history::MAX_SEAL_BYTES;

/// Most keys beside the index key: an acquire that meets a record of an old key tries one after the other.
pub const MAX_KEYS: usize = 16;

/// The name of the index key.
pub const INDEX: &str = "index";

/// Padding is written and need not be.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why keys are refused. It never tells a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// A line makes no sense.
    #[error("line {line}: {why}")]
    Line {
        /// Its number, from 1 on.
        line: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The keys as a whole make no sense, or cannot follow those that there were.
    #[error("{0}")]
    Whole(String),
    /// The operating system gives no random bytes.
    #[error("no random bytes: {0}")]
    Random(String),
}

/// The keys of one store: the index key, and those that seal and open.
#[derive(Clone)]
pub struct Keys {
    pub(super) index: Index,
    /// The first one seals. Never empty.
    pub(super) keys: Vec<Key>,
}

/// What is derived from the index key. A MAC under it can be computed again for as long as the store lives.
#[derive(Clone)]
pub(super) struct Index {
    pub tenant: Hmac<Sha256>,
    pub key: Hmac<Sha256>,
    pub outcome: Hmac<Sha256>,
    pub check: [u8; 32],
}

/// What is derived from a key that seals.
#[derive(Clone)]
pub(super) struct Key {
    pub name: String,
    pub wrap: XChaCha20Poly1305,
    pub fingerprint: Hmac<Sha256>,
    /// Tells two keys of one name apart.
    pub check: [u8; 32],
}

/// Names only.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keys").field(&self.names()).finish()
    }
}

impl Keys {
    /// Reads keys as they are written in a file; see the [module](super).
    ///
    /// # Errors
    ///
    /// [`KeysError`]: what is wrong, and in which line.
    pub fn parse(text: &str) -> Result<Keys, KeysError> {
        let mut index = None;
        let mut keys: Vec<Key> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let wrong = |why| KeysError::Line { line: at + 1, why };
            let mut words = line.split_whitespace();
            let Some(name) = words.next().filter(|name| !name.starts_with('#')) else {
                continue;
            };
            let (Some(written), None) = (words.next(), words.next()) else {
                return Err(wrong("not a name and a key"));
            };
            let bytes = BASE64.decode(written).map(Zeroizing::new);
            let bytes = bytes.map_err(|_| wrong("the key is not base64"))?;
            let bytes: &[u8; KEY_BYTES] = bytes
                .as_slice()
                .try_into()
                .map_err(|_| wrong("the key is not 32 bytes long"))?;
            if *bytes == [0; KEY_BYTES] {
                return Err(wrong("the key is nothing but zeros"));
            }
            if name == INDEX {
                if index.replace(Index::of(bytes)).is_some() {
                    return Err(wrong("a second index key"));
                }
                continue;
            }
            if !is_name(name) {
                return Err(wrong(
                    "the name is longer than 64 characters, or has others than letters, digits, `-`, `_` and `.`",
                ));
            }
            if keys.iter().any(|key| key.name == name) {
                return Err(wrong("a second key of this name"));
            }
            keys.push(Key::of(name, bytes));
        }
        let whole = |why: &str| Err(KeysError::Whole(why.to_owned()));
        let Some(index) = index else {
            return whole("there is no index key: a line that begins with `index`");
        };
        if keys.is_empty() {
            return whole("there is no key beside the index key: nothing can be sealed");
        }
        if keys.len() > MAX_KEYS {
            return whole("there are more than 16 keys: rewrap the records, and drop old ones");
        }
        let mut checks: Vec<_> = keys.iter().map(|key| key.check).collect();
        checks.sort_unstable();
        if checks.windows(2).any(|two| two[0] == two[1]) {
            return whole("two names have the same key");
        }
        Ok(Keys { index, keys })
    }

    /// A line with a new random key, for a file of keys.
    ///
    /// # Errors
    ///
    /// [`KeysError::Random`], and [`KeysError::Whole`] if the name is none.
    pub fn line(name: &str) -> Result<String, KeysError> {
        if !is_name(name) {
            return Err(KeysError::Whole(format!("`{name}` is no name of a key")));
        }
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        getrandom::fill(&mut *key).map_err(|e| KeysError::Random(e.to_string()))?;
        Ok(format!("{name} {}\n", BASE64.encode(*key)))
    }

    /// The names of the keys that seal and open, the sealing one first.
    pub fn names(&self) -> Vec<&str> {
        self.keys.iter().map(|key| key.name.as_str()).collect()
    }

    pub(super) fn named(&self, name: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// Whether these can follow `before` in a running process.
    pub(super) fn may_follow(&self, before: &Keys) -> Result<(), KeysError> {
        if self.index.check != before.index.check {
            let why =
                "the index key is another one: it never changes; the keys from before stay in use";
            return Err(KeysError::Whole(why.to_owned()));
        }
        let differs = |key: &&Key| {
            let old = before.named(&key.name);
            old.is_some_and(|old| old.check != key.check)
        };
        match self.keys.iter().find(differs) {
            Some(key) => Err(KeysError::Whole(format!(
                "the key `{}` is another one than before: give a new key a new name; the keys from before stay in \
                 use",
                key.name
            ))),
            None => Ok(()),
        }
    }
}

/// Whether a key can be named so.
fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(fits)
}

fn derived(key: &[u8; KEY_BYTES], purpose: &str) -> Zeroizing<[u8; 32]> {
    let mac = mac(key).chain_update(b"idempotency-gateway/1/");
    Zeroizing::new(mac.chain_update(purpose).finalize().into_bytes().into())
}

fn mac(key: &[u8; KEY_BYTES]) -> Hmac<Sha256> {
    // A key shorter than a block is filled up with zeros (RFC 2104).
    let mut block = Zeroizing::new([0; 64]);
    for (byte, of) in block.iter_mut().zip(key) {
        *byte = *of;
    }
    <Hmac<Sha256> as Mac>::new((&*block).into())
}

impl Index {
    fn of(bytes: &[u8; KEY_BYTES]) -> Index {
        Index {
            tenant: mac(&derived(bytes, "tenant")),
            key: mac(&derived(bytes, "key")),
            outcome: mac(&derived(bytes, "outcome")),
            check: *derived(bytes, "check"),
        }
    }
}

impl Key {
    fn of(name: &str, bytes: &[u8; KEY_BYTES]) -> Key {
        Key {
            name: name.to_owned(),
            wrap: XChaCha20Poly1305::new((&*derived(bytes, "wrap")).into()),
            fingerprint: mac(&derived(bytes, "fingerprint")),
            check: *derived(bytes, "check"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(names: &[&str]) -> String {
        names.iter().map(|name| Keys::line(name).unwrap()).collect()
    }

    #[test]
    fn the_first_key_seals() {
        let text = format!("# keys\n\n  {}", text(&["b", "index", "a"]));
        let keys = Keys::parse(&text).unwrap();
        assert_eq!(keys.names(), ["b", "a"]);
        assert_eq!(format!("{keys:?}"), r#"Keys(["b", "a"])"#);
    }

    #[test]
    fn what_makes_no_sense_is_told_without_the_key() {
        let good = text(&["index", "a"]);
        let secret = good.split_whitespace().last().unwrap().to_owned();
        let long = "n".repeat(65);
        for (text, told) in [
            (text(&["index"]), "no key beside"),
            (text(&["a"]), "no index key"),
            (format!("{good}{}", text(&["a"])), "line 3: a second key"),
            (format!("{good}{}", text(&["index"])), "a second index"),
            (format!("{good}b {secret}\n"), "two names"),
            (format!("{good}b\n"), "not a name and a key"),
            (format!("{good}b {secret} c\n"), "not a name and a key"),
            (format!("{good}b {}\n", &secret[4..]), "32 bytes"),
            (format!("{good}b ?{secret}\n"), "not base64"),
            (format!("{good}ö {secret}\n"), "the name"),
            (format!("{good}{long} {secret}\n"), "the name"),
            (format!("{good}b {}=\n", "A".repeat(43)), "zeros"),
        ] {
            let error = Keys::parse(&text).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
            assert!(!error.contains(&secret), "{error}");
        }
    }

    #[test]
    fn keys_may_come_and_go_but_not_change() {
        let (index, a, b) = (text(&["index"]), text(&["a"]), text(&["b"]));
        let keys = |lines: &[&str]| Keys::parse(&lines.concat()).unwrap();
        let now = keys(&[&index, &a]);
        assert_eq!(keys(&[&index, &b, &a]).may_follow(&now), Ok(()));
        assert_eq!(keys(&[&index, &b]).may_follow(&now), Ok(()));
        let other = keys(&[&index, &text(&["a"])]);
        assert!(other.may_follow(&now).is_err());
        let other = keys(&[&text(&["index"]), &a]);
        assert!(other.may_follow(&now).is_err());
    }
}
