//! Records in Redis (or Valkey): one server, a master under Sentinel, or a Cluster.
//!
//! Every operation is one call of one script, atomic and on the server's clock (`script/`). See
//! `docs/operations.md` for what each topology can lose, and ADR 0007 for the layout.

mod bell;
mod call;
mod caller;
mod conclude;
mod connect;
mod errors;
mod gate;
mod guarded;
mod health;
mod ledger;
mod link;
mod look_for;
mod meta;
mod names;
mod options;
mod redlock;
mod remembered;
mod reply;
mod scan;
mod script;
mod send;
mod shared;
mod together;
mod whole;

pub use options::{Address, RedisOptions, Tls, Topology, WaitReplicas};
pub use redlock::{BadNodes, RedlockOptions};
pub use script::SOURCE as SCRIPT;

use crate::machine::{Event, Room};
use crate::quota::Quotas;
use crate::record::Slot;
use crate::replay;
use crate::search::{self, Found, Search};
use crate::store::{
    ListFilter, Page, RecordView, Resolve, Resolved, Store, StoreError, Swept, Usage,
};
use crate::waiters::{Look, WaitCounts, Waiters};
use async_trait::async_trait;
use bell::Bell;
use bytes::Bytes;
use call::ScriptCall;
use connect::RedisConnector;
use errors::store_error;
use health::Distrust;
use idempotency_protocol::{Answer, LookupKey, Operation, Outcome, Wait};
use ledger::Ledger;
use names::Names;
use redlock::{Redlock, Whose};
use reply::{Fetched, ReplyContext, ScriptReply};
use script::Scripts;
use shared::Shared;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

/// A waiter looks by itself after this long, in case that a message was lost.
const POLL_MS: u64 = 1_000;

/// How often a stored answer is looked for that changes meanwhile.
const LOOKS: usize = 3;

/// Records in Redis.
pub struct RedisStore {
    shared: Arc<Shared>,
    bell: Bell,
    waiters: Arc<Waiters>,
    guard: Option<Arc<Redlock>>,
    /// Where there are quotas.
    ledger: RwLock<Option<Arc<Ledger>>>,
    /// Enters what was there before the quotas.
    counting: Mutex<Option<JoinHandle<()>>>,
    sweeping: Mutex<scan::ScanPlace>,
    watching: Vec<JoinHandle<()>>,
}

impl RedisStore {
    /// Opens the store. A server that cannot be reached now is no error: the store then is not
    /// ready until it can.
    ///
    /// # Errors
    ///
    /// What will not pass by itself: a wrong password, a server of another kind or too old, a
    /// certificate that cannot be read.
    pub async fn open(options: RedisOptions) -> Result<RedisStore, StoreError> {
        RedisStore::start(options, Scripts::new()).await
    }

    /// The same on a clock that a test moves: the number of microseconds at `clock`, which must
    /// be ahead of the server's own.
    #[cfg(feature = "contract")]
    pub async fn open_on_clock(
        options: RedisOptions,
        clock: &str,
    ) -> Result<RedisStore, StoreError> {
        RedisStore::start(options, Scripts::on_the_clock_at(clock)).await
    }

    async fn start(options: RedisOptions, scripts: Scripts) -> Result<RedisStore, StoreError> {
        let names = Names::new(&options.prefix);
        let waiters = Waiters::new(options.waiters);
        let guard = options.guard.as_ref();
        let guard = guard.map(|guard| Redlock::new(guard, &options.prefix));
        let guard = guard.transpose()?.map(Arc::new);
        let connector = Arc::new(RedisConnector::new(options).map_err(StoreError::Permanent)?);
        let shared = Shared::new(Arc::clone(&connector), scripts, names.clone());
        let shared = Arc::new(shared);
        let main = match shared.look_after().await {
            Ok(health) => health.run_ids,
            Err(error) => {
                // A better word for it, if there is one.
                shared.connector.diagnose().await?;
                if matches!(error, StoreError::Permanent(_)) {
                    return Err(error);
                }
                Vec::new()
            }
        };
        if let Some(guard) = &guard {
            match guard.look_after(&main, true).await {
                Err(error @ StoreError::Permanent(_)) => return Err(error),
                Ok(()) | Err(StoreError::Transient(_)) => {}
            }
        }
        let mut watching = vec![tokio::spawn(shared::watch(
            Arc::clone(&shared),
            guard.clone(),
        ))];
        if let Some(guard) = guard.clone() {
            watching.push(tokio::spawn(async move { guard.listen().await }));
        }
        Ok(RedisStore {
            bell: Bell::start(connector, names, Arc::clone(&waiters)),
            watching,
            shared,
            waiters,
            guard,
            ledger: RwLock::default(),
            counting: Mutex::default(),
            sweeping: Mutex::default(),
        })
    }

    /// Why nothing is granted now, if so, whatever the room.
    fn refuses(&self) -> Option<Arc<Distrust>> {
        let deaf = |guard: &Arc<Redlock>| guard.is_deaf();
        match self.shared.gate.closed() {
            None if self.guard.as_ref().is_some_and(deaf) => {
                let why = "Redlock: too few nodes answer".to_owned();
                Some(Arc::new(Distrust::unavailable(why)))
            }
            refuses => refuses,
        }
    }

    /// Number of waits now that are subscribed and would hear of a change.
    pub fn waiting(&self) -> usize {
        self.bell.listeners()
    }

    /// Applies operations; with a ledger, those on one key are one at most.
    async fn carry_out(
        &self,
        events: Vec<(LookupKey, Event)>,
        ledger: Option<&Ledger>,
    ) -> Vec<Answer> {
        // Without trust, or the guard's nodes, nobody is granted, which the script need not try.
        let refuses = self.refuses();
        let room = match self.shared.room() {
            Room::Plenty if refuses.is_some() => Room::NoGrants,
            room => room,
        };
        let mut asked = Vec::with_capacity(events.len());
        let mut calls = Vec::with_capacity(events.len());
        for (key, event) in &events {
            asked.push(ReplyContext::of_event(event));
            let call = ScriptCall::apply(self.shared.names.of(key), event, room);
            calls.push(match ledger {
                Some(_) => call.of_what_is_there(),
                None => call,
            });
        }
        let outcomes = self.shared.caller.all(&calls, true).await;
        let mut concluded = self.conclude(asked, &events, &calls, outcomes).await;
        if let Some(ledger) = ledger {
            self.make_new_records(ledger, &events, &mut calls, &mut concluded)
                .await;
        }
        let mut answers = match &self.guard {
            Some(guard) => self.guarded(guard, &events, &calls, concluded).await,
            None => concluded.into_iter().map(|c| c.answer).collect(),
        };
        if let Some(ledger) = ledger {
            ledger.follow(&self.shared.caller, &events, &answers).await;
        }
        if let Some(why) = &refuses {
            gate::explain(&mut answers, why);
        }
        for ((key, event), answer) in events.iter().zip(&answers) {
            if ends_an_execution(event, answer) {
                self.waiters.wake(key);
            }
        }
        answers
    }

    async fn look(&self, name: &Bytes, wait: &Wait) -> Result<Look, Answer> {
        let call = ScriptCall::wait(name.clone(), wait);
        let value = self.shared.caller.one(call, false).await;
        let value = value.map_err(|error| reply::fault(None, &error))?;
        Ok(match reply::answer(value, ReplyContext::nothing()) {
            ScriptReply::Waiting { lease_left_ms } => Look::Wait {
                lease_left_ms: lease_left_ms.min(POLL_MS),
            },
            ScriptReply::Elsewhere(found) => Look::Over(self.fetch(name, found).await),
            ScriptReply::Illegible => Look::Over(Answer::Changed),
            ScriptReply::Answer(answer) => Look::Over(answer),
            ScriptReply::Fresh(grant) => Look::Over(Answer::Granted(grant)),
            ScriptReply::New => Look::Over(reply::unreadable_answer()),
        })
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn apply(&self, operations: Vec<Operation>) -> Vec<Answer> {
        let events = operations.into_iter().map(Event::prepare).collect();
        self.apply_events(events).await
    }

    async fn apply_events(&self, events: Vec<(LookupKey, Event)>) -> Vec<Answer> {
        match self.ledger() {
            None => self.carry_out(events, None).await,
            Some(ledger) => self.with_quotas(events, &ledger).await,
        }
    }

    async fn wait(&self, wait: Wait) -> Answer {
        if self.shared.closed.load(Ordering::Acquire) {
            return Answer::TimedOut;
        }
        // Before the server is asked: what is over a cap costs it nothing.
        let Some(place) = self.waiters.enter(&wait.key) else {
            return Answer::TimedOut;
        };
        let name = self.shared.names.of(&wait.key);
        match self.look(&name, &wait).await {
            Ok(Look::Over(answer)) | Err(answer) => return answer,
            Ok(Look::Wait { .. }) if wait.wait_ms == 0 => return Answer::TimedOut,
            Ok(Look::Wait { .. }) => {}
        }
        let _listening = self.bell.listen(name.clone()).await;
        let look = || async {
            // A server that cannot be asked now may be there again before the time is up.
            self.look(&name, &wait).await.unwrap_or(Look::Wait {
                lease_left_ms: POLL_MS,
            })
        };
        place.wait(&wait, look).await
    }

    fn waits(&self) -> WaitCounts {
        self.waiters.counts()
    }

    async fn inspect(&self, key: &LookupKey) -> Result<Option<RecordView>, StoreError> {
        let call = ScriptCall::inspect(self.shared.names.of(key));
        let value = self.shared.caller.one(call, false).await;
        reply::record(value.map_err(|e| store_error(&e))?, key)
    }

    async fn list(&self, filter: ListFilter) -> Result<Page, StoreError> {
        scan::list(&self.shared.caller, &self.shared.names, &filter).await
    }

    async fn search(&self, search: Search) -> Result<Found, StoreError> {
        if let Some(found) = search::exactly(self, &search).await? {
            return Ok(found);
        }
        look_for::search(&self.shared.caller, &self.shared.names, &search).await
    }

    async fn stored(&self, key: &LookupKey) -> Result<Option<Outcome>, StoreError> {
        let name = self.shared.names.of(key);
        let Shared { caller, .. } = &*self.shared;
        for _ in 0..LOOKS {
            let value = caller.one(ScriptCall::inspect(name.clone()), false).await;
            let stored = reply::stored(value.map_err(|e| store_error(&e))?)?;
            let Some(mut stored) = stored else {
                return Ok(None);
            };
            let digest = Bytes::copy_from_slice(&stored.digest);
            let value = caller
                .one(ScriptCall::outcome(name.clone(), digest), true)
                .await;
            match reply::outcome(value.map_err(|e| store_error(&e))?)? {
                Fetched::Data(data) => {
                    stored.data = data;
                    return replay::outcome(stored).map(Some);
                }
                // Another outcome by now, or none.
                Fetched::Changed => {}
            }
        }
        let message = "Redis: the record changes while it is read";
        Err(StoreError::Transient(message.to_owned()))
    }

    async fn export(&self, key: &LookupKey) -> Result<Option<Slot>, StoreError> {
        self.read_whole(key).await
    }

    async fn replace(
        &self,
        key: &LookupKey,
        replaces: u64,
        slot: Option<Slot>,
    ) -> Result<bool, StoreError> {
        self.write_whole(key, replaces, slot.as_ref()).await
    }

    async fn resolve(&self, resolve: Resolve) -> Result<Resolved, StoreError> {
        let held = self.lock_of(&resolve).await?;
        let call = ScriptCall::resolve(self.shared.names.of(&resolve.key), &resolve);
        let outcome = self.shared.caller.all(&[call], true).await.pop();
        let outcome = outcome.ok_or_else(|| StoreError::Transient("no answer".into()))?;
        let value = outcome.value.map_err(|e| store_error(&e))?;
        let resolved = reply::resolved(value, &resolve.key)?;
        if let Resolved::Done(_) = resolved {
            if let (Some(guard), Some(fence)) = (&self.guard, held) {
                guard.release(&resolve.key, Whose::Fence(fence)).await;
            }
            if let Some(ledger) = self.ledger() {
                ledger
                    .resolved(&self.shared.caller, &resolve, &resolved)
                    .await;
            }
            self.waiters.wake(&resolve.key);
            if !outcome.confirmed {
                return Err(StoreError::Transient(
                    "Redis: changed, but not enough replicas confirmed it in time".into(),
                ));
            }
        }
        Ok(resolved)
    }

    async fn sweep(&self, limit: usize) -> Result<Swept, StoreError> {
        let mut place = self.sweeping.lock().await;
        let Shared { caller, names, .. } = &*self.shared;
        let ledger = self.ledger();
        scan::sweep(caller, names, &mut place, limit, ledger.as_deref()).await
    }

    /// What is there already is counted in the background; what that misses, because the server is
    /// away, by the next pass of [`Store::sweep`] over all records.
    async fn set_quotas(&self, quotas: Quotas) -> Result<(), StoreError> {
        // From the beginning.
        *self.sweeping.lock().await = scan::ScanPlace::default();
        let ledger = quotas
            .any()
            .then(|| Arc::new(Ledger::new(quotas, &self.shared.names)));
        let counting = ledger.clone().map(|ledger| {
            let shared = Arc::clone(&self.shared);
            tokio::spawn(async move {
                let _ = scan::count(&shared.caller, &shared.names, &ledger).await;
            })
        });
        *self.ledger.write().unwrap_or_else(PoisonError::into_inner) = ledger;
        let mut before = self.counting.lock().await;
        if let Some(before) = std::mem::replace(&mut *before, counting) {
            before.abort();
        }
        Ok(())
    }

    async fn ready(&self) -> Result<Usage, StoreError> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(StoreError::Transient("store is closed".into()));
        }
        let health = self.shared.look_after().await?.trusted()?;
        if let Some(guard) = &self.guard {
            guard.look_after(&health.run_ids, false).await?;
        }
        Ok(health.usage)
    }

    async fn close(&self) {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.caller.close();
        if let Some(guard) = &self.guard {
            guard.close();
        }
        self.waiters.close();
        self.watching.iter().for_each(JoinHandle::abort);
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.waiters.close();
        self.watching.iter().for_each(JoinHandle::abort);
        if let Some(counting) = self.counting.get_mut() {
            counting.abort();
        }
    }
}

/// Waiters of this process need no message.
fn ends_an_execution(event: &Event, answer: &Answer) -> bool {
    !matches!(event, Event::Acquire(_) | Event::Extend { .. })
        && !matches!(answer, Answer::Fault(_))
}
