//! One partition's messages, one after the other.

use super::dead_letters::DeadLetters;
use super::ledger::{Generation, Place};
use super::metrics::Counter;
use super::state::State;
use crate::message::{Attempt, Deduplicator, Failure, Verdict, Why};
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
    pub state: Arc<State>,
    pub troubles: Seldom,
}

/// What became of one run.
enum Ran {
    Done,
    Again(Duration),
}

/// Handles messages until the partition is taken away. A handler that runs then ends first.
pub(crate) async fn work(
    shop: Arc<Shop>,
    place: Place,
    generation: Generation,
    mut messages: UnboundedReceiver<OwnedMessage>,
    leave: CancellationToken,
) {
    loop {
        let next = leave.run_until_cancelled(messages.recv()).await;
        let Some(Some(message)) = next else {
            return;
        };
        let message = Arc::new(message);
        loop {
            if leave.is_cancelled() || !shop.state.begins(&place, generation) {
                return;
            }
            let running = Begun {
                state: &shop.state,
                place: &place,
                generation,
            };
            let ran = shop.run(&message).await;
            running.end(matches!(ran, Ran::Done).then_some(message.offset()));
            let Ran::Again(after) = ran else {
                break;
            };
            if leave
                .run_until_cancelled(tokio::time::sleep(after))
                .await
                .is_none()
            {
                return;
            }
        }
    }
}

/// A handler that has begun ends in the books, too, when its task is cut off.
struct Begun<'a> {
    state: &'a State,
    place: &'a Place,
    generation: Generation,
}

impl Begun<'_> {
    fn end(self, offset: Option<i64>) {
        self.state.ends(self.place, self.generation, offset);
        std::mem::forget(self);
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.state.ends(self.place, self.generation, None);
    }
}

impl Shop {
    async fn run(&self, message: &Arc<OwnedMessage>) -> Ran {
        let handler = |attempt| (self.handler)(Arc::clone(message), attempt);
        let verdict = self.dedup.run(message.as_ref(), handler).await;
        let count = |counter| self.state.counters.count(counter);
        match verdict {
            Verdict::Done => {
                count(Counter::Done);
                Ran::Done
            }
            Verdict::Duplicate(_) => {
                count(Counter::Duplicates);
                Ran::Done
            }
            Verdict::Retry(retry) => {
                count(match &retry.why {
                    Why::InFlight => Counter::InFlight,
                    Why::Failed { .. } | Why::Unknown { .. } => Counter::Failed,
                    Why::Store(_) | Why::NotRecorded(_) => Counter::StoreDown,
                });
                self.tell(message, &retry.why);
                Ran::Again(retry.after)
            }
            Verdict::DeadLetter(letter) => match self.dead_letters.send(message, &letter).await {
                Ok(()) => {
                    count(Counter::DeadLetters);
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
                    count(Counter::DeadLetterErrors);
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
