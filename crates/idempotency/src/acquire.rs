//! Asking the store for a key.

use crate::claim::{Claim, Sent};
use crate::counters::Counter;
use crate::entry::{Entry, InFlight, Unknown};
use crate::error::Error;
use crate::execution::Execution;
use crate::fingerprint::Fingerprint;
use crate::guard::Guard;
use crate::operations::{self, LockTerms};
use crate::outcome::Done;
use crate::owners;
use crate::patience::within;
use idempotency_protocol::limits::{MAX_KEY_CHARS, MAX_SCOPE_BYTES};
use idempotency_protocol::{
    About, Answer, FaultCode, Grant, LookupKey, Outcome, Stored, Tombstone, TombstoneReason,
};
use std::sync::Arc;
use std::time::Duration;

impl Guard {
    pub(crate) async fn ask(
        &self,
        key: Arc<LookupKey>,
        fingerprint: Fingerprint,
        terms: LockTerms,
        about: Arc<About>,
    ) -> Result<Entry, Error> {
        let asked = self.ask_keeping(key, fingerprint, terms, about).await;
        asked.map_err(|refused| refused.error)
    }

    /// As [`Guard::ask`]; where nobody knows if the key was granted, the claim on it is kept.
    pub(crate) async fn ask_keeping(
        &self,
        key: Arc<LookupKey>,
        fingerprint: Fingerprint,
        terms: LockTerms,
        about: Arc<About>,
    ) -> Result<Entry, Refused> {
        check(&key)?;
        if self.shared.is_closing() {
            return Err(Error::Closing.into());
        }
        let sent = Sent::now();
        let owner = owners::new(&sent)?;
        let acquire = operations::acquire(
            LookupKey::clone(&key),
            owner,
            fingerprint.0,
            terms,
            Arc::clone(&about),
        );
        // From here on, whatever happens to this future takes the acquire back.
        let claim = Claim::asked(&self.shared, key, owner, terms.kind);
        let call = self.shared.store.apply(vec![acquire]);
        let longest = self.timeout_of_calls().min(usable(terms.lease_ms, terms));
        let answers = within(longest, call).await.unwrap_or_default();
        let running = |claim: &Claim, fence, lease_left_ms| InFlight {
            guard: self.clone(),
            key: claim.shared_key(),
            fingerprint,
            terms,
            about,
            fence,
            lease_left_ms,
        };
        let entry = match answers.into_iter().next() {
            Some(Answer::Granted(grant)) => {
                return Ok(self.granted(claim, grant, sent, terms)?);
            }
            Some(Answer::InFlight {
                fence,
                lease_left_ms,
            }) => Entry::InFlight(running(&claim, fence, lease_left_ms)),
            Some(Answer::Stored(stored)) => Entry::Replay(Done(stored)),
            // Done, and what is stored is damaged: to the caller, the same as a result without bytes.
            Some(Answer::Unreadable {
                status,
                fence,
                attempt,
                expires_at_ms,
            }) => Entry::Replay(Done(Stored {
                outcome: Outcome::Tombstone(Tombstone {
                    status,
                    reason: TombstoneReason::NotStorable,
                })
                .into(),
                fence,
                attempt,
                age_ms: 0,
                expires_at_ms,
            })),
            Some(Answer::Mismatch) => Entry::Mismatch,
            Some(Answer::NotComparable) => Entry::NotComparable,
            Some(Answer::UnknownOutcome { expires_at_ms }) => {
                Entry::Unknown(Unknown { expires_at_ms })
            }
            answer => return Err(Refused::read(answer, claim)),
        };
        claim.forget();
        Ok(entry)
    }

    fn granted(
        &self,
        mut claim: Claim,
        grant: Grant,
        sent: Sent,
        terms: LockTerms,
    ) -> Result<Entry, Error> {
        if sent.elapsed() >= usable(grant.lease_ms, terms) {
            self.shared.counters.count(Counter::GrantExpired);
            return Err(Error::Late);
        }
        let place = self.shared.enter().ok_or(Error::Busy)?;
        let lease = Duration::from_millis(grant.lease_ms);
        claim.hold(place, lease, sent, self.renewed_for());
        Ok(Entry::Execute(Execution::new(
            claim,
            grant,
            self.statements.clone(),
        )))
    }
}

/// How old a grant may be when its execution begins.
fn usable(lease_ms: u64, terms: LockTerms) -> Duration {
    Duration::from_millis(lease_ms.saturating_sub(terms.margin_ms))
}

/// There is no entry.
pub(crate) struct Refused {
    pub error: Error,
    /// The key may have been granted.
    pub claim: Option<Claim>,
}

impl Refused {
    /// What the store answered in place of an entry. A claim that nobody keeps takes the acquire back.
    fn read(answer: Option<Answer>, claim: Claim) -> Refused {
        let (error, may_be_granted) = match answer {
            Some(Answer::Fault(fault)) => match fault.code {
                FaultCode::Capacity => (Error::Full(fault.detail), false),
                FaultCode::Quota => (Error::Quota(fault.detail), false),
                FaultCode::Invalid | FaultCode::Untrusted => {
                    (Error::StoreFailed(fault.detail), false)
                }
                FaultCode::Unavailable => (Error::StoreDown(fault.detail), true),
                FaultCode::Internal => (Error::StoreFailed(fault.detail), true),
            },
            Some(other) => {
                let detail = format!("{} is no answer to an acquire", other.name());
                (Error::StoreFailed(detail), true)
            }
            None => (Error::StoreDown("no answer in time".to_owned()), true),
        };
        if may_be_granted {
            let claim = Some(claim);
            return Refused { error, claim };
        }
        claim.forget();
        error.into()
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Refused {
        Refused { error, claim: None }
    }
}

fn check(key: &LookupKey) -> Result<(), Error> {
    let chars = key.key.chars().take(MAX_KEY_CHARS + 1).count();
    if !(1..=MAX_KEY_CHARS).contains(&chars) {
        return Err(Error::InvalidKey("a key has 1 to 255 characters"));
    }
    if key.tenant.len() > MAX_SCOPE_BYTES || key.namespace.len() > MAX_SCOPE_BYTES {
        return Err(Error::InvalidKey(
            "a tenant and a namespace have at most 1024 bytes",
        ));
    }
    Ok(())
}
