//! What the guard has to do with the answers of the main Redis.
//!
//! The main Redis is asked first, so what needs no lock (a replay, "in flight") costs the guard
//! nothing, and of many who want a key only the one that was granted asks the nodes: they never
//! have to choose.

use super::call::ScriptCall;
use super::conclude::Concluded;
use super::redlock::{Missed, Redlock, Whose};
use super::RedisStore;
use crate::history::Failure;
use crate::machine::Event;
use crate::store::{Resolve, Store, StoreError};
use bytes::Bytes;
use futures_util::future::join_all;
use idempotency_protocol::{Answer, Fault, FaultCode, Grant, LookupKey, Owner};
use std::collections::HashMap;

/// What an answer asks of the guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Duty {
    /// It is a grant, and stands only with the lock.
    Take(Owner, Grant),
    /// The lease is longer, and the lock must be.
    Extend(Owner, u64),
    /// The execution is over.
    Release(Whose),
}

impl Duty {
    fn of(event: &Event, answer: &Answer) -> Option<Duty> {
        let owner = |owner: &Owner| Some(Duty::Release(Whose::Owner(*owner)));
        match (event, answer) {
            (_, Answer::Fault(_)) => None,
            (Event::Acquire(a), Answer::Granted(grant)) => Some(Duty::Take(a.owner, *grant)),
            (Event::Extend { owner, lease_ms }, Answer::Extended { .. }) => {
                Some(Duty::Extend(*owner, *lease_ms))
            }
            // Where the main Redis knows nothing of an execution that was done, or may have been,
            // the lock is all that still keeps the key from a second one: it stays to its end.
            (Event::Complete { owner: o, .. }, Answer::Completed { .. } | Answer::Differs) => {
                owner(o)
            }
            (Event::Abandon { owner: o }, Answer::Abandoned) => owner(o),
            // Provably not done, whatever the main Redis knows of it.
            (Event::Fail { owner: o, .. }, _) => owner(o),
            // One that is done is not over before its gateway has completed it: it still holds the
            // key, and may extend its lease.
            (Event::Settle { fence, .. }, Answer::Failed | Answer::Abandoned) => {
                Some(Duty::Release(Whose::Fence(*fence)))
            }
            _ => None,
        }
    }
}

impl RedisStore {
    /// The answers as the guard lets them stand; those about the same record in order.
    pub(super) async fn guarded(
        &self,
        guard: &Redlock,
        events: &[(LookupKey, Event)],
        calls: &[ScriptCall],
        concluded: Vec<Concluded>,
    ) -> Vec<Answer> {
        let mut chains: HashMap<&Bytes, Vec<_>> = HashMap::new();
        let all = concluded.into_iter().zip(events).zip(calls);
        for (at, ((concluded, (key, event)), call)) in all.enumerate() {
            let chain = chains.entry(&call.key).or_default();
            chain.push((at, concluded, key, event, call));
        }
        let chains = chains.into_values().map(|chain| async move {
            let mut answers = Vec::with_capacity(chain.len());
            for (at, concluded, key, event, call) in chain {
                let answer = match Duty::of(event, &concluded.answer) {
                    Some(duty) => self.do_duty(guard, duty, key, event, call, concluded).await,
                    None => concluded.answer,
                };
                answers.push((at, answer));
            }
            answers
        });
        let mut all: Vec<_> = join_all(chains).await.into_iter().flatten().collect();
        all.sort_by_key(|(at, _)| *at);
        all.into_iter().map(|(_, answer)| answer).collect()
    }

    async fn do_duty(
        &self,
        guard: &Redlock,
        duty: Duty,
        key: &LookupKey,
        event: &Event,
        call: &ScriptCall,
        concluded: Concluded,
    ) -> Answer {
        match duty {
            Duty::Take(owner, grant) => {
                let fence = Some(grant.fence);
                match guard.take(key, owner, fence, grant.lease_ms).await {
                    Ok(()) => concluded.answer,
                    Err(missed) if concluded.fresh => {
                        guard.let_go(key, owner);
                        // What the main Redis may have forgotten was perhaps another request's.
                        self.take_back(event, call, Failure::Other).await;
                        fault(&missed, "the grant was taken back")
                    }
                    // Given earlier: somebody may be executing under it, so it stays.
                    Err(missed) => fault(&missed, "what was granted before stays"),
                }
            }
            Duty::Extend(owner, lease_ms) => match guard.take(key, owner, None, lease_ms).await {
                Ok(()) => concluded.answer,
                Err(missed) => fault(&missed, "the record's lease is longer, the lock's is not"),
            },
            Duty::Release(whose) => {
                guard.release(key, whose).await;
                concluded.answer
            }
        }
    }

    /// The fence of the lock that an operator's decision ends: the record's, at the version that
    /// the operator saw.
    pub(super) async fn lock_of(&self, resolve: &Resolve) -> Result<Option<u64>, StoreError> {
        if self.guard.is_none() {
            return Ok(None);
        }
        let record = self.inspect(&resolve.key).await?;
        let record = record.filter(|record| record.version == resolve.version);
        Ok(record.map(|record| record.fence))
    }
}

fn fault(missed: &Missed, so: &str) -> Answer {
    Answer::Fault(Fault {
        code: FaultCode::Unavailable,
        detail: format!("Redlock: {missed}; {so}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::AcquireEvent;
    use crate::record::StoredOutcome;
    use idempotency_protocol::{
        AttemptKind, Fingerprint, OnUnknown, Outcome, Retention, Scheme, Tombstone, TombstoneReason,
    };

    const OWNER: Owner = Owner([7; 16]);
    const GRANT: Grant = Grant {
        fence: 9,
        attempt: 1,
        lease_ms: 5,
    };

    fn acquire() -> Event {
        Event::Acquire(AcquireEvent {
            owner: OWNER,
            fingerprint: Fingerprint {
                scheme: Scheme(1),
                digest: [0; 32],
            },
            lease_ms: 5,
            retention: Retention {
                ttl_ms: 1,
                unknown_ttl_ms: 1,
            },
            on_unknown: OnUnknown::Refuse,
            kind: AttemptKind::Gateway,
            about: None,
        })
    }

    #[test]
    fn duties() {
        let outcome = StoredOutcome::new(&Outcome::Tombstone(Tombstone {
            status: 200,
            reason: TombstoneReason::Capacity,
        }));
        let (owner, lease_ms) = (OWNER, 5);
        let complete = || Event::Complete {
            owner,
            outcome: outcome.clone(),
        };
        let fail = || Event::Fail {
            owner,
            failure: Failure::NothingDone,
        };
        let settle = || Event::Settle {
            fence: 9,
            outcome: None,
        };
        let completed = || Answer::Completed { expires_at_ms: 1 };
        let release = Some(Duty::Release(Whose::Owner(OWNER)));
        let settled = Some(Duty::Release(Whose::Fence(9)));
        let down = || {
            Answer::Fault(Fault {
                code: FaultCode::Unavailable,
                detail: String::new(),
            })
        };
        for (event, answer, duty) in [
            (
                acquire(),
                Answer::Granted(GRANT),
                Some(Duty::Take(OWNER, GRANT)),
            ),
            (acquire(), Answer::Mismatch, None),
            (acquire(), down(), None),
            (
                Event::Extend { owner, lease_ms },
                Answer::Extended { lease_ms },
                Some(Duty::Extend(OWNER, 5)),
            ),
            (Event::Extend { owner, lease_ms }, Answer::Lost, None),
            (complete(), completed(), release),
            (complete(), Answer::Differs, release),
            // The main Redis forgot it: the lock stays.
            (complete(), Answer::Lost, None),
            (complete(), down(), None),
            (Event::Abandon { owner }, Answer::Abandoned, release),
            (Event::Abandon { owner }, Answer::Marked, None),
            (fail(), Answer::Failed, release),
            (fail(), Answer::Abandoned, release),
            (fail(), Answer::Marked, release),
            (fail(), down(), None),
            (settle(), Answer::Failed, settled),
            (settle(), Answer::Abandoned, settled),
            // The gateway still holds the key.
            (settle(), completed(), None),
            (settle(), Answer::Refused, None),
        ] {
            assert_eq!(Duty::of(&event, &answer), duty, "{event:?} {answer:?}");
        }
    }
}
