//! One verdict per delivery.

use super::builder::{Builder, Missing};
use super::failure::Failure;
use super::id::MessageId;
use super::judge::{self, After, FoundMessage, Step};
use super::letter::Message;
use super::verdict::{DeadLetter, Reason, Retry, Verdict, Why};
use crate::entry::Entry;
use crate::error::{Error, SettleError};
use crate::execution::Execution;
use crate::fingerprint::Fingerprint;
use crate::guard::Guard;
use crate::operations;
use crate::outcome::Outcome;
use crate::settle::{self, Settled};
use idempotency_core::ending::End;
use idempotency_core::{fingerprint, upstream};
use idempotency_protocol::{LookupKey, Owner};
use std::fmt;
use std::future::Future;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// How long a message waits after an error of the store.
const STORE_PAUSE: Duration = Duration::from_secs(1);

type Of = Arc<dyn Fn(&dyn Message) -> Result<Fingerprint, Error> + Send + Sync>;

#[derive(Clone)]
pub(super) struct Settings {
    pub group: Arc<str>,
    pub id: MessageId,
    pub fingerprint: Option<Of>,
    pub max_attempts: u32,
    pub first_pause: Duration,
    pub longest_pause: Duration,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("group", &self.group)
            .field("id", &self.id)
            .field("max_attempts", &self.max_attempts)
            .finish_non_exhaustive()
    }
}

/// Runs each message once per consumer group: see the [module](super). Cheap to clone.
#[derive(Clone, Debug)]
pub struct Deduplicator {
    guard: Guard,
    settings: Arc<Settings>,
}

/// The record of a message, for code that does without [`Deduplicator::run`]: for example to write the effect and the
/// record in one commit.
#[derive(Clone, Debug)]
pub struct MessageKey {
    /// A guard with the namespace of group and topic, and with what was chosen for unknown outcomes.
    pub guard: Guard,
    /// The message's key in it.
    pub key: String,
    /// Its content.
    pub fingerprint: Fingerprint,
}

/// The execution that a handler is.
#[derive(Clone)]
pub struct Attempt {
    pub(crate) guard: Guard,
    pub(crate) key: Arc<LookupKey>,
    pub(crate) owner: Owner,
    fence: u64,
    number: u32,
}

/// Shows no key.
impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt")
            .field("fence", &self.fence)
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl Attempt {
    fn of(guard: &Guard, execution: &Execution) -> Attempt {
        Attempt {
            guard: guard.clone(),
            key: execution.claim().shared_key(),
            owner: execution.claim().owner(),
            fence: execution.fence(),
            number: execution.number(),
        }
    }

    /// A number that only grows per message: a resource that remembers the highest one can refuse a consumer that was
    /// overtaken.
    pub fn fence(&self) -> u64 {
        self.fence
    }

    /// 1 for the first attempt, over all consumers and restarts.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Names the record: ready as the query of the service's settle call.
    pub fn record(&self) -> String {
        upstream::record_query(&self.key)
    }
}

impl Deduplicator {
    /// For the messages of this consumer group. The guard's namespace, tenant, lease and TTL count. A lease of about
    /// ten seconds suits consumers: it is renewed while the handler runs, and it is how long the message of a consumer
    /// that died, and what is behind it, waits. The TTL should be longer than the time in which a message can come
    /// again.
    pub fn builder(guard: Guard, group: &str) -> Builder<Missing> {
        Builder::new(guard, group)
    }

    pub(super) fn new(guard: Guard, settings: Settings) -> Deduplicator {
        Deduplicator {
            guard,
            settings: Arc::new(settings),
        }
    }

    /// The consumer group.
    pub fn group(&self) -> &str {
        &self.settings.group
    }

    /// The guard.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// The record of this message; `Ok(None)` if it has no id.
    ///
    /// # Errors
    ///
    /// What the function given to [`Builder::fingerprint`] says.
    pub fn key(&self, message: &dyn Message) -> Result<Option<MessageKey>, Error> {
        let Some(key) = self.settings.id.of(message) else {
            return Ok(None);
        };
        let fingerprint = match &self.settings.fingerprint {
            Some(of) => of(message)?,
            // Without content is not the same as empty: of another kind, so that the payload needs no copy.
            None => Fingerprint(match message.payload() {
                Some(payload) => fingerprint::of_payload("message", payload),
                None => fingerprint::of_payload("message-without-content", b""),
            }),
        };
        let namespace = namespace(
            self.guard.namespace_name(),
            &self.settings.group,
            message.topic(),
        );
        let guard = self.guard.clone().namespace(&namespace);
        Ok(Some(MessageKey {
            guard,
            key,
            fingerprint,
        }))
    }

    /// Runs the handler, unless this message was done before or is being done, and records how it ended. The verdict
    /// comes when that is recorded; while the store does not answer, it waits for it (up to 15 minutes), so that no
    /// consumer acknowledges what is not recorded. A handler that panics has an unknown outcome.
    ///
    /// Dropped in the middle, the handler is cut off, and its outcome is unknown. Must be called inside of a tokio
    /// runtime with its timer enabled.
    pub fn run<M, F, Fut>(
        &self,
        message: &M,
        handler: F,
    ) -> impl Future<Output = Verdict> + use<M, F, Fut>
    where
        M: Message,
        F: FnOnce(Attempt) -> Fut,
        Fut: Future<Output = Result<(), Failure>>,
    {
        let begin = self.begin(message);
        async move {
            match begin.await {
                Ok(begun) => begun.call(handler).await.verdict().await,
                Err(verdict) => verdict,
            }
        }
    }

    /// The first part of [`run`](Deduplicator::run): the right to run this message, or what is to be done instead.
    pub(crate) fn begin<M: Message>(
        &self,
        message: &M,
    ) -> impl Future<Output = Result<Begun, Verdict>> + use<M> {
        let key = self.key(message);
        let settings = Arc::clone(&self.settings);
        async move {
            let key = match key {
                Ok(Some(key)) => key,
                Ok(None) => return Err(put_aside(Reason::NoId, None, None)),
                Err(error) => {
                    return Err(put_aside(Reason::Rejected, Some(error.to_string()), None))
                }
            };
            let mut execution = settings.acquire(&key).await?;
            execution.claim_mut().nothing_done();
            Ok(Begun {
                settings,
                key,
                execution,
            })
        }
    }
}

/// A message that may be run, and is not yet. Dropped, its key is free again, which counts as an attempt.
pub(crate) struct Begun {
    settings: Arc<Settings>,
    key: MessageKey,
    execution: Execution,
}

/// A message that was run, and whose end is not recorded yet. Dropped, it is unknown.
pub(crate) struct Ended {
    begun: Begun,
    after: After,
    error: String,
}

impl Begun {
    /// Another execution has the key by now.
    #[cfg(feature = "kafka")]
    pub fn is_lost(&self) -> bool {
        self.execution.is_lost()
    }

    /// The second part.
    pub async fn call<F, Fut>(mut self, handler: F) -> Ended
    where
        F: FnOnce(Attempt) -> Fut,
        Fut: Future<Output = Result<(), Failure>>,
    {
        self.execution.claim_mut().has_begun();
        let attempt = Attempt::of(&self.key.guard, &self.execution);
        let end = call(handler, attempt).await;
        let (end, error) = match end {
            Ok(()) => (Ok(()), String::new()),
            Err(failure) => (Err(failure.kind), failure.error),
        };
        let number = self.execution.number();
        Ended {
            after: judge::ended(end, number, self.settings.max_attempts),
            begun: self,
            error,
        }
    }
}

impl Ended {
    /// Whether the handler has succeeded.
    #[cfg(feature = "kafka")]
    pub fn is_success(&self) -> bool {
        self.after == After::Record
    }

    /// The last part: records how it ended.
    pub async fn verdict(self) -> Verdict {
        let Ended {
            begun,
            after,
            error,
        } = self;
        begun
            .settings
            .conclude(begun.key, begun.execution, after, error)
            .await
    }
}

impl Settings {
    async fn conclude(
        &self,
        key: MessageKey,
        execution: Execution,
        after: After,
        error: String,
    ) -> Verdict {
        let number = execution.number();
        match after {
            After::Record => record(&key.guard, execution).await,
            After::Again => match execution.fail().await {
                Ok(()) | Err(SettleError::StoreDown(_)) => Verdict::Retry(Retry {
                    after: judge::pause(self.first_pause, self.longest_pause, number),
                    why: Why::Failed { number, error },
                }),
                Err(lost) => not_recorded(lost),
            },
            After::Exhausted => self.exhausted(&key, execution, error).await,
            After::Rejected => put_aside(Reason::Rejected, Some(error), Some(execution)),
            After::Unknown => {
                // Told or not: if not, its lease ends.
                let _ = execution.abandon().await;
                Verdict::Retry(Retry {
                    after: judge::pause(self.first_pause, self.longest_pause, number),
                    why: Why::Unknown { error },
                })
            }
        }
    }

    /// The right to run it, or what is to be done instead.
    async fn acquire(&self, key: &MessageKey) -> Result<Execution, Verdict> {
        let entry = match key.guard.acquire(&key.key, key.fingerprint).await {
            Ok(entry) => entry,
            Err(error) => {
                return Err(Verdict::Retry(Retry {
                    after: STORE_PAUSE,
                    why: Why::Store(error),
                }))
            }
        };
        let found = match &entry {
            Entry::Execute(execution) => FoundMessage::Granted {
                number: execution.number(),
            },
            Entry::Replay(_) => FoundMessage::Done,
            Entry::InFlight(running) => FoundMessage::InFlight {
                lease_left: running.lease_left(),
            },
            Entry::Mismatch => FoundMessage::Mismatch,
            Entry::NotComparable => FoundMessage::NotComparable,
            Entry::Unknown(_) => FoundMessage::Unknown,
        };
        let step = judge::found(found, self.max_attempts);
        Err(match (step, entry) {
            (Step::Run, Entry::Execute(execution)) => return Ok(execution),
            (Step::PutAside(reason), Entry::Execute(execution)) => {
                put_aside(reason, None, Some(execution))
            }
            (Step::PutAside(reason), _) => put_aside(reason, None, None),
            (Step::Later(after), _) => Verdict::Retry(Retry {
                after,
                why: Why::InFlight,
            }),
            (_, Entry::Replay(done)) => Verdict::Duplicate(done),
            (Step::Run | Step::Skip, _) => Verdict::Retry(Retry {
                after: STORE_PAUSE,
                why: Why::InFlight,
            }),
        })
    }

    /// The failure is recorded before the message is put aside: a consumer that dies in between leaves *failed*, and
    /// not *unknown*. Then it is met as a redelivery meets it.
    async fn exhausted(&self, key: &MessageKey, execution: Execution, error: String) -> Verdict {
        match execution.fail().await {
            Ok(()) => {}
            Err(SettleError::StoreDown(_)) => {
                return Verdict::Retry(Retry {
                    after: STORE_PAUSE,
                    why: Why::Failed {
                        number: self.max_attempts,
                        error,
                    },
                })
            }
            Err(lost) => return not_recorded(lost),
        }
        match self.acquire(key).await {
            Err(Verdict::DeadLetter(letter)) => Verdict::DeadLetter(letter.with_error(error)),
            Err(verdict) => verdict,
            // An operator has made the record anew in between.
            Ok(execution) => put_aside(
                Reason::Poison {
                    attempts: self.max_attempts,
                },
                Some(error),
                Some(execution),
            ),
        }
    }
}

/// What is recorded of a message that was handled.
pub(crate) fn handled() -> Result<Outcome, Error> {
    Outcome::empty(204)
}

/// Stores that it is done, and waits until it is.
async fn record(guard: &Guard, execution: Execution) -> Verdict {
    let done = match handled() {
        Ok(done) => done.0,
        Err(error) => {
            return Verdict::Retry(Retry {
                after: STORE_PAUSE,
                why: Why::Store(error),
            })
        }
    };
    let claim = execution.into_claim();
    let same = operations::complete(claim.key().clone(), claim.owner(), done.clone());
    let mut settled = claim.end(End::Done(done)).await;
    if matches!(settled, Settled::Unanswered(_)) {
        settled = settle::until_answered(&guard.shared, same).await;
    }
    match settled.result() {
        // Differs: recorded by the handler itself, in its own transaction.
        Ok(_) | Err(SettleError::Differs) => Verdict::Done,
        Err(error) => not_recorded(error),
    }
}

fn not_recorded(error: SettleError) -> Verdict {
    Verdict::Retry(Retry {
        after: STORE_PAUSE,
        why: Why::NotRecorded(error),
    })
}

fn put_aside(reason: Reason, error: Option<String>, execution: Option<Execution>) -> Verdict {
    let claim = execution.map(|execution| {
        let mut claim = execution.into_claim();
        claim.has_failed();
        claim
    });
    Verdict::DeadLetter(DeadLetter::new(reason, error, claim))
}

/// A panic ends the handler, and not its consumer.
async fn call<F, Fut>(handler: F, attempt: Attempt) -> Result<(), Failure>
where
    F: FnOnce(Attempt) -> Fut,
    Fut: Future<Output = Result<(), Failure>>,
{
    let panicked = || Failure::unknown("the handler panicked");
    let Ok(future) = catch_unwind(AssertUnwindSafe(|| handler(attempt))) else {
        return Err(panicked());
    };
    let mut future = pin!(future);
    std::future::poll_fn(move |context| {
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)));
        polled.unwrap_or_else(|_| Poll::Ready(Err(panicked())))
    })
    .await
}

/// Whatever the names are, other names make another namespace.
fn namespace(of_guard: &str, group: &str, topic: &str) -> String {
    let part = |name: &str| name.replace('%', "%25").replace('/', "%2F");
    let (of_guard, group, topic) = (part(of_guard), part(group), part(topic));
    format!("messages/{of_guard}/{group}/{topic}")
}

#[cfg(test)]
mod tests {
    use super::namespace;

    #[test]
    fn other_groups_and_topics_are_other_namespaces() {
        let all = [
            namespace("", "a", "b"),
            namespace("a", "b", ""),
            namespace("", "a/b", ""),
            namespace("", "a", "/b"),
            namespace("", "a%2Fb", ""),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(!all[..at].contains(one), "{one}");
        }
        assert_eq!(all[0], "messages//a/b");
    }
}
