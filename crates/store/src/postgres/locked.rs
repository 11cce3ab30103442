//! Operations on rows that another session has locked.
//!
//! Mostly another service holds the lock for a moment: then the operations are tried again until it is released. The
//! holder may also be an application, whose transaction has completed its record and may stay open for long; until it
//! ends, the record is what was last committed. Such a transaction has locked a number that belongs to the key
//! ([`super::ids::Id::advisory`]). Then an acquire is told at once that the key is in flight, an operation that shares a
//! call with others is given up soon, and one that its owner sent alone is tried for as long as `lock_timeout`.
//!
//! Operations of the same batch on other keys are answered before all this.

use super::apply::{BatchEnd, Locked};
use super::error::PostgresFailure;
use super::PostgresShared;
use crate::machine::Event;
use crate::store::StoreError;
use idempotency_protocol::{Answer, Fault};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{sleep, Instant};

/// How long an operation waits for an application, when operations on other keys wait for it: short for those, and
/// longer than it takes to commit.
const SHARED: Duration = Duration::from_millis(15);

/// The first and the longest pause between two tries.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// Which keys no transaction of an application has. A number that is free is taken until the statement ends.
const FREE: &str = "
    SELECT i.n FROM unnest($1::bigint[]) WITH ORDINALITY AS i(number, n)
    WHERE pg_try_advisory_xact_lock(i.number)";

/// Whose operations these are.
pub(super) struct BatchCaller {
    /// The places of its answers.
    pub places: Range<usize>,
    /// Who asked may have left.
    pub reply: oneshot::Sender<Vec<Answer>>,
}

/// Answers those callers whose operations are all answered; the others are left.
fn answer(callers: Vec<BatchCaller>, answers: &mut [Option<Answer>]) -> Vec<BatchCaller> {
    let mut left = Vec::new();
    for caller in callers {
        let places = answers.get_mut(caller.places.clone()).unwrap_or(&mut []);
        if places.iter().all(Option::is_some) {
            let _ = caller
                .reply
                .send(places.iter_mut().filter_map(Option::take).collect());
        } else {
            left.push(caller);
        }
    }
    left
}

/// Callers that still wait for an answer, and why.
pub(super) struct Patient {
    callers: Vec<BatchCaller>,
    applied: BatchEnd,
}

impl Patient {
    /// Answers whom it can; those with operations on locked rows are left, if there are any.
    pub fn of(mut applied: BatchEnd, callers: Vec<BatchCaller>) -> Option<Patient> {
        let waits: Vec<usize> = applied
            .locked
            .iter()
            .flat_map(|locked| &locked.group.events)
            .map(|(place, _)| *place)
            .collect();
        for (place, answer) in applied.answers.iter_mut().enumerate() {
            if answer.is_none() && !waits.contains(&place) {
                *answer = Some(unanswered());
            }
        }
        let callers = answer(callers, &mut applied.answers);
        (!callers.is_empty()).then_some(Patient { callers, applied })
    }

    /// Tries until everybody is answered.
    pub async fn insist(mut self, inner: Arc<PostgresShared>) {
        // Each key, with the version that it is locked at, and since when. A row that changes is in use by services
        // that take turns.
        let begun = Instant::now();
        let mut since: HashMap<Vec<u8>, (u64, Instant)> = HashMap::new();
        let (mut pause, longest) = PAUSES;
        loop {
            for locked in &self.applied.locked {
                let entry = since.entry(locked.group.id.id.clone());
                let seen = entry.or_insert((locked.version, begun));
                if seen.0 != locked.version && begun.elapsed() < inner.retry_budget {
                    *seen = (locked.version, Instant::now());
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(longest);
            let groups = self.applied.locked.drain(..).map(|locked| locked.group);
            let groups = groups.collect();
            let mut locked = inner.attempt(groups, &mut self.applied.answers).await;
            let applications = inner.applications(&locked).await;
            for (locked, application) in locked.iter_mut().zip(applications) {
                let waited = since
                    .get(&locked.group.id.id)
                    .map_or(Duration::ZERO, |(_, since)| since.elapsed());
                give_up(
                    locked,
                    &self.callers,
                    &mut self.applied.answers,
                    |patience| {
                        let patience = if application { patience } else { Duration::MAX };
                        waited >= patience.min(inner.lock_timeout)
                    },
                );
            }
            locked.retain(|locked| !locked.group.events.is_empty());
            self.applied.locked = locked;
            let Patient { callers, applied } = self;
            match Patient::of(applied, callers) {
                Some(patient) => self = patient,
                None => return,
            }
        }
    }
}

impl PostgresShared {
    /// Whether each of these rows is locked by the transaction of an application. Where that cannot be told, none is.
    async fn applications(&self, locked: &[Locked]) -> Vec<bool> {
        let mut held = vec![true; locked.len()];
        if locked.is_empty() {
            return held;
        }
        let numbers: Vec<i64> = locked
            .iter()
            .map(|locked| locked.group.id.advisory())
            .collect();
        let free = async {
            let connection = self.pool.get().await?;
            let rows = connection.query(FREE, &[&numbers]).await?;
            Ok::<_, PostgresFailure>(rows)
        };
        match free.await {
            Ok(rows) => {
                for row in rows {
                    let place = usize::try_from(row.get::<_, i64>(0)).unwrap_or(0);
                    if let Some(held) = held.get_mut(place.saturating_sub(1)) {
                        *held = false;
                    }
                }
            }
            Err(_) => held.fill(false),
        }
        held
    }
}

/// Answers those operations on a locked row whose time is over, by how patient each is with an application.
fn give_up(
    locked: &mut Locked,
    callers: &[BatchCaller],
    answers: &mut [Option<Answer>],
    is_over: impl Fn(Duration) -> bool,
) {
    let Locked {
        group, meanwhile, ..
    } = locked;
    group.events.retain(|(place, event)| {
        let is_alone =
            |caller: &BatchCaller| caller.places.contains(place) && caller.places.len() == 1;
        let acquires = matches!(event, Event::Acquire(_));
        let patience = match event {
            Event::Acquire(_) => Duration::ZERO,
            _ if callers.iter().any(is_alone) => Duration::MAX,
            _ => SHARED,
        };
        if !is_over(patience) {
            return true;
        }
        if let Some(answer) = answers.get_mut(*place) {
            *answer = Some(if acquires { meanwhile.clone() } else { busy() });
        }
        false
    });
}

/// The row stayed locked. The operation can be repeated.
fn busy() -> Answer {
    let detail = "PostgreSQL: a transaction that has not ended holds the record".to_owned();
    Answer::Fault(Fault::from(StoreError::Transient(detail)))
}

fn unanswered() -> Answer {
    Answer::Fault(Fault::from(StoreError::Transient("no answer".into())))
}
