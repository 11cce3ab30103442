//! The fingerprint of a request: what counts as "the same payload" under one key.
//!
//! SHA-256 over length-prefixed parts, so that no two different lists of parts give the same
//! input. The body comes last, hashed as it arrives, with its length behind it. The format is
//! fixed by `docs/adr/0003-fingerprint.md`; a change of it is a new [`VERSION`].

use std::fmt;
use std::sync::{LazyLock, Mutex};

use bytes::Bytes;
use idempotency_protocol::{Fingerprint, Scheme};
use sha2::{Digest, Sha256};

use crate::canonical_json::Canonical;
use crate::config::{BodyMode, FingerprintPolicy, JsonPolicy};
use crate::json::JsonError;
use crate::{canonical_json, headers, names, query, rules};

/// Version of the format; part of every scheme id.
pub const VERSION: &str = "1";

/// Why a request has no fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FingerprintError {
    /// The rule compares bodies as JSON, and this one is not (unambiguous) JSON.
    Json(JsonError),
}

impl fmt::Display for FingerprintError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FingerprintError::Json(error) = self;
        write!(
            f,
            "the body must be JSON without duplicate members: {error}"
        )
    }
}

/// Parts of a hash, each with its tag and its length in front. They are collected first: hashing
/// piece by piece costs more than hashing.
struct HashParts(Vec<u8>);

impl HashParts {
    fn new(domain: &str) -> HashParts {
        let mut parts = HashParts(Vec::with_capacity(512));
        parts.add(b'D', domain.as_bytes());
        parts
    }

    fn add(&mut self, tag: u8, bytes: &[u8]) {
        self.count(tag, bytes.len());
        self.0.extend_from_slice(bytes);
    }

    fn count(&mut self, tag: u8, n: usize) {
        self.0.push(tag);
        self.0.extend_from_slice(&(n as u64).to_be_bytes());
    }

    fn hash(self) -> Sha256 {
        let (opening, state) = &*OPENING;
        match self.0.strip_prefix(opening) {
            Some(rest) => state.clone().chain_update(rest),
            None => Sha256::new_with_prefix(self.0),
        }
    }
}

/// The first block of 64 bytes that almost every fingerprint begins with, and the state of the hash behind it:
/// domain, version, `POST` and the tag of the overrides fill it exactly. A block costs 3,400 instructions in wasm.
static OPENING: LazyLock<([u8; 64], Sha256)> = LazyLock::new(|| {
    let mut parts = HashParts::new("idempotency-gateway/fingerprint");
    parts.add(b'V', VERSION.as_bytes());
    parts.add(b'M', b"POST");
    parts.0.push(b'O');
    let mut opening = [0; 64];
    // Another length would match no fingerprint, which is slow and not wrong; a test holds that it is this one.
    if parts.0.len() == opening.len() {
        opening.copy_from_slice(&parts.0);
    }
    (opening, Sha256::new_with_prefix(opening))
});

/// What of a request is hashed before its body.
#[derive(Clone, Copy)]
pub(crate) struct Head<'a> {
    pub method: &'a [u8],
    /// In normal form.
    pub path: &'a str,
    /// As it came.
    pub query: &'a [u8],
    pub host: &'a [u8],
    /// All of them.
    pub headers: &'a [(Bytes, Bytes)],
}

impl Head<'_> {
    /// The state of the hash behind it.
    #[inline(never)]
    fn hash(&self, policy: &FingerprintPolicy) -> Sha256 {
        let mut parts = HashParts::new("idempotency-gateway/fingerprint");
        parts.add(b'V', VERSION.as_bytes());
        parts.add(b'M', &self.method.to_ascii_uppercase());
        let overrides = rules::method_override(self.headers);
        parts.count(b'O', overrides.len());
        for method in overrides {
            parts.add(b'o', &method.to_ascii_uppercase());
        }
        parts.add(b'P', self.path.as_bytes());
        let query = query::canonicalise(self.query, &policy.query.ignore);
        parts.add(b'Q', query.as_bytes());
        let with_parameters = policy.body() != BodyMode::None;
        add_values(&mut parts, "content-type", self.headers, &|value| {
            media_type(value, with_parameters)
        });
        for name in policy.counted_headers() {
            add_values(&mut parts, name, self.headers, &|value| {
                value.trim_ascii().to_vec()
            });
        }
        if policy.host {
            parts.add(b'A', &rules::bare_host(self.host).to_ascii_lowercase());
        }
        parts.0.push(b'B');
        parts.hash()
    }

    /// Everything that [`Head::hash`] looks at, as it came, piece by piece. False: `each` wants no more.
    fn pieces(
        &self,
        policy: &FingerprintPolicy,
        counted: &[Box<[u8]>],
        mut each: impl FnMut(&[u8]) -> bool,
    ) -> bool {
        let host = if policy.host { self.host } else { &[] };
        let counts =
            |name: &[u8]| counted.iter().any(|c| headers::is(name, c)) || names::replaces(name);
        let begin = [self.method, self.path.as_bytes(), self.query, host];
        begin.into_iter().all(&mut each)
            && self
                .headers
                .iter()
                .all(|(name, value)| !counts(name) || each(name) && each(value))
    }
}

/// What the last request of a rule began with, and the state of the hash behind that. Most operations have one
/// path and one content type, and differ in their bodies and keys. (Where an id is in the path it never hits.)
pub(crate) struct LastHead {
    /// The headers that count.
    counted: Vec<Box<[u8]>>,
    /// The pieces, each with its length in front, and the state behind them.
    last: Mutex<Option<(Vec<u8>, Sha256)>>,
}

/// Shows nothing of the request.
impl fmt::Debug for LastHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LastHead").finish_non_exhaustive()
    }
}

/// The longest beginning that is kept, in bytes: a client must not choose how much memory a rule takes.
const LONGEST_HEAD: usize = 1024;

impl LastHead {
    /// For a rule.
    pub(crate) fn of(policy: &FingerprintPolicy) -> LastHead {
        let counted = std::iter::once("content-type").chain(policy.counted_headers());
        LastHead {
            counted: counted.map(|name| name.as_bytes().into()).collect(),
            last: Mutex::default(),
        }
    }

    fn hash(&self, policy: &FingerprintPolicy, head: &Head) -> Sha256 {
        // Another thread is at it: to wait would cost more than to hash.
        let Ok(mut last) = self.last.try_lock() else {
            return head.hash(policy);
        };
        if let Some((known, hash)) = &*last {
            let mut rest = known.as_slice();
            let is_next = |piece: &[u8]| match behind_piece(rest, piece) {
                Some(left) => {
                    rest = left;
                    true
                }
                None => false,
            };
            if head.pieces(policy, &self.counted, is_next) && rest.is_empty() {
                return hash.clone();
            }
        }
        let hash = head.hash(policy);
        let (mut known, _) = last.take().unwrap_or_default();
        known.clear();
        let keep = |piece: &[u8]| {
            known.extend_from_slice(&piece.len().to_le_bytes());
            known.extend_from_slice(piece);
            known.len() <= LONGEST_HEAD
        };
        if head.pieces(policy, &self.counted, keep) {
            *last = Some((known, hash.clone()));
        }
        hash
    }
}

/// What follows a piece, where that is what comes next.
fn behind_piece<'k>(known: &'k [u8], piece: &[u8]) -> Option<&'k [u8]> {
    let known = known.strip_prefix(&piece.len().to_le_bytes())?;
    known.strip_prefix(piece)
}

/// Hashes one request while its body arrives.
pub struct Hasher {
    scheme: Scheme,
    hash: Sha256,
    mode: BodyMode,
    /// How much of the body has been hashed.
    length: u64,
    /// The body, where it is read as JSON.
    kept: Option<Vec<u8>>,
    members: JsonPolicy,
    key: Option<String>,
}

/// What came of a request whose body is whole.
#[derive(Debug)]
pub struct Hashed {
    /// What must be the same for requests of one key.
    pub fingerprint: Fingerprint,
    /// The canonical form of the member that [`Hasher::with_key`] asked for; `None`: it is not there.
    pub key: Option<Vec<u8>>,
    /// Only some members of the body count, and none of them is there.
    pub nothing: bool,
}

/// Shows nothing of the payload.
impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hasher")
            .field("scheme", &self.scheme)
            .finish_non_exhaustive()
    }
}

impl Hasher {
    /// Starts with everything but the body. `scheme` is the policy's [`scheme`]; `path` is the normal form and `query` the raw query,
    /// as [`rules::Matched`] has them; `headers` are all headers of the request.
    pub fn new(
        policy: &FingerprintPolicy,
        scheme: Scheme,
        method: &[u8],
        path: &str,
        query: &[u8],
        host: &[u8],
        headers: &[(Bytes, Bytes)],
    ) -> Hasher {
        let head = Head {
            method,
            path,
            query,
            host,
            headers,
        };
        Hasher::of(policy, scheme, &head)
    }

    pub(crate) fn of(policy: &FingerprintPolicy, scheme: Scheme, head: &Head) -> Hasher {
        Hasher::behind(policy, scheme, head.hash(policy))
    }

    /// The same, by way of what the rule's last request began with: where this one begins alike, nothing of it is
    /// hashed again.
    pub(crate) fn remembering(
        policy: &FingerprintPolicy,
        scheme: Scheme,
        head: &Head,
        last: &LastHead,
    ) -> Hasher {
        Hasher::behind(policy, scheme, last.hash(policy, head))
    }

    fn behind(policy: &FingerprintPolicy, scheme: Scheme, hash: Sha256) -> Hasher {
        let mode = policy.body();
        Hasher {
            scheme,
            hash,
            mode,
            length: 0,
            kept: (mode == BodyMode::Json).then(Vec::new),
            members: policy.json.clone(),
            key: None,
        }
    }

    /// Asks for a member of the body, by a JSON Pointer. The body must then be JSON, whatever of it counts.
    pub fn with_key(mut self, pointer: &str) -> Hasher {
        self.kept.get_or_insert_default();
        self.key = Some(pointer.to_owned());
        self
    }

    /// The next piece of the body. The caller sees to it that the body stays under its cap:
    /// JSON is kept until [`finish`](Hasher::finish).
    pub fn update(&mut self, piece: &[u8]) {
        if self.mode == BodyMode::Raw {
            self.add(piece);
        }
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(piece);
        }
    }

    fn add(&mut self, piece: &[u8]) {
        self.length += piece.len() as u64;
        self.hash.update(piece);
    }

    /// What it comes to, once the body is complete.
    pub fn finish(mut self) -> Result<Hashed, FingerprintError> {
        let JsonPolicy { only, ignore } = std::mem::take(&mut self.members);
        let mut found = Canonical::default();
        // No body at all is no JSON, but has a meaning of its own; no JSON text is empty.
        if let Some(body) = self.kept.take().filter(|body| !body.is_empty()) {
            let parts = canonical_json::Parts {
                only: &only,
                ignore: &ignore,
                key: self.key.as_deref(),
            };
            found = canonical_json::select(&body, parts).map_err(FingerprintError::Json)?;
            if self.mode == BodyMode::Json {
                self.add(&found.text);
            }
        }
        self.hash.update(self.length.to_be_bytes());
        Ok(Hashed {
            fingerprint: Fingerprint {
                scheme: self.scheme,
                digest: self.hash.finalize().into(),
            },
            key: found.key,
            nothing: !only.is_empty() && !found.found,
        })
    }
}

/// One header: its name, how often it occurs, and its values in their order.
fn add_values(
    parts: &mut HashParts,
    name: &str,
    headers: &[(Bytes, Bytes)],
    form: &dyn Fn(&[u8]) -> Vec<u8>,
) {
    let values = || {
        headers
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes()))
    };
    let count = values().count();
    if count == 0 {
        // Unambiguous all the same: the scheme says which headers count.
        return;
    }
    parts.add(b'H', name.as_bytes());
    parts.count(b'N', count);
    for (_, value) in values() {
        parts.add(b'h', &form(value));
    }
}

/// A media type (RFC 9110 §8.3.1) with type, subtype, parameter names and charset in lower case,
/// no optional white space, and without needless quotes.
fn media_type(value: &[u8], with_parameters: bool) -> Vec<u8> {
    let mut pieces = split_unquoted(value).into_iter().map(<[u8]>::trim_ascii);
    let mut out = pieces.next().unwrap_or_default().to_ascii_lowercase();
    if !with_parameters {
        return out;
    }
    for piece in pieces.filter(|piece| !piece.is_empty()) {
        let end = piece.iter().position(|b| *b == b'=').unwrap_or(piece.len());
        let (name, rest) = piece.split_at_checked(end).unwrap_or((piece, &[]));
        out.push(b';');
        out.extend_from_slice(&name.to_ascii_lowercase());
        if let [b'=', value @ ..] = rest {
            out.push(b'=');
            let value = match value {
                [b'"', token @ .., b'"'] if is_token(token) => token,
                value => value,
            };
            match name.eq_ignore_ascii_case(b"charset") {
                true => out.extend_from_slice(&value.to_ascii_lowercase()),
                false => out.extend_from_slice(value),
            }
        }
    }
    out
}

/// Splits at semicolons outside of quoted strings.
fn split_unquoted(value: &[u8]) -> Vec<&[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    value
        .split(|byte| {
            let escape = quoted && !escaped && *byte == b'\\';
            if *byte == b'"' && !escaped {
                quoted = !quoted;
            }
            escaped = escape;
            *byte == b';' && !quoted
        })
        .collect()
}

/// RFC 9110 §5.6.2.
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty()
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
}

/// The default list of headers in the first releases. A scheme names it where the configuration has no list.
///
/// The last three do not count any more. A header that does not occur leaves no trace in a digest, so that the
/// digest of a request without them is what it was; by another name of the scheme the records of those releases
/// would not be comparable all the same.
const FIRST_HEADERS: [&str; 5] = [
    "content-encoding",
    "content-range",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
];

/// How fingerprints of this policy are made. Digests of different schemes are not comparable: a
/// record that was made before a change of the policy is told apart from one with another payload.
pub fn scheme(policy: &FingerprintPolicy) -> Scheme {
    let mut parts = HashParts::new("idempotency-gateway/fingerprint-scheme");
    parts.add(b'V', VERSION.as_bytes());
    let body: &[u8] = match policy.body() {
        BodyMode::Raw => b"raw",
        BodyMode::Json => b"json",
        BodyMode::None => b"none",
    };
    parts.add(b'B', body);
    let names: Vec<&str> = match &policy.headers {
        Some(listed) => listed.iter().map(String::as_str).collect(),
        None => FIRST_HEADERS.to_vec(),
    };
    parts.count(b'N', names.len());
    for name in names {
        parts.add(b'H', name.as_bytes());
    }
    parts.add(b'A', if policy.host { b"host" } else { b"" });
    // What is not asked for leaves no trace, so that plain policies keep their schemes.
    let lists = [
        (b'Q', &policy.query.ignore),
        (b'O', &policy.json.only),
        (b'I', &policy.json.ignore),
    ];
    for (tag, list) in lists {
        list.iter().for_each(|name| parts.add(tag, name.as_bytes()));
    }
    let digest: [u8; 32] = parts.hash().finalize().into();
    let [a, b, c, d, e, f, g, h, ..] = digest;
    Scheme(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
}

/// The fingerprint of a payload that is no HTTP request. `kind` names how the bytes came about (`json`,
/// `raw`): payloads of different kinds are not comparable, with each other or with requests.
pub fn of_payload(kind: &str, payload: &[u8]) -> Fingerprint {
    let mut parts = HashParts::new("idempotency-gateway/payload-scheme");
    parts.add(b'V', VERSION.as_bytes());
    parts.add(b'K', kind.as_bytes());
    let digest: [u8; 32] = parts.hash().finalize().into();
    let [a, b, c, d, e, f, g, h, ..] = digest;
    let mut parts = HashParts::new("idempotency-gateway/payload");
    parts.add(b'V', VERSION.as_bytes());
    parts.add(b'K', kind.as_bytes());
    parts.count(b'B', payload.len());
    let mut hash = parts.hash();
    hash.update(payload);
    Fingerprint {
        scheme: Scheme(u64::from_be_bytes([a, b, c, d, e, f, g, h])),
        digest: hash.finalize().into(),
    }
}

/// A key for a request that has none: hex of SHA-256 over tenant, operation and fingerprint.
///
/// There is no time in it, so that a retry across midnight meets its record; how long two equal
/// requests count as one is the record's TTL. `path` is the normal form.
pub fn derive_key(tenant: &str, method: &[u8], path: &str, fingerprint: &Fingerprint) -> String {
    let mut parts = HashParts::new("idempotency-gateway/derived-key");
    parts.add(b'V', VERSION.as_bytes());
    parts.add(b'T', tenant.as_bytes());
    parts.add(b'M', &method.to_ascii_uppercase());
    parts.add(b'P', path.as_bytes());
    parts.add(b'S', &fingerprint.scheme.0.to_be_bytes());
    parts.add(b'F', &fingerprint.digest);
    hex::encode(parts.hash().finalize())
}

#[cfg(test)]
mod tests;
