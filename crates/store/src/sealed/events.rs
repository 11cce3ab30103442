//! Operations on their way to the store, and its answers on their way back.

use super::description::Description;
use super::envelope::{Closed, NoRandom};
use super::keys::Keys;
use super::ring::Trouble;
use super::seal::{describe, seal_outcome, seal_redirect_content};
use super::Sealed;
use crate::history::Failure;
use crate::machine::{AcquireEvent, Event};
use crate::store::StoreError;
use idempotency_protocol::{Answer, Fault, FaultCode, Fingerprint, LookupKey, Owner, Stored};
use std::collections::HashSet;

/// One operation that was handed on.
struct HandedOn {
    /// Its number in the batch.
    at: usize,
    place: LookupKey,
    /// What the answer may ask to do with it.
    kind: HandedOnKind,
}

enum HandedOnKind {
    /// An acquire, as the store got it, and the fingerprint in clear.
    Acquire(Box<AcquireEvent>, Fingerprint),
    /// A redeem, likewise.
    Redeem(Event, Fingerprint),
    Other,
}

impl Sealed {
    pub(super) async fn apply_sealed(&self, events: Vec<(LookupKey, Event)>) -> Vec<Answer> {
        let mut answers = Vec::with_capacity(events.len());
        let mut segment = Vec::new();
        let mut acquired: HashSet<LookupKey> = HashSet::new();
        for (key, event) in events {
            // What it stores is sealed for a fence that the answers before it may tell.
            let needs_fence = matches!(
                event,
                Event::Complete { .. }
                    | Event::Fail {
                        failure: Failure::Redirected(_),
                        ..
                    }
            );
            if needs_fence && acquired.contains(&key) {
                answers.extend(self.segment(std::mem::take(&mut segment)).await);
                acquired.clear();
            }
            if matches!(event, Event::Acquire(_)) {
                acquired.insert(key.clone());
            }
            segment.push((key, event));
        }
        answers.extend(self.segment(segment).await);
        answers
    }

    async fn segment(&self, events: Vec<(LookupKey, Event)>) -> Vec<Answer> {
        let keys = self.sealer.keys();
        let mut answers: Vec<Option<Answer>> = vec![None; events.len()];
        let (mut asked, mut sealed) = (Vec::new(), Vec::new());
        for (at, (key, event)) in events.into_iter().enumerate() {
            match self.sealed_event(&keys, key, event).await {
                Ok((place, event, of)) => {
                    let kind = match (&event, of) {
                        (Event::Acquire(a), Some(of)) => {
                            HandedOnKind::Acquire(Box::new(a.clone()), of)
                        }
                        (Event::Redeem { .. }, Some(of)) => HandedOnKind::Redeem(event.clone(), of),
                        _ => HandedOnKind::Other,
                    };
                    sealed.push((place.clone(), event));
                    asked.push(HandedOn { at, place, kind });
                }
                Err(error) => put(&mut answers, at, Answer::Fault(error.into())),
            }
        }
        if !sealed.is_empty() {
            let given = self.inner.apply_events(sealed).await;
            for (asked, answer) in asked.iter().zip(given) {
                put(&mut answers, asked.at, answer);
            }
        }
        self.ask_under_older_keys(&keys, &asked, &mut answers).await;
        for HandedOn { at, place, kind } in &asked {
            let Some(answer) = answers.get_mut(*at).and_then(Option::take) else {
                continue;
            };
            match (&answer, kind) {
                (Answer::Granted(grant), HandedOnKind::Acquire(a, _)) => {
                    self.fences.put(place, a.owner, grant.fence);
                }
                (Answer::NotComparable, HandedOnKind::Acquire(_, of)) => {
                    self.note_not_comparable(&keys, place, of).await;
                }
                _ => {}
            }
            put(&mut answers, *at, self.open_stored(place, answer));
        }
        let missing = || {
            Answer::Fault(Fault {
                code: FaultCode::Internal,
                detail: "the store left an operation without an answer".to_owned(),
            })
        };
        answers
            .into_iter()
            .map(|answer| answer.unwrap_or_else(missing))
            .collect()
    }

    /// A record that was made under an older key is comparable under that one only.
    async fn ask_under_older_keys(
        &self,
        keys: &Keys,
        asked: &[HandedOn],
        answers: &mut [Option<Answer>],
    ) {
        for key in keys.keys.iter().skip(1) {
            let (mut places, mut again) = (Vec::new(), Vec::new());
            for HandedOn { at, place, kind } in asked {
                let answer = answers.get(*at).and_then(Option::as_ref);
                let event = match (answer, kind) {
                    (Some(Answer::NotComparable), HandedOnKind::Acquire(a, of)) => {
                        Event::Acquire(AcquireEvent {
                            fingerprint: key.fingerprint(place, of),
                            ..(**a).clone()
                        })
                    }
                    (Some(Answer::Lost), HandedOnKind::Redeem(event, of)) => {
                        let mut event = event.clone();
                        if let Event::Redeem { fingerprint, .. } = &mut event {
                            *fingerprint = key.fingerprint(place, of);
                        }
                        event
                    }
                    _ => continue,
                };
                places.push(*at);
                again.push((place.clone(), event));
            }
            if again.is_empty() {
                return;
            }
            let given = self.inner.apply_events(again).await;
            for (at, answer) in places.into_iter().zip(given) {
                put(answers, at, answer);
            }
        }
    }

    /// The place of the record, the operation as the store gets it, and the fingerprint in clear that it is about.
    async fn sealed_event(
        &self,
        keys: &Keys,
        key: LookupKey,
        event: Event,
    ) -> Result<(LookupKey, Event, Option<Fingerprint>), StoreError> {
        self.bring(&key).await?;
        let place = keys.index.place(&key);
        let Some(first) = keys.keys.first() else {
            return Err(StoreError::Permanent("there is no key".to_owned()));
        };
        let mut of = None;
        let event = match event {
            Event::Acquire(a) => {
                of = Some(a.fingerprint);
                let description = Description {
                    key,
                    fingerprint: a.fingerprint,
                    about: a.about.as_deref().cloned(),
                };
                Event::Acquire(AcquireEvent {
                    fingerprint: first.fingerprint(&place, &a.fingerprint),
                    about: Some(describe(first, &place, &description).map_err(no_random)?),
                    ..a
                })
            }
            Event::Complete { owner, outcome } => {
                let fence = self.fence(&place, owner).await?;
                let sealed = seal_outcome(keys, first, &place, fence, &outcome);
                let outcome = sealed.map_err(no_random)?.unwrap_or(outcome);
                Event::Complete { owner, outcome }
            }
            Event::Fail {
                owner,
                failure: Failure::Redirected(answer),
            } => {
                let failure = match self.newest(keys, &place).await? {
                    Some((fence, fingerprint)) => {
                        let sealed =
                            seal_redirect_content(first, &place, fence, &fingerprint, &answer);
                        Failure::Redirected(sealed.map_err(no_random)?)
                    }
                    // An execution that was granted just now has a description, so this fail belongs to none.
                    None => Failure::NothingDone,
                };
                Event::Fail { owner, failure }
            }
            Event::Settle {
                fence,
                outcome: Some(outcome),
            } => {
                let sealed = seal_outcome(keys, first, &place, fence, &outcome);
                let outcome = sealed.map_err(no_random)?.or(Some(outcome));
                Event::Settle { fence, outcome }
            }
            Event::Redeem {
                fence,
                fingerprint,
                expires_at_ms,
            } => {
                of = Some(fingerprint);
                Event::Redeem {
                    fence,
                    fingerprint: first.fingerprint(&place, &fingerprint),
                    expires_at_ms,
                }
            }
            event @ (Event::Fail { .. }
            | Event::Abandon { .. }
            | Event::Extend { .. }
            | Event::Settle { outcome: None, .. }) => event,
        };
        Ok((place, event, of))
    }

    /// The fence of the execution of this owner, if it still has one. Otherwise another one, or 0: what is sealed for
    /// that is *lost* in the store.
    async fn fence(&self, place: &LookupKey, owner: Owner) -> Result<u64, StoreError> {
        if let Some(fence) = self.fences.get(place, owner) {
            return Ok(fence);
        }
        let view = self.inner.inspect(place).await?;
        Ok(view.map_or(0, |view| view.fence))
    }

    /// The fence and the fingerprint of the newest attempt.
    async fn newest(
        &self,
        keys: &Keys,
        place: &LookupKey,
    ) -> Result<Option<(u64, Fingerprint)>, StoreError> {
        let Some(view) = self.inner.inspect(place).await? else {
            return Ok(None);
        };
        let about = view.about.as_deref();
        let opened = about.and_then(|about| Description::open(keys, place, about));
        let description = opened.and_then(|opened| self.noted(opened).ok());
        Ok(description.map(|description| (view.fence, description.fingerprint)))
    }

    /// Counts a record that is not comparable because a key is missing: not one of another scheme.
    async fn note_not_comparable(&self, keys: &Keys, place: &LookupKey, of: &Fingerprint) {
        let Ok(Some(view)) = self.inner.inspect(place).await else {
            return;
        };
        let about = view.about.as_deref();
        let is_of_key = match about.and_then(|about| Description::open(keys, place, about)) {
            Some(Ok(description)) => description.fingerprint.scheme == of.scheme,
            Some(Err(Closed::MissingKey)) => true,
            Some(Err(Closed::Damaged)) | None => false,
        };
        if is_of_key {
            self.sealer.ring.note(Trouble::MissingForFingerprint);
        }
    }

    /// Opens what is replayed.
    pub(super) fn open_stored(&self, place: &LookupKey, answer: Answer) -> Answer {
        let Answer::Stored(stored) = answer else {
            return answer;
        };
        let Stored {
            fence,
            attempt,
            expires_at_ms,
            ..
        } = stored;
        let status = match &*stored.outcome {
            idempotency_protocol::Outcome::Response(response) => response.status,
            idempotency_protocol::Outcome::Tombstone(tombstone) => tombstone.status,
        };
        match self.sealer.open_answer(place, fence, stored.outcome) {
            Ok(outcome) => Answer::Stored(Stored { outcome, ..stored }),
            // Done, and with which answer cannot be said.
            Err(_) => Answer::Unreadable {
                status,
                fence,
                attempt,
                expires_at_ms,
            },
        }
    }

    /// What was opened of a description; what cannot be opened is counted.
    pub(super) fn noted<T>(&self, opened: Result<T, Closed>) -> Result<T, Closed> {
        opened.inspect_err(|closed| {
            let trouble = closed.trouble(Trouble::MissingForDescription);
            self.sealer.ring.note(trouble);
        })
    }
}

fn put(answers: &mut [Option<Answer>], at: usize, answer: Answer) {
    if let Some(place) = answers.get_mut(at) {
        *place = Some(answer);
    }
}

pub(super) fn no_random(NoRandom(why): NoRandom) -> StoreError {
    StoreError::Transient(format!("nothing can be sealed: {why}"))
}
