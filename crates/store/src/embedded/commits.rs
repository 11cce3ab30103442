//! Group commit: what the applier has decided, on its way to disk.
//!
//! The applier appends to the batch that is being built while the committer writes the previous
//! one. So all operations that arrive during an fsync share the next one, and every answer waits
//! for the commit of what it tells of.

use super::engine::{Footprint, Head, Write};
use crate::store::StoreError;
use idempotency_protocol::LookupKey;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// An answer that waits for a commit. Gets the error if the commit failed.
pub(super) type Held = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// What is committed together.
#[derive(Default)]
pub(super) struct Batch {
    pub writes: HashMap<Vec<u8>, Write>,
    /// Set if anything is to be written.
    pub head: Option<Head>,
    pub held: Vec<Held>,
    /// Keys whose waiters are to be woken.
    pub changed: Vec<LookupKey>,
    /// Nothing comes after this one.
    pub last: bool,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.head.is_none() && self.held.is_empty() && !self.last
    }
}

struct Queue {
    batch: Batch,
    /// Number of the batch that is being built.
    generation: u64,
}

/// The batch that is being built, shared by applier and committer.
pub(super) struct Commits {
    queue: Mutex<Queue>,
    filled: Condvar,
    /// Number of the newest batch that is as durable as the mode promises.
    durable: AtomicU64,
    failed: OnceLock<StoreError>,
    failing: Notify,
}

impl Commits {
    pub fn new() -> Commits {
        Commits {
            queue: Mutex::new(Queue {
                batch: Batch::default(),
                generation: 1,
            }),
            filled: Condvar::new(),
            durable: AtomicU64::new(0),
            failed: OnceLock::new(),
            failing: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of the newest batch that is durable.
    pub fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Why the store no longer works, if it does not. After a failed commit nobody knows what is
    /// on disk, so nothing is answered from memory any more; reopening tells.
    pub fn failure(&self) -> Option<&StoreError> {
        self.failed.get()
    }

    /// Waits until there is a failure.
    pub async fn broken(&self) -> StoreError {
        let mut failing = std::pin::pin!(self.failing.notified());
        // Before the look: what fails afterwards is heard.
        failing.as_mut().enable();
        if let Some(error) = self.failure() {
            return error.clone();
        }
        failing.await;
        let error = self.failure().cloned();
        error.unwrap_or_else(|| StoreError::Permanent("the store failed".into()))
    }

    /// Declares the store broken, and answers what waits.
    pub fn fail(&self, error: StoreError) {
        let _ = self.failed.set(error.clone());
        self.failing.notify_waiters();
        let batch = std::mem::take(&mut self.lock().batch);
        release(batch.held, &Err(error));
    }

    /// Takes the batch that was built, with its number, once there is one. Returns `None` when
    /// `left`, asked before each wait, says that the time is up.
    pub fn next(&self, left: impl Fn() -> Option<Duration>) -> Option<(Batch, u64)> {
        let mut queue = self.lock();
        loop {
            let left = left();
            if left.is_some_and(|left| left.is_zero()) {
                return None;
            }
            if !queue.batch.is_empty() {
                let generation = queue.generation;
                queue.generation += 1;
                return Some((std::mem::take(&mut queue.batch), generation));
            }
            queue = match left {
                None => self
                    .filled
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    let waited = self.filled.wait_timeout(queue, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Everything up to batch `generation` is as durable as the mode promises.
    pub fn set_durable(&self, generation: u64) {
        self.durable.store(generation, Ordering::Release);
    }

    /// Adds writes, and what is to be done when they are durable, to the batch that is being
    /// built; returns that batch's number.
    pub fn append(&self, addition: Addition) -> u64 {
        let mut queue = self.lock();
        let batch = &mut queue.batch;
        for (key, write) in addition.writes {
            match batch.writes.entry(key) {
                std::collections::hash_map::Entry::Vacant(entry) => {
                    entry.insert(write);
                }
                std::collections::hash_map::Entry::Occupied(mut entry) => {
                    // What is on disk before this batch stays what it was. A body that came with
                    // the earlier write is carried over if the later one leaves it in place.
                    let earlier = entry.get_mut();
                    let body = earlier.after.as_mut().and_then(|a| a.body.take());
                    earlier.after = write.after;
                    if let Some(after) = earlier.after.as_mut() {
                        if after.footprint.separate && after.body.is_none() {
                            after.body = body;
                        }
                    }
                }
            }
        }
        batch.head = addition.head.or(batch.head);
        batch.changed.extend(addition.changed);
        batch.held.extend(addition.held);
        batch.last |= addition.last;
        let generation = queue.generation;
        // Checked under the lock that `fail` takes after setting it: nothing is left behind.
        if let Some(error) = self.failed.get() {
            release(std::mem::take(&mut queue.batch).held, &Err(error.clone()));
        } else {
            drop(queue);
            self.filled.notify_one();
        }
        generation
    }
}

/// What [`Commits::append`] adds.
#[derive(Default)]
pub(super) struct Addition {
    pub writes: Vec<(Vec<u8>, Write)>,
    pub head: Option<Head>,
    pub changed: Vec<LookupKey>,
    pub held: Option<Held>,
    pub last: bool,
}

impl Write {
    /// The footprint after the write.
    pub fn footprint(&self) -> Option<Footprint> {
        self.after.as_ref().map(|a| a.footprint)
    }
}

pub(super) fn release(held: Vec<Held>, result: &Result<(), StoreError>) {
    for answer in held {
        answer(result.clone());
    }
}

/// Declares the store broken if its thread panics: a defect must not look like a slow answer.
pub(super) struct Alarm(pub Arc<Commits>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(StoreError::Permanent(
                "a thread of the store panicked".into(),
            ));
        }
    }
}
