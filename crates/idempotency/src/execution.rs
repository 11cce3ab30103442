//! One execution of an operation, from its grant to its end.

use crate::claim::Claim;
use crate::error::SettleError;
use crate::outcome::{self, Outcome};
use idempotency_core::ending::End;
use idempotency_core::upstream;
use idempotency_protocol::{FailCause, Grant};
use idempotency_store::transaction::Statements;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

/// The right, and the duty, to execute an operation once.
///
/// It holds the key by a lease, which it renews by itself while it lives (up to
/// [`Guard::renew_for`](crate::Guard::renew_for)). Say how it ended: [`complete`](Execution::complete),
/// [`refuse`](Execution::refuse), [`fail`](Execution::fail) or [`abandon`](Execution::abandon). Dropped without a word, by an early
/// return, an error or a panic, it is abandoned: the operation may have been done, and is not done again by
/// itself.
///
/// ```
/// # use idempotency::{store::Memory, Entry, Fingerprint, Guard, Outcome};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let guard = Guard::new(std::sync::Arc::new(Memory::default()));
/// # let same = Fingerprint::raw("");
/// # fn reserve(_fence: u64) -> Result<u32, &'static str> { Err("no chair left") }
/// let Entry::Execute(execution) = guard.acquire("k", same).await? else { panic!() };
/// match reserve(execution.fence()) {
///     Ok(place) => drop(execution.complete(Outcome::json(200, &place)?).await?),
///     // Nothing was reserved: the same key may try again.
///     Err(_) => execution.fail().await?,
/// }
/// let Entry::Execute(again) = guard.acquire("k", same).await? else { panic!() };
/// assert_eq!(again.number(), 2);
/// # again.abandon().await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "an execution that is dropped is abandoned: its outcome is unknown from then on"]
pub struct Execution {
    claim: Claim,
    grant: Grant,
    /// Where they are not the store's own.
    pub(crate) statements: Option<Arc<Statements>>,
}

/// Shows no key.
impl fmt::Debug for Execution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Execution")
            .field("grant", &self.grant)
            .finish_non_exhaustive()
    }
}

/// The outcome is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completed {
    pub(crate) expires_at_ms: u64,
}

impl Completed {
    pub(crate) fn until(expires_at_ms: i64) -> Completed {
        Completed {
            expires_at_ms: u64::try_from(expires_at_ms).unwrap_or(0),
        }
    }

    /// Until when the outcome is kept.
    pub fn expires_at(&self) -> SystemTime {
        outcome::time(self.expires_at_ms)
    }
}

impl Execution {
    pub(crate) fn new(
        claim: Claim,
        grant: Grant,
        statements: Option<Arc<Statements>>,
    ) -> Execution {
        Execution {
            claim,
            grant,
            statements,
        }
    }

    pub(crate) fn claim(&self) -> &Claim {
        &self.claim
    }

    pub(crate) fn claim_mut(&mut self) -> &mut Claim {
        &mut self.claim
    }

    /// A number that only grows per key. Hand it to whatever the operation changes: a resource that
    /// remembers the highest fence can refuse an execution that was overtaken.
    pub fn fence(&self) -> u64 {
        self.grant.fence
    }

    /// 1 for the first execution under this key. A higher number means that earlier ones failed, or may
    /// have been done where [`OnUnknown::Retry`](crate::OnUnknown) allows that.
    pub fn number(&self) -> u32 {
        self.grant.attempt
    }

    /// Names the record, as the gateway's header `Idempotency-Record` does: ready as the query of the
    /// service's settle call.
    pub fn record(&self) -> String {
        upstream::record_query(self.claim.key())
    }

    /// Whether the store has said that another execution took the key: what is not done yet should not be
    /// done any more. Known only after a renewal, so `false` proves nothing; a fence does.
    pub fn is_lost(&self) -> bool {
        self.claim.is_lost()
    }

    /// It was done, and this is what came out: from now on it is what others get. Once called it goes on to
    /// its end, also if nobody awaits it any more.
    ///
    /// # Errors
    ///
    /// [`SettleError::Lost`], [`SettleError::Differs`], and [`SettleError::StoreDown`] while the store does
    /// not answer: the guard then goes on trying, so the operation must not be repeated.
    pub async fn complete(self, outcome: Outcome) -> Result<Completed, SettleError> {
        let settled = self.claim.end(End::Done(outcome.0)).await;
        let expires_at_ms = settled.result()?;
        Ok(Completed {
            expires_at_ms: expires_at_ms.unwrap_or_default(),
        })
    }

    /// It was not done, or only half, and doing it again is right: the next try of the same request
    /// executes. One with another payload is still a mismatch, since it could meet what the first one left.
    /// Never say this of something that may have been done whole.
    ///
    /// # Errors
    ///
    /// As [`Execution::complete`]; [`SettleError::Refused`] if the record is settled in another way.
    pub async fn fail(self) -> Result<(), SettleError> {
        self.not_done(FailCause::Other).await
    }

    /// It was refused, and nothing was done, not even in part: the key is free, also for a corrected
    /// request, whose payload is another one.
    ///
    /// # Errors
    ///
    /// As [`Execution::fail`].
    ///
    /// ```
    /// # use idempotency::{store::Memory, Entry, Fingerprint, Guard};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let guard = Guard::new(std::sync::Arc::new(Memory::default()));
    /// let mistaken = guard.acquire("k", Fingerprint::raw("-1 EUR to Bob")).await?;
    /// let Entry::Execute(execution) = mistaken else { panic!() };
    /// execution.refuse().await?;
    /// let corrected = guard.acquire("k", Fingerprint::raw("1 EUR to Bob")).await?;
    /// assert!(matches!(corrected, Entry::Execute(_)));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn refuse(self) -> Result<(), SettleError> {
        self.not_done(FailCause::Refused).await
    }

    async fn not_done(self, cause: FailCause) -> Result<(), SettleError> {
        let settled = self.claim.end(End::NotDone(cause)).await;
        settled.result().map(drop)
    }

    /// It may have been done: the outcome is unknown, and requests with this key learn that. The same as
    /// dropping the execution, but waits until it is recorded.
    ///
    /// # Errors
    ///
    /// As [`Execution::fail`].
    pub async fn abandon(self) -> Result<(), SettleError> {
        self.claim.end(End::Unknown).await.result().map(drop)
    }

    pub(crate) fn grant(&self) -> Grant {
        self.grant
    }

    pub(crate) fn into_claim(self) -> Claim {
        self.claim
    }
}
