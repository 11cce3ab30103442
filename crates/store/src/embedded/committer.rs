//! The committer: one thread that writes batches to disk and lets their answers go.

use super::commits::{release, Alarm, Batch, Commits};
use super::engine::{Engine, Head};
use super::witness::Witness;
use super::Durability;
use crate::store::StoreError;
use crate::waiters::Waiters;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) struct Committer {
    pub commits: Arc<Commits>,
    pub engine: Arc<Engine>,
    pub waiters: Arc<Waiters>,
    pub mode: Durability,
    pub witness: Witness,
}

/// What the relaxed mode has written and not yet synced.
struct Unsynced {
    since: Instant,
    head: Head,
}

impl Committer {
    /// Works until the last batch, or until a commit fails.
    pub fn run(mut self) {
        let _alarm = Alarm(Arc::clone(&self.commits));
        let mut unsynced: Option<Unsynced> = None;
        loop {
            let since = unsynced.as_ref().map(|u| u.since);
            let Some((batch, generation)) = self.commits.next(|| left(self.mode, since)) else {
                if let Err(error) = self.sync(&mut unsynced) {
                    return self.commits.fail(error);
                }
                continue;
            };
            let last = batch.last;
            if let Err((error, held)) = self.commit(batch, generation, &mut unsynced) {
                // First the flag, then the answers, so that a caller that is told of the failure finds the flag set.
                self.commits.fail(error.clone());
                return release(held, &Err(error));
            }
            if last {
                return;
            }
        }
    }

    fn commit(
        &mut self,
        batch: Batch,
        generation: u64,
        unsynced: &mut Option<Unsynced>,
    ) -> Result<(), (StoreError, Vec<super::commits::Held>)> {
        let Batch {
            writes,
            head,
            held,
            changed,
            last,
        } = batch;
        if let Some(head) = head {
            if let Err(error) = self.engine.commit(writes, head) {
                return Err((error, held));
            }
            match (self.mode, unsynced.as_mut()) {
                (Durability::Durable, _) => self.witness.note(&head),
                (Durability::Relaxed { .. }, Some(unsynced)) => unsynced.head = head,
                (Durability::Relaxed { .. }, None) => {
                    *unsynced = Some(Unsynced {
                        since: Instant::now(),
                        head,
                    });
                }
            }
        }
        if last {
            let is_still = self.engine.scrubbing.stop();
            let synced = self.sync(unsynced);
            if let Err(error) = synced {
                return Err((error, held));
            }
            if let Some(head) = head {
                self.witness.note_now(&head);
            }
            // Without the note the next start only syncs once more.
            if is_still {
                let _ = self.witness.note_clean_end();
            }
        }
        self.commits.set_durable(generation);
        for key in &changed {
            self.waiters.wake(key);
        }
        release(held, &Ok(()));
        Ok(())
    }

    fn sync(&mut self, unsynced: &mut Option<Unsynced>) -> Result<(), StoreError> {
        self.engine.sync()?;
        if let Some(unsynced) = unsynced.take() {
            self.witness.note(&unsynced.head);
        }
        Ok(())
    }
}

/// Time until the relaxed mode's fsync; `None` if there is nothing to sync.
fn left(mode: Durability, since: Option<Instant>) -> Option<Duration> {
    match (mode, since) {
        (Durability::Relaxed { interval }, Some(since)) => {
            Some(interval.saturating_sub(since.elapsed()))
        }
        _ => None,
    }
}
