//! Searching: a pass of `SCAN` over the masters, a bounded part of it per call.
//!
//! A place in a pass holds for one start of the servers alone: after a restart or a failover, or where the
//! Cluster got other masters, the pass begins again, and may show records a second time. A page that ends
//! within a step of `SCAN` names what it has shown of that step, since the server has no order to cut it by.

use super::call::ScriptCall;
use super::caller::ScriptCaller;
use super::errors::store_error;
use super::health;
use super::names::Names;
use super::reply;
use super::scan::{connected, step, ScanPlace};
use crate::keys;
use crate::search::{no_place, Found, Search};
use crate::store::StoreError;
use bytes::{Buf, Bytes};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// Keys that the server looks at in one step. What has been shown of a step is in the token, six bytes for each.
const STEP: usize = 200;
/// Most names that one call goes through.
const MAX_LOOKED_AT: usize = 20_000;

/// Stands for a record that was shown.
type ShownMark = [u8; 6];

/// Where to go on.
#[derive(Debug, Default, PartialEq, Eq)]
struct Token {
    /// Of which servers, and of which start of them.
    identity: u64,
    place: ScanPlace,
    /// What was shown of the step at this place.
    shown: BTreeSet<ShownMark>,
}

fn mark(lookup: &[u8]) -> ShownMark {
    let digest: [u8; 32] = Sha256::digest(lookup).into();
    digest.first_chunk().copied().unwrap_or_default()
}

impl Token {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![b's'];
        out.extend(self.identity.to_be_bytes());
        out.extend(u32::try_from(self.place.node).unwrap_or(0).to_be_bytes());
        out.extend(self.place.cursor.to_be_bytes());
        out.extend(self.shown.iter().flatten());
        out
    }

    fn decode(mut bytes: &[u8]) -> Option<Token> {
        let r = &mut bytes;
        if r.try_get_u8().ok()? != b's' {
            return None;
        }
        let identity = r.try_get_u64().ok()?;
        let node = usize::try_from(r.try_get_u32().ok()?).ok()?;
        let cursor = r.try_get_u64().ok()?;
        let marks = r.chunks_exact(size_of::<ShownMark>());
        if !marks.remainder().is_empty() {
            return None;
        }
        Some(Token {
            identity,
            place: ScanPlace { node, cursor },
            shown: marks.filter_map(|mark| mark.try_into().ok()).collect(),
        })
    }
}

/// One call of a search.
pub(super) async fn search(
    caller: &ScriptCaller,
    names: &Names,
    search: &Search,
) -> Result<Found, StoreError> {
    let prefix = search.prefix();
    let pattern = match &search.key {
        Some(key) if prefix.is_empty() => names.pattern_of_key(key),
        _ => names.pattern(&prefix),
    };
    let (connection, masters) = connected(caller).await?;
    let identity = health::identity(&connection).await?;
    let token = match &search.after {
        None => Token::default(),
        Some(after) => Token::decode(after).ok_or_else(no_place)?,
    };
    let (mut place, mut shown) = match token.identity == identity {
        true => (token.place, token.shown),
        false => (ScanPlace::default(), BTreeSet::new()),
    };
    let mut found = Found::default();
    loop {
        let (batch, next) = step(&connection, &masters, &place, &pattern, STEP).await?;
        // With a pattern, the server has looked at more than it names.
        found.looked_at += batch.len().max(STEP);
        let mut wanted = BTreeMap::new();
        for name in batch {
            let Some(lookup) = names.lookup(&name) else {
                continue;
            };
            let key = keys::from_bytes(lookup).filter(|key| search.may_be(key));
            if let Some(key) = key.filter(|_| !shown.contains(&mark(lookup))) {
                wanted.insert(lookup.to_vec(), (key, name));
            }
        }
        let names: Vec<Bytes> = wanted.values().map(|(_, name)| name.clone()).collect();
        let calls: Vec<ScriptCall> = names.into_iter().map(ScriptCall::inspect).collect();
        let outcomes = match calls.is_empty() {
            true => Vec::new(),
            false => caller.all(&calls, false).await,
        };
        for ((lookup, (key, _)), outcome) in wanted.into_iter().zip(outcomes) {
            let value = match outcome.value {
                // Whatever it is, it is no record of ours.
                Err(error) if error.code() == Some("WRONGTYPE") => continue,
                value => value.map_err(|e| store_error(&e))?,
            };
            let view = reply::listed(value, &key)?;
            let Some(view) = view.filter(|view| search.matches(view)) else {
                continue;
            };
            if found.records.len() >= search.page() {
                // Within this step.
                let token = Token {
                    identity,
                    place,
                    shown,
                };
                found.next = Some(token.encode());
                return Ok(found);
            }
            shown.insert(mark(&lookup));
            found.records.push(view);
        }
        let Some(next) = next else {
            return Ok(found);
        };
        (place, shown) = (next, BTreeSet::new());
        if found.looked_at >= MAX_LOOKED_AT || found.records.len() >= search.page() {
            let token = Token {
                identity,
                place,
                shown,
            };
            found.next = Some(token.encode());
            return Ok(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_round_trip_and_damage_is_noticed() {
        let token = Token {
            identity: 7,
            place: ScanPlace {
                node: 2,
                cursor: u64::MAX - 1,
            },
            shown: [mark(b"a"), mark(b"b")].into(),
        };
        let bytes = token.encode();
        assert_eq!(Token::decode(&bytes), Some(token));
        assert_eq!(Token::decode(&bytes[..bytes.len() - 1]), None);
        assert_eq!(Token::decode(&bytes[..20]), None);
        assert_eq!(Token::decode(b"key"), None);
    }
}
