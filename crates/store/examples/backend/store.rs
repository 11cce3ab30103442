//! The store: the state machine over a map, and a journal of what it changes.

use crate::journal::{Changes, Journal, Slots};
use async_trait::async_trait;
use idempotency_protocol::{Answer, LookupKey, Operation, Outcome, Wait};
use idempotency_store::clock::{Clock, Micros};
use idempotency_store::keys::{self, PageBuilder};
use idempotency_store::machine::{self, Context, Event, Reply, SweepStep, WaitStep};
use idempotency_store::record::Slot;
use idempotency_store::replay;
use idempotency_store::waiters::{Look, Waiters};
use idempotency_store::{
    ListFilter, Page, Quotas, RecordView, Resolve, Resolved, Store, StoreError, Swept, TenantUse,
    Tenants, Usage, WaitCounts, WaiterCaps,
};
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Records in memory and in a file.
pub struct FileStore {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Arc<dyn Clock>,
    waiters: Arc<Waiters>,
    records: Mutex<Records>,
    /// Why nothing can be done any more.
    over: watch::Sender<Option<StoreError>>,
    /// Locked as long as the store is open.
    _lock: File,
}

struct Records {
    slots: Slots,
    tenants: Tenants,
    journal: Journal,
    /// Changes that are not in the journal yet.
    unwritten: Changes,
    /// Whose waiters are woken when they are.
    changed: Vec<LookupKey>,
}

impl FileStore {
    /// Opens the directory, or creates it. Blocks. `clock` gets the newest time that the store has
    /// seen, before which the clock must not start: [`SystemClock::starting_after`] is right.
    ///
    /// [`SystemClock::starting_after`]: idempotency_store::clock::SystemClock::starting_after
    ///
    /// # Errors
    ///
    /// [`StoreError::Permanent`] if another process has it open, or if it cannot be read or written.
    pub fn open(
        dir: &Path,
        clock: impl FnOnce(Micros) -> Arc<dyn Clock>,
    ) -> Result<FileStore, StoreError> {
        let failed = |e: io::Error| StoreError::Permanent(format!("{}: {e}", dir.display()));
        std::fs::create_dir_all(dir).map_err(failed)?;
        let lock = File::create(dir.join("lock")).map_err(failed)?;
        lock.try_lock().map_err(|e| failed(e.into()))?;
        let (journal, slots, newest) = Journal::open(dir).map_err(failed)?;
        let records = Records {
            slots,
            tenants: Tenants::default(),
            journal,
            unwritten: Changes::default(),
            changed: Vec::new(),
        };
        let shared = Shared {
            clock: clock(newest),
            waiters: Waiters::new(WaiterCaps::default()),
            records: Mutex::new(records),
            over: watch::Sender::new(None),
            _lock: lock,
        };
        Ok(FileStore {
            shared: Arc::new(shared),
        })
    }

    /// Does something that may block, where that holds up nobody else.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.shared);
        let done = tokio::task::spawn_blocking(move || work(&shared)).await;
        done.unwrap_or_else(|e| Err(StoreError::Permanent(format!("a task failed: {e}"))))
    }
}

impl Shared {
    /// The records. The lock is held until what is changed under it is in the journal: so whatever
    /// is read under it is durable.
    fn lock(&self) -> Result<MutexGuard<'_, Records>, StoreError> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        match &*self.over.borrow() {
            None => Ok(records),
            Some(error) => Err(error.clone()),
        }
    }

    /// Changes records: `work` gets them and the time. What it returns is given away when the
    /// changes are durable; then waiters are woken.
    fn change<T>(&self, work: impl FnOnce(&mut Records, Micros) -> T) -> Result<T, StoreError> {
        let mut records = self.lock()?;
        let now = self.clock.now();
        let result = work(&mut records, now);
        let changes = std::mem::take(&mut records.unwritten);
        if !changes.is_empty() {
            if let Err(e) = records.journal.append(now, &changes) {
                // Memory is ahead of the journal, and what that holds is not known: nothing may be
                // answered any more.
                let error = StoreError::Permanent(format!("cannot write: {e}"));
                self.over.send_replace(Some(error.clone()));
                return Err(error);
            }
        }
        for key in std::mem::take(&mut records.changed) {
            self.waiters.wake(&key);
        }
        Ok(result)
    }
}

impl Records {
    /// Replaces, inserts or removes a slot.
    fn put(&mut self, key: &LookupKey, slot: Option<Slot>) {
        let bytes = key.to_bytes();
        self.unwritten.put(&bytes, slot.as_ref());
        let before = cost(&bytes, self.slots.get(&bytes));
        let after = cost(&bytes, slot.as_ref());
        self.tenants.change(&key.tenant, before, after);
        match slot {
            Some(slot) => self.slots.insert(bytes, slot),
            None => self.slots.remove(&bytes),
        };
        self.changed.push(key.clone());
    }
}

/// What a tenant is charged for a slot.
fn cost(key: &[u8], slot: Option<&Slot>) -> TenantUse {
    slot.map_or_else(TenantUse::default, |slot| TenantUse::of(slot, key.len()))
}

#[async_trait]
impl Store for FileStore {
    async fn apply(&self, operations: Vec<Operation>) -> Vec<Answer> {
        // Large outcomes take their time, so this comes before the lock.
        let prepare = move || operations.into_iter().map(Event::prepare).collect();
        match tokio::task::spawn_blocking(prepare).await {
            Ok(events) => self.apply_events(events).await,
            // The runtime ends.
            Err(_) => Vec::new(),
        }
    }

    async fn apply_events(&self, events: Vec<(LookupKey, Event)>) -> Vec<Answer> {
        let count = events.len();
        let applied = self.run(move |shared| {
            shared.change(|records, now| {
                let apply = |(key, event): (LookupKey, Event)| {
                    let context = Context {
                        used_up: records.tenants.used_up(&key.tenant),
                        ..Context::at(now)
                    };
                    let slot = records.slots.get(&key.to_bytes());
                    let applied = machine::apply(slot, &context, &event);
                    if applied.change.is_some() {
                        records.put(&key, applied.change);
                    }
                    match applied.reply {
                        Reply::Answer(answer) => answer,
                        Reply::Replay(found) => replay::answer(found),
                    }
                };
                events.into_iter().map(apply).collect()
            })
        });
        let failed = |error: StoreError| vec![Answer::Fault(error.into()); count];
        applied.await.unwrap_or_else(failed)
    }

    async fn wait(&self, wait: Wait) -> Answer {
        let look = || async {
            let wait = wait.clone();
            let looked = self.run(move |shared| {
                let records = shared.lock()?;
                let slot = records.slots.get(&wait.key.to_bytes());
                Ok(machine::wait(slot, &Context::at(shared.clock.now()), &wait))
            });
            match looked.await {
                Ok(WaitStep::Wait { lease_left_ms }) => Look::Wait { lease_left_ms },
                Ok(WaitStep::Over(Reply::Answer(answer))) => Look::Over(answer),
                Ok(WaitStep::Over(Reply::Replay(found))) => Look::Over(replay::answer(found)),
                Err(error) => Look::Over(Answer::Fault(error.into())),
            }
        };
        self.shared.waiters.wait(&wait, look).await
    }

    fn waits(&self) -> WaitCounts {
        self.shared.waiters.counts()
    }

    async fn inspect(&self, key: &LookupKey) -> Result<Option<RecordView>, StoreError> {
        let key = key.clone();
        self.run(move |shared| {
            let records = shared.lock()?;
            let slot = records.slots.get(&key.to_bytes());
            Ok(machine::view(slot, &Context::at(shared.clock.now()), &key))
        })
        .await
    }

    async fn list(&self, filter: ListFilter) -> Result<Page, StoreError> {
        self.run(move |shared| {
            let records = shared.lock()?;
            let context = Context::at(shared.clock.now());
            let prefix = keys::prefix(&filter);
            let start = match &filter.after {
                Some(after) if *after >= prefix => Bound::Excluded(after.clone()),
                _ => Bound::Included(prefix.clone()),
            };
            let mut page = PageBuilder::new(&filter);
            for (key, slot) in records.slots.range((start, Bound::Unbounded)) {
                if !key.starts_with(&prefix) || page.is_full() {
                    break;
                }
                page.offer(key, slot, &context);
            }
            Ok(page.finish())
        })
        .await
    }

    async fn stored(&self, key: &LookupKey) -> Result<Option<Outcome>, StoreError> {
        let key = key.clone();
        self.run(move |shared| {
            let records = shared.lock()?;
            let slot = records.slots.get(&key.to_bytes());
            let stored = machine::stored(slot, &Context::at(shared.clock.now()));
            stored.map(replay::outcome).transpose()
        })
        .await
    }

    async fn export(&self, key: &LookupKey) -> Result<Option<Slot>, StoreError> {
        let key = key.to_bytes();
        self.run(move |shared| Ok(shared.lock()?.slots.get(&key).cloned()))
            .await
    }

    async fn replace(
        &self,
        key: &LookupKey,
        replaces: u64,
        slot: Option<Slot>,
    ) -> Result<bool, StoreError> {
        let key = key.clone();
        self.run(move |shared| {
            shared.change(|records, _| {
                let there = records.slots.get(&key.to_bytes());
                let is_it = there.map_or(0, |slot| slot.version) == replaces;
                if is_it {
                    records.put(&key, slot);
                }
                is_it
            })
        })
        .await
    }

    async fn resolve(&self, resolve: Resolve) -> Result<Resolved, StoreError> {
        self.run(move |shared| {
            shared.change(|records, now| {
                let slot = records.slots.get(&resolve.key.to_bytes());
                let (change, resolved) = machine::resolve(slot, &Context::at(now), &resolve);
                if change.is_some() {
                    records.put(&resolve.key, change);
                }
                resolved
            })
        })
        .await
    }

    async fn sweep(&self, limit: usize) -> Result<Swept, StoreError> {
        self.run(move |shared| {
            shared.change(|records, now| {
                let due = records.slots.iter().filter(|(_, slot)| slot.due() <= now);
                let steps = due.filter_map(|(key, slot)| {
                    let step = machine::sweep(slot, &Context::at(now));
                    Some((keys::from_bytes(key)?, step))
                });
                // One more than are done tells that there are more.
                let mut steps: Vec<_> = steps
                    .filter(|(_, step)| *step != SweepStep::Keep)
                    .take(limit.saturating_add(1))
                    .collect();
                let more = steps.len() > limit;
                steps.truncate(limit);
                let mut swept = Swept {
                    slots: steps.len(),
                    more,
                    ..Swept::default()
                };
                for (key, step) in steps {
                    let slot = match step {
                        SweepStep::Keep => continue,
                        SweepStep::Move(slot) => Some(slot),
                        SweepStep::Lapse(slot) => {
                            swept.lapsed += 1;
                            Some(slot)
                        }
                        SweepStep::Expire(slot) => {
                            swept.expired += 1;
                            Some(slot)
                        }
                        SweepStep::Remove { expired } => {
                            swept.expired += usize::from(expired);
                            None
                        }
                    };
                    records.put(&key, slot);
                }
                swept
            })
        })
        .await
    }

    async fn set_quotas(&self, quotas: Quotas) -> Result<(), StoreError> {
        self.run(move |shared| {
            let mut records = shared.lock()?;
            let mut tenants = Tenants::new(quotas);
            for (key, slot) in &records.slots {
                tenants.add(key, cost(key, Some(slot)));
            }
            records.tenants = tenants;
            Ok(())
        })
        .await
    }

    async fn ready(&self) -> Result<Usage, StoreError> {
        self.run(|shared| {
            let records = shared.lock()?;
            let count = records.slots.values().filter(|s| s.execution.is_some());
            Ok(Usage {
                records: u64::try_from(count.count()).ok(),
                ..Usage::default()
            })
        })
        .await
    }

    async fn broken(&self) -> StoreError {
        let mut over = self.shared.over.subscribe();
        let broken = over.wait_for(|over| matches!(over, Some(StoreError::Permanent(_))));
        if let Ok(error) = broken.await {
            if let Some(error) = &*error {
                return error.clone();
            }
        }
        std::future::pending().await
    }

    async fn close(&self) {
        self.shared.waiters.close();
        // Waits for the lock, and so for what is in flight.
        let _ = self
            .run(|shared| {
                let _records = shared.lock()?;
                let closed = StoreError::Transient("store is closed".into());
                shared.over.send_replace(Some(closed));
                Ok(())
            })
            .await;
    }
}
