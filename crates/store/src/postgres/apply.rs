//! Batches of operations.
//!
//! A round is at most two statements one after the other. The first one reads the rows, and does
//! what needs no decision ([`super::step`]); the state machine decides the rest; the second one
//! writes what it decided, row by row only where the version is still the one that was read
//! ([`super::write`]). What lost against another writer goes into the next round. No row is
//! locked between two statements, so a process that stands still holds up nobody.

use super::error::{Kind, Trouble};
use super::ids::Id;
use super::lanes::Prepared;
use super::pool::Connection;
use super::row::Found;
use super::step::{self, Seen, Stepped};
use super::write::{write, Change, Written};
use super::Inner;
use crate::machine::{self, AcquireEvent, Context, Event, Reply, Room};
use crate::quota::Quotas;
use crate::record::{Slot, StoredOutcome};
use crate::replay;
use crate::store::StoreError;
use idempotency_protocol::{Answer, Fault, Grant, LookupKey, Owner};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// The operations on one key, in order.
struct Group {
    key: LookupKey,
    id: Id,
    /// With the place of its answer.
    events: Vec<(usize, Event)>,
}

/// How a round left a group; the answers are in the order of its operations.
enum Ended {
    Answered(Vec<Answer>),
    /// Another writer was faster.
    Lost,
    /// Somebody has locked the row.
    Locked,
}

impl Group {
    /// An acquire alone.
    fn acquire(&self) -> Option<&AcquireEvent> {
        match self.events.as_slice() {
            [(_, Event::Acquire(acquire))] => Some(acquire),
            _ => None,
        }
    }

    /// A complete alone.
    fn complete(&self) -> Option<(&Owner, &StoredOutcome)> {
        match self.events.as_slice() {
            [(_, Event::Complete { owner, outcome })] => Some((owner, outcome)),
            _ => None,
        }
    }

    /// It may make a new record, and whether its tenant has room for one is not known.
    fn may_make(&self, seen: &Seen) -> bool {
        let acquires = |(_, event): &(usize, Event)| matches!(event, Event::Acquire(_));
        let is_there = || {
            let now = context(seen.now, Room::Plenty).current(seen.found.slot());
            now.execution.is_some() || matches!(seen.found, Found::Illegible(_))
        };
        seen.used_up.is_none() && self.events.iter().any(acquires) && !is_there()
    }

    /// The outcome is needed, to be replayed.
    fn wants_outcome(&self) -> bool {
        let acquires = |(_, event): &(usize, Event)| matches!(event, Event::Acquire(_));
        self.events.iter().any(acquires)
    }

    /// What the machine answers, and the slot if it changes.
    fn decide(&self, seen: &Seen, room: Room) -> (Vec<Answer>, Option<Slot>) {
        if matches!(seen.found, Found::Illegible(_)) {
            let events = self.events.iter().map(|(_, event)| event);
            return (events.map(replay::illegible).collect(), None);
        }
        let context = Context {
            used_up: seen.used_up,
            ..context(seen.now, room)
        };
        let mut slot = seen.start();
        let mut changed = false;
        let mut answers = Vec::with_capacity(self.events.len());
        for (_, event) in &self.events {
            let applied = machine::apply(Some(&slot), &context, event);
            if let Some(change) = applied.change {
                slot = change;
                changed = true;
            }
            answers.push(match applied.reply {
                Reply::Answer(answer) => answer,
                Reply::Replay(found) => replay::answer(found),
            });
        }
        (answers, changed.then_some(slot))
    }
}

/// Leases run on the server's clock, which goes on whoever restarts: there is only one "boot".
pub(super) fn context(now: crate::clock::Micros, room: Room) -> Context {
    Context {
        room,
        ..Context::at(now)
    }
}

/// Pauses between two tries.
pub(super) struct Retry {
    deadline: Instant,
    pause: Duration,
}

impl Retry {
    pub fn within(budget: Duration) -> Retry {
        Retry {
            deadline: Instant::now() + budget,
            pause: Duration::from_millis(5),
        }
    }

    /// Waits a little if there is time for another try.
    pub async fn again(&mut self, trouble: &Trouble) -> bool {
        if trouble.kind != Kind::Retry || Instant::now() + self.pause >= self.deadline {
            return false;
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(Duration::from_millis(200));
        true
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }
}

impl Inner {
    pub(super) async fn apply(&self, operations: Prepared) -> Vec<Answer> {
        let count = operations.len();
        let mut groups: BTreeMap<Vec<u8>, Group> = BTreeMap::new();
        for (place, (key, event)) in operations.into_iter().enumerate() {
            let id = Id::of(&key);
            let group = groups.entry(id.id.clone()).or_insert_with(|| Group {
                key,
                id,
                events: Vec::new(),
            });
            group.events.push((place, event));
        }
        let mut answers: Vec<Option<Answer>> = vec![None; count];
        let mut retry = Retry::within(self.retry_budget);
        let groups = groups.into_values().collect();
        if let Err((trouble, left)) = self.settle(groups, &mut retry, &mut answers).await {
            // One bad operation must not take the others along.
            let alone = left.len() > 1 && trouble.kind != Kind::Retry;
            for group in left {
                let trouble = if alone && (trouble.kind == Kind::Final || !retry.is_over()) {
                    let one = vec![group];
                    match self.settle(one, &mut retry, &mut answers).await {
                        Ok(()) => continue,
                        Err((trouble, left)) => (trouble.error, left),
                    }
                } else {
                    (trouble.error.clone(), vec![group])
                };
                refuse(&trouble.1, &trouble.0, &mut answers);
            }
        }
        let missing = || Answer::Fault(StoreError::Transient("no answer".into()).into());
        answers
            .into_iter()
            .map(|answer| answer.unwrap_or_else(missing))
            .collect()
    }

    /// Rounds, until all is answered. The error comes with what is left.
    async fn settle(
        &self,
        mut groups: Vec<Group>,
        retry: &mut Retry,
        answers: &mut [Option<Answer>],
    ) -> Result<(), (Trouble, Vec<Group>)> {
        while !groups.is_empty() {
            let ended = match self.round(&groups).await {
                Ok(ended) => ended,
                Err(trouble) if retry.again(&trouble).await => continue,
                Err(trouble) => return Err((trouble, groups)),
            };
            let mut lost = Vec::new();
            let mut locked = false;
            for (group, ended) in groups.into_iter().zip(ended) {
                locked |= matches!(ended, Ended::Locked);
                let Ended::Answered(of_group) = ended else {
                    lost.push(group);
                    continue;
                };
                for ((place, _), answer) in group.events.iter().zip(of_group) {
                    if let Some(slot) = answers.get_mut(*place) {
                        *slot = Some(answer);
                    }
                }
            }
            groups = lost;
            if !groups.is_empty() && retry.is_over() {
                return Err((Trouble::transient("too many writers on one key"), groups));
            }
            if locked {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        Ok(())
    }

    /// One round. The groups are in the order of their ids.
    async fn round(&self, groups: &[Group]) -> Result<Vec<Ended>, Trouble> {
        let room = self.room();
        let connection = self.pool.get().await?;
        let mut ended: Vec<Option<Ended>> = groups.iter().map(|_| None).collect();
        let mut seen: Vec<(usize, Seen)> = Vec::new();
        let mut step = Steps::default();
        for (n, group) in groups.iter().enumerate() {
            match (group.acquire(), group.complete()) {
                // Without room the machine refuses.
                (Some(acquire), _) if room == Room::Plenty => {
                    step.grants.push((n, (&group.id, acquire)));
                }
                (_, Some((owner, outcome))) => {
                    step.completes.push((n, (&group.id, owner, outcome)));
                }
                _ => step.reads.push((n, (&group.id, group.wants_outcome()))),
            }
        }
        let quotas = self.quotas();
        step.run(&connection, quotas, &mut ended, &mut seen).await?;
        if quotas.any() {
            let new = seen.iter_mut().filter_map(|(n, seen)| {
                let group = groups.get(*n)?;
                group.may_make(seen).then_some((&group.key, seen))
            });
            super::quota::look(&connection, quotas, new.collect()).await?;
        }

        let decided: Vec<(usize, Vec<Answer>, Option<Slot>, u64)> = seen
            .into_iter()
            .filter_map(|(n, seen)| {
                let (answers, slot) = groups.get(n)?.decide(&seen, room);
                Some((n, answers, slot, seen.version()))
            })
            .collect();
        let mut changes: Vec<Change<'_>> = decided
            .iter()
            .filter_map(|(n, _, slot, version)| {
                Some(Change {
                    id: &groups.get(*n)?.id,
                    replaces: *version,
                    slot: slot.as_ref()?,
                })
            })
            .collect();
        changes.sort_by(|a, b| a.id.id.cmp(&b.id.id));
        let written = match changes.as_slice() {
            [] => Default::default(),
            changes => write(&connection, changes).await?,
        };
        drop(connection);

        for (n, answers, slot, _) in decided {
            let Some(group) = groups.get(n) else { continue };
            let written = written.get(&group.id.id).copied();
            let holds = slot.is_none() || written == Some(Written::Yes);
            if let Some(place) = ended.get_mut(n) {
                *place = Some(match written {
                    _ if holds => Ended::Answered(answers),
                    Some(Written::Locked) => Ended::Locked,
                    _ => Ended::Lost,
                });
            }
            if slot.is_some() && holds {
                self.waiters.wake(&group.key);
            }
        }
        Ok(ended
            .into_iter()
            .map(|ended| ended.unwrap_or(Ended::Lost))
            .collect())
    }
}

/// What the first statements are asked, each with the number of its group.
#[derive(Default)]
struct Steps<'a> {
    grants: Vec<(usize, (&'a Id, &'a AcquireEvent))>,
    completes: Vec<(usize, (&'a Id, &'a Owner, &'a StoredOutcome))>,
    reads: Vec<(usize, (&'a Id, bool))>,
}

impl Steps<'_> {
    /// Runs those statements that have anything to do, all on their way at once.
    async fn run(
        &self,
        connection: &Connection,
        quotas: Quotas,
        ended: &mut [Option<Ended>],
        seen: &mut Vec<(usize, Seen)>,
    ) -> Result<(), Trouble> {
        let grants: Vec<_> = self.grants.iter().map(|(_, asked)| *asked).collect();
        let completes: Vec<_> = self.completes.iter().map(|(_, asked)| *asked).collect();
        let reads: Vec<_> = self.reads.iter().map(|(_, asked)| *asked).collect();
        let (granted, completed, read) = tokio::try_join!(
            unless_empty(&grants, step::grant(connection, &grants, quotas)),
            unless_empty(&completes, step::complete(connection, &completes)),
            unless_empty(&reads, step::read(connection, &reads)),
        )?;
        for ((n, (_, acquire)), stepped) in self.grants.iter().zip(granted) {
            match stepped {
                Stepped::Done(fence) => {
                    let grant = Grant {
                        fence,
                        attempt: 1,
                        lease_ms: acquire.lease_ms,
                    };
                    answer(ended, *n, Answer::Granted(grant));
                }
                Stepped::Seen(found) => seen.push((*n, *found)),
                Stepped::TooLate => {}
            }
        }
        for ((n, _), stepped) in self.completes.iter().zip(completed) {
            match stepped {
                Stepped::Done(due) => {
                    let expires_at_ms = due / 1_000;
                    answer(ended, *n, Answer::Completed { expires_at_ms });
                }
                Stepped::Seen(found) => seen.push((*n, *found)),
                Stepped::TooLate => {}
            }
        }
        seen.extend(self.reads.iter().map(|(n, _)| *n).zip(read));
        Ok(())
    }
}

fn answer(ended: &mut [Option<Ended>], n: usize, answer: Answer) {
    if let Some(place) = ended.get_mut(n) {
        *place = Some(Ended::Answered(vec![answer]));
    }
}

async fn unless_empty<A, T>(
    asked: &[A],
    work: impl std::future::Future<Output = Result<Vec<T>, Trouble>>,
) -> Result<Vec<T>, Trouble> {
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    work.await
}

fn refuse(groups: &[Group], error: &StoreError, answers: &mut [Option<Answer>]) {
    for (place, _) in groups.iter().flat_map(|group| &group.events) {
        if let Some(answer) = answers.get_mut(*place) {
            *answer = Some(Answer::Fault(Fault::from(error.clone())));
        }
    }
}
