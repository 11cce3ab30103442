//! Two gateways of ours in one path: what the outer one proves to the inner one, and what the inner one says of
//! a request that it refused. `docs/hops.md` has the picture.
//!
//! A **proof** travels with an execution. It is an HMAC-SHA256 (RFC 2104) over what the execution is, under a key
//! that both gateways have. A **mark** travels with a refusal. It says that no upstream made the answer, and
//! whether the request may have been executed; it names the request that it answers, so that it is worth nothing
//! beside any other.

use crate::config::Hop;
use crate::headers::Headers;
use crate::names;
use crate::problem::Problem;
use crate::upstream::{record_query, ATTEMPT, FENCE, OURS, PROOF, RECORD};
use bytes::Bytes;
use idempotency_protocol::{Fingerprint, Grant, LookupKey};
use sha2::{Digest, Sha256};
use std::fmt;

/// Response header that marks a refusal.
pub const REFUSAL: &str = "idempotency-refusal";

const VERSION: &str = "v1.";
/// Bytes that SHA-256 takes at a time.
const BLOCK: usize = 64;

/// The keys of a configuration, ready for use.
pub struct Keys {
    keys: Vec<Key>,
    signs: bool,
}

/// Shows nothing of the keys.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

/// One key, as HMAC puts it in front of the message, and of its hash.
struct Key {
    inner: [u8; BLOCK],
    outer: [u8; BLOCK],
}

/// One place for all hashes here: each copy of the function is several kilobytes of the filter.
#[inline(never)]
fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

impl Key {
    fn new(key: &[u8]) -> Key {
        let mut block = [0; BLOCK];
        let hashed = sha256(&[key]);
        let key = match key.len() > BLOCK {
            true => &hashed,
            false => key,
        };
        block.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
        Key {
            inner: block.map(|byte| byte ^ 0x36),
            outer: block.map(|byte| byte ^ 0x5c),
        }
    }

    /// As text, in lower case.
    fn mac(&self, message: &[u8]) -> String {
        let inner = sha256(&[&self.inner, message]);
        hex::encode(sha256(&[&self.outer, &inner]))
    }
}

/// Whether two codes are equal, in a time that does not depend on where they differ.
fn equal(one: &[u8], other: &[u8]) -> bool {
    let differ = one.iter().zip(other).fold(0, |d, (a, b)| d | (a ^ b));
    one.len() == other.len() && std::hint::black_box(differ) == 0
}

/// What a proof is about.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// The record: tenant, namespace and key.
    pub key: &'a LookupKey,
    /// The request's method, as sent.
    pub method: &'a [u8],
    /// Its path in normal form.
    pub path: &'a str,
    /// Everything else of it.
    pub fingerprint: &'a Fingerprint,
}

impl Claim<'_> {
    /// The parts in lines; none of them but the last can have a line break.
    fn message(&self, record: &str, fence: &str, attempt: &str, expires: &str) -> String {
        let mut request = self.fingerprint.scheme.0.to_be_bytes().to_vec();
        request.extend_from_slice(&self.fingerprint.digest);
        let parts = [
            "idempotency-gateway/hop-proof",
            record,
            fence,
            attempt,
            expires,
            &hex::encode(request),
            std::str::from_utf8(self.method).unwrap_or_default(),
            self.path,
        ];
        parts.join("\n")
    }
}

/// A proof that is good as far as a gateway can tell; the store must still redeem it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proven {
    /// It is of the record that the request has here. If not, it only proves that a gateway of ours sent it.
    pub ours: bool,
    /// The execution.
    pub fence: u64,
    /// When it ends, in milliseconds since the Unix epoch by the store's clock.
    pub expires_at_ms: u64,
}

impl Keys {
    /// Prepares keys.
    pub fn new(hop: &Hop) -> Keys {
        let keys = hop.keys.iter().map(|key| Key::new(key.as_bytes()));
        Keys {
            keys: keys.collect(),
            signs: !hop.last,
        }
    }

    /// The proof of an execution, made with the first key; `None` where no gateway stands behind this one. It
    /// ends `margin_ms` before the lease that was granted, counted from the fence, which is the store's time.
    pub fn prove(&self, claim: &Claim, grant: &Grant, margin_ms: u64) -> Option<Bytes> {
        let key = self.keys.first().filter(|_| self.signs)?;
        let usable_ms = grant.lease_ms.saturating_sub(margin_ms);
        let expires = (grant.fence / 1_000).saturating_add(usable_ms).to_string();
        let (fence, attempt) = (grant.fence.to_string(), grant.attempt.to_string());
        let message = claim.message(&record_query(claim.key), &fence, &attempt, &expires);
        let parts = [VERSION, &expires, ".", &key.mac(message.as_bytes())];
        Some(parts.concat().into())
    }

    /// What a request proves, if it is what the proof is about; made with any of the keys.
    pub fn verify(&self, claim: &Claim, carried: &Carried) -> Option<Proven> {
        let (expires, mac) = carried.one(PROOF).strip_prefix(VERSION)?.split_once('.')?;
        let record = carried.one(RECORD);
        let message = claim.message(record, carried.one(FENCE), carried.one(ATTEMPT), expires);
        // All of them, so that the time does not tell which one it is.
        let good = |good: bool, key: &Key| {
            good | equal(key.mac(message.as_bytes()).as_bytes(), mac.as_bytes())
        };
        self.keys.iter().fold(false, good).then_some(())?;
        Some(Proven {
            ours: record == record_query(claim.key),
            fence: carried.fence()?,
            expires_at_ms: expires.parse().ok()?,
        })
    }
}

/// The fields of a request that only gateways of ours send, or that a client has forged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried(Headers);

impl Carried {
    /// Looks for them.
    pub fn of(headers: &Headers) -> Box<Carried> {
        let is_ours = |name: &[u8]| OURS.iter().any(|n| names::same(n.as_bytes(), name));
        let ours = headers.0.iter().filter(|(name, _)| is_ours(name));
        Box::new(Carried(ours.cloned().collect()))
    }

    /// The value of a field that is there once and in the usual spelling; otherwise empty.
    pub fn one(&self, name: &'static str) -> &str {
        let mut values = self.0.all(name);
        match (values.next(), values.next()) {
            (Some(value), None) => std::str::from_utf8(value).unwrap_or_default(),
            _ => "",
        }
    }

    /// The fence; of a request that was forwarded without protection there is none.
    pub fn fence(&self) -> Option<u64> {
        self.one(FENCE).parse().ok()
    }

    /// Whether setting the names of an execution and its proof replaces all of these fields. Not so where one is
    /// repeated, or in another spelling.
    pub fn is_replaceable(&self) -> bool {
        let named = |name: &&'static str| !self.one(name).is_empty();
        self.0 .0.len() == 4 && [FENCE, ATTEMPT, RECORD, PROOF].iter().all(named)
    }

    /// The mark of a refusal of this request.
    pub fn mark(&self, executed: MayBe) -> (Bytes, Bytes) {
        let value = executed.mark(self.one(FENCE), self.one(RECORD));
        (REFUSAL.into(), value.into())
    }
}

/// Whether a request that a gateway of ours answered may have been executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MayBe {
    /// It was not, and will not be.
    NotExecuted,
    /// It may have been: by this request, or by another copy of it.
    Executed,
}

impl MayBe {
    /// What a problem says of it.
    pub fn of(problem: Problem) -> MayBe {
        match problem {
            Problem::OutcomeUnknown | Problem::OutcomeUnrecorded | Problem::NotReplayable => {
                MayBe::Executed
            }
            _ => MayBe::NotExecuted,
        }
    }

    /// The request is named by a hash, which is as long as that whatever the record is called.
    fn mark(self, fence: &str, record: &str) -> String {
        let word = match self {
            MayBe::NotExecuted => "not-executed ",
            MayBe::Executed => "unknown ",
        };
        let parts = ["idempotency-gateway/refusal ", fence, " ", record];
        let hash = sha256(&[parts.concat().as_bytes()]);
        [word, &hex::encode(hash.get(..16).unwrap_or_default())].concat()
    }
}

/// What an answer says, if it is a refusal of ours of this very request; `fence` 0: of one that was forwarded
/// without protection.
pub fn refusal(headers: &Headers, key: &LookupKey, fence: u64) -> Option<MayBe> {
    // One that is repeated was not made by one gateway.
    let mut marks = headers.all(REFUSAL);
    let mark = marks.next().filter(|_| marks.next().is_none())?;
    let fence = match fence {
        0 => String::new(),
        fence => fence.to_string(),
    };
    let record = record_query(key);
    let all = [MayBe::NotExecuted, MayBe::Executed];
    all.into_iter()
        .find(|executed| *mark == executed.mark(&fence, &record))
}

#[cfg(test)]
mod tests {
    use super::*;
    use idempotency_protocol::{Origin, Scheme};

    fn key(namespace: &str, key: &str) -> LookupKey {
        LookupKey {
            tenant: "t".into(),
            namespace: namespace.into(),
            origin: Origin::Client,
            key: key.into(),
        }
    }

    fn keys(keys: &[&str]) -> Keys {
        Keys::new(&Hop {
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            key_env: None,
            last: false,
        })
    }

    fn fingerprint(n: u8) -> Fingerprint {
        Fingerprint {
            scheme: Scheme(1),
            digest: [n; 32],
        }
    }

    const GRANT: Grant = Grant {
        fence: 1_700_000_000_000_000,
        attempt: 2,
        lease_ms: 60_000,
    };

    /// RFC 4231, test cases 1, 2, 3, 6.
    #[test]
    fn the_code_is_hmac_sha256() {
        let long = [0xaa; 131];
        for (key, message, mac) in [
            (
                &[0x0b; 20][..],
                &b"Hi There"[..],
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            ),
            (
                b"Jefe",
                b"what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                &[0xaa; 20],
                &[0xdd; 50],
                "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
            ),
            (
                &long,
                b"Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
        ] {
            assert_eq!(Key::new(key).mac(message), mac);
        }
    }

    fn carried(keys: &Keys, claim: &Claim) -> Carried {
        let proof = keys.prove(claim, &GRANT, 10_000).unwrap();
        let fields = [
            (FENCE, GRANT.fence.to_string().into()),
            (ATTEMPT, GRANT.attempt.to_string().into()),
            (RECORD, record_query(claim.key).into()),
            (PROOF, proof),
        ];
        *Carried::of(&fields.map(|(n, v)| (n.into(), v)).into_iter().collect())
    }

    fn with(carried: &Carried, name: &str, value: &str) -> Carried {
        let mut changed = carried.clone();
        for (n, v) in &mut changed.0 .0 {
            if n.as_ref() == name.as_bytes() {
                *v = value.to_owned().into();
            }
        }
        changed
    }

    #[test]
    fn a_proof_is_good_for_what_it_is_about_and_for_nothing_else() {
        let (key, other) = (key("n", "k"), key("m", "k"));
        let (one, two) = (fingerprint(1), fingerprint(2));
        let claim = Claim {
            key: &key,
            method: b"POST",
            path: "/charges",
            fingerprint: &one,
        };
        let ours = keys(&["first key", "second key"]);
        let good = carried(&ours, &claim);
        assert_eq!(
            ours.verify(&claim, &good),
            Some(Proven {
                ours: true,
                fence: GRANT.fence,
                expires_at_ms: 1_700_000_050_000,
            })
        );
        // The same request has another record here.
        let elsewhere = Claim {
            key: &other,
            ..claim
        };
        assert!(!ours.verify(&elsewhere, &good).unwrap().ours);
        for about_another in [
            Claim {
                method: b"PATCH",
                ..claim
            },
            Claim {
                path: "/refunds",
                ..claim
            },
            Claim {
                fingerprint: &two,
                ..claim
            },
        ] {
            assert_eq!(
                ours.verify(&about_another, &good),
                None,
                "{about_another:?}"
            );
        }
        let proof = good.one(PROOF).to_owned();
        let altered = |from: &str, to: &str| proof.replacen(from, to, 1);
        for (name, value) in [
            (FENCE, "1700000000000001".to_owned()),
            (ATTEMPT, "3".to_owned()),
            (RECORD, record_query(&other)),
            (PROOF, altered("1700000050000", "1700000050001")),
            (PROOF, altered("v1", "v2")),
            (PROOF, altered("v1.", "v1.1.")),
            (PROOF, String::new()),
            (PROOF, proof[..proof.len() - 2].to_owned()),
            (PROOF, format!("{proof}0")),
        ] {
            let forged = with(&good, name, &value);
            assert_eq!(ours.verify(&claim, &forged), None, "{name}: {value}");
        }
        // Each digit of the code counts.
        for at in proof.len() - 64..proof.len() {
            let mut bytes = proof.clone().into_bytes();
            bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
            let forged = with(&good, PROOF, std::str::from_utf8(&bytes).unwrap());
            assert_eq!(ours.verify(&claim, &forged), None, "{at}");
        }
    }

    #[test]
    fn keys_are_rotated_without_a_gap() {
        let (key, fingerprint) = (key("n", "k"), fingerprint(1));
        let claim = Claim {
            key: &key,
            method: b"POST",
            path: "/",
            fingerprint: &fingerprint,
        };
        let stages = [&["old"][..], &["old", "new"], &["new", "old"], &["new"]];
        // Neighbours understand each other in both directions.
        for (a, b) in stages.iter().zip(&stages[1..]) {
            for (outer, inner) in [(a, b), (b, a)] {
                let carried = carried(&keys(outer), &claim);
                assert!(
                    keys(inner).verify(&claim, &carried).is_some(),
                    "{outer:?} {inner:?}"
                );
            }
        }
        let carried = carried(&keys(&["new"]), &claim);
        assert_eq!(keys(&["old"]).verify(&claim, &carried), None);
        let last = Keys::new(&Hop {
            keys: vec!["new".into()],
            key_env: None,
            last: true,
        });
        assert_eq!(last.prove(&claim, &GRANT, 0), None);
        assert!(last.verify(&claim, &carried).is_some());
    }

    #[test]
    fn a_mark_says_something_of_the_request_that_it_names_only() {
        let key = key("n", "k");
        let headers = |pairs: &[(&'static str, String)]| -> Headers {
            let pairs = pairs.iter();
            pairs
                .map(|(n, v)| ((*n).into(), v.clone().into()))
                .collect()
        };
        let of = |fence: &str, key: &LookupKey| {
            Carried::of(&headers(&[
                (FENCE, fence.to_owned()),
                (RECORD, record_query(key)),
            ]))
        };
        let answer = |marks: &[(Bytes, Bytes)]| Headers(marks.to_vec());
        for executed in [MayBe::NotExecuted, MayBe::Executed] {
            let mark = of("7", &key).mark(executed);
            let marked = answer(std::slice::from_ref(&mark));
            assert_eq!(refusal(&marked, &key, 7), Some(executed));
            assert_eq!(refusal(&marked, &key, 8), None);
            assert_eq!(refusal(&marked, &self::key("m", "k"), 7), None);
            let twice = answer(&[mark.clone(), mark]);
            assert_eq!(refusal(&twice, &key, 7), None);
        }
        let unprotected = Carried::of(&headers(&[(RECORD, record_query(&key))]));
        let marked = answer(&[unprotected.mark(MayBe::NotExecuted)]);
        assert_eq!(refusal(&marked, &key, 0), Some(MayBe::NotExecuted));
        assert_eq!(refusal(&marked, &key, 7), None);
        let forged = answer(&[(REFUSAL.into(), "not-executed ".into())]);
        assert_eq!(refusal(&forged, &key, 7), None);
        assert_eq!(refusal(&Headers::default(), &key, 7), None);
    }

    #[test]
    fn what_is_repeated_or_misspelled_is_not_carried() {
        let headers = |pairs: &[(&'static str, &'static str)]| -> Headers {
            pairs
                .iter()
                .map(|(n, v)| ((*n).into(), (*v).into()))
                .collect()
        };
        let all = [(FENCE, "7"), (ATTEMPT, "1"), (RECORD, "r"), (PROOF, "p")];
        let carried = Carried::of(&headers(&all));
        assert_eq!(carried.fence(), Some(7));
        assert!(carried.is_replaceable());
        assert!(!Carried::of(&headers(&all[1..])).is_replaceable());
        let twice = Carried::of(&headers(&[all[0], all[0], all[2], all[3]]));
        assert_eq!((twice.fence(), twice.is_replaceable()), (None, false));
        for more in [
            (FENCE, "8"),
            (PROOF, "q"),
            ("idempotency_proof", "q"),
            ("idempotency-unprotected", ""),
        ] {
            let forged = headers(&[&all[..], &[more]].concat());
            assert!(!Carried::of(&forged).is_replaceable(), "{more:?}");
        }
    }
}
