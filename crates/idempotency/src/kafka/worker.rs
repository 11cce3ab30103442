//! One partition's messages, one after the other.

use super::dead_letters::DeadLetters;
use super::ledger::{Generation, Partition};
use super::metrics::ConsumerCounter;
use super::state::ConsumerState;
use crate::message::{Attempt, Begun, Deduplicator, Failure, Verdict, Why};
use crate::seldom::Seldom;
use rdkafka::message::OwnedMessage;
use rdkafka::Message;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

pub(crate) type Handler = Arc<
    dyn Fn(Arc<OwnedMessage>, Attempt) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>
        + Send
        + Sync,
>;

/// How long a message rests whose dead letter could not be sent.
const DEAD_LETTER_PAUSE: Duration = Duration::from_secs(1);

/// What all workers of a consumer share.
pub(crate) struct Shop {
    pub dedup: Deduplicator,
    pub handler: Handler,
    pub dead_letters: DeadLetters,
    pub state: Arc<ConsumerState>,
    pub troubles: Seldom,
}

/// What became of one run.
enum Ran {
    Done,
    Again(Duration),
}

/// A message, and perhaps what the store has said about it already.
struct NextMessage {
    message: Arc<OwnedMessage>,
    begun: Option<Result<Begun, Verdict>>,
}

impl NextMessage {
    fn new(message: OwnedMessage) -> NextMessage {
        NextMessage {
            message: Arc::new(message),
            begun: None,
        }
    }
}

/// Handles messages until the partition is taken away. A handler that runs then ends first.
pub(crate) async fn work(
    shop: Arc<Shop>,
    place: Partition,
    generation: Generation,
    mut messages: UnboundedReceiver<OwnedMessage>,
    leave: CancellationToken,
) {
    let mut ahead: Option<NextMessage> = None;
    loop {
        let mut next = match ahead.take() {
            Some(next) => next,
            None => match leave.run_until_cancelled(messages.recv()).await {
                Some(Some(message)) => NextMessage::new(message),
                _ => return,
            },
        };
        loop {
            if leave.is_cancelled() || !shop.state.begins(&place, generation) {
                return;
            }
            let running = RunningHandler {
                state: &shop.state,
                place: &place,
                generation,
            };
            // Nothing is begun ahead that would be given back at once.
            let following = || match leave.is_cancelled() || ahead.is_some() {
                true => None,
                false => messages.try_recv().ok().map(NextMessage::new),
            };
            let (verdict, followed) = shop.run(&mut next, following).await;
            ahead = followed.or(ahead);
            let ran = shop.conclude(&next.message, verdict).await;
            running.end(matches!(ran, Ran::Done).then_some(next.message.offset()));
            let Ran::Again(after) = ran else {
                break;
            };
            // What comes after it waits, too, and does not hold its key meanwhile.
            if let Some(ahead) = &mut ahead {
                ahead.begun = None;
            }
            let rest = leave.run_until_cancelled(tokio::time::sleep(after));
            if rest.await.is_none() {
                return;
            }
        }
    }
}

/// A handler that has begun ends in the books, too, when its task is cut off.
struct RunningHandler<'a> {
    state: &'a ConsumerState,
    place: &'a Partition,
    generation: Generation,
}

impl RunningHandler<'_> {
    fn end(self, offset: Option<i64>) {
        self.state.ends(self.place, self.generation, offset);
        std::mem::forget(self);
    }
}

impl Drop for RunningHandler<'_> {
    fn drop(&mut self) {
        self.state.ends(self.place, self.generation, None);
    }
}

impl Shop {
    /// Runs a message. While its end is recorded, the one that follows is asked for: both are one round trip. Its
    /// handler does not begin before that record is stored.
    async fn run(
        &self,
        next: &mut NextMessage,
        following: impl FnOnce() -> Option<NextMessage>,
    ) -> (Verdict, Option<NextMessage>) {
        let ahead = match next.begun.take() {
            Some(Ok(begun)) if begun.is_lost() => None,
            begun => begun,
        };
        let begun = match ahead {
            Some(begun) => begun,
            None => self.dedup.begin(next.message.as_ref()).await,
        };
        let begun = match begun {
            Ok(begun) => begun,
            Err(verdict) => return (verdict, None),
        };
        let handler = |attempt| (self.handler)(Arc::clone(&next.message), attempt);
        let ended = begun.call(handler).await;
        let following = match ended.is_success() {
            true => following(),
            false => None,
        };
        let Some(mut following) = following else {
            return (ended.verdict().await, None);
        };
        let begin = self.dedup.begin(following.message.as_ref());
        let (verdict, begun) = tokio::join!(ended.verdict(), begin);
        following.begun = Some(begun);
        (verdict, Some(following))
    }

    /// Does what the verdict says.
    async fn conclude(&self, message: &OwnedMessage, verdict: Verdict) -> Ran {
        let count = |counter| self.state.counters.count(counter);
        match verdict {
            Verdict::Done => {
                count(ConsumerCounter::Done);
                Ran::Done
            }
            Verdict::Duplicate(_) => {
                count(ConsumerCounter::Duplicates);
                Ran::Done
            }
            Verdict::Retry(retry) => {
                count(match &retry.why {
                    Why::InFlight => ConsumerCounter::InFlight,
                    Why::Failed { .. } | Why::Unknown { .. } => ConsumerCounter::Failed,
                    Why::Store(_) | Why::NotRecorded(_) => ConsumerCounter::StoreDown,
                });
                self.tell(message, &retry.why);
                Ran::Again(retry.after)
            }
            Verdict::DeadLetter(letter) => match self.dead_letters.send(message, &letter).await {
                Ok(()) => {
                    count(ConsumerCounter::DeadLetters);
                    let reason = letter.reason().name();
                    tracing::error!(
                        topic = message.topic(),
                        partition = message.partition(),
                        offset = message.offset(),
                        reason,
                        "a message is put aside"
                    );
                    if let Err(error) = letter.sent().await {
                        tracing::warn!(%error, "it is not recorded that a message was put aside");
                    }
                    Ran::Done
                }
                Err(error) => {
                    count(ConsumerCounter::DeadLetterErrors);
                    if let Some(unsaid) = self.troubles.say() {
                        tracing::error!(%error, unsaid, "a dead letter cannot be sent: its partition waits");
                    }
                    Ran::Again(DEAD_LETTER_PAUSE)
                }
            },
        }
    }

    /// Waiting for another consumer is nothing to be told.
    fn tell(&self, message: &OwnedMessage, why: &Why) {
        if matches!(why, Why::InFlight) {
            return;
        }
        if let Some(unsaid) = self.troubles.say() {
            let (topic, partition) = (message.topic(), message.partition());
            let offset = message.offset();
            tracing::warn!(
                topic,
                partition,
                offset,
                ?why,
                unsaid,
                "a message is run again"
            );
        }
    }
}
