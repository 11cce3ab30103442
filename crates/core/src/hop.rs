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
use crate::upstream::{record_query, ATTEMPT, FENCE, OURS, PROOF, RECORD, UNPROTECTED};
use bytes::Bytes;
use idempotency_protocol::{Fingerprint, Grant, LookupKey};
use sha2::{Digest, Sha256};
use std::fmt;

/// Response header that marks a refusal.
pub const REFUSAL: &str = "idempotency-refusal";

const VERSION: &str = "v1";
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

/// One key, with the blocks that it puts in front already hashed.
struct Key {
    inner: Sha256,
    outer: Sha256,
}

impl Key {
    fn new(key: &[u8]) -> Key {
        let mut block = [0; BLOCK];
        let hashed;
        let key = match key.len() > BLOCK {
            true => {
                hashed = Sha256::digest(key);
                hashed.as_slice()
            }
            false => key,
        };
        block.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
        let padded = |pad: u8| Sha256::new_with_prefix(block.map(|byte| byte ^ pad));
        Key {
            inner: padded(0x36),
            outer: padded(0x5c),
        }
    }

    fn mac(&self, message: &[u8]) -> [u8; 32] {
        let inner = self.inner.clone().chain_update(message).finalize();
        self.outer.clone().chain_update(inner).finalize().into()
    }
}

/// Whether two codes are equal, in a time that does not depend on where they differ.
fn equal(one: &[u8; 32], other: &[u8; 32]) -> bool {
    let differ = one.iter().zip(other).fold(0, |d, (a, b)| d | (a ^ b));
    std::hint::black_box(differ) == 0
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
    fn message(&self, fence: &[u8], attempt: &[u8], expires: &[u8]) -> Vec<u8> {
        let record = record_query(self.key);
        let parts: [&[u8]; 9] = [
            b"idempotency-gateway/hop-proof",
            record.as_bytes(),
            fence,
            attempt,
            expires,
            self.method,
            self.path.as_bytes(),
            &self.fingerprint.scheme.0.to_be_bytes(),
            &self.fingerprint.digest,
        ];
        let mut message = Vec::with_capacity(512);
        for part in parts {
            message.extend_from_slice(&(part.len() as u64).to_be_bytes());
            message.extend_from_slice(part);
        }
        message
    }
}

/// A proof that is good as far as a gateway can tell; the store must still redeem it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proven {
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
        let message = claim.message(fence.as_bytes(), attempt.as_bytes(), expires.as_bytes());
        let mac = hex::encode(key.mac(&message));
        Some(format!("{VERSION}.{expires}.{mac}").into())
    }

    /// What a request proves, if it is what the proof is about; made with any of the keys.
    pub fn verify(&self, claim: &Claim, carried: &Carried) -> Option<Proven> {
        let proof = std::str::from_utf8(carried.proof.as_ref()?).ok()?;
        let mut parts = proof.split('.');
        let (version, expires, mac) = (parts.next()?, parts.next()?, parts.next()?);
        if version != VERSION || parts.next().is_some() {
            return None;
        }
        if carried.record.as_ref() != record_query(claim.key).as_bytes() {
            return None;
        }
        let mut told = [0; 32];
        hex::decode_to_slice(mac, &mut told).ok()?;
        let message = claim.message(&carried.fence, &carried.attempt, expires.as_bytes());
        // All of them, so that the time does not tell which one it is.
        let good = |good: bool, key: &Key| good | equal(&key.mac(&message), &told);
        self.keys.iter().fold(false, good).then_some(())?;
        Some(Proven {
            fence: carried.fence()?,
            expires_at_ms: expires.parse().ok()?,
        })
    }
}

/// What a request carries that another gateway of ours sends, or that a client has forged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    fence: Bytes,
    attempt: Bytes,
    record: Bytes,
    proof: Option<Bytes>,
}

impl Carried {
    /// Looks for it. `None` where there is no fence and record, each once and in the usual spelling. (A request
    /// that was forwarded without protection has the fence 0.)
    pub fn of(headers: &Headers) -> Option<Box<Carried>> {
        let once = |name: &'static str| {
            let mut values = headers.all(name);
            values.next().filter(|_| values.next().is_none()).cloned()
        };
        let unprotected = || headers.has(UNPROTECTED).then(|| "0".into());
        Some(Box::new(Carried {
            fence: once(FENCE).or_else(unprotected)?,
            record: once(RECORD)?,
            attempt: once(ATTEMPT).unwrap_or_default(),
            proof: once(PROOF),
        }))
    }

    /// The fence.
    pub fn fence(&self) -> Option<u64> {
        std::str::from_utf8(&self.fence).ok()?.parse().ok()
    }

    /// Whether there is anything to verify.
    pub fn has_proof(&self) -> bool {
        self.proof.is_some()
    }

    /// Whether each of these headers replaces, as it is set, all that the request has of ours. Not so where one
    /// is repeated or in another spelling.
    pub fn is_all_of(&self, headers: &Headers) -> bool {
        let ours = headers.0.iter();
        let ours = ours.filter(|(name, _)| OURS.iter().any(|n| names::same(n.as_bytes(), name)));
        let mut count = 0;
        let known = ours.fold(true, |known, (name, _)| {
            count += 1;
            known
                && [FENCE, ATTEMPT, RECORD, PROOF]
                    .iter()
                    .any(|n| n.as_bytes() == name.as_ref())
        });
        known && count == 4 && self.proof.is_some()
    }

    /// The headers that name the execution, for the upstream.
    pub fn names(&self) -> [(&'static str, Bytes); 3] {
        [
            (FENCE, self.fence.clone()),
            (ATTEMPT, self.attempt.clone()),
            (RECORD, self.record.clone()),
        ]
    }

    /// The mark of a refusal of this request.
    pub fn mark(&self, executed: MayBe) -> (Bytes, Bytes) {
        let value = format!("{}{}", executed.word(), name(&self.fence, &self.record));
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

    fn word(self) -> &'static str {
        match self {
            MayBe::NotExecuted => "not-executed ",
            MayBe::Executed => "unknown ",
        }
    }
}

/// What a request is called in a mark, which is as long as that, whatever the record's name.
fn name(fence: &[u8], record: &[u8]) -> String {
    let mut hash = Sha256::new_with_prefix(b"idempotency-gateway/refusal ");
    hash.update(fence);
    hash.update(b" ");
    hash.update(record);
    hex::encode(hash.finalize().get(..16).unwrap_or_default())
}

/// What an answer says, if it is a refusal of ours of this very request; `fence` 0: of one that was forwarded
/// without protection.
pub fn refusal(headers: &Headers, key: &LookupKey, fence: u64) -> Option<MayBe> {
    // One that is repeated was not made by one gateway.
    let mut marks = headers.all(REFUSAL);
    let mark = marks.next().filter(|_| marks.next().is_none())?;
    let ours = name(fence.to_string().as_bytes(), record_query(key).as_bytes());
    let all = [MayBe::NotExecuted, MayBe::Executed];
    all.into_iter()
        .find(|executed| mark.strip_prefix(executed.word().as_bytes()) == Some(ours.as_bytes()))
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
            assert_eq!(hex::encode(Key::new(key).mac(message)), mac);
        }
    }

    fn carried(keys: &Keys, claim: &Claim) -> Carried {
        Carried {
            fence: GRANT.fence.to_string().into(),
            attempt: GRANT.attempt.to_string().into(),
            record: record_query(claim.key).into(),
            proof: keys.prove(claim, &GRANT, 10_000),
        }
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
                fence: GRANT.fence,
                expires_at_ms: 1_700_000_050_000,
            })
        );
        for about_another in [
            Claim {
                key: &other,
                ..claim
            },
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
        let proof = good.proof.clone().unwrap();
        let altered = |from: &str, to: &str| {
            let text = std::str::from_utf8(&proof).unwrap().replacen(from, to, 1);
            Some(Bytes::from(text))
        };
        for (what, forged) in [
            (
                "fence",
                Carried {
                    fence: "1700000000000001".into(),
                    ..good.clone()
                },
            ),
            (
                "attempt",
                Carried {
                    attempt: "3".into(),
                    ..good.clone()
                },
            ),
            (
                "record",
                Carried {
                    record: record_query(&other).into(),
                    ..good.clone()
                },
            ),
            (
                "no proof",
                Carried {
                    proof: None,
                    ..good.clone()
                },
            ),
            (
                "end",
                Carried {
                    proof: altered("1700000050000", "1700000050001"),
                    ..good.clone()
                },
            ),
            (
                "version",
                Carried {
                    proof: altered("v1", "v2"),
                    ..good.clone()
                },
            ),
            (
                "more",
                Carried {
                    proof: altered("v1.", "v1.1."),
                    ..good.clone()
                },
            ),
            (
                "empty",
                Carried {
                    proof: Some(Bytes::new()),
                    ..good.clone()
                },
            ),
            (
                "cut",
                Carried {
                    proof: Some(proof.slice(..proof.len() - 2)),
                    ..good.clone()
                },
            ),
        ] {
            assert_eq!(ours.verify(&claim, &forged), None, "{what}");
        }
        // Each digit of the code counts.
        for at in proof.len() - 64..proof.len() {
            let mut bytes = proof.to_vec();
            bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
            let forged = Carried {
                proof: Some(bytes.into()),
                ..good.clone()
            };
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
            last: true,
        });
        assert_eq!(last.prove(&claim, &GRANT, 0), None);
        assert!(last.verify(&claim, &carried).is_some());
    }

    #[test]
    fn a_mark_says_something_of_the_request_that_it_names_only() {
        let key = key("n", "k");
        let of = |fence: &str, key: &LookupKey| Carried {
            fence: fence.to_owned().into(),
            record: record_query(key).into(),
            ..Carried::default()
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
        let whole = headers(&all);
        let carried = Carried::of(&whole).unwrap();
        assert_eq!(carried.fence(), Some(7));
        assert!(carried.is_all_of(&whole));
        assert_eq!(Carried::of(&headers(&all[1..])), None);
        assert_eq!(Carried::of(&headers(&[all[0], all[0], all[2]])), None);
        for more in [
            (FENCE, "8"),
            (PROOF, "q"),
            ("idempotency_proof", "q"),
            ("idempotency-unprotected", ""),
        ] {
            let forged = headers(&[&all[..], &[more]].concat());
            let whole = Carried::of(&forged).is_some_and(|carried| carried.is_all_of(&forged));
            assert!(!whole, "{more:?}");
        }
    }
}
