//! What a caller may do with a key.

use crate::error::Error;
use crate::execution::Execution;
use crate::fingerprint::Fingerprint;
use crate::guard::Guard;
use crate::operations::{self, LockTerms};
use crate::outcome::{self, Done};
use idempotency_protocol::limits::MAX_WAIT_MS;
use idempotency_protocol::{About, Answer, LookupKey};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::{timeout, Instant};

/// What [`Guard::acquire`] found under a key.
// It lives for one `match`: boxes would cost more than they save.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
pub enum Entry {
    /// Nobody did it: do it now, and say how it ended.
    Execute(Execution),
    /// It was done: this is what came out.
    Replay(Done),
    /// Somebody is doing it at this moment.
    InFlight(InFlight),
    /// The key was used for something else: the payload differs.
    Mismatch,
    /// The key was used, and nobody can tell if for the same: its fingerprint was made in another way (by
    /// another version of the program, or by a gateway).
    NotComparable,
    /// It may have been done: an execution ended without saying how. It is not done again by itself; an
    /// upstream or an operator settles it, or it is forgotten.
    Unknown(Unknown),
}

/// An execution whose end nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown {
    pub(crate) expires_at_ms: u64,
}

impl Unknown {
    /// When the record is forgotten. A request with this key executes afterwards.
    pub fn expires_at(&self) -> SystemTime {
        outcome::time(self.expires_at_ms)
    }
}

/// An execution of somebody else that is still running.
pub struct InFlight {
    pub(crate) guard: Guard,
    pub(crate) key: Arc<LookupKey>,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) terms: LockTerms,
    pub(crate) about: Arc<About>,
    pub(crate) fence: u64,
    pub(crate) lease_left_ms: u64,
}

/// Shows no key.
impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlight")
            .field("fence", &self.fence)
            .field("lease_left_ms", &self.lease_left_ms)
            .finish_non_exhaustive()
    }
}

impl InFlight {
    /// The fence of the execution that is running.
    pub fn fence(&self) -> u64 {
        self.fence
    }

    /// What was left of its lease. It ends sooner if the execution does, and later if the lease is renewed.
    pub fn lease_left(&self) -> Duration {
        Duration::from_millis(self.lease_left_ms)
    }

    /// Waits until it has ended, but no longer than `longest` (and a minute), and asks for nothing: whether it has
    /// ended, or may have. For [`Guard::transaction`], which is called again then.
    pub async fn ended(&self, longest: Duration) -> bool {
        let longest = longest.min(Duration::from_millis(MAX_WAIT_MS));
        let wait = operations::wait(&self.key, self.fingerprint.0, self.fence, longest);
        let answer = timeout(longest, self.guard.shared.store.wait(wait)).await;
        matches!(answer, Ok(Answer::Stored(_) | Answer::Changed))
    }

    /// Waits until it has ended, but no longer than `longest` (and a minute), and looks again: usually a
    /// [`Replay`](Entry::Replay); [`Execute`](Entry::Execute) if it failed; [`InFlight`](Entry::InFlight)
    /// when the time is up, or when the store has no room for another wait.
    ///
    /// # Errors
    ///
    /// As [`Guard::acquire`].
    ///
    /// ```
    /// # use idempotency::{store::Memory, Entry, Fingerprint, Guard, Outcome};
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let guard = Guard::new(std::sync::Arc::new(Memory::default()));
    /// # let same = Fingerprint::raw("");
    /// # let Entry::Execute(first) = guard.acquire("k", same).await? else { panic!() };
    /// let entry = match guard.acquire("k", same).await? {
    ///     Entry::InFlight(running) => {
    /// #       first.complete(Outcome::empty(204)?).await?;
    ///         running.wait(Duration::from_secs(2)).await?
    ///     }
    ///     entry => entry,
    /// };
    /// assert!(matches!(entry, Entry::Replay(_)));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn wait(mut self, longest: Duration) -> Result<Entry, Error> {
        let end = Instant::now() + longest.min(Duration::from_millis(MAX_WAIT_MS));
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left < Duration::from_millis(1) {
                return Ok(Entry::InFlight(self));
            }
            let wait = operations::wait(&self.key, self.fingerprint.0, self.fence, left);
            match timeout(left, self.guard.shared.store.wait(wait)).await {
                Ok(Answer::Stored(stored)) => return Ok(Entry::Replay(Done(stored))),
                Ok(Answer::Changed) => {}
                // No answer to a wait changes nothing about what is known.
                _ => return Ok(Entry::InFlight(self)),
            }
            match self
                .guard
                .ask(self.key, self.fingerprint, self.terms, self.about)
                .await?
            {
                Entry::InFlight(again) => self = again,
                other => return Ok(other),
            }
        }
    }
}
