//! How a deduplicator is made.

use super::dedup::{Deduplicator, Settings};
use super::id::MessageId;
use super::letter::Message;
use crate::error::Error;
use crate::fingerprint::Fingerprint;
use crate::guard::{self, Guard};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

/// What is done with a message whose handler may have had its effect: its consumer died in it, it panicked, or it
/// said [`Failure::unknown`](super::Failure::unknown).
///
/// There is no default, since each answer is wrong for somebody: [`RunAgain`](OnUnknown::RunAgain) can do it twice,
/// and [`DeadLetter`](OnUnknown::DeadLetter) can leave it undone until a person has looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnknown {
    /// It is run again, and counted as an attempt. For handlers that can run twice (they set values, they write
    /// under a key of their own), and for those whose effect and record are one commit.
    RunAgain,
    /// It is put aside. For handlers that must not run twice: they pay, they send.
    DeadLetter,
}

/// Nothing has been said about unknown outcomes: the builder does not build.
#[derive(Clone, Copy, Debug)]
pub struct Missing;

/// It was said.
#[derive(Clone, Copy, Debug)]
pub struct Chosen;

/// Makes a [`Deduplicator`]. It has [`build`](Builder::build) only after [`on_unknown`](Builder::on_unknown):
///
/// ```compile_fail,E0599
/// # use idempotency::{message::Deduplicator, store::Memory, Guard};
/// # let guard = Guard::new(std::sync::Arc::new(Memory::default()));
/// let dedup = Deduplicator::builder(guard, "billing").build();
/// ```
#[must_use]
pub struct Builder<Unknown = Missing> {
    settings: Settings,
    guard: Guard,
    chosen: PhantomData<Unknown>,
}

impl<U> fmt::Debug for Builder<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Builder<Missing> {
    pub(super) fn new(guard: Guard, group: &str) -> Builder<Missing> {
        Builder {
            settings: Settings {
                group: Arc::from(group),
                id: MessageId::offset(),
                fingerprint: None,
                max_attempts: 5,
                first_pause: Duration::from_millis(200),
                longest_pause: Duration::from_secs(30),
            },
            guard,
            chosen: PhantomData,
        }
    }
}

impl<U> Builder<U> {
    /// What is done with a message whose handler may have had its effect.
    pub fn on_unknown(self, on_unknown: OnUnknown) -> Builder<Chosen> {
        let on_unknown = match on_unknown {
            OnUnknown::RunAgain => guard::OnUnknown::Retry,
            OnUnknown::DeadLetter => guard::OnUnknown::Refuse,
        };
        Builder {
            settings: self.settings,
            guard: self.guard.on_unknown(on_unknown),
            chosen: PhantomData,
        }
    }

    /// Which messages are the same: [`MessageId::offset`] unless told otherwise, which knows only a broker's
    /// redeliveries.
    pub fn id(mut self, id: MessageId) -> Self {
        self.settings.id = id;
        self
    }

    /// What counts as the same content, in place of the payload byte by byte. Leave out what changes when a producer
    /// sends the same event again, such as the time of sending.
    pub fn fingerprint(
        mut self,
        of: impl Fn(&dyn Message) -> Result<Fingerprint, Error> + Send + Sync + 'static,
    ) -> Self {
        self.settings.fingerprint = Some(Arc::new(of));
        self
    }

    /// How often a message is run, over all consumers and restarts: 5 unless told otherwise, at least 1.
    pub fn max_attempts(mut self, most: u32) -> Self {
        self.settings.max_attempts = most;
        self
    }

    /// How long a failed message rests: `first` after its first attempt, twice as long after each further one, at
    /// most `longest`. 200 ms and 30 s unless told otherwise.
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.settings.first_pause = first;
        self.settings.longest_pause = longest;
        self
    }
}

impl Builder<Chosen> {
    /// The deduplicator.
    ///
    /// # Errors
    ///
    /// [`Error::Settings`] for a group without a name, no attempts, or times of the guard that are out of range.
    pub fn build(self) -> Result<Deduplicator, Error> {
        if self.settings.group.is_empty() {
            return Err(Error::Settings("a consumer group has a name"));
        }
        if self.settings.max_attempts == 0 {
            return Err(Error::Settings("a message has at least one attempt"));
        }
        self.guard.lock_terms()?;
        Ok(Deduplicator::new(self.guard, self.settings))
    }
}
