//! Quotas in Redis: what each tenant has, beside its records (`script/ledger.lua`).
//!
//! A tenant's records are spread over all slots of a Cluster, so no script can see them together.
//! Where there are quotas, an acquire is first asked of what is there; only one that would make a
//! new record asks the tenant's ledger, which counts and reserves in one step, and is then asked
//! again. What ends an execution is told to the ledger after the record. Every entry ends by itself
//! with its record, and a sweep adds what is missing: what was there before the quotas, and what a
//! fail-over forgot. See `docs/adr/0010-quotas.md`.

use super::call::{number, word, ScriptCall};
use super::caller::ScriptCaller;
use super::conclude::Concluded;
use super::names::Names;
use super::reply::{self, Reserved};
use super::{meta, RedisStore, ReplyContext};
use crate::clock::micros;
use crate::machine::{AcquireEvent, Event, Room};
use crate::quota::Quotas;
use crate::record::{Slot, State};
use crate::store::{Resolution, Resolve, Resolved, StoreError};
use bytes::Bytes;
use idempotency_protocol::{Answer, LookupKey};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};

/// Most records that one call enters.
const NOTED_TOGETHER: usize = 64;

/// The ledgers of all tenants.
pub(super) struct Ledger {
    quotas: Quotas,
    names: Names,
}

/// Names a record in its tenant's ledger.
fn entry(key: &LookupKey) -> Bytes {
    let digest: [u8; 32] = Sha256::digest(key.to_bytes()).into();
    Bytes::copy_from_slice(digest.get(..16).unwrap_or_default())
}

/// What a record takes beside its answer.
fn room(key: &LookupKey) -> u64 {
    u64::try_from(key.to_bytes().len()).unwrap_or(u64::MAX)
}

fn quota(quota: Option<u64>) -> Bytes {
    quota.map_or_else(Bytes::new, number)
}

impl Ledger {
    pub fn new(quotas: Quotas, names: &Names) -> Ledger {
        Ledger {
            quotas,
            names: names.clone(),
        }
    }

    fn call(&self, key: &LookupKey, event: &'static str, rest: Vec<Bytes>) -> ScriptCall {
        let mut all = vec![entry(key)];
        all.extend(rest);
        ScriptCall::ledger(self.names.ledger(&key.tenant), event, all)
    }

    /// What of an acquire both `reserve` and `hold` are told.
    fn held(key: &LookupKey, a: &AcquireEvent) -> Vec<Bytes> {
        let unknown_ttl_ms = a.retention.unknown_ttl_ms.max(a.retention.ttl_ms);
        vec![
            number(micros(a.lease_ms)),
            number(micros(a.retention.ttl_ms)),
            number(micros(unknown_ttl_ms)),
            number(room(key)),
        ]
    }

    fn reserve(&self, key: &LookupKey, acquire: &AcquireEvent) -> ScriptCall {
        let mut rest = Ledger::held(key, acquire);
        let Quotas {
            executions,
            records,
            bytes,
        } = self.quotas;
        rest.extend([executions, records, bytes].map(quota));
        self.call(key, "reserve", rest)
    }

    fn hold(&self, key: &LookupKey, acquire: &AcquireEvent) -> ScriptCall {
        self.call(key, "hold", Ledger::held(key, acquire))
    }

    fn end(&self, key: &LookupKey, how: &'static str, answer: u64, end: Bytes) -> ScriptCall {
        let bytes = number(room(key).saturating_add(answer));
        self.call(key, "end", vec![word(how), bytes, end])
    }

    /// What an answered operation changed for its tenant.
    fn told(&self, key: &LookupKey, event: &Event, answer: &Answer) -> Option<ScriptCall> {
        let at = |ms: &u64| number(micros(*ms));
        match (event, answer) {
            (Event::Complete { outcome, .. }, Answer::Completed { expires_at_ms })
            | (
                Event::Settle {
                    outcome: Some(outcome),
                    ..
                },
                Answer::Completed { expires_at_ms },
            ) => Some(self.end(key, "completed", outcome.size, at(expires_at_ms))),
            (Event::Fail { .. } | Event::Settle { .. }, Answer::Failed) => {
                Some(self.end(key, "failed", 0, Bytes::new()))
            }
            // Failed in vain, too: an attempt before it may have been done.
            (
                Event::Abandon { .. } | Event::Fail { .. } | Event::Settle { .. },
                Answer::Abandoned,
            ) => Some(self.end(key, "unknown", 0, Bytes::new())),
            (Event::Extend { lease_ms, .. }, Answer::Extended { .. }) => {
                Some(self.call(key, "extend", vec![number(micros(*lease_ms))]))
            }
            _ => None,
        }
    }

    /// Tells the ledgers what became of operations. What cannot be told now is found by a sweep, or
    /// ends by itself.
    pub async fn follow(
        &self,
        caller: &ScriptCaller,
        events: &[(LookupKey, Event)],
        answers: &[Answer],
    ) {
        let told = events.iter().zip(answers);
        let told = told.filter_map(|((key, event), answer)| self.told(key, event, answer));
        self.tell(caller, told.collect()).await;
    }

    async fn tell(&self, caller: &ScriptCaller, calls: Vec<ScriptCall>) {
        if !calls.is_empty() {
            let _ = caller.all(&calls, false).await;
        }
    }

    /// Tells what an operator decided.
    pub async fn resolved(&self, caller: &ScriptCaller, resolve: &Resolve, resolved: &Resolved) {
        let key = &resolve.key;
        let view = match resolved {
            Resolved::Done(view) => view.as_ref(),
            _ => return,
        };
        let end = view.and_then(|view| view.expires_at_ms);
        let end = end.map_or_else(Bytes::new, |ms| number(micros(ms)));
        let call = match &resolve.to {
            Resolution::Completed(_) | Resolution::Prepared(_) => {
                let bytes = view.and_then(|view| view.body_bytes).unwrap_or(0);
                self.end(key, "completed", bytes, end)
            }
            Resolution::Failed => self.end(key, "failed", 0, end),
            Resolution::Deleted => self.call(key, "forget", Vec::new()),
        };
        self.tell(caller, vec![call]).await;
    }

    /// Enters what was found; those of it that were not there, or were otherwise.
    pub async fn note<'f>(
        &self,
        caller: &ScriptCaller,
        names: &Names,
        found: &'f [(Bytes, Slot)],
    ) -> Result<Vec<&'f (Bytes, Slot)>, StoreError> {
        let put = self.told_of(caller, names, "note", found.iter()).await?;
        let is_put = |(name, _): &&(Bytes, Slot)| {
            let key = names.key(name);
            key.is_some_and(|key| put.contains(&entry(&key)))
        };
        match put.is_empty() {
            true => Ok(Vec::new()),
            false => Ok(found.iter().filter(is_put).collect()),
        }
    }

    /// Takes back what was entered, where nothing has been told of it since.
    pub async fn undo(
        &self,
        caller: &ScriptCaller,
        names: &Names,
        entered: &[&(Bytes, Slot)],
    ) -> Result<(), StoreError> {
        let entered = entered.iter().copied();
        self.told_of(caller, names, "undo", entered).await.map(drop)
    }

    /// Tells each tenant's ledger of records as they were seen; the entries that it names.
    async fn told_of<'f>(
        &self,
        caller: &ScriptCaller,
        names: &Names,
        event: &'static str,
        seen: impl Iterator<Item = &'f (Bytes, Slot)>,
    ) -> Result<HashSet<Bytes>, StoreError> {
        let mut tenants: HashMap<String, Vec<Bytes>> = HashMap::new();
        for (name, slot) in seen {
            let Some((key, execution)) = names.key(name).zip(slot.execution.as_ref()) else {
                continue;
            };
            let lease = meta::lease_until(slot);
            let unknown_ttl = micros(execution.retention.unknown_ttl_ms);
            let end = match lease {
                Some(until) => until.saturating_add(unknown_ttl),
                None => execution.expires_at().unwrap_or(0),
            };
            let answer = match &execution.state {
                State::Completed(outcome) | State::Settled(_, outcome) => outcome.size,
                _ => 0,
            };
            let bytes = room(&key).saturating_add(answer);
            let arguments = [
                lease.unwrap_or(0),
                end,
                micros(execution.retention.ttl_ms),
                unknown_ttl,
                bytes,
            ];
            let of_tenant = tenants.entry(key.tenant.clone()).or_default();
            of_tenant.push(entry(&key));
            of_tenant.extend(arguments.map(number));
        }
        let mut named = HashSet::new();
        for (tenant, all) in tenants {
            // In small portions, one after the other: the server answers nobody else meanwhile.
            for portion in all.chunks(6 * NOTED_TOGETHER) {
                let keys = names.ledger(&tenant);
                let call = ScriptCall::ledger(keys, event, portion.to_vec());
                let noted = caller.one(call, false).await;
                let noted = noted.map_err(|e| super::store_error(&e))?;
                named.extend(reply::noted(noted).unwrap_or_default());
            }
        }
        Ok(named)
    }
}

impl RedisStore {
    /// The ledger, where there are quotas.
    pub(super) fn ledger(&self) -> Option<Arc<Ledger>> {
        let ledger = self.ledger.read();
        ledger.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Applies operations under quotas. A new record takes several calls, one after the other, so
    /// operations on the same key are carried out one by one.
    pub(super) async fn with_quotas(
        &self,
        events: Vec<(LookupKey, Event)>,
        ledger: &Ledger,
    ) -> Vec<Answer> {
        let mut seen = HashSet::new();
        if events.iter().all(|(key, _)| seen.insert(key)) {
            return self.carry_out(events, Some(ledger)).await;
        }
        let mut answers = Vec::with_capacity(events.len());
        for event in events {
            answers.extend(self.carry_out(vec![event], Some(ledger)).await);
        }
        answers
    }

    /// Asks the ledgers for those acquires that would make new records, and makes these.
    pub(super) async fn make_new_records(
        &self,
        ledger: &Ledger,
        events: &[(LookupKey, Event)],
        calls: &mut [ScriptCall],
        concluded: &mut [Concluded],
    ) {
        let caller = &self.shared.caller;
        // Executions of records that are there already are counted, and not asked for.
        let mut tell = Vec::new();
        let mut wanted = Vec::new();
        for (at, ((key, event), is)) in events.iter().zip(concluded.iter()).enumerate() {
            match event {
                Event::Acquire(acquire) if is.fresh => tell.push(ledger.hold(key, acquire)),
                Event::Acquire(acquire) if is.new => wanted.push((at, key, acquire)),
                _ => {}
            }
        }
        ledger.tell(caller, tell).await;
        if wanted.is_empty() {
            return;
        }
        let reserve: Vec<ScriptCall> = wanted
            .iter()
            .map(|(_, k, a)| ledger.reserve(k, a))
            .collect();
        let asked = caller.all(&reserve, false).await;
        let mut again = Vec::new();
        for ((at, key, acquire), outcome) in wanted.into_iter().zip(asked) {
            let event = Event::Acquire(acquire.clone());
            let answer = match outcome.value.map(reply::reserved) {
                Ok(Some(Reserved::UsedUp(quota))) => quota.refusal(),
                Ok(Some(reserved)) => {
                    again.push((at, reserved, key.clone(), event));
                    continue;
                }
                Ok(None) => reply::unreadable_answer(),
                Err(error) => reply::fault(Some(&event), &error),
            };
            put(concluded, at, Concluded::old(answer));
        }
        let (mut these, mut of, mut asked) = (Vec::new(), Vec::new(), Vec::new());
        for (at, reserved, key, event) in &again {
            let call = ScriptCall::apply(self.shared.names.of(key), event, Room::Plenty);
            if let Some(place) = calls.get_mut(*at) {
                *place = call.clone();
            }
            these.push(match reserved {
                Reserved::UsedUpButKnown(_) => call.of_what_is_there(),
                _ => call,
            });
            of.push((key.clone(), event.clone()));
            asked.push(ReplyContext::of_event(event));
        }
        let outcomes = caller.all(&these, true).await;
        let ended = self.conclude(asked, &of, &these, outcomes).await;
        let mut tell = Vec::new();
        for ((at, reserved, key, _), is) in again.into_iter().zip(ended) {
            // Somebody was faster, and has told the ledger of it. After a fault nobody knows.
            let in_vain = !matches!(is.answer, Answer::Granted(_) | Answer::Fault(_));
            if reserved == Reserved::Now && in_vain {
                tell.push(ledger.call(&key, "idle", Vec::new()));
            }
            put(
                concluded,
                at,
                match reserved {
                    Reserved::UsedUpButKnown(quota) if is.new => Concluded::old(quota.refusal()),
                    _ => is,
                },
            );
        }
        ledger.tell(caller, tell).await;
    }

    /// A grant under this name was taken back by that event, and that was the answer.
    pub(super) async fn taken_back(&self, name: &Bytes, event: &Event, answer: &Answer) {
        let Some(ledger) = self.ledger() else { return };
        let Some(key) = self.shared.names.key(name) else {
            return;
        };
        if let Some(call) = ledger.told(&key, event, answer) {
            ledger.tell(&self.shared.caller, vec![call]).await;
        }
    }
}

fn put(concluded: &mut [Concluded], at: usize, is: Concluded) {
    if let Some(place) = concluded.get_mut(at) {
        *place = is;
    }
}
