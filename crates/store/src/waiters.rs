//! Waking those who wait for an execution to end. In-process: for stores that one process owns.

use idempotency_protocol::{Answer, LookupKey, Wait};
use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep_until, Instant};

/// Most waits at one time. A wait over a cap is answered [`Answer::TimedOut`] at once: the caller
/// then does what it does when the time is up, which is never wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaiterCaps {
    /// For one key.
    pub per_key: usize,
    /// For one tenant.
    pub per_tenant: usize,
    /// For the whole store.
    pub total: usize,
}

impl Default for WaiterCaps {
    fn default() -> WaiterCaps {
        WaiterCaps {
            per_key: 128,
            per_tenant: 2_048,
            total: 16_384,
        }
    }
}

/// What a waiter finds when it looks.
pub(crate) enum Look {
    /// The wait is over.
    Over(Answer),
    /// Still in flight; the lease ends after that many milliseconds, unless renewed.
    Wait { lease_left_ms: u64 },
}

/// Who waits for which key.
pub(crate) struct Waiters {
    caps: WaiterCaps,
    registry: Mutex<Registry>,
}

#[derive(Default)]
struct Registry {
    closed: bool,
    total: usize,
    tenants: HashMap<String, usize>,
    keys: HashMap<LookupKey, Group>,
}

/// Those who wait for the same key.
struct Group {
    size: usize,
    changes: watch::Sender<()>,
}

impl Waiters {
    pub fn new(caps: WaiterCaps) -> Arc<Waiters> {
        Arc::new(Waiters {
            caps,
            registry: Mutex::default(),
        })
    }

    /// The registry holds plain counters, and no code that can panic runs under its lock.
    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes all that wait for `key`. Call when a change of it can be read.
    pub fn wake(&self, key: &LookupKey) {
        if let Some(group) = self.lock().keys.get(key) {
            group.changes.send_replace(());
        }
    }

    /// Wakes everybody. For backends that may have missed a change.
    #[cfg(any(feature = "redis", feature = "postgres"))]
    pub fn wake_all(&self) {
        for group in self.lock().keys.values() {
            group.changes.send_replace(());
        }
    }

    /// Ends every wait, and refuses new ones.
    pub fn close(&self) {
        let mut registry = self.lock();
        registry.closed = true;
        registry.keys.clear(); // Drops the senders, which the waiters notice.
    }

    fn register(self: &Arc<Self>, key: &LookupKey) -> Option<Registration> {
        let mut registry = self.lock();
        let of_tenant = registry.tenants.get(&key.tenant).copied().unwrap_or(0);
        let of_key = registry.keys.get(key).map_or(0, |g| g.size);
        if registry.closed
            || registry.total >= self.caps.total
            || of_tenant >= self.caps.per_tenant
            || of_key >= self.caps.per_key
        {
            return None;
        }
        registry.total += 1;
        *registry.tenants.entry(key.tenant.clone()).or_default() += 1;
        let group = registry.keys.entry(key.clone()).or_insert_with(|| Group {
            size: 0,
            changes: watch::Sender::new(()),
        });
        group.size += 1;
        let changes = group.changes.subscribe();
        Some(Registration {
            waiters: Arc::clone(self),
            key: key.clone(),
            changes,
        })
    }

    /// Waits as `wait` says; `look` reads the record. A lease that runs out is noticed too: nobody
    /// would tell.
    pub async fn wait<F>(self: &Arc<Self>, wait: &Wait, mut look: impl FnMut() -> F) -> Answer
    where
        F: Future<Output = Look>,
    {
        // Registered before the first look: a change between the two is not missed.
        let Some(mut registration) = self.register(&wait.key) else {
            return Answer::TimedOut;
        };
        let day = Duration::from_secs(86_400);
        let deadline = Instant::now() + Duration::from_millis(wait.wait_ms).min(day);
        loop {
            let lease_left_ms = match look().await {
                Look::Over(answer) => return answer,
                Look::Wait { lease_left_ms } => lease_left_ms,
            };
            let lease_end = Instant::now() + Duration::from_millis(lease_left_ms).min(day);
            tokio::select! {
                changed = registration.changes.changed() => if changed.is_err() {
                    return Answer::TimedOut;
                },
                () = sleep_until(deadline.min(lease_end)) => if Instant::now() >= deadline {
                    return Answer::TimedOut;
                },
            }
        }
    }

    /// Number of waits now.
    pub fn len(&self) -> usize {
        self.lock().total
    }
}

/// One wait; dropping it ends it.
struct Registration {
    waiters: Arc<Waiters>,
    key: LookupKey,
    changes: watch::Receiver<()>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut registry = self.waiters.lock();
        registry.total = registry.total.saturating_sub(1);
        if let Some(count) = registry.tenants.get_mut(&self.key.tenant) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                registry.tenants.remove(&self.key.tenant);
            }
        }
        if let Some(group) = registry.keys.get_mut(&self.key) {
            group.size = group.size.saturating_sub(1);
            if group.size == 0 {
                registry.keys.remove(&self.key);
            }
        }
    }
}
