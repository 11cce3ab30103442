//! Whole records: read, and put in the place of what is there (`script/whole.lua`).

use super::call::{number, word, ScriptCall};
use super::errors::store_error;
use super::meta;
use super::remembered;
use super::RedisStore;
use crate::clock::{micros, Micros};
use crate::record::{Mark, MarkKind, Slot, State, MARK_TTL_MS};
use crate::store::StoreError;
use bytes::{Buf, BufMut, Bytes};
use idempotency_protocol::{LookupKey, Owner};
use redis::Value;

/// Length of a mark: owner, kind, end.
const MARK: usize = 16 + 1 + 8;

/// As `GRACE` in `script/head.lua`: an execution that nobody looks at is kept a day longer.
const GRACE: Micros = 86_400_000_000;

impl RedisStore {
    pub(super) async fn read_whole(&self, key: &LookupKey) -> Result<Option<Slot>, StoreError> {
        let call = ScriptCall::whole(self.shared.names.of(key), vec![word("export")]);
        let value = self.shared.caller.one(call, true).await;
        let value = value.map_err(|e| store_error(&e))?;
        let [m, x, k, o] = fields(value).ok_or_else(senseless)?;
        let Some(m) = m else {
            return Ok(None);
        };
        slot(&m, x.as_deref(), k.as_deref(), o)
            .map(Some)
            .ok_or_else(illegible)
    }

    pub(super) async fn write_whole(
        &self,
        key: &LookupKey,
        replaces: u64,
        slot: Option<&Slot>,
    ) -> Result<bool, StoreError> {
        let name = self.shared.names.of(key);
        let mut arguments = vec![word("replace"), number(replaces)];
        match slot {
            None => arguments.push(word("0")),
            Some(slot) => {
                arguments.push(word("1"));
                arguments.extend(written(slot));
            }
        }
        let carries = slot
            .and_then(|slot| slot.execution.as_ref()?.state.outcome())
            .map_or(0, |outcome| outcome.size);
        let call = ScriptCall {
            carries,
            // The second time, the version has changed.
            repeatable: false,
            ..ScriptCall::whole(name, arguments)
        };
        let outcome = self.shared.caller.all(&[call], true).await.pop();
        let outcome = outcome.ok_or_else(|| StoreError::Transient("no answer".into()))?;
        let value = outcome.value.map_err(|e| store_error(&e))?;
        let replaced = match first_word(&value) {
            Some(b"replaced") => true,
            Some(b"changed") => false,
            Some(b"illegible") => return Err(illegible()),
            _ => return Err(senseless()),
        };
        if replaced {
            self.waiters.wake(key);
            if !outcome.confirmed {
                let why = "Redis: changed, but not enough replicas confirmed it in time";
                return Err(StoreError::Transient(why.to_owned()));
            }
        }
        Ok(replaced)
    }
}

fn senseless() -> StoreError {
    StoreError::Permanent("Redis: an answer cannot be understood".to_owned())
}

fn illegible() -> StoreError {
    StoreError::Permanent("Redis: the record is damaged, or was written by a later version".into())
}

fn fields(value: Value) -> Option<[Option<Bytes>; 4]> {
    let Value::Array(values) = value else {
        return None;
    };
    let field = |value| match value {
        Value::BulkString(bytes) => Some(Some(Bytes::from(bytes))),
        Value::Nil => Some(None),
        _ => None,
    };
    let fields: Option<Vec<_>> = values.into_iter().map(field).collect();
    fields?.try_into().ok()
}

fn first_word(value: &Value) -> Option<&[u8]> {
    match value {
        Value::Array(values) => match values.first()? {
            Value::BulkString(bytes) => Some(bytes),
            Value::SimpleString(text) => Some(text.as_bytes()),
            _ => None,
        },
        _ => None,
    }
}

/// `None`: it cannot be read whole.
fn slot(m: &[u8], x: Option<&[u8]>, k: Option<&[u8]>, o: Option<Bytes>) -> Option<Slot> {
    let mut slot = meta::decode(m, x)?;
    slot.marks = marks(k.unwrap_or_default())?;
    let version = slot.version;
    if let Some(execution) = slot.execution.as_mut() {
        let is_completed = matches!(execution.state, State::Completed(_));
        // What an operator is shown without a history must not lose it here.
        execution.history = remembered::decode(x, execution.created_at, version, is_completed)?;
        if let State::Completed(outcome) | State::Settled(_, outcome) = &mut execution.state {
            outcome.data = o;
        }
    }
    Some(slot)
}

fn marks(mut k: &[u8]) -> Option<Vec<Mark>> {
    if !k.len().is_multiple_of(MARK) {
        return None;
    }
    let mut marks = Vec::new();
    while !k.is_empty() {
        let mut owner = [0; 16];
        k.try_copy_to_slice(&mut owner).ok()?;
        let kind = match k.try_get_u8().ok()? {
            0 => MarkKind::Cancelled,
            1 => MarkKind::Spent,
            _ => return None,
        };
        marks.push(Mark {
            owner: Owner(owner),
            kind,
            until: k.try_get_u64().ok()?,
        });
    }
    Some(marks)
}

/// The fields of a record, and its end in milliseconds.
fn written(slot: &Slot) -> [Bytes; 5] {
    let mut k = Vec::with_capacity(slot.marks.len() * MARK);
    for mark in &slot.marks {
        k.put_slice(&mark.owner.0);
        k.put_u8(match mark.kind {
            MarkKind::Cancelled => 0,
            MarkKind::Spent => 1,
        });
        k.put_u64(mark.until);
    }
    let execution = slot.execution.as_ref();
    let outcome = execution.and_then(|e| e.state.outcome());
    let x = execution.map_or_else(Vec::new, |execution| {
        let mut x = Vec::with_capacity(128);
        x.put_u64(execution.created_at);
        x.put_u64(slot.version);
        x.extend(execution.history.encode());
        x
    });
    let end = match execution {
        None => slot.version.saturating_add(micros(MARK_TTL_MS)),
        Some(execution) => execution.expires_at().unwrap_or_else(|| {
            let until = execution.state.lease().map_or(0, |lease| lease.until);
            until.saturating_add(micros(execution.retention.unknown_ttl_ms)) + GRACE
        }),
    };
    let marked = slot.marks.iter().map(|mark| mark.until).max();
    let end = end.max(marked.unwrap_or(0)) / 1_000 + 1;
    [
        meta::encode(slot).into(),
        x.into(),
        k.into(),
        outcome.and_then(|o| o.data.clone()).unwrap_or_default(),
        number(end),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::History;
    use crate::record::{Execution, Lease, StoredOutcome};
    use idempotency_protocol::{About, AttemptKind, Fingerprint, Retention, Scheme};
    use std::sync::Arc;

    #[test]
    fn a_record_survives_the_round_trip() {
        let lease = Lease {
            until: 4_000_000,
            length_ms: 0,
            boot: 0,
        };
        let outcome = StoredOutcome {
            status: 201,
            body_bytes: Some(3),
            digest: [9; 32],
            size: 7,
            data: Some(Bytes::from_static(b"outcome")),
        };
        let states = [
            None,
            Some(State::Executing(lease)),
            Some(State::Settled(lease, outcome.clone())),
            Some(State::Completed(outcome)),
            Some(State::Failed),
            Some(State::Unknown),
        ];
        for state in states {
            let about = Some(Arc::new(About {
                path: "/charges".into(),
                ..About::default()
            }));
            let before = Slot {
                version: 70,
                fence: 60,
                marks: vec![Mark {
                    owner: Owner([3; 16]),
                    kind: MarkKind::Spent,
                    until: 99,
                }],
                execution: state.map(|state| Execution {
                    owner: Some(Owner([7; 16])),
                    fingerprint: Fingerprint {
                        scheme: Scheme(9),
                        digest: [3; 32],
                    },
                    attempt: 2,
                    retention: Retention {
                        ttl_ms: 5,
                        unknown_ttl_ms: 6,
                    },
                    created_at: 10,
                    changed_at: 11,
                    state,
                    history: History::first(AttemptKind::Guard, about, 10),
                }),
            };
            let [m, x, k, o, _] = written(&before);
            let some = |bytes: Bytes| (!bytes.is_empty()).then_some(bytes);
            let after = slot(&m, some(x).as_deref(), some(k).as_deref(), some(o));
            assert_eq!(after, Some(before));
        }
    }
}
