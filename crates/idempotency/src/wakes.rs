//! Waking those who wait for records that were completed in transactions. One task, one call at a time, and not too
//! many of them: each is a NOTIFY, for which all commits of the server queue. Nothing depends on it.

use crate::shared::Shared;
use idempotency_protocol::LookupKey;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::sleep;

/// Most keys whose waiters are still to be woken. Waiters of a key that is left out look again by themselves.
const MAX_KEYS: usize = 1_024;
/// Between two calls.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Default)]
pub(crate) struct Wakes(Mutex<WaitingKeys>);

#[derive(Default)]
struct WaitingKeys {
    keys: Vec<LookupKey>,
    is_running: bool,
}

impl Wakes {
    /// Nothing panics under this lock.
    fn lock(&self) -> MutexGuard<'_, WaitingKeys> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A record of this key was completed, and nobody was told.
pub(crate) fn put(shared: &Arc<Shared>, key: LookupKey, handle: &Handle) {
    if shared.store.transactions().is_none() {
        return;
    }
    let mut inner = shared.wakes.lock();
    if inner.keys.len() >= MAX_KEYS {
        return;
    }
    inner.keys.push(key);
    let starts = !std::mem::replace(&mut inner.is_running, true);
    // A runtime that is shut down drops the task at once, and dropping it takes the lock.
    drop(inner);
    if starts {
        let running = WakesTask {
            shared: Arc::clone(shared),
            has_ended: false,
        };
        let cut = shared.cut.clone();
        let work = async move {
            cut.run_until_cancelled(run(running)).await;
        };
        shared.tasks.spawn_on(work, handle);
    }
}

struct WakesTask {
    shared: Arc<Shared>,
    has_ended: bool,
}

/// When a runtime that is shut down drops the task, the next key starts another one.
impl Drop for WakesTask {
    fn drop(&mut self) {
        if !self.has_ended {
            self.shared.wakes.lock().is_running = false;
        }
    }
}

/// What is told next; `None`: nothing is left, and the task is over.
fn next(running: &mut WakesTask) -> Option<Vec<LookupKey>> {
    let mut inner = running.shared.wakes.lock();
    let keys = std::mem::take(&mut inner.keys);
    if keys.is_empty() {
        // Set under the lock, so that the next caller starts another task.
        inner.is_running = false;
        running.has_ended = true;
        return None;
    }
    Some(keys)
}

async fn run(mut running: WakesTask) {
    while let Some(keys) = next(&mut running) {
        if let Some(database) = running.shared.store.transactions() {
            database.wake(&keys).await;
        }
        sleep(PAUSE).await;
    }
}
