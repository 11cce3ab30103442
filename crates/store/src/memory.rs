//! A store in memory: the state machine and nothing else. For tests and for the model that the
//! other backends are compared with; it forgets everything when the process ends.

use crate::clock::{Clock, SystemClock};
use crate::machine::{self, Context, Event, Reply, Room, SweepStep, WaitStep};
use crate::quota::{Quotas, TenantUse, Tenants};
use crate::record::Slot;
use crate::search::{self, Found, FoundBuilder, Search};
use crate::store::{
    ListFilter, Page, RecordView, Resolve, Resolved, Store, StoreError, Swept, Usage,
};
use crate::waiters::{Look, WaitCounts, WaiterCaps, Waiters};
use crate::{keys, replay};
use async_trait::async_trait;
use idempotency_protocol::{Answer, Fault, FaultCode, LookupKey, Operation, Outcome, Wait};
use std::collections::btree_map::{BTreeMap, Entry};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Records in memory.
pub struct Memory {
    clock: Arc<dyn Clock>,
    inner: Mutex<MemoryRecords>,
    waiters: Arc<Waiters>,
}

#[derive(Default)]
struct MemoryRecords {
    slots: BTreeMap<Vec<u8>, Slot>,
    room: Room,
    tenants: Tenants,
    closed: bool,
}

impl MemoryRecords {
    /// What one event does to the slot of this key, looked up once; whether the slot has changed.
    fn apply(&mut self, key: Vec<u8>, context: &Context, event: &Event) -> (Reply, bool) {
        if self.tenants.counts() {
            let applied = machine::apply(self.slots.get(&key), context, event);
            let changed = applied.change.is_some();
            if let Some(slot) = applied.change {
                self.put(key, Some(slot));
            }
            return (applied.reply, changed);
        }
        match self.slots.entry(key) {
            Entry::Occupied(mut place) => {
                let applied = machine::apply(Some(place.get()), context, event);
                let changed = applied.change.is_some();
                if let Some(slot) = applied.change {
                    place.insert(slot);
                }
                (applied.reply, changed)
            }
            Entry::Vacant(place) => {
                let applied = machine::apply(None, context, event);
                let changed = applied.change.is_some();
                if let Some(slot) = applied.change {
                    place.insert(slot);
                }
                (applied.reply, changed)
            }
        }
    }

    /// Replaces, inserts or removes a slot.
    fn put(&mut self, key: Vec<u8>, slot: Option<Slot>) {
        if self.tenants.counts() {
            let before = charge(&key, self.slots.get(&key));
            let after = charge(&key, slot.as_ref());
            if let Some(tenant) = keys::tenant(&key) {
                self.tenants.change(tenant, before, after);
            }
        }
        match slot {
            Some(slot) => self.slots.insert(key, slot),
            None => self.slots.remove(&key),
        };
    }
}

/// What a tenant is charged for a slot.
fn charge(key: &[u8], slot: Option<&Slot>) -> TenantUse {
    slot.map_or_else(TenantUse::default, |slot| TenantUse::of(slot, key.len()))
}

impl Default for Memory {
    fn default() -> Memory {
        Memory::new(Arc::new(SystemClock::starting_after(0)))
    }
}

impl Memory {
    /// An empty store that runs on `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Memory {
        Memory::with_caps(clock, WaiterCaps::default())
    }

    /// The same, with other caps on waits.
    pub fn with_caps(clock: Arc<dyn Clock>, caps: WaiterCaps) -> Memory {
        Memory {
            clock,
            inner: Mutex::default(),
            waiters: Waiters::new(caps),
        }
    }

    /// Pretends to have that much room left; memory itself has no limit.
    pub fn set_room(&self, room: Room) {
        self.lock().room = room;
    }

    /// Number of waits now.
    pub fn waiting(&self) -> usize {
        self.waiters.counts().now
    }

    fn lock(&self) -> MutexGuard<'_, MemoryRecords> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn context(&self, inner: &MemoryRecords) -> Context {
        Context {
            now: self.clock.now(),
            boot: 0,
            boot_started: 0,
            room: inner.room,
            used_up: None,
        }
    }

    fn look(&self, wait: &Wait) -> Look {
        let inner = self.lock();
        let slot = inner.slots.get(&wait.key.to_bytes());
        match machine::wait(slot, &self.context(&inner), wait) {
            WaitStep::Over(Reply::Answer(answer)) => Look::Over(answer),
            WaitStep::Over(Reply::Replay(found)) => Look::Over(replay::answer(found)),
            WaitStep::Wait { lease_left_ms } => Look::Wait { lease_left_ms },
        }
    }
}

#[async_trait]
impl Store for Memory {
    async fn apply(&self, operations: Vec<Operation>) -> Vec<Answer> {
        let events = operations.into_iter().map(Event::prepare).collect();
        self.apply_events(events).await
    }

    async fn apply_events(&self, events: Vec<(LookupKey, Event)>) -> Vec<Answer> {
        let mut inner = self.lock();
        if inner.closed {
            let fault = Fault {
                code: FaultCode::Unavailable,
                detail: "store is closed".into(),
            };
            return events
                .iter()
                .map(|_| Answer::Fault(fault.clone()))
                .collect();
        }
        let context = self.context(&inner);
        let apply = |(key, event): (LookupKey, Event)| {
            let context = Context {
                used_up: inner.tenants.used_up(&key.tenant),
                ..context
            };
            let (reply, changed) = inner.apply(key.to_bytes(), &context, &event);
            if changed {
                self.waiters.wake(&key);
            }
            match reply {
                Reply::Answer(answer) => answer,
                Reply::Replay(found) => replay::answer(found),
            }
        };
        events.into_iter().map(apply).collect()
    }

    async fn wait(&self, wait: Wait) -> Answer {
        self.waiters
            .wait(&wait, || std::future::ready(self.look(&wait)))
            .await
    }

    fn waits(&self) -> WaitCounts {
        self.waiters.counts()
    }

    async fn inspect(&self, key: &LookupKey) -> Result<Option<RecordView>, StoreError> {
        let inner = self.lock();
        Ok(machine::view(
            inner.slots.get(&key.to_bytes()),
            &self.context(&inner),
            key,
        ))
    }

    async fn list(&self, filter: ListFilter) -> Result<Page, StoreError> {
        let inner = self.lock();
        let context = self.context(&inner);
        let prefix = keys::prefix(&filter);
        let start = match &filter.after {
            Some(after) if *after >= prefix => Bound::Excluded(after.clone()),
            _ => Bound::Included(prefix.clone()),
        };
        let mut page = keys::PageBuilder::new(&filter);
        for (bytes, slot) in inner.slots.range((start, Bound::Unbounded)) {
            if !bytes.starts_with(&prefix) || page.is_full() {
                break;
            }
            page.offer(bytes, slot, &context);
        }
        Ok(page.finish())
    }

    async fn search(&self, search: Search) -> Result<Found, StoreError> {
        if let Some(found) = search::exactly(self, &search).await? {
            return Ok(found);
        }
        let inner = self.lock();
        let context = self.context(&inner);
        let prefix = search.prefix();
        let start = match search.start(&prefix) {
            (start, true) => Bound::Excluded(start),
            (start, false) => Bound::Included(start),
        };
        let mut found = FoundBuilder::new(&search);
        for (bytes, slot) in inner.slots.range((start, Bound::Unbounded)) {
            if !bytes.starts_with(&prefix) || found.is_full() {
                break;
            }
            if let Some(key) = found.look(bytes) {
                found.offer(machine::view(Some(slot), &context, &key));
            }
        }
        Ok(found.finish())
    }

    async fn stored(&self, key: &LookupKey) -> Result<Option<Outcome>, StoreError> {
        let inner = self.lock();
        let slot = inner.slots.get(&key.to_bytes());
        let stored = machine::stored(slot, &self.context(&inner));
        stored.map(replay::outcome).transpose()
    }

    async fn export(&self, key: &LookupKey) -> Result<Option<Slot>, StoreError> {
        Ok(self.lock().slots.get(&key.to_bytes()).cloned())
    }

    async fn replace(
        &self,
        key: &LookupKey,
        replaces: u64,
        slot: Option<Slot>,
    ) -> Result<bool, StoreError> {
        let bytes = key.to_bytes();
        let mut inner = self.lock();
        if inner.slots.get(&bytes).map_or(0, |slot| slot.version) != replaces {
            return Ok(false);
        }
        inner.put(bytes, slot);
        self.waiters.wake(key);
        Ok(true)
    }

    async fn resolve(&self, resolve: Resolve) -> Result<Resolved, StoreError> {
        let mut inner = self.lock();
        let context = self.context(&inner);
        let bytes = resolve.key.to_bytes();
        let (change, resolved) = machine::resolve(inner.slots.get(&bytes), &context, &resolve);
        if let Some(slot) = change {
            inner.put(bytes, Some(slot));
            self.waiters.wake(&resolve.key);
        }
        Ok(resolved)
    }

    async fn sweep(&self, limit: usize) -> Result<Swept, StoreError> {
        let mut inner = self.lock();
        let context = self.context(&inner);
        let mut swept = Swept::default();
        let mut steps = Vec::new();
        for (bytes, slot) in &inner.slots {
            match machine::sweep(slot, &context) {
                SweepStep::Keep => {}
                _ if steps.len() == limit => {
                    swept.more = true;
                    break;
                }
                step => steps.push((bytes.clone(), step)),
            }
        }
        swept.slots = steps.len();
        for (bytes, step) in steps {
            match step {
                SweepStep::Keep => {}
                SweepStep::Move(slot) => {
                    inner.put(bytes, Some(slot));
                }
                SweepStep::Lapse(slot) => {
                    swept.lapsed += 1;
                    if let Some(key) = keys::from_bytes(&bytes) {
                        self.waiters.wake(&key);
                    }
                    inner.put(bytes, Some(slot));
                }
                SweepStep::Expire(slot) => {
                    swept.expired += 1;
                    inner.put(bytes, Some(slot));
                }
                SweepStep::Remove { expired } => {
                    swept.expired += usize::from(expired);
                    inner.put(bytes, None);
                }
            }
        }
        Ok(swept)
    }

    async fn set_quotas(&self, quotas: Quotas) -> Result<(), StoreError> {
        let mut tenants = Tenants::new(quotas);
        let mut inner = self.lock();
        for (key, slot) in &inner.slots {
            tenants.add(key, charge(key, Some(slot)));
        }
        inner.tenants = tenants;
        Ok(())
    }

    async fn ready(&self) -> Result<Usage, StoreError> {
        let inner = self.lock();
        if inner.closed {
            return Err(StoreError::Permanent("store is closed".into()));
        }
        Ok(Usage {
            records: Some(u64::try_from(inner.slots.len()).unwrap_or(u64::MAX)),
            bytes: None,
            above_high_water: inner.room != Room::Plenty,
        })
    }

    async fn close(&self) {
        self.lock().closed = true;
        self.waiters.close();
    }
}
