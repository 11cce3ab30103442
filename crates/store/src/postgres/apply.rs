//! Batches of operations.
//!
//! A round is at most two statements one after the other. The first one reads the rows, and does
//! what needs no decision ([`super::step`]); the state machine decides the rest; the second one
//! writes what it decided, row by row only where the version is still the one that was read
//! ([`super::write`]). What lost against another writer goes into the next round. No row is
//! locked between two statements, so a process that stands still holds up nobody. A row that somebody
//! else has locked is not waited for here, either: what concerns it leaves the batch ([`super::locked`]).

use super::error::{PostgresFailure, RetryAdvice};
use super::groups::{by_key, in_use, KeyGroup};
use super::ids::Id;
use super::lanes::Prepared;
use super::pool::PooledConnection;
use super::step::{self, SeenRow, Stepped};
use super::write::{write, Change, Written};
use super::PostgresShared;
use crate::machine::{AcquireEvent, Room};
use crate::quota::Quotas;
use crate::record::{Slot, StoredOutcome};
use crate::store::StoreError;
use idempotency_protocol::{Answer, Fault, Grant, Owner};
use std::time::Duration;
use tokio::time::Instant;

/// How a round left a group; the answers are in the order of its operations.
enum Ended {
    Answered(Vec<Answer>),
    /// Another writer was faster.
    Lost,
    /// Somebody has locked the row at this version; what an acquire is told meanwhile.
    Locked(u64, Answer),
}

/// How a batch ended.
pub(super) struct BatchEnd {
    /// In the order of the operations; `None` where the row is locked.
    pub answers: Vec<Option<Answer>>,
    /// The operations on locked rows.
    pub locked: Vec<Locked>,
}

/// Operations on a row that somebody else has locked.
pub(super) struct Locked {
    pub group: KeyGroup,
    /// The version that was last committed.
    pub version: u64,
    /// What an acquire is told meanwhile.
    pub meanwhile: Answer,
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
    pub async fn again(&mut self, trouble: &PostgresFailure) -> bool {
        if trouble.kind != RetryAdvice::Retry || Instant::now() + self.pause >= self.deadline {
            return false;
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(Duration::from_millis(200));
        true
    }

    /// There is no time for another try.
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }
}

impl PostgresShared {
    /// Applies a batch. What meets a locked row is not waited for.
    pub(super) async fn apply(&self, operations: Prepared) -> BatchEnd {
        let mut answers: Vec<Option<Answer>> = vec![None; operations.len()];
        let groups = by_key(operations);
        let locked = self.attempt(groups, &mut answers).await;
        BatchEnd { answers, locked }
    }

    /// Answers these, but for those that meet locked rows, which come back.
    pub(super) async fn attempt(
        &self,
        groups: Vec<KeyGroup>,
        answers: &mut [Option<Answer>],
    ) -> Vec<Locked> {
        let mut retry = Retry::within(self.retry_budget);
        let mut locked = Vec::new();
        let settled = self.settle(groups, &mut retry, answers, &mut locked).await;
        if let Err((trouble, left)) = settled {
            // One bad operation must not take the others along.
            let alone = left.len() > 1 && trouble.kind != RetryAdvice::Retry;
            for group in left {
                let trouble = if alone && (trouble.kind == RetryAdvice::Final || !retry.is_over()) {
                    let one = vec![group];
                    match self.settle(one, &mut retry, answers, &mut locked).await {
                        Ok(()) => continue,
                        Err((trouble, left)) => (trouble.error, left),
                    }
                } else {
                    (trouble.error.clone(), vec![group])
                };
                refuse(&trouble.1, &trouble.0, answers);
            }
        }
        locked
    }

    /// Rounds, until all is answered or locked. The error comes with what is left.
    async fn settle(
        &self,
        mut groups: Vec<KeyGroup>,
        retry: &mut Retry,
        answers: &mut [Option<Answer>],
        locked: &mut Vec<Locked>,
    ) -> Result<(), (PostgresFailure, Vec<KeyGroup>)> {
        while !groups.is_empty() {
            let ended = match self.round(&groups).await {
                Ok(ended) => ended,
                Err(trouble) if retry.again(&trouble).await => continue,
                Err(trouble) => return Err((trouble, groups)),
            };
            let mut lost = Vec::new();
            for (group, ended) in groups.into_iter().zip(ended) {
                match ended {
                    Ended::Lost => lost.push(group),
                    Ended::Locked(version, meanwhile) => locked.push(Locked {
                        group,
                        version,
                        meanwhile,
                    }),
                    Ended::Answered(of_group) => {
                        for ((place, _), answer) in group.events.iter().zip(of_group) {
                            if let Some(slot) = answers.get_mut(*place) {
                                *slot = Some(answer);
                            }
                        }
                    }
                }
            }
            groups = lost;
            if !groups.is_empty() && retry.is_over() {
                return Err((
                    PostgresFailure::transient("too many writers on one key"),
                    groups,
                ));
            }
        }
        Ok(())
    }

    /// One round. The groups are in the order of their ids.
    async fn round(&self, groups: &[KeyGroup]) -> Result<Vec<Ended>, PostgresFailure> {
        let room = self.room();
        let connection = self.pool.get().await?;
        let mut ended: Vec<Option<Ended>> = groups.iter().map(|_| None).collect();
        let mut seen: Vec<(usize, SeenRow)> = Vec::new();
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

        let decided: Vec<(usize, Vec<Answer>, Option<Slot>, SeenRow)> = seen
            .into_iter()
            .filter_map(|(n, seen)| {
                let (answers, slot) = groups.get(n)?.decide(&seen, room);
                Some((n, answers, slot, seen))
            })
            .collect();
        let mut changes: Vec<Change<'_>> = decided
            .iter()
            .filter_map(|(n, _, slot, seen)| {
                Some(Change {
                    id: &groups.get(*n)?.id,
                    replaces: seen.version(),
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

        for (n, answers, slot, seen) in decided {
            let Some(group) = groups.get(n) else { continue };
            let written = written.get(&group.id.id).copied();
            let holds = slot.is_none() || written == Some(Written::Yes);
            if let Some(place) = ended.get_mut(n) {
                *place = Some(match written {
                    _ if holds => Ended::Answered(answers),
                    Some(Written::Locked) => Ended::Locked(seen.version(), in_use(&seen)),
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
        connection: &PooledConnection,
        quotas: Quotas,
        ended: &mut [Option<Ended>],
        seen: &mut Vec<(usize, SeenRow)>,
    ) -> Result<(), PostgresFailure> {
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
    work: impl std::future::Future<Output = Result<Vec<T>, PostgresFailure>>,
) -> Result<Vec<T>, PostgresFailure> {
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    work.await
}

fn refuse(groups: &[KeyGroup], error: &StoreError, answers: &mut [Option<Answer>]) {
    for (place, _) in groups.iter().flat_map(|group| &group.events) {
        if let Some(answer) = answers.get_mut(*place) {
            *answer = Some(Answer::Fault(Fault::from(error.clone())));
        }
    }
}
