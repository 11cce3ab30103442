//! An order service that uses the library beside the gateway, on the same keys: effects are counted where they are.
//!
//! One process ([`program`]) is killed again and again. It is the upstream of the gateways' rule `orders`, where it
//! settles in its own transaction, and at the same time it takes orders under the same keys itself: by `transaction`,
//! by hand in a transaction, and by a plain guard. Clients ([`rig`]) send the same orders through the gateways.
//!
//! With PostgreSQL orders are rows beside the records. With other stores there is no such transaction: orders are lines
//! of a file, and the guards' store is the service (`remote`).
//!
//! [`check`] decides from what is there at the end: at most one order per key, and whoever was told of an order was
//! told of that one.

pub mod program;
mod rig;

pub(crate) use rig::note;
pub use rig::{Orders, OrdersOptions};

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use idempotency_core::config::{BodyMode, FingerprintPolicy};
use idempotency_core::fingerprint::{scheme, Hasher};
use serde::{Deserialize, Serialize};
use serde_json::{json, Value};

use crate::clock;
use crate::history::TENANT_HEADER;
use crate::model::{Law, Violation};

/// The rule's path, its namespace, and the name of Envoy's route.
pub const PATH: &str = "/orders";
/// Keys of orders are in a namespace of their own.
pub const NAMESPACE: &str = "orders";
/// Whose orders they are.
pub const TENANT: &str = "shop";
/// What is sent.
pub const BODY: &str = "a chair";

/// What clients and programs were told.
const TOLD: &str = "orders-told.jsonl";
/// Orders that are there at the end, or that were made.
const MADE: &str = "orders-made.jsonl";

/// One order that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// The idempotency key.
    pub key: String,
    /// Its own name.
    pub id: String,
}

/// What somebody was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The idempotency key.
    pub key: String,
    /// By what: `transaction`, `by hand`, `plain`, `gateway`.
    pub by: String,
    /// What, in a word or two.
    pub end: String,
    /// The order that was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// The rule, for the filter's configuration.
pub fn rule(lease_ms: u64) -> Value {
    json!({
        "name": "orders",
        "match": { "methods": ["POST"], "path_prefix": PATH },
        "scope": { "header": TENANT_HEADER },
        "namespace": NAMESPACE,
        "execution": "inline",
        "lease_ms": lease_ms,
        "lease_margin_ms": lease_ms / 5,
        "fingerprint": { "headers": ["x-order"] },
    })
}

/// As the gateway makes it for this request, so that both mean the same by a key.
fn fingerprint() -> Option<idempotency::Fingerprint> {
    let policy = FingerprintPolicy {
        body: Some(BodyMode::Raw),
        headers: Some(vec!["x-order".to_owned()]),
        ..FingerprintPolicy::default()
    };
    let mut hasher = Hasher::new(&policy, scheme(&policy), b"POST", PATH, b"", b"", &[]);
    hasher.update(BODY.as_bytes());
    Some(hasher.finish().ok()?.fingerprint.into())
}

/// A key that everybody uses who takes an order in this half second.
fn key(rng: &mut fastrand::Rng) -> String {
    let window = clock::now() / (clock::SECOND / 2);
    format!("order-{window}-{}", rng.u8(..6))
}

/// Writes a line in one piece, so that a kill leaves a whole one or none.
fn append(file: &mut File, line: &impl Serialize) -> io::Result<()> {
    use io::Write;
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    file.write_all(&text)
}

fn open(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(path)
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> io::Result<Vec<T>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let lines = BufReader::new(file).lines();
    lines
        .map(|line| Ok(serde_json::from_str(&line?)?))
        .collect()
}

/// What was told, by whom and in what words; and what is wrong with it.
///
/// # Errors
///
/// If a file cannot be read.
pub fn verdict(dir: &Path) -> io::Result<(BTreeMap<String, usize>, Vec<Violation>)> {
    let made: Vec<Made> = read(&dir.join(MADE))?;
    let told: Vec<Told> = read(&dir.join(TOLD))?;
    let mut counts = BTreeMap::new();
    for told in &told {
        let name = format!("order, {}: {}", told.by, told.end);
        *counts.entry(name).or_default() += 1;
    }
    if !made.is_empty() {
        counts.insert("orders made".to_owned(), made.len());
    }
    Ok((counts, check(&made, &told)))
}

/// What must not be.
fn check(made: &[Made], told: &[Told]) -> Vec<Violation> {
    let mut ids: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for made in made {
        ids.entry(&made.key).or_default().push(&made.id);
    }
    let violation = |law, key: &str, what: String| Violation {
        law,
        tenant: TENANT.to_owned(),
        key: key.to_owned(),
        what,
    };
    let mut violations = Vec::new();
    for (key, ids) in ids.iter().filter(|(_, ids)| ids.len() > 1) {
        let what = format!("{} orders: {ids:?}", ids.len());
        violations.push(violation(Law::AtMostOnce, key, what));
    }
    for told in told {
        let Some(id) = &told.id else { continue };
        let there = ids.get(told.key.as_str()).map(Vec::as_slice);
        if there != Some(&[id.as_str()]) {
            let what = format!("{told:?}, and there is {there:?}");
            violations.push(violation(Law::NoContradiction, &told.key, what));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(key: &str, id: &str) -> Made {
        Made {
            key: key.to_owned(),
            id: id.to_owned(),
        }
    }

    fn told(key: &str, id: Option<&str>) -> Told {
        Told {
            key: key.to_owned(),
            by: "transaction".to_owned(),
            end: "committed".to_owned(),
            id: id.map(str::to_owned),
        }
    }

    #[test]
    fn two_orders_of_one_key_and_orders_that_are_not_there_are_violations() {
        let orders = [made("a", "1"), made("b", "2")];
        let good = [told("a", Some("1")), told("b", None), told("c", None)];
        assert_eq!(check(&orders, &good), []);
        let laws = |made: &[Made], told: &[Told]| -> Vec<Law> {
            check(made, told).iter().map(|v| v.law).collect()
        };
        let twice = [made("a", "1"), made("a", "2")];
        assert_eq!(laws(&twice, &[]), [Law::AtMostOnce]);
        assert_eq!(
            laws(&orders, &[told("a", Some("2"))]),
            [Law::NoContradiction]
        );
        assert_eq!(
            laws(&orders, &[told("c", Some("3"))]),
            [Law::NoContradiction]
        );
    }
}
