//! The records by which a store says that it is sealed, and with which index key.
//!
//! They are ordinary records under a key that no client can name. The first one's fingerprint is a MAC of the index
//! key, so a process with another index key gets *mismatch*. The second one says that no record in clear is left.

use super::index::marker;
use super::keys::Keys;
use crate::clock::{Clock, SystemClock};
use crate::machine::{self, Context, Event};
use crate::store::{ListFilter, Store, StoreError};
use idempotency_protocol::limits::MAX_TTL_MS;
use idempotency_protocol::{
    Acquire, Answer, AttemptKind, Complete, FaultCode, Fingerprint, LookupKey, OnUnknown,
    Operation, Outcome, Owner, Retention, Scheme, Tombstone, TombstoneReason,
};
use std::time::Duration;

const SEALED: &str = "sealed";
const NOTHING_CLEAR: &str = "nothing-in-clear";

/// Another process is about to make the record.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSES: usize = 200;

/// Notes that the store is sealed. True: there may be records in clear.
pub(super) async fn agree(store: &dyn Store, keys: &Keys) -> Result<bool, StoreError> {
    if store.inspect(&marker(SEALED)).await?.is_none() {
        let any = ListFilter {
            limit: 1,
            ..ListFilter::default()
        };
        let page = store.list(any).await?;
        let is_empty = page.records.is_empty() && page.next.is_none();
        put(store, SEALED, keys).await?;
        if is_empty {
            put(store, NOTHING_CLEAR, keys).await?;
        }
    } else {
        put(store, SEALED, keys).await?;
    }
    has_clear(store).await
}

/// Whether nobody has said that no record in clear is left.
pub(super) async fn has_clear(store: &dyn Store) -> Result<bool, StoreError> {
    Ok(store.inspect(&marker(NOTHING_CLEAR)).await?.is_none())
}

/// No record in clear is left, and none will come.
pub(super) async fn nothing_clear(store: &dyn Store, keys: &Keys) -> Result<(), StoreError> {
    put(store, NOTHING_CLEAR, keys).await
}

/// For a program that opens a store without keys.
///
/// # Errors
///
/// [`StoreError::Permanent`] if it is sealed; as [`Store::inspect`].
pub async fn refuse_sealed(store: &dyn Store) -> Result<(), StoreError> {
    if store.inspect(&marker(SEALED)).await?.is_none() {
        return Ok(());
    }
    let message = "its records are encrypted, and no keys are given: without them every key would \
                   be granted anew";
    Err(StoreError::Permanent(message.to_owned()))
}

async fn put(store: &dyn Store, what: &str, keys: &Keys) -> Result<(), StoreError> {
    let key = marker(what);
    for _ in 0..PAUSES {
        let owner = owner()?;
        match one(store, acquire(&key, owner, keys)).await? {
            Answer::Granted(_) => {
                match one(store, complete(&key, owner)).await? {
                    Answer::Completed { .. } => return Ok(()),
                    Answer::Fault(fault) => return Err(StoreError::Transient(fault.to_string())),
                    // Somebody else has it now.
                    _ => {}
                }
            }
            Answer::Stored(_) => return Ok(()),
            Answer::Mismatch => {
                let message = "its records are encrypted with another index key";
                return Err(StoreError::Permanent(message.to_owned()));
            }
            Answer::InFlight { .. } => {}
            // Then it is asked again: only what can be found is noted.
            Answer::Fault(fault) if fault.code == FaultCode::Capacity => {
                put_although_full(store, &key, owner, keys).await?;
            }
            Answer::Fault(fault) => return Err(StoreError::Transient(fault.to_string())),
            other => {
                let message = format!("its note of encryption cannot be read: {}", other.name());
                return Err(StoreError::Permanent(message));
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    let message = "another process is about to note that the store is encrypted";
    Err(StoreError::Transient(message.to_owned()))
}

/// Writes the note into a store that grants no new executions. It is small, and who has a full store wants it to answer
/// from what it has; without the note it could not be used at all. The state machine decides here as it would there:
/// nothing is written over a note that is there, or that another index key made.
async fn put_although_full(
    store: &dyn Store,
    key: &LookupKey,
    owner: Owner,
    keys: &Keys,
) -> Result<(), StoreError> {
    let found = store.export(key).await?;
    let context = Context::at(SystemClock::starting_after(0).now());
    let mut slot = found.clone();
    for operation in [acquire(key, owner, keys), complete(key, owner)] {
        let (_, event) = Event::prepare(operation);
        match machine::apply(slot.as_ref(), &context, &event).change {
            Some(changed) => slot = Some(changed),
            None => return Ok(()),
        }
    }
    let replaces = found.map_or(0, |slot| slot.version);
    // False: another process was faster.
    store.replace(key, replaces, slot).await.map(drop)
}

async fn one(store: &dyn Store, operation: Operation) -> Result<Answer, StoreError> {
    let nothing = || StoreError::Transient("no answer".to_owned());
    let prepared = vec![Event::prepare(operation)];
    store.apply_events(prepared).await.pop().ok_or_else(nothing)
}

fn owner() -> Result<Owner, StoreError> {
    let mut owner = [0; 16];
    getrandom::fill(&mut owner).map_err(|e| StoreError::Transient(e.to_string()))?;
    Ok(Owner(owner))
}

fn acquire(key: &LookupKey, owner: Owner, keys: &Keys) -> Operation {
    Operation::Acquire(Acquire {
        key: key.clone(),
        owner,
        fingerprint: Fingerprint {
            scheme: Scheme(1),
            digest: keys.index.check,
        },
        lease_ms: 5_000,
        retention: Retention {
            ttl_ms: MAX_TTL_MS,
            unknown_ttl_ms: MAX_TTL_MS,
        },
        // What it notes is the same however often.
        on_unknown: OnUnknown::Retry,
        kind: AttemptKind::Guard,
        about: None,
    })
}

fn complete(key: &LookupKey, owner: Owner) -> Operation {
    Operation::Complete(Complete {
        key: key.clone(),
        owner,
        outcome: Outcome::Tombstone(Tombstone {
            status: 200,
            reason: TombstoneReason::NotStorable,
        })
        .into(),
    })
}
