//! Waking those who wait for an execution to end, and capping how many they are.
//!
//! A backend has one [`Waiters`]. [`Store::wait`](crate::Store::wait) is [`Waiters::wait`] around a
//! look at the record. The code that writes an end (complete, fail, abandon, settle, resolve, a lease
//! that a sweep found over) calls [`Waiters::wake`] once the change can be read. Where other
//! processes write the same records, what they tell (a channel, a notification) ends in the same
//! `wake`, and a doubt whether something was missed in [`Waiters::wake_all`].
//!
//! The caps are kept here and nowhere else, so that they hold for every user of the store: the
//! service, a library, a test.

use idempotency_protocol::{Answer, LookupKey, Wait};
use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep_until, Instant};

/// Most waits at one time, in one instance of a store. A wait over a cap is answered
/// [`Answer::TimedOut`] at once: the caller then does what it does when the time is up, which is
/// never wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaiterCaps {
    /// For one key. Default: 128.
    pub per_key: usize,
    /// For one tenant. Default: 1,024.
    pub per_tenant: usize,
    /// For the whole store. Default: 4,096.
    pub total: usize,
}

impl Default for WaiterCaps {
    fn default() -> WaiterCaps {
        WaiterCaps {
            per_key: 128,
            per_tenant: 1_024,
            total: 4_096,
        }
    }
}

/// How many wait, for gauges and counters ([`Store::waits`](crate::Store::waits)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitCounts {
    /// Waits now.
    pub now: usize,
    /// Waits that were over a cap and ended at once, since the store was opened.
    pub refused: u64,
}

/// What a waiter finds when it looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// The wait is over.
    Over(Answer),
    /// Still in flight.
    Wait {
        /// When to look again at the latest, in milliseconds: the lease ends then, unless renewed.
        /// A backend whose notifications may get lost says less.
        lease_left_ms: u64,
    },
}

/// Who waits for which key.
pub struct Waiters {
    caps: WaiterCaps,
    registry: Mutex<Registry>,
}

#[derive(Default)]
struct Registry {
    closed: bool,
    counts: WaitCounts,
    tenants: HashMap<String, usize>,
    keys: HashMap<Arc<LookupKey>, KeyWaiters>,
}

/// Those who wait for the same key.
struct KeyWaiters {
    size: usize,
    changes: watch::Sender<()>,
}

impl Registry {
    fn has_room(&self, caps: &WaiterCaps, key: &LookupKey) -> bool {
        let of_tenant = self.tenants.get(&key.tenant).copied().unwrap_or(0);
        let of_key = self.keys.get(key).map_or(0, |group| group.size);
        self.counts.now < caps.total && of_tenant < caps.per_tenant && of_key < caps.per_key
    }

    /// The key, and what tells of its changes. Only the first who waits for a key, or of a tenant,
    /// costs a copy of its name.
    fn add(&mut self, key: &LookupKey) -> (Arc<LookupKey>, watch::Receiver<()>) {
        self.counts.now += 1;
        match self.tenants.get_mut(&key.tenant) {
            Some(count) => *count += 1,
            None => {
                self.tenants.insert(key.tenant.clone(), 1);
            }
        }
        let shared = match self.keys.get_key_value(key) {
            Some((shared, _)) => Arc::clone(shared),
            None => Arc::new(key.clone()),
        };
        let group = self.keys.entry(Arc::clone(&shared));
        let group = group.or_insert_with(|| KeyWaiters {
            size: 0,
            changes: watch::Sender::new(()),
        });
        group.size += 1;
        (shared, group.changes.subscribe())
    }

    fn remove(&mut self, key: &LookupKey) {
        self.counts.now = self.counts.now.saturating_sub(1);
        if let Some(count) = self.tenants.get_mut(&key.tenant) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.tenants.remove(&key.tenant);
            }
        }
        if let Some(group) = self.keys.get_mut(key) {
            group.size = group.size.saturating_sub(1);
            if group.size == 0 {
                self.keys.remove(key);
            }
        }
    }
}

impl Waiters {
    /// Nobody waits yet.
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

    /// Wakes all that wait for `key`: each looks again. Call it when a change of the record can be
    /// read, not before; it costs little when nobody waits.
    pub fn wake(&self, key: &LookupKey) {
        if let Some(group) = self.lock().keys.get(key) {
            group.changes.send_replace(());
        }
    }

    /// Wakes everybody. Call it when changes may have been missed: after the connection that tells
    /// of other processes' writes was lost and is there again.
    pub fn wake_all(&self) {
        for group in self.lock().keys.values() {
            group.changes.send_replace(());
        }
    }

    /// Ends every wait with [`Answer::TimedOut`], and refuses new ones. Call it first when the
    /// store is closed.
    pub fn close(&self) {
        let mut registry = self.lock();
        registry.closed = true;
        registry.keys.clear(); // Drops the senders, which the waiters notice.
    }

    /// How many wait, and how many were refused.
    pub fn counts(&self) -> WaitCounts {
        self.lock().counts
    }

    /// A place among those who wait for `key`; `None` over a cap, or when closed: then answer
    /// [`Answer::TimedOut`]. For a backend that has to do something between this and
    /// [`Place::wait`], such as to subscribe; others call [`Waiters::wait`].
    pub fn enter(self: &Arc<Self>, key: &LookupKey) -> Option<Place> {
        let mut registry = self.lock();
        if registry.closed {
            return None;
        }
        if !registry.has_room(&self.caps, key) {
            registry.counts.refused = registry.counts.refused.saturating_add(1);
            return None;
        }
        let (key, changes) = registry.add(key);
        Some(Place {
            waiters: Arc::clone(self),
            key,
            changes,
        })
    }

    /// Waits as `wait` says: [`Waiters::enter`], then [`Place::wait`].
    pub async fn wait<F>(self: &Arc<Self>, wait: &Wait, look: impl FnMut() -> F) -> Answer
    where
        F: Future<Output = Look>,
    {
        match self.enter(&wait.key) {
            Some(place) => place.wait(wait, look).await,
            None => Answer::TimedOut,
        }
    }
}

/// One wait; dropping it ends it.
pub struct Place {
    waiters: Arc<Waiters>,
    key: Arc<LookupKey>,
    changes: watch::Receiver<()>,
}

impl Place {
    /// Waits for at most `wait.wait_ms`. `look` reads the record, by [`crate::machine::wait`] where
    /// the transition function runs in this process. It is called at once, after every wake, and
    /// when the lease is over: of that nobody would tell. A change between [`Waiters::enter`] and
    /// the first look is not missed.
    pub async fn wait<F>(mut self, wait: &Wait, mut look: impl FnMut() -> F) -> Answer
    where
        F: Future<Output = Look>,
    {
        let day = Duration::from_secs(86_400);
        let deadline = Instant::now() + Duration::from_millis(wait.wait_ms).min(day);
        loop {
            let lease_left_ms = match look().await {
                Look::Over(answer) => return answer,
                Look::Wait { lease_left_ms } => lease_left_ms,
            };
            let lease_end = Instant::now() + Duration::from_millis(lease_left_ms).min(day);
            tokio::select! {
                changed = self.changes.changed() => if changed.is_err() {
                    return Answer::TimedOut;
                },
                () = sleep_until(deadline.min(lease_end)) => if Instant::now() >= deadline {
                    return Answer::TimedOut;
                },
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waiters.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use idempotency_protocol::Origin;

    fn key(tenant: &str, key: &str) -> LookupKey {
        LookupKey {
            tenant: tenant.into(),
            namespace: String::new(),
            origin: Origin::Client,
            key: key.into(),
        }
    }

    #[test]
    fn each_cap_holds_and_places_come_back() {
        let waiters = Waiters::new(WaiterCaps {
            total: 4,
            per_tenant: 3,
            per_key: 2,
        });
        let enter = |tenant: &str, name: &str| waiters.enter(&key(tenant, name));
        let a1 = enter("a", "1").unwrap();
        let other_a1 = enter("a", "1").unwrap();
        assert!(enter("a", "1").is_none(), "per key");
        let a2 = enter("a", "2").unwrap();
        assert!(enter("a", "3").is_none(), "per tenant");
        let b1 = enter("b", "1").unwrap();
        assert!(enter("c", "1").is_none(), "in total");
        let counts = |now, refused| WaitCounts { now, refused };
        assert_eq!(waiters.counts(), counts(4, 3));
        drop(a1);
        assert_eq!(waiters.counts(), counts(3, 3));
        let again = enter("a", "1").unwrap();
        drop((again, other_a1, a2, b1));
        assert_eq!(waiters.counts(), counts(0, 3));
        let registry = waiters.lock();
        assert!(registry.tenants.is_empty() && registry.keys.is_empty());
    }

    #[tokio::test]
    async fn closing_ends_waits_and_is_no_cap() {
        let waiters = Waiters::new(WaiterCaps::default());
        let wait = Wait {
            key: key("a", "1"),
            fingerprint: idempotency_protocol::Fingerprint {
                scheme: idempotency_protocol::Scheme(1),
                digest: [1; 32],
            },
            fence: 1,
            wait_ms: 60_000,
        };
        let look = || {
            std::future::ready(Look::Wait {
                lease_left_ms: 60_000,
            })
        };
        let place = waiters.enter(&wait.key).unwrap();
        waiters.close();
        assert_eq!(place.wait(&wait, look).await, Answer::TimedOut);
        assert_eq!(waiters.wait(&wait, look).await, Answer::TimedOut);
        assert_eq!(waiters.counts(), WaitCounts::default());
    }
}
